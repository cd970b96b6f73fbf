"""Contenders timed in turn, so that a machine's drift meets all alike."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from torch.utils.benchmark import Timer

Block = Callable[[int], float]  # from a number of calls to the mean seconds of one


@dataclass(frozen=True)
class Effort:
    """How long a case is timed for: rounds of a block of each contender, at least and at most."""

    seconds: float
    min_rounds: int
    max_rounds: int
    block: float = 0.003  # seconds


FULL = Effort(1.2, 7, 41)
QUICK = Effort(0.25, 3, 15)


def local(contender: Callable[[], object], threads: int) -> Block:
    """Blocks of calls in this process.

    Where memory rotates, an unmeasured lap through it goes before: after the block of another contender even
    its page tables are cold, which slows down a smaller share of the calls the faster these are.
    """
    timer = Timer("f()", globals={"f": contender}, num_threads=threads)
    lap = getattr(contender, "lap", 0)

    def block(number: int) -> float:
        if lap > 1:
            timer.timeit(lap)
        return timer.timeit(number).mean

    return block


def interleaved(blocks: dict[str, Block], effort: Effort) -> dict[str, dict[str, float]]:
    """Median, quartiles and rounds of each, in seconds a call."""
    numbers = {name: max(1, int(effort.block / block(1))) for name, block in blocks.items()}
    times: dict[str, list[float]] = {name: [] for name in blocks}
    begin = perf_counter()
    for done in range(effort.max_rounds):
        if done >= effort.min_rounds and perf_counter() - begin > effort.seconds:
            break
        for name, block in blocks.items():
            times[name].append(block(numbers[name]))
    return {name: summary(mine) for name, mine in times.items()}


def summary(times: list[float]) -> dict[str, float]:
    q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "rounds": len(times)}
