"""Window attention as the modules of other libraries use it. TorchScript can call every function."""

# ruff: noqa: RUF005 (TorchScript does not support [*sizes, 1])

from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import window_attention


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    window: list[int],
    scale: float,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """:func:`posenc_ext.window_attention` with the dropout of torch, whose masks the library would get."""
    if dropout_p == 0.0 or not training:
        return window_attention(q, k, v, table, window, scale=scale, mask=mask, regions=regions)
    scores = q @ k.transpose(-2, -1)
    weights = torch.ops.posenc_ext.window_bias_softmax_(
        scores, table, window, scale=scale, mask=mask, regions=regions
    )
    return F.dropout(weights, dropout_p) @ v


def partition(x: Tensor, window: list[int]) -> Tensor:
    """[B, *sizes, C] as [B, windows, prod(window), C]; sizes are multiples of those of the window."""
    axes, count, area = len(window), 1, 1
    split = [x.size(0)]
    for axis, size in enumerate(window):
        split += [x.size(axis + 1) // size, size]
        count *= x.size(axis + 1) // size
        area *= size
    order = [0] + [2 * axis + 1 for axis in range(axes)] + [2 * axis + 2 for axis in range(axes)]
    x = x.reshape(split + [x.size(-1)]).permute(order + [2 * axes + 1])
    return x.reshape(x.size(0), count, area, x.size(-1))


def merge(x: Tensor, window: list[int], sizes: list[int]) -> Tensor:
    """The inverse of :func:`partition`: [B, windows, prod(window), C] as [B, *sizes, C]."""
    axes = len(window)
    grid = [full // size for full, size in zip(sizes, window)]
    order = [0]
    for axis in range(axes):
        order += [1 + axis, 1 + axes + axis]
    x = x.reshape([x.size(0)] + grid + window + [x.size(-1)]).permute(order + [2 * axes + 1])
    return x.reshape([x.size(0)] + sizes + [x.size(-1)])


def shifted_regions(sizes: list[int], window: list[int], shift: list[int], device: torch.device) -> Tensor:
    """int64 [windows, prod(window)]: equal for tokens of a window that were neighbors before the shift."""
    regions = torch.zeros([1], dtype=torch.int64, device=device)
    for full, size, step in zip(sizes, window, shift):
        cells = torch.arange(full, device=device)
        part = cells.ge(full - size).to(torch.int64) + cells.ge(full - step).to(torch.int64)
        regions = (regions.unsqueeze(-1) * 3 + part).flatten()
    return partition(regions.reshape([1] + sizes + [1]), window).squeeze(-1).squeeze(0)


def softmax(
    scores: Tensor,
    table: Tensor,
    window: list[int],
    scale: float = 1.0,
    mask: Optional[Tensor] = None,
    index: Optional[Tensor] = None,
) -> Tensor:
    """Softmax over the keys of [B * windows, heads, N, N], written over scores; mask: [windows, N, N], added.

    The bias is that of the window, or with index [N, N] that of these rows of the table.
    """
    windows = scores
    if mask is not None:
        windows = scores.unflatten(0, [-1, mask.size(0)])
        mask = mask.unsqueeze(1)
    if index is None:
        torch.ops.posenc_ext.window_bias_softmax_(windows, table, window, scale=scale, mask=mask)
    else:
        torch.ops.posenc_ext.gather_bias_softmax_(windows, table, index, scale=scale, mask=mask)
    return scores
