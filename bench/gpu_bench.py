"""The day there is a GPU: each op against eager and torch.compile. make gpu-bench: python bench/gpu_bench.py

GB/s that each must move at least, and their share of what copy_ moves in the same run; biases also as a
lookup in flex_attention's score_mod, against attention that is given them. Writes
bench/results/<device>.json. Without a GPU it says so and ends. --device cpu runs small sizes, to test this
script; it measures nothing.
"""

import argparse
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import posenc_ext
from posenc_ext import reference

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpu_test import no_gpu

RESULTS = Path(__file__).resolve().parent / "results"
Contender = Callable[[], object]


@dataclass(frozen=True)
class Case:
    name: str
    moved: int  # bytes that must be moved
    eager: Contender
    ours: Contender
    compiled: bool = True  # torch.compile of the eager form is a contender
    flex: Contender | None = None  # the same bias by a lookup in flex_attention


def adjoint(forward: Contender, leaf: Tensor, upstream: Tensor) -> Contender:
    """Backward alone: of a graph that is kept."""
    result = forward()
    return lambda: torch.autograd.grad(result, leaf, upstream, retain_graph=True)


def cases(device: str, dtype: torch.dtype, small: bool) -> list[Case]:
    n = 16 if small else 1  # sizes are divided by it
    size = torch.empty(0, dtype=dtype).element_size()
    made = {"device": device, "dtype": dtype}

    length, dim, batch, heads = 4096 // n, 512 // n, 32 // n, 12
    x = torch.randn(batch, length // 4, dim, **made)
    positions = torch.arange(length, device=device)
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000.0) / dim))

    def eager_table(at: Tensor = positions) -> Tensor:
        angles = at[:, None] * rates
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(dtype)

    pe = eager_table(positions[: length // 4])
    found = [
        Case("sinusoidal_table", length * dim * size, eager_table,
             lambda: posenc_ext.sinusoidal_table(length, dim, **made)),
        Case("sinusoidal", length * dim * size, eager_table,
             lambda: posenc_ext.sinusoidal(positions, dim, dtype=dtype)),
        Case("add_sinusoidal", 2 * x.numel() * size, lambda: x * 8.0 + pe,
             lambda: posenc_ext.add_sinusoidal(x, x_scale=8.0)),
        Case("add_sinusoidal, dropout", 2 * x.numel() * size, lambda: torch.dropout(x * 8.0 + pe, 0.1, True),
             lambda: posenc_ext.add_sinusoidal(x, x_scale=8.0, dropout_p=0.1, training=True)),
    ]  # fmt: skip
    x_grad, y_grad = x.detach().requires_grad_(), torch.randn_like(x)
    forwards = (
        lambda: torch.dropout(x_grad * 8.0 + pe, 0.1, True),
        lambda: posenc_ext.add_sinusoidal(x_grad, x_scale=8.0, dropout_p=0.1, training=True),
    )
    backwards = (adjoint(f, x_grad, y_grad) for f in forwards)
    moved = 2 * x.numel() * size
    found.append(Case("add_sinusoidal, dropout, backward", moved, *backwards, compiled=False))
    at = positions.float().requires_grad_()
    forwards = (lambda: eager_table(at), lambda: posenc_ext.sinusoidal(at, dim, dtype=dtype))
    upstream = torch.randn(length, dim, **made)
    backwards = (adjoint(f, at, upstream) for f in forwards)
    found.append(Case("sinusoidal, backward", length * dim * size, *backwards, compiled=False))

    tokens = torch.randn(batch, 196, 768 // n, **made)
    cls = torch.randn(1, 1, 768 // n, **made)
    learned = torch.randn(1, 197, 768 // n, **made, requires_grad=True)
    upstream = torch.randn(batch, 197, 768 // n, **made)
    forwards = (
        lambda: torch.cat([cls.expand(batch, -1, -1), tokens], 1) + learned,
        lambda: posenc_ext.add_position_embedding(tokens, learned, [cls]),
    )
    found.append(Case("add_position_embedding", 2 * upstream.numel() * size, *forwards))
    backwards = (adjoint(f, learned, upstream) for f in forwards)
    found.append(
        Case("add_position_embedding, backward", upstream.numel() * size, *backwards, compiled=False)
    )

    def bias(name: str, table: Tensor, index: Tensor, ours: Contender, read: int = 0) -> None:
        planes = ours()
        moved, rows = planes.numel() * size + read, index.view(-1)
        forwards = (
            lambda: table[rows].view(*index.shape, -1).movedim(-1, -3).contiguous(),
            ours,
        )
        flex = flex_lookup(table, index) if index.dim() == 2 else None
        found.append(Case(name, moved, *forwards, flex=flex))
        upstream = torch.randn(planes.shape, **made)
        backwards = (adjoint(f, table, upstream) for f in forwards)
        found.append(Case(f"{name}, backward", moved, *backwards, compiled=False))

    for window in ([7, 7], [32 // (4 if small else 1)] * 2):
        index = reference.window_index(window).to(device)
        table = torch.randn(int(index.max()) + 1, heads, **made, requires_grad=True)
        bias(f"window_bias {window}", table, index, lambda t=table, w=window: posenc_ext.window_bias(t, w))
    keys = 2048 // n
    table = torch.randn(32, heads, **made, requires_grad=True)
    relative = torch.arange(keys, device=device) - torch.arange(keys, device=device)[:, None]
    buckets = reference.t5_bucket(relative, 32, True, 128)
    bias("t5_bias", table, buckets, lambda: posenc_ext.t5_bias(table, keys, keys))
    any_index = torch.randint(0, 32, (2, keys // 2, keys // 2), device=device)
    gathered = lambda: posenc_ext.gather_bias(table, any_index)  # noqa: E731
    bias("gather_bias", table, any_index, gathered, read=any_index.nbytes)
    slopes = posenc_ext.alibi_slopes(heads, **made).requires_grad_()
    forwards = (
        lambda: -slopes[:, None, None] * relative.abs(),
        lambda: posenc_ext.alibi_bias(slopes, keys, keys),
    )
    moved = heads * keys * keys * size
    found.append(Case("alibi_bias", moved, *forwards))
    upstream = torch.randn(heads, keys, keys, **made)
    backwards = (adjoint(f, slopes, upstream) for f in forwards)
    found.append(Case("alibi_bias, backward", moved, *backwards, compiled=False))
    found.append(
        Case(
            "alibi_slopes",
            heads * size,
            lambda: reference.alibi_slopes(heads).to(**made),
            lambda: posenc_ext.alibi_slopes(heads, **made),
        )
    )
    return found


def flex_lookup(table: Tensor, index: Tensor) -> tuple[Contender, Callable[[Contender], Contender]]:
    """Attention whose score_mod looks the bias up, and attention that is given the bias of a contender."""
    from torch.nn.attention.flex_attention import flex_attention

    table = table.detach()
    heads, (queries, keys) = table.shape[1], index.shape
    made = {"device": table.device, "dtype": table.dtype}
    q, k, v = (torch.randn(1, heads, length, 64, **made) for length in (queries, keys, keys))
    run = torch.compile(flex_attention, dynamic=False) if table.is_cuda else flex_attention

    def lookup(score, b, h, q_idx, k_idx):
        return score + table[index[q_idx, k_idx], h]

    return (
        lambda: run(q, k, v, score_mod=lookup),
        lambda bias: lambda: scaled_dot_product_attention(q, k, v, attn_mask=bias().detach()[None]),
    )


def microseconds(f: Contender, device: str, repeats: int) -> float:
    """The median of single calls; on CUDA by events, after the cache has been overwritten."""
    cuda = torch.device(device).type == "cuda"
    f(), f()
    times = []
    flush = torch.empty(2**28 if cuda else 1, dtype=torch.uint8, device=device)
    for _ in range(repeats):
        if cuda:
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            f()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3)
        else:
            begin = time.perf_counter()
            f()
            times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)


def copy_bandwidth(device: str, small: bool, repeats: int) -> float:
    """GB/s, bytes read and written, of copy_."""
    source = torch.zeros(2**16 if small else 2**29, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2e-3 * source.numel() / microseconds(lambda: target.copy_(source), device, repeats)


def measure(
    device: str, dtype: torch.dtype, small: bool, repeats: int, compiles: bool
) -> Iterator[dict[str, object]]:
    """What is known after each case."""
    copy = copy_bandwidth(device, small, repeats)
    rows = []
    for case in cases(device, dtype, small):
        contenders = {"eager": case.eager, "posenc_ext": case.ours}
        if compiles and case.compiled and torch.device(device).type == "cuda":
            torch.compiler.reset()  # functions of one place in the source share a limit of compilations
            contenders["compile"] = torch.compile(case.eager)
        if compiles and case.flex:
            lookup, attend = case.flex
            contenders |= {"flex_attention lookup": lookup, "attention with posenc_ext": attend(case.ours)}
        for name, contender in contenders.items():
            us = microseconds(contender, device, repeats)
            row = {"case": case.name, "contender": name, "us": us}
            if "attention" not in name:
                row |= {"gb_per_s": 1e-3 * case.moved / us, "of_copy": 1e-3 * case.moved / us / copy}
            rows.append(row)
            share = f"{row['gb_per_s']:10.1f} GB/s {row['of_copy']:7.1%} of copy" if "of_copy" in row else ""
            print(f"{case.name:34} {name:26} {us:10.1f} us {share}", flush=True)
        yield {"dtype": str(dtype).removeprefix("torch."), "copy_gb_per_s": copy, "rows": rows}


def write(path: Path, found: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu for a dry run")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="the JSON file (default: named after the device)")
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="leave torch.compile out, and flex_attention: they take longest",
    )
    options = parser.parse_args(arguments)
    on_cuda = torch.device(options.device).type == "cuda"
    if on_cuda and (reason := no_gpu()):
        print(f"gpu-bench: {reason}")
        return 0
    if on_cuda:
        torch.cuda.set_device(torch.device(options.device).index or 0)  # whose events and stream time it
    name = torch.cuda.get_device_name() if on_cuda else "CPU, a dry run: measures nothing"
    print(f"gpu-bench: {name}, torch {torch.__version__}")
    facts = {"device": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d", time.gmtime())}
    out = options.out
    if out is None and on_cuda:
        out = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.json"
    results: list[dict[str, object]] = []
    for dtype in (torch.float32, torch.bfloat16):
        results.append({})
        for results[-1] in measure(
            options.device, dtype, not on_cuda, options.repeats, compiles=not options.no_compile
        ):
            if out is not None:  # after each case: the run may be cut
                write(out, {**facts, "results": results})
    if out is not None:
        print(f"gpu-bench: wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
