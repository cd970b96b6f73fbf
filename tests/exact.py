"""Sinusoids to as many digits as it takes: the judge of correct rounding.

A frequency is an integer number of turns in units of 2^-192, made by mpmath. Position times frequency, mod 1
turn, is then integer arithmetic without error. What is left after whole quarter turns is at most an eighth of
a turn, where float64 sines are good to 2^-50. Where that does not decide a rounding, mpmath does.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import torch

import posenc_ext

BITS = 192
FLOAT64_SINE_ERROR = (
    2.0**-50
)  # relative: rounding of the phase, of 2 pi and of their product, and the sine's own

# dtype -> (bits of the significand, exponent of the smallest subnormal)
FORMATS = {
    torch.float64: (53, -1074),
    torch.float32: (24, -149),
    torch.float16: (11, -24),
    torch.bfloat16: (8, -133),
}
HALVES_AND_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16)
SPECS = {
    "transformer": {"dim": 512},
    "tensor2tensor": {"dim": 256, "freq_shift": 1.0, "layout": "concat"},
    "diffusion": {"dim": 320, "freq_shift": 1.0, "scale": 1000.0, "layout": "concat_cos_first"},
    "base500": {"dim": 64, "base": 500.0, "scale": 0.37},
}


def frequencies(dim: int, base: float = 10000.0, freq_shift: float = 0.0, scale: float = 1.0) -> list[int]:
    """scale * base^(-j / (dim // 2 - freq_shift)) / 2 pi for each pair j, in turns, times 2^BITS."""
    with mpmath.workprec(BITS + 64):
        exponent = mpmath.mpf(1) / (mpmath.mpf(dim // 2) - mpmath.mpf(freq_shift))
        ratio = mpmath.mpf(base) ** -exponent
        turn = mpmath.mpf(scale) / (2 * mpmath.pi)
        return [int(mpmath.nint(turn * ratio**j * 2**BITS)) for j in range(dim // 2)]


def phase(position: float, frequency: int) -> int:
    """Position times frequency mod 1 turn, in units of 2^-BITS; the position is read exactly as given."""
    numerator, denominator = position.as_integer_ratio()
    return numerator * frequency // denominator & ((1 << BITS) - 1)


def quarter(turns: int) -> tuple[int, int]:
    """The nearest quarter turn, and what is left of the phase."""
    quadrant = ((turns >> (BITS - 3)) + 1) >> 1
    return quadrant % 4, turns - (quadrant << (BITS - 2))


def sines(turns: Sequence[int], cosine: Sequence[bool]) -> np.ndarray:
    """sin (or cos) of each phase in float64, to FLOAT64_SINE_ERROR relative."""
    values = np.empty(len(turns))
    for i, (turn, shift) in enumerate(zip(turns, cosine, strict=True)):
        quadrant, rest = quarter(turn)
        quadrant = (quadrant + shift) % 4
        angle = 2 * math.pi * math.ldexp(rest, -BITS)
        value = math.cos(angle) if quadrant % 2 else math.sin(angle)
        values[i] = -value if quadrant >= 2 else value
    return values


def exact_sine(turns: int, cosine: bool) -> Fraction:
    """The same to about 200 bits."""
    with mpmath.workprec(BITS + 64):
        quadrant, rest = quarter(turns)
        quadrant = (quadrant + cosine) % 4
        angle = 2 * mpmath.pi * mpmath.mpf(rest) / 2**BITS
        value = mpmath.cos(angle) if quadrant % 2 else mpmath.sin(angle)
        sign, mantissa, exponent, _ = (-value if quadrant >= 2 else value)._mpf_
        return Fraction(mantissa) * Fraction(2) ** exponent * (-1 if sign else 1)


def ulp(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The unit in the last place of `dtype` at each float64 value."""
    digits, smallest = FORMATS[dtype]
    return np.ldexp(1.0, np.maximum(np.frexp(values)[1] - digits, smallest))


def rounded(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """float64 values rounded once, to nearest even, to the precision of `dtype`; kept in float64."""
    unit = ulp(values, dtype)
    return np.rint(values / unit) * unit


def rounded_fraction(value: Fraction, dtype: torch.dtype) -> float:
    """The same for an exact value."""
    digits, smallest = FORMATS[dtype]
    exponent = math.frexp(float(value))[1]
    unit = Fraction(2) ** max(exponent - digits, smallest)
    return float(round(value / unit) * unit)


def misrounded(
    actual: np.ndarray, turns: Sequence[int], cosine: Sequence[bool], dtype: torch.dtype
) -> tuple[float, int]:
    """(largest error in ulp, number of values not correctly rounded), for any dtype but float64."""
    value = sines(turns, cosine)
    below, above = (rounded(value * (1 + side * FLOAT64_SINE_ERROR), dtype) for side in (-1, 1))
    wrong = int(np.sum((actual != below) & (below == above)))
    for i in np.flatnonzero(below != above):
        wrong += actual[i] != rounded_fraction(exact_sine(turns[i], cosine[i]), dtype)
    errors = np.abs(actual - value) / ulp(value, dtype)
    return float(errors.max(initial=0.0)), int(wrong)


def ulp_errors_float64(actual: np.ndarray, turns: Sequence[int], cosine: Sequence[bool]) -> np.ndarray:
    """Errors of float64 values in ulp, against 200 bits: slow."""
    exact = [exact_sine(turn, shift) for turn, shift in zip(turns, cosine, strict=True)]
    unit = ulp(np.array([float(value) for value in exact]), torch.float64)
    difference = [Fraction(float(a)) - value for a, value in zip(actual, exact, strict=True)]
    return np.array([abs(float(d / Fraction(float(u)))) for d, u in zip(difference, unit, strict=True)])


# ---- sampled (position, channel) pairs


def channel(dim: int, layout: str, pair: torch.Tensor, cosine: torch.Tensor) -> torch.Tensor:
    """Where the sine or cosine of a pair stands."""
    half = dim // 2
    if layout == "interleaved":
        return 2 * pair + cosine
    first = cosine if layout == "concat" else 1 - cosine
    return first * half + pair


def sampled_positions(count: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform up to 2^24, and as many spread evenly over the orders of magnitude below."""
    uniform = torch.randint(2**24 + 1, (count // 2,), generator=generator)
    magnitude = torch.rand(count - count // 2, generator=generator) * 24
    return torch.cat((uniform, 2**magnitude)).to(torch.int64)


def sampled(count: int, spec: dict[str, Any], seed: int):
    """(positions, channels, phases, whether each is a cosine) of sampled pairs of position and channel."""
    generator = torch.Generator().manual_seed(seed)
    positions = sampled_positions(count, generator)
    pair = torch.randint(spec["dim"] // 2, (count,), generator=generator)
    cosine = torch.randint(2, (count,), generator=generator)
    columns = channel(spec["dim"], spec.get("layout", "interleaved"), pair, cosine)
    numbers = {name: value for name, value in spec.items() if name not in ("dim", "layout")}
    frequency = frequencies(spec["dim"], **numbers)
    turns = [phase(p, frequency[j]) for p, j in zip(positions.tolist(), pair.tolist(), strict=True)]
    return positions, columns, turns, [bool(c) for c in cosine.tolist()]


def encoded(positions, columns, spec, dtype) -> np.ndarray:
    """The op's values at the sampled pairs."""
    chunks = []
    for rows, channels in zip(positions.split(4096), columns.split(4096), strict=True):
        table = posenc_ext.sinusoidal(rows, **spec, dtype=dtype)
        chunks.append(table.gather(1, channels[:, None])[:, 0])
    return torch.cat(chunks).to(torch.float64).numpy()
