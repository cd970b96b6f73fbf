"""Recognizes sinusoidal tables and frequencies by their values, and measures their errors."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from ..compositions import sinusoidal_grid
from ..ops import sinusoidal_table

HALF = (torch.float16, torch.bfloat16)
_BASES = (10000.0, 1000.0, 100.0, 20.0, 500000.0, 1000000.0)
# A layout fits if it differs by less in the first rows, where even angles in bfloat16 are off by less.
_LIKENESS = 0.06
_FIRST, _RANKED = 8, 64  # rows that every layout is compared with, and those that decide between the best


class Finding(NamedTuple):
    """What :class:`posenc_ext.audit.Row` says, without the place."""

    finding: str
    severity: str
    fix: str


class Layout(NamedTuple):
    """A layout of a table, as the call of posenc_ext that computes it."""

    call: str
    rows: Callable[[int], Tensor]  # the first n rows, in float64
    place: Callable[[int], str]  # what row i encodes


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _show(name: str, arguments: list, options: dict) -> str:
    def text(value):
        return f"{value:g}" if isinstance(value, float) else repr(value).replace("'", '"')

    return f"{name}({', '.join([*map(text, arguments), *(f'{k}={text(v)}' for k, v in options.items())])})"


def _scale(before: Tensor, after: Tensor, sine: int, cosine: int, tolerance: float) -> float:
    """The factor of the positions, read off the fastest pair of channels of two consecutive rows; 0 if none.

    It is 1 or the simplest fraction within the tolerance.
    """
    s0, c0, s1, c1 = (row[channel].item() for row in (before, after) for channel in (sine, cosine))
    angle = math.atan2(s1 * c0 - c1 * s0, c1 * c0 + s1 * s0)
    if abs(angle - 1) < 0.02:
        return 1.0
    fractions = (round(angle * denominator) / denominator for denominator in range(1, 257))
    return next((f for f in fractions if f > 0 and abs(f - angle) <= tolerance), 0.0)


def _sequence_layouts(table: Tensor, skipped: int, tolerance: float) -> Iterator[Layout]:
    """Layouts of one axis. ``skipped`` rows of zeros came before the table."""
    length, dim = table.shape
    pairs = dim // 2
    there = table.any(1)
    pair = int((there[:-1] & there[1:]).nonzero()[0])  # not the row of zeros for padding
    layouts = {"interleaved": (0, 1), "concat": (0, pairs), "concat_cos_first": (pairs, 0)}
    odds = ("zero", "sin") if dim % 2 else ("error",)
    starts = sorted({0, 1, 2, skipped})
    for (layout, fastest), odd in itertools.product(layouts.items(), odds):
        sine, cosine = fastest if odd != "sin" or layout != "concat" else (0, pairs + 1)
        scale = _scale(table[pair], table[pair + 1], sine, cosine, tolerance)
        if not scale:
            continue
        for start, shift, base in itertools.product(starts, (0.0, 1.0), _BASES):
            if pairs <= shift:
                continue
            defaults = {"start": 0, "base": 10000.0, "freq_shift": 0.0, "scale": 1.0, "odd": "error"}
            options = {"start": start, "base": base, "freq_shift": shift, "scale": scale, "odd": odd}
            options = {"layout": layout} | {k: v for k, v in options.items() if v != defaults[k]}
            yield Layout(
                _show("sinusoidal_table", [length, dim], options),
                lambda n, options=options: sinusoidal_table(n, dim, dtype=torch.float64, **options),
                lambda row, start=start: f"position {row + start}",
            )


def _grid_layouts(table: Tensor, tolerance: float) -> Iterator[Layout]:
    """Layouts of a grid of two axes, or of a cube."""
    length, dim = table.shape
    for rows in range(2, length // 2 + 1):
        if length % rows or dim % 4:
            continue
        columns = length // rows
        if not 1 / 8 <= rows / columns <= 8:
            continue
        for order in ("mae", "timm", "timm_interleaved"):
            options = {"order": order}
            if order == "mae":  # diffusers scales positions to the grid of the training resolution
                x = _scale(table[0], table[1], 0, dim // 4, tolerance)
                y = _scale(table[0], table[columns], dim // 2, 3 * dim // 4, tolerance)
                if not x or not y:
                    continue
                options |= {"scale": [y, x]} if x != 1 or y != 1 else {}
            yield Layout(
                _show("sinusoidal_grid", [[rows, columns], dim], options),
                lambda n, columns=columns, options=options: sinusoidal_grid(
                    [-(-n // columns), columns], dim, dtype=torch.float64, **options
                )[:n],
                lambda row, columns=columns: f"cell ({row // columns}, {row % columns})",
            )
    side = round(length ** (1 / 3))
    if side > 1 and side**3 == length and dim % 6 == 0:
        yield Layout(
            _show("sinusoidal_grid", [[side] * 3, dim], {"order": "monai"}),
            lambda n: sinusoidal_grid([side] * 3, dim, order="monai", dtype=torch.float64)[:n],
            lambda row: f"cell ({row // side**2}, {row // side % side}, {row % side})",
        )


def _looks_sinusoidal(table: Tensor) -> bool:
    """Whether rows are made of pairs with sin**2 + cos**2 = 1, in whatever order."""
    rows = table[table.any(1)]
    if len(rows) < 3 or len(table) - len(rows) > 1 or rows.abs().max() > 1.01:  # one row may be padding
        return False
    dim = table.shape[1]
    return bool(((rows.square().sum(1) - dim / 2).abs() <= 0.02 * dim + 0.5 * (dim % 2)).all())


def _fit(table: Tensor, skipped: int, dtype: torch.dtype) -> Optional[Layout]:
    there = table.any(1)

    def difference(layout: Layout, count: int) -> tuple[float, float]:
        count = min(count, len(table))
        off = (table[:count] - layout.rows(count)).abs()[there[:count]].nan_to_num(1)
        return off.mean().item(), off.max().item()

    tolerance = max(4 * torch.finfo(dtype).eps, 1e-4)
    layouts = [*_sequence_layouts(table, skipped, tolerance), *_grid_layouts(table, tolerance)]
    alike = [layout for layout in layouts if difference(layout, _FIRST)[1] < _LIKENESS]
    return min(alike, key=lambda layout: difference(layout, _RANKED)[0], default=None)


def _ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of neighboring numbers of a dtype at each value."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(value)[1] - 1
    return torch.ldexp(torch.full_like(value, info.eps), exponent).clamp_min(info.smallest_normal * info.eps)


def _cause(table: Tensor, off: Tensor, in_ulp: float, dtype: torch.dtype) -> str:
    """Where the errors of a table come from. An angle in float32 is wrong by up to a few ulp of itself."""
    held = next((half for half in HALF if torch.equal(table, table.to(half).to(table.dtype))), None)
    half = dtype if dtype in HALF else held
    angles = 2.0**-23 * (2 + torch.arange(len(table), dtype=torch.float64)[:, None])
    if half is None:
        if (off <= 4 * angles).all():
            return "computed with float32 angles, so that the error grows with the position"
        return "of unknown cause"
    how = f"rounded to {name_of(half)}"
    how += "" if half == dtype else f" and converted back to {name_of(dtype)}"
    if in_ulp <= 1:
        return how
    if (off <= torch.finfo(half).eps / 4 + 4 * angles).all():
        return how if half != dtype else f"computed with float32 angles and {how}"
    return f"computed with angles in {name_of(half)}"


def check_table(tensor: Tensor) -> Optional[list[Finding]]:
    """What is wrong with a sinusoidal table; None if the tensor is not one.

    Raises:
        LookupError: the table looks sinusoidal, but has no known layout.
    """
    shape = [size for size in tensor.shape if size != 1]
    if len(shape) != 2 or min(shape) < 4 or not tensor.is_floating_point():
        return None
    table = tensor.detach().reshape(shape)
    there = table[:_FIRST].any(1)  # most tensors are told by their first rows
    there = there if there.any() else table.any(1)
    if not there.any():
        return None
    skipped = int(there.nonzero()[0])
    table = table[skipped:]
    if not _looks_sinusoidal(table[:_FIRST].to("cpu", torch.float64)):
        return None
    table = table.to("cpu", torch.float64)
    layout = _fit(table, skipped, tensor.dtype)
    if layout is None:
        raise LookupError("looks sinusoidal, but has no known layout")
    exact = layout.rows(len(table))
    off = (table - exact).abs() * table.any(1, keepdim=True)
    if not off.isfinite().all():
        return [Finding("has values that are not finite", "error", f"posenc_ext.{layout.call}")]
    ulps = off / _ulp(exact, tensor.dtype)
    largest, in_ulp = off.max().item(), ulps.max().item()
    # A value near zero, rounded from float64, may be off by more than an ulp.
    rounding = torch.finfo(tensor.dtype).eps / 4
    if (in_ulp <= 1 or largest <= 1.001 * rounding) and tensor.dtype not in HALF:
        return []
    worst, worst_ulp = (layout.place(int(x.amax(1).argmax())) for x in (off, ulps))
    cause = _cause(table, off, in_ulp, tensor.dtype)
    finding = f"largest error {largest:.1e} ({worst}), {in_ulp:.3g} ulp of {name_of(tensor.dtype)}"
    severity = "error" if largest > 1e-2 else "warning" if largest > 1e-5 and in_ulp > 1 else "info"
    return [Finding(f"{finding} ({worst_ulp}): {cause}", severity, f"posenc_ext.{layout.call}")]


def check_frequencies(tensor: Tensor) -> Optional[list[Finding]]:
    """What is wrong with a vector of frequencies base ** (-j / n); None if the tensor is not one.

    Only half precision is reported: a float32 frequency is wrong by less than the angle's rounding.
    """
    if tensor.dim() != 1 or len(tensor) < 4 or not tensor.is_floating_point():
        return None
    frequencies = tensor.detach().to("cpu", torch.float64)
    n = len(frequencies)
    if not (frequencies > 0).all() or abs(frequencies[0].item() - 1) > 1e-2:
        return None
    estimate = (frequencies[0] / frequencies[-1]).item() ** (n / (n - 1))
    base = min(_BASES, key=lambda base: abs(math.log(base / estimate)))
    exact = base ** (-torch.arange(n, dtype=torch.float64) / n)
    relative = (frequencies / exact - 1).abs().max().item()
    if not relative < 0.02:
        return None
    half = next((half for half in HALF if torch.equal(frequencies, frequencies.to(half).double())), None)
    if half is None or relative == 0:
        return []
    angle = ((frequencies - exact).abs() * 1000).max().item()
    finding = (
        f"frequencies rounded to {name_of(half)}: at position 1000, an angle is off by {angle:.2g} radians"
    )
    return [Finding(finding, "error", "posenc_ext.sinusoidal(positions, ...), or keep the buffer in float32")]


def check_coordinates(tensor: Tensor) -> Optional[list[Finding]]:
    """What is wrong with the log-spaced coordinates [1, 2h-1, 2w-1, 2] of Swin v2; None if there are none."""
    if tensor.dim() != 4 or tensor.shape[0] != 1 or tensor.shape[3] != 2 or not tensor.is_floating_point():
        return None
    axes = [torch.linspace(-8, 8, size, dtype=torch.float64) for size in tensor.shape[1:3]]
    linear = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    off = (
        (tensor.detach().cpu()[0].double() - linear.sign() * (linear.abs() + 1).log2() / 3).abs().max().item()
    )
    finding = f"log-spaced coordinates rounded to {name_of(tensor.dtype)}: off by up to {off:.1e}"
    fix = "posenc_ext.nn.LogCoordinatePositionBias, which computes them in float32"
    if off > 0.01:
        return None
    return [Finding(finding, "warning", fix)] if tensor.dtype in HALF else []
