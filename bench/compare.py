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
    for size, heads in ((7, 12), (16, 4), (32, 4)):
        index = posenc_ext.reference.window_index([size, size])
        cells = size * size
        weights = torch.randn((2 * size - 1) ** 2, heads, requires_grad=True)
        upstream = torch.rand(heads, cells, cells)
        forward = (
            lambda w=weights, i=index, n=cells: w[i.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous(),
            lambda w=weights, s=size: posenc_ext.window_bias(w, [s, s]),
        )
        result[f"window {size} x {size}, {heads} heads"] = forward
        result[f"window {size} x {size}, {heads} heads, with backward"] = tuple(
            lambda f=f, w=weights, g=upstream: torch.autograd.grad(f(), w, g) for f in forward
        )
    return result


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
