"""What needs a GPU, without pytest: python bench/gpu_test.py [--only CHECK ...]

Every sample of tests/op_db.py on CUDA against posenc_ext.reference, gradients, repeatability, results of more
than 2^31 elements, other streams and devices, CUDA graphs. Where pytest is installed, `pytest tests` runs its
cases on CUDA, too. --device cpu tries the checks that need no GPU.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from run import no_gpu
from torch import Tensor

import posenc_ext

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from op_db import OPS
from op_types import DTYPES, Op, Sample
from support import check_against_reference, differentiable, function_of, leaves, same_bits

Failures = Iterator[str]


def samples(device: str, dtypes=DTYPES, costly: bool = True) -> Iterator[tuple[Op, Sample, str]]:
    """The samples of every op, those that slow tests take (`costly`) or all."""
    for op in OPS:
        for dtype in dtypes:
            for sample in op.samples(device, dtype):
                if not costly or sample.name in op.costly:
                    yield op, sample, f"{op.name} {dtype} {sample.name}".replace("torch.", "")


def run(op: Op, sample: Sample, **replaced) -> Tensor:
    torch.manual_seed(1)
    return op(sample, **replaced)


def wrong_values(cases: Iterator[tuple[Op, Sample, str]], device: str) -> Failures:
    for op, sample, name in cases:
        try:
            actual = run(op, sample)
            assert actual.device.type == torch.device(device).type, f"result on {actual.device}"
            torch.manual_seed(1)
            check_against_reference(op, sample, actual)
        except (AssertionError, RuntimeError) as error:
            yield f"{name}: {error}"


def values(device: str) -> Failures:
    """Every dtype, stride, offset and empty size."""
    yield from wrong_values(samples(device, costly=False), device)


def few_values(device: str) -> Failures:
    """A sample or two of each op: for compute-sanitizer."""
    yield from wrong_values(samples(device, (torch.float32, torch.bfloat16)), device)


def gradients(device: str) -> Failures:
    """gradcheck in float64."""
    for op, sample, name in samples(device, (torch.float64,)):
        if not differentiable(op, sample):
            continue
        function = function_of(op, sample, op.gradients(sample))

        def seeded(*tensors, function=function):
            torch.manual_seed(1)
            return function(*tensors)

        try:
            torch.autograd.gradcheck(seeded, leaves(op, sample), nondet_tol=0.0)
        except RuntimeError as error:
            yield f"{name}: {error}"


def other_bits(device: str, again: Callable[[Op, Sample], Tensor | None], words: str) -> Failures:
    """Where a call made by `again` gives other bits than a plain one; None: it cannot be made so."""
    for op, sample, name in samples(device, (torch.float32, torch.bfloat16)):
        expected = run(op, sample).clone()  # fills the caches, too
        try:
            actual = again(op, sample) if expected.numel() else None
            if actual is not None and not same_bits(actual, expected):
                yield f"{name}: other bits {words}"
        except RuntimeError as error:
            yield f"{name}: {error}"


def repeatability(device: str) -> Failures:
    """The same bits in ten runs, while other work keeps the device busy."""
    noise = torch.randn(256, 256, device=device)

    def again(op: Op, sample: Sample) -> Tensor:
        (noise @ noise).sum()
        return run(op, sample)

    for _ in range(10):
        yield from other_bits(device, again, "in another run")


def large(device: str) -> Failures:
    """The last rows of results with more than 2^31 elements, against small calls for these rows alone."""
    width, op, dtype = 128, torch.ops.posenc_ext, torch.bfloat16
    rows = 2**31 // width + 5 if device != "cpu" else 517
    table, windows = (torch.randn(n, 1, device=device).to(dtype) for n in (32, 2 * width - 1))
    slopes = torch.rand(1, device=device).to(dtype)
    x = torch.randn(1, 1, width, device=device).to(dtype)
    index = torch.arange(width, device=device, dtype=torch.int32) % 32
    at, made = torch.arange(rows, device=device), {"device": device, "dtype": dtype}
    # f(n, start): rows [start, start + n) of a result
    functions = {
        "sinusoidal_table": lambda n, start: posenc_ext.sinusoidal_table(n, width, start=start, **made),
        "sinusoidal": lambda n, start: posenc_ext.sinusoidal(at[start : start + n], width, dtype=dtype),
        "add_sinusoidal": lambda n, start: posenc_ext.add_sinusoidal(x.expand(1, n, width), start=start)[0],
        "t5_bias": lambda n, start: posenc_ext.t5_bias(table, n, width, q_offset=start)[0],
        "alibi_bias": lambda n, start: posenc_ext.alibi_bias(slopes, n, width, q_offset=start)[0],
        "gather_bias": lambda n, _: posenc_ext.gather_bias(table, index.expand(n, width))[0],
        "add_position_embedding": lambda n, _: posenc_ext.add_position_embedding(
            *[x.expand(1, n, width)] * 2
        )[0],
        "window_bias": lambda n, start: (
            posenc_ext.window_bias(windows, [width], query_size=[n])[0]
            if start == 0
            else posenc_ext.window_bias(windows, [width])[0][-1].expand(n, width)
        ),
        # Softmax: a row is a sample; of a window, the last of its queries.
        "diagonal_bias_softmax": lambda n, _: op.diagonal_bias_softmax(
            x.expand(n, 1, 1, width), windows[:width].t(), causal=True, q_offset=width // 2
        )[:, 0, 0],
        "bias_softmax": lambda n, _: op.bias_softmax(
            x.expand(n, 1, 1, width), windows[:width].view(1, 1, width), mask=index > 0
        )[:, 0, 0],
        "gather_bias_softmax": lambda n, _: op.gather_bias_softmax(
            x.expand(n, 1, 1, width), table, index.view(1, width)
        )[:, 0, 0],
        "window_bias_softmax": lambda n, _: op.window_bias_softmax(
            x.expand(max(3, n // width), 1, width, width), windows, [width]
        )[:, 0, -1],
        "_scale_dropout": lambda n, _: op._scale_dropout(x.expand(1, n, width), 1.5, 0.0, None)[0],
        "_sum_batch": lambda n, _: op._sum_batch(x.expand(2, n, width), True),
    }
    for name, function in functions.items():
        if not same_bits(function(rows, 0)[-3:], function(3, rows - 3)):
            yield f"{name}: the end of {rows} x {width} elements"
    ones = torch.ones(1, 1, 1, device=device).expand(1, rows, width)
    total = op._t5_bias_backward(ones, 32, rows, width).double().sum().item()
    if abs(total / (rows * width) - 1) > 2.0**-20:
        yield f"_t5_bias_backward: sums to {total}, not {rows * width}"
    # The gradient of equal samples is so many times that of one, but for sums of up to 2^14 terms in a row.
    result = torch.softmax(x, -1)
    for name, sizes in (("diagonal_", [1, width]), ("", [1, 1, width])):
        adjoint = getattr(op, f"_{name}bias_softmax_backward")
        one, many = (
            adjoint(*(t.expand(n, 1, 1, width) for t in (x, result)), sizes, scale=1.0)[1].double()
            for n in (1, rows)
        )
        if (many / rows - one).abs().max() > 2.0**-9 * one.abs().max():
            yield f"_{name}bias_softmax_backward: {rows} equal samples have another gradient than one"


def dropouts(device: str) -> dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """The ops with dropout, and an x for which no element is zero unless it is dropped."""
    table = torch.full((1, 64, 128), 1.0, device=device)
    options = {"dropout_p": 0.5, "training": True}
    x = torch.full((4, 64, 128), 3.0, device=device, requires_grad=True)
    return {
        "add_sinusoidal": (x, lambda x: posenc_ext.add_sinusoidal(x, **options)),
        "add_position_embedding": (x, lambda x: posenc_ext.add_position_embedding(x, table, **options)),
    }


def masks(device: str) -> Failures:
    """torch.manual_seed repeats a mask, the next call has another, and the gradient drops what it dropped."""
    for name, (x, drop) in dropouts(device).items():
        torch.manual_seed(7)
        first, second = drop(x), drop(x)
        torch.manual_seed(7)
        if not same_bits(drop(x), first):
            yield f"{name}: another mask after the same torch.manual_seed"
        if torch.equal(first == 0, second == 0):
            yield f"{name}: the same mask twice"
        (grad,) = torch.autograd.grad(second.sum(), x)
        if not torch.equal(grad == 0, second == 0):
            yield f"{name}: the gradient drops other elements than the result"


def streams(device: str) -> Failures:
    """On a stream that is not the default one, after work that the inputs wait for."""
    stream = torch.cuda.Stream(device)

    def again(op: Op, sample: Sample) -> Tensor:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            torch.cuda._sleep(1_000_000)
            tensors = {n: t for n, t in sample.tensors().items() if n != "out"}
            copies = {n: t.clone(memory_format=torch.preserve_format) for n, t in tensors.items()}
            actual = run(op, sample, **copies)
        stream.synchronize()
        return actual

    yield from other_bits(device, again, "on a side stream")


def graphs(device: str) -> Failures:
    """Captured and replayed: the bits of a plain call, and another dropout mask at each replay."""

    def again(op: Op, sample: Sample) -> Tensor | None:
        if sample.inputs.get("training") or sample.inputs.get("seed") is not None:
            return None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            actual = op(sample)
        actual.zero_()
        graph.replay()
        torch.cuda.synchronize()
        return actual

    yield from other_bits(device, again, "from a graph")
    for name, (x, drop) in dropouts(device).items():
        torch.autograd.grad(drop(x).sum(), x)  # fills the caches
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = drop(x)
            (grad,) = torch.autograd.grad(y.sum(), x)
        replays = []
        for _ in range(3):
            graph.replay()
            replays.append((y == 0).clone())
            if not torch.equal(grad == 0, replays[-1]):
                yield f"{name}: the gradient drops other elements than the result"
        if any(torch.equal(a, b) for a, b in itertools.pairwise(replays)):
            yield f"{name}: two replays of a graph drop the same elements"
        if not all(0.4 < mask.double().mean().item() < 0.6 for mask in replays):
            yield f"{name}: a replay drops another share than half"


def devices(device: str) -> Failures:
    """On each other device, while the current one is another."""
    for other in range(1, torch.cuda.device_count()):
        for op, sample, name in samples(f"cuda:{other}", (torch.float32,)):
            actual = run(op, sample)
            if actual.device.index != other or torch.cuda.current_device() != 0:
                yield f"{name}: result on {actual.device}, current device {torch.cuda.current_device()}"


CHECKS = {f.__name__: f for f in (values, few_values, gradients, repeatability, large, masks)}
CHECKS |= {f.__name__: f for f in (streams, graphs, devices)}
GPUS = {"streams": 1, "graphs": 1, "devices": 2}  # that a check needs


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try this script")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    options = parser.parse_args(arguments)
    on_cuda = options.device != "cpu"
    if on_cuda and (reason := no_gpu()):
        print(f"gpu-test: {reason}")
        return 0
    where = torch.cuda.get_device_name() if on_cuda else "CPU, a dry run: says nothing of CUDA"
    print(f"gpu-test: {where}, torch {torch.__version__}, {len(OPS)} ops", flush=True)
    failed = 0
    for name in options.only:
        if GPUS.get(name, 0) > (torch.cuda.device_count() if on_cuda else 0):
            print(f"  {name:14} not run: needs {GPUS[name]} GPU(s)", flush=True)
            continue
        start, found = time.perf_counter(), 0
        try:
            for failure in CHECKS[name](options.device):
                found += 1
                if found <= 20:  # flushed at once: the run may be cut
                    print(f"  {name:14} {failure}", flush=True)
        except torch.OutOfMemoryError as error:
            print(f"  {name:14} not run: {error}", flush=True)
            continue
        failed += found
        verdict = f"{found} FAILED" if found else "passed"
        print(f"  {name:14} {verdict}, {time.perf_counter() - start:.1f} s", flush=True)
    print(f"gpu-test: {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
