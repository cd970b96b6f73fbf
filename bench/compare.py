"""posenc_ext against the code that people write, interleaved in one process: python bench/compare.py

Prints medians and their ratio per op, for one thread and for all. Results under 32 MiB: their memory is
recycled by the allocator, so kernels are compared, not page faults.
"""

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer

import posenc_ext

Contender = Callable[[], object]


def eager_table(length: int, dim: int) -> torch.Tensor:
    """The classic table, written as in the PyTorch tutorial."""
    positions = torch.arange(length).unsqueeze(1)
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    table = torch.empty(length, dim)
    table[:, 0::2] = torch.sin(positions * rates)
    table[:, 1::2] = torch.cos(positions * rates)
    return table


def cases() -> dict[str, tuple[Contender, Contender]]:
    """Per line of the report: the usual code, posenc_ext."""
    x = torch.randn(32, 128, 512)
    table = eager_table(128, 512)
    result = {
        "table 4096 x 512": (lambda: eager_table(4096, 512), lambda: posenc_ext.sinusoidal_table(4096, 512)),
        "x * scale + table, 32 x 128 x 512": (
            lambda: x * 22.6 + table,
            lambda: posenc_ext.add_sinusoidal(x, x_scale=22.6),
        ),
        "the same with dropout 0.1": (
            lambda: torch.dropout(x * 22.6 + table, 0.1, True),
            lambda: posenc_ext.add_sinusoidal(x, x_scale=22.6, dropout_p=0.1, training=True),
        ),
    }
    patches, cls = torch.randn(48, 196, 768, requires_grad=True), torch.randn(1, 1, 768, requires_grad=True)
    pos_embed = torch.randn(1, 197, 768, requires_grad=True)
    forward = (
        lambda: torch.cat([cls.expand(48, -1, -1), patches], 1) + pos_embed,
        lambda: posenc_ext.add_position_embedding(patches, pos_embed, [cls]),
    )
    add(result, "ViT head 48 x 197 x 768", forward, [patches, cls, pos_embed], torch.rand(48, 197, 768))
    for size, heads in ((7, 12), (16, 4), (32, 4)):
        index = posenc_ext.reference.window_index([size, size])
        cells = size * size
        weights = torch.randn((2 * size - 1) ** 2, heads, requires_grad=True)
        upstream = torch.rand(heads, cells, cells)
        forward = (
            lambda w=weights, i=index, n=cells: w[i.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous(),
            lambda w=weights, s=size: posenc_ext.window_bias(w, [s, s]),
        )
        add(result, f"window {size} x {size}, {heads} heads", forward, weights, upstream)

    buckets = torch.randn(32, 12, requires_grad=True)
    for name, q_len, k_len in (("512 x 512", 512, 512), ("decode 1 x 4096", 1, 4096)):
        sizes = (q_len, k_len, k_len - q_len)
        forward = (
            lambda s=sizes: eager_t5(buckets, *s),
            lambda s=sizes: posenc_ext.t5_bias(buckets, *s),
        )
        add(result, f"T5 {name}, 12 heads", forward, buckets, torch.rand(12, q_len, k_len))
    index = torch.randint(0, 32, (2, 512, 512))
    forward = (
        lambda: buckets[index].permute(0, 3, 1, 2).contiguous(),
        lambda: posenc_ext.gather_bias(buckets, index),
    )
    add(result, "any index 2 x 512 x 512, 12 heads", forward, buckets, torch.rand(2, 12, 512, 512))
    slopes = posenc_ext.alibi_slopes(12)
    result["ALiBi 512 x 512, 12 heads"] = (
        lambda: -slopes[:, None, None] * (torch.arange(512) - torch.arange(512)[:, None]).abs(),
        lambda: posenc_ext.alibi_bias(slopes, 512, 512),
    )
    return result


def eager_t5(table: torch.Tensor, q_len: int, k_len: int, q_offset: int) -> torch.Tensor:
    """The bias by the bucket arithmetic that T5 implementations do in every call."""
    rel = torch.arange(k_len)[None] - torch.arange(q_offset, q_offset + q_len)[:, None]
    bucket = posenc_ext.reference.t5_bucket(rel, table.shape[0], True, 128)
    return table[bucket].permute(2, 0, 1).contiguous()


def add(result, name: str, forward: tuple[Contender, ...], leaves, upstream: torch.Tensor) -> None:
    """A line for forward alone and one with backward."""
    result[name] = forward
    result[f"{name}, with backward"] = tuple(
        lambda f=f: torch.autograd.grad(f(), leaves, upstream) for f in forward
    )


def medians(contenders: tuple[Contender, ...], threads: int, repeats: int) -> list[float]:
    """Microseconds per call of each, timed in turn so that a machine's drift meets all alike."""
    timers = [Timer("f()", globals={"f": f}, num_threads=threads) for f in contenders]
    numbers = [max(1, int(0.01 / timer.timeit(1).mean)) for timer in timers]
    times: list[list[float]] = [[] for _ in timers]
    for _ in range(repeats):
        for timer, number, mine in zip(timers, numbers, times, strict=True):
            mine.append(timer.timeit(number).mean * 1e6)
    return [statistics.median(mine) for mine in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="timings of each contender (default 15)")
    repeats = parser.parse_args().repeats
    print(f"torch {torch.__version__}, CPU level {posenc_ext._C.cpu_level()}, float32, us a call, median")
    print(f"{'op':42} threads {'plain PyTorch':>13} {'posenc_ext':>11} {'ratio':>6}")
    for threads in sorted({1, torch.get_num_threads()}):
        for name, contenders in cases().items():
            plain, ours = medians(contenders, threads, repeats)
            print(f"{name:42} {threads:7} {plain:13.1f} {ours:11.1f} {plain / ours:6.1f}", flush=True)


if __name__ == "__main__":
    main()
