"""Biases for torch.nn.attention.flex_attention: score_mods with the values of the ops, and mask_mods.

Each function returns a ``score_mod(score, batch, head, q_idx, kv_idx)``, which adds a bias to the scaled
score, or a ``mask_mod(batch, head, q_idx, kv_idx)`` for ``create_block_mask``. They read tables and slopes
themselves: no bias of the size of the scores is stored. docs/flex.md says when to prefer FlexAttention, and
when the ops.
"""

from collections.abc import Callable, Sequence
from typing import Optional

import torch
from torch import Tensor

from .decompositions import t5_index, t5_thresholds

__all__ = [
    "alibi_score_mod",
    "causal_mask_mod",
    "regions_mask_mod",
    "regions_score_mod",
    "t5_score_mod",
    "window_score_mod",
]

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def window_score_mod(
    table: Tensor, window: Sequence[int], query_size: Optional[Sequence[int]] = None, prefix_tokens: int = 0
) -> ScoreMod:
    """Adds the bias of :func:`posenc_ext.window_bias`.

    Args:
        table, window, query_size, prefix_tokens: as in :func:`posenc_ext.window_bias`.

    Returns:
        A score_mod for heads = table.shape[1], and queries and keys of the sizes of the bias.

    Raises:
        RuntimeError: an error that :func:`posenc_ext.window_bias` raises for these arguments.

    Source: Swin Transformer, Liu et al. 2021.

    >>> from torch.nn.attention.flex_attention import flex_attention
    >>> table = torch.tensor([[0.0], [1.0], [2.0]])
    >>> q = k = v = torch.eye(2)[None, None]
    >>> flex_attention(q, k, v, score_mod=window_score_mod(table, [2]), scale=0.0)
    tensor([[[[0.7311, 0.2689],
              [0.7311, 0.2689]]]])
    """
    queries = window if query_size is None else query_size
    torch.ops.posenc_ext.window_bias(  # whose Meta kernel checks the arguments
        table.to("meta"), window, query_size=query_size, prefix_tokens=prefix_tokens
    )
    patch_rows = table.shape[0] - 3 * prefix_tokens

    def score_mod(score: Tensor, batch: Tensor, head: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q, k, row, stride = q_idx - prefix_tokens, kv_idx - prefix_tokens, 0, 1
        for size, count in zip(reversed(window), reversed(queries), strict=True):
            cell = q % count if count == size else q % count * size // count
            row = row + (cell - k % size + (size - 1)) * stride
            q, k, stride = q // count, k // size, stride * (2 * size - 1)
        if prefix_tokens:
            cls = torch.where(kv_idx == 0, patch_rows + 2 - (q_idx > 0).to(torch.int64), patch_rows)
            row = torch.where((q_idx == 0) | (kv_idx == 0), cls, row)
        return score + table[row, head]

    return score_mod


def t5_score_mod(
    table: Tensor, bidirectional: bool = True, max_distance: int = 128, q_offset: int = 0
) -> ScoreMod:
    """Adds the bias of :func:`posenc_ext.t5_bias`, from the same buckets bit for bit.

    Args:
        table, bidirectional, max_distance, q_offset: as in :func:`posenc_ext.t5_bias`.

    Returns:
        A score_mod for heads = table.shape[1] and any number of queries and keys. T5 does not scale its
        scores: pass ``scale=1.0`` to ``flex_attention``.

    Raises:
        RuntimeError: an error that :func:`posenc_ext.t5_bias` raises for these arguments.

    Source: Raffel et al. 2020.

    >>> from torch.nn.attention.flex_attention import flex_attention
    >>> q = k = v = torch.eye(2)[None, None]
    >>> flex_attention(q, k, v, score_mod=t5_score_mod(torch.zeros(4, 1), max_distance=8), scale=1.0)
    tensor([[[[0.7311, 0.2689],
              [0.2689, 0.7311]]]])
    """
    rows = table.shape[0]
    torch.ops.posenc_ext.t5_bias(
        table.to("meta"), 1, 1, q_offset=q_offset, bidirectional=bidirectional, max_distance=max_distance
    )
    last = max([1, *t5_thresholds(rows, bidirectional, max_distance)])  # beyond, buckets do not change
    buckets = t5_index(rows, 1, 2 * last + 1, last, bidirectional, max_distance, table.device)[0]

    def score_mod(score: Tensor, batch: Tensor, head: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        distance = (kv_idx - q_idx - q_offset).clamp(-last, last)
        return score + table[buckets[distance + last], head]

    return score_mod


def alibi_score_mod(slopes: Tensor, q_offset: int = 0) -> ScoreMod:
    """Adds the bias of :func:`posenc_ext.alibi_bias`.

    Args:
        slopes, q_offset: as in :func:`posenc_ext.alibi_bias`.

    Returns:
        A score_mod for heads = slopes.shape[0] and any number of queries and keys.

    Raises:
        RuntimeError: slopes does not have 1 dimension, or its dtype is not supported.

    Source: Press et al. 2022.

    >>> from torch.nn.attention.flex_attention import flex_attention
    >>> q = k = v = torch.eye(2)[None, None]
    >>> flex_attention(q, k, v, score_mod=alibi_score_mod(torch.tensor([1.0])), scale=1.0)
    tensor([[[[0.8808, 0.1192],
              [0.1192, 0.8808]]]])
    """
    torch.ops.posenc_ext.alibi_bias(slopes.to("meta"), 1, 1, q_offset=q_offset)

    def score_mod(score: Tensor, batch: Tensor, head: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score - slopes[head] * (kv_idx - q_idx - q_offset).abs()

    return score_mod


def _other_region(regions: Tensor, batch: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    window = batch % regions.shape[0]
    return regions[window, q_idx] != regions[window, kv_idx]


def regions_score_mod(regions: Tensor) -> ScoreMod:
    """Adds -100 to pairs in different regions, as ``regions`` of the softmax ops does in shifted windows.

    Args:
        regions: integer [windows, N], on the device of the scores; the sample with number i is window
            ``i % windows``.

    Returns:
        A score_mod for scores [samples, heads, N, N].

    Source: Swin Transformer, Liu et al. 2021.

    >>> from torch.nn.attention.flex_attention import flex_attention
    >>> q = k = v = torch.eye(2)[None, None]
    >>> flex_attention(q, k, v, score_mod=regions_score_mod(torch.tensor([[0, 1]]))).round()
    tensor([[[[1., 0.],
              [0., 1.]]]])
    """

    def score_mod(score: Tensor, batch: Tensor, head: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return torch.where(_other_region(regions, batch, q_idx, kv_idx), score - 100.0, score)

    return score_mod


def regions_mask_mod(regions: Tensor) -> MaskMod:
    """Hides pairs in different regions, for ``create_block_mask``: blocks without a pair are skipped.

    Differs from :func:`regions_score_mod` by weights of about exp(-100).

    Args:
        regions: as in :func:`regions_score_mod`.

    Returns:
        A mask_mod that is True for pairs that take part.

    >>> from torch.nn.attention.flex_attention import create_mask
    >>> create_mask(regions_mask_mod(torch.tensor([[0, 1]])), 1, 1, 2, 2, device="cpu")
    tensor([[[[ True, False],
              [False,  True]]]])
    """

    def mask_mod(batch: Tensor, head: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return ~_other_region(regions, batch, q_idx, kv_idx)

    return mask_mod


def causal_mask_mod(q_offset: int = 0) -> MaskMod:
    """Hides the keys k > q + q_offset, for ``create_block_mask``: ``causal`` of the softmax ops.

    Args:
        q_offset: position of the first query: the length of the cache while decoding.

    Returns:
        A mask_mod that is True for pairs that take part.

    >>> from torch.nn.attention.flex_attention import create_mask
    >>> create_mask(causal_mask_mod(1), 1, 1, 2, 3, device="cpu")
    tensor([[[[ True,  True, False],
              [ True,  True,  True]]]])
    """

    def mask_mod(batch: Tensor, head: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return kv_idx <= q_idx + q_offset

    return mask_mod
