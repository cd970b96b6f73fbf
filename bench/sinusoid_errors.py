"""Errors of float32 sinusoids, plain and ours, against values of 200 bits at positions from 1 to 2^24."""

import math
import sys
from pathlib import Path

import torch

import posenc_ext

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import exact

DIM = 512


def plain(positions: torch.Tensor) -> torch.Tensor:
    """The tutorial's table, in float32."""
    rates = torch.exp(torch.arange(0, DIM, 2) * (-math.log(10000.0) / DIM))
    angles = positions[:, None].float() * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def measure(samples: int = 100_000) -> dict:
    """Largest errors at powers of two up to 2^24, and how many sampled values are not correctly rounded."""
    positions = 2 ** torch.arange(25)
    frequency = exact.frequencies(DIM)
    turns = [[exact.phase(p, f) for f in frequency] for p in positions.tolist()]
    cosine = [i % 2 == 1 for i in range(DIM)]
    errors = {"plain": [], "posenc_ext": []}
    tables = {"plain": plain(positions), "posenc_ext": posenc_ext.sinusoidal(positions, DIM)}
    for row, phases in enumerate(turns):
        true = exact.sines([phases[i // 2] for i in range(DIM)], cosine)
        for name, table in tables.items():
            errors[name].append(float(abs(table[row].double().numpy() - true).max()))
    spec = {"dim": DIM}
    sampled = exact.sampled(samples, spec, seed=0)
    actual = exact.encoded(sampled[0], sampled[1], spec, torch.float32)
    ulp, wrong = exact.misrounded(actual, sampled[2], sampled[3], torch.float32)
    table_ulp, table_wrong = table_rounding(samples)
    return {
        "positions": positions.tolist(),
        "errors": errors,
        "samples": samples,
        "misrounded": wrong,
        "largest_ulp": ulp,
        "table_misrounded": table_wrong,
        "table_largest_ulp": table_ulp,
    }


def table_rounding(samples: int) -> tuple[float, int]:
    """The same for values of sinusoidal_table, half of it near 2^24."""
    length = 5000
    frequency = exact.frequencies(DIM)
    generator = torch.Generator().manual_seed(0)
    worst, wrong = 0.0, 0
    for start in (0, 2**24 - length):
        table = posenc_ext.sinusoidal_table(length, DIM, start=start)
        rows = torch.randint(length, (samples // 2,), generator=generator)
        columns = torch.randint(DIM, (samples // 2,), generator=generator)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        turns = [exact.phase(start + row, frequency[column // 2]) for row, column in pairs]
        cosine = [column % 2 == 1 for column in columns.tolist()]
        ulp, misses = exact.misrounded(table[rows, columns].double().numpy(), turns, cosine, torch.float32)
        worst, wrong = max(worst, ulp), wrong + misses
    return worst, wrong
