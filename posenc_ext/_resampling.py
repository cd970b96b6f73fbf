"""Separable resampling of grids: a product with one small matrix per axis.

Computes the values of ``torch.nn.functional.interpolate`` in float64. Unlike ``interpolate``, it supports any
number of axes, compiles with dynamic sizes and antialiasing, and its gradient needs no atomics. Autocast and
TF32 do not affect float64.
"""

import torch
from torch import Tensor

from ._sharded import replicated_like


def resampling_weights(
    old: int, new: int, mode: str, antialias: bool, align_corners: bool, device: torch.device
) -> Tensor:
    """The weight of each old cell in each new cell, float64 [new, old]; mode: "bicubic" or "bilinear"."""
    # Sizes are only combined with tensors: they may be SymInts or, while tracing, tensors themselves.
    one = torch.ones([], dtype=torch.float64, device=device)
    cells = torch.arange(new, dtype=torch.float64, device=device).unsqueeze(1)
    if align_corners:
        gaps = one * new - 1
        step = (one * old - 1) * gaps.clamp(max=1) / gaps.clamp(min=1)
        # With antialiasing, torch aligns the outer edges of the corner cells by that step.
        centre = (cells + 0.5) * step - 0.5 if antialias else cells * step
    else:
        step = one * old / new
        centre = (cells + 0.5) * old / new - 0.5
    # Cells beyond an edge repeat the edge cell; with antialiasing they are left out instead.
    pad = 0 if antialias else 2
    x = (torch.arange(-pad, old + pad, dtype=torch.float64, device=device) - centre).abs()
    if antialias:
        x = x / step.clamp(min=1)
    if mode == "bicubic":
        a = -0.5 if antialias else -0.75  # as in torch
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    else:
        weights = (1 - x).clamp(min=0)
    if antialias:
        return weights / weights.sum(1, keepdim=True)
    edge = torch.arange(old, device=device)
    before, after = weights.narrow(1, 0, pad), weights.narrow(1, old + pad, pad)
    weights = weights.narrow(1, pad, old) + torch.where(edge == 0, before.sum(1, keepdim=True), 0.0)
    return weights + torch.where(edge == old - 1, after.sum(1, keepdim=True), 0.0)


def _known_equal(a: int, b: int) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):  # sizes while tracing
        return False
    if isinstance(a == b, bool) and not torch.compiler.is_compiling():
        return a == b
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(a == b)


def known_equal(a: int, b: int) -> bool:
    """Whether two sizes are known to be equal for all values of their symbols; adds no guard."""
    if torch.jit.is_scripting():  # TorchScript cannot compile the import
        return a == b
    else:
        return _known_equal(a, b)


def resample_grid(
    grid: Tensor,
    new_size: list[int],
    mode: str = "bicubic",
    antialias: bool = False,
    align_corners: bool = False,
) -> Tensor:
    """Resamples a grid [*size, C] to [*new_size, C]; the result is rounded once to the dtype of the grid."""
    out = grid.to(torch.float64)
    for axis in range(len(new_size)):
        old, new = grid.size(axis), new_size[axis]
        if not known_equal(old, new):
            weights = resampling_weights(old, new, mode, antialias, align_corners, grid.device)
            weights = replicated_like(weights, grid)
            shape = list(out.shape)
            shape[axis] = new
            # [product of the axes before, this axis, product of the axes after]
            rows = out.flatten(axis + 1)
            rows = rows.unsqueeze(0) if axis == 0 else rows.flatten(0, axis - 1)
            out = torch.matmul(weights, rows).reshape(shape)
    return out.to(grid.dtype)
