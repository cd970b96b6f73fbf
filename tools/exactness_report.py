"""How exact sinusoids are: python tools/exactness_report.py [pairs]

Samples (position, channel) pairs over several conventions, with positions up to 2^24, half of them uniform
and half spread over the orders of magnitude. Prints, per dtype, the largest error in ulp and how many values
are not correctly rounded; float64 is judged on a tenth of the pairs, with 200-bit sines.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import exact
from exact import HALVES_AND_FLOAT32, SPECS


def main(count: int) -> None:
    print(f"{count:,} sampled pairs, positions up to 2^24, torch {torch.__version__}")
    begin = time.perf_counter()
    largest = dict.fromkeys(HALVES_AND_FLOAT32, 0.0)
    wrong = dict.fromkeys(HALVES_AND_FLOAT32, 0)
    largest64, count64 = 0.0, 0
    share = count // len(SPECS)
    for seed, spec in enumerate(SPECS.values()):
        positions, columns, turns, cosine = exact.sampled(share, spec, seed=seed)
        for dtype in HALVES_AND_FLOAT32:
            actual = exact.encoded(positions, columns, spec, dtype)
            error, misses = exact.misrounded(actual, turns, cosine, dtype)
            largest[dtype] = max(largest[dtype], error)
            wrong[dtype] += misses
        few = slice(None, None, 10)
        actual = exact.encoded(positions[few], columns[few], spec, torch.float64)
        errors = exact.ulp_errors_float64(actual, turns[few], cosine[few])
        largest64, count64 = max(largest64, float(errors.max())), count64 + len(errors)
    print(f"{'dtype':10} {'pairs':>10} {'largest error (ulp)':>20} {'misrounded':>11} {'share':>9}")
    for dtype in HALVES_AND_FLOAT32:
        name, pairs = str(dtype).removeprefix("torch."), share * len(SPECS)
        print(f"{name:10} {pairs:10,} {largest[dtype]:20.9f} {wrong[dtype]:11,} {wrong[dtype] / pairs:9.2g}")
    print(f"{'float64':10} {count64:10,} {largest64:20.9f} {'-':>11} {'-':>9}")
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000)
