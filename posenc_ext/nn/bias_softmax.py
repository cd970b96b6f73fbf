"""Modules that apply softmax to attention scores with a bias, which is never stored."""

from typing import Optional

import torch
from torch import Tensor

from .._sharded import replicated_like
from ..compositions import window_index
from ..ops import alibi_bias_softmax, alibi_slopes, gather_bias_softmax, t5_bias_softmax, window_bias_softmax
from .distance_bias import AlibiBias, T5RelativePositionBias
from .relative_bias import WindowRelativePositionBias


class WindowBiasSoftmax(WindowRelativePositionBias):
    """Softmax of the attention scores of a window with its learned bias, which is never stored.

    ``softmax(scores * scale + bias + mask)`` over the keys, with the bias of
    :class:`WindowRelativePositionBias`: same constructor, parameter and checkpoints. Replaces the bias, the
    mask and the softmax of Swin, BEiT, MaxViT and similar models.

    Args:
        window, num_heads, prefix_tokens, heads_first, emit_index, key_window: as in
            :class:`WindowRelativePositionBias`.

    Shapes and dtypes:
        forward(scores, mask=None, regions=None, scale=1.0, causal=False, inplace=True, window=None): the
            shape and dtype of scores, [..., num_heads, N, N] with N = prod(window) + prefix_tokens, or
            [..., num_heads, prod(window), prod(key_window)]. mask, regions, scale and causal are those of
            :func:`posenc_ext.window_bias_softmax`: ``regions`` [windows, N] numbers the regions of shifted
            windows, in place of Swin's mask [windows, N, N]. window is a smaller window, as in
            :class:`WindowRelativePositionBias`.
        inplace: writes the result over the scores, which is safe after a matrix product. Pass False if the
            scores are used again or are a leaf that requires a gradient, or if FSDP2 is applied to this
            module itself, and not to a module around it: it gives the module a view of the scores.

    Raises:
        ValueError: as in :class:`WindowRelativePositionBias`.
        RuntimeError: ``posenc_ext::window_bias_softmax: ...``

    Complexity: O(scores.numel()) forward and backward; with inplace=True, forward allocates nothing.

    Source: Liu et al., "Swin Transformer", 2021, section 3.2; Bao et al., "BEiT", 2021.

    Example:
        >>> softmax = WindowBiasSoftmax((7, 7), num_heads=3)
        >>> q, k = torch.randn(2, 8, 3, 49, 32).unbind()
        >>> softmax(q @ k.transpose(-2, -1), scale=32**-0.5).shape
        torch.Size([8, 3, 49, 49])
    """

    def forward(
        self,
        scores: Tensor,
        mask: Optional[Tensor] = None,
        regions: Optional[Tensor] = None,
        scale: float = 1.0,
        causal: bool = False,
        inplace: bool = True,
        window: Optional[list[int]] = None,
    ) -> Tensor:
        sizes = self.window if window is None else list(window)
        table = self._table(window)
        if self.key_window != self.window:
            index = replicated_like(window_index(self.window, self.key_window, device=table.device), table)
            return gather_bias_softmax(scores, table, index, scale, mask, regions, causal, inplace=inplace)
        return window_bias_softmax(
            scores,
            table,
            sizes,
            prefix_tokens=self.prefix_tokens,
            scale=scale,
            mask=mask,
            regions=regions,
            causal=causal,
            inplace=inplace,
        )


class T5BiasSoftmax(T5RelativePositionBias):
    """Softmax of attention scores with T5's learned bias, which is never stored.

    ``softmax(scores * scale + bias + mask)`` over the keys, with the bias of :class:`T5RelativePositionBias`:
    same constructor, parameter and checkpoints. For a stack whose layers share one bias, as in T5, use
    :meth:`T5RelativePositionBias.diagonals` and :func:`posenc_ext.diagonal_bias_softmax`.

    Args:
        num_heads, num_buckets, max_distance, bidirectional: as in :class:`T5RelativePositionBias`.

    Shapes and dtypes:
        forward(scores, mask=None, regions=None, scale=1.0, causal=False, inplace=True, q_offset=0): the shape
            and dtype of scores, [..., num_heads, Q, K]. mask, regions, scale and causal as in
            :func:`posenc_ext.t5_bias_softmax`; bidirectional=False alone hides no keys. q_offset is the
            position of the first query.
        inplace: as in :class:`WindowBiasSoftmax`.

    Raises:
        ValueError: as in :class:`T5RelativePositionBias`.
        RuntimeError: ``posenc_ext::t5_bias_softmax: ...``

    Complexity: O(scores.numel()) forward and backward; with inplace=True, forward allocates the diagonals,
    num_heads (Q + K - 1) values.

    Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", 2020, section 2.1.

    Example:
        >>> T5BiasSoftmax(num_heads=8)(torch.randn(2, 8, 5, 7)).sum(-1).allclose(torch.ones(2, 8, 5))
        True
    """

    def forward(
        self,
        scores: Tensor,
        mask: Optional[Tensor] = None,
        regions: Optional[Tensor] = None,
        scale: float = 1.0,
        causal: bool = False,
        inplace: bool = True,
        q_offset: int = 0,
    ) -> Tensor:
        return t5_bias_softmax(
            scores,
            self._table(scores.device),
            bidirectional=self.bidirectional,
            max_distance=self.max_distance,
            scale=scale,
            mask=mask,
            regions=regions,
            causal=causal,
            q_offset=q_offset,
            inplace=inplace,
        )

    @torch.jit.export
    def diagonals(
        self, q_len: int, k_len: int, q_offset: int = 0, device: Optional[torch.device] = None
    ) -> Tensor:
        return self._diagonals(q_len, k_len, q_offset, device)


class AlibiBiasSoftmax(AlibiBias):
    """Softmax of attention scores with ALiBi, whose bias is never stored.

    ``softmax(scores * scale + bias + mask)`` over the keys, with the bias of :class:`AlibiBias`: same
    constructor, parameter and checkpoints.

    Args:
        num_heads: number of attention heads.
        causal: hides the keys after the query in every call.
        learnable: as in :class:`AlibiBias`.

    Shapes and dtypes:
        forward(scores, mask=None, regions=None, scale=1.0, causal=False, inplace=True, q_offset=0): the shape
            and dtype of scores, [..., num_heads, Q, K]. mask, regions and scale as in
            :func:`posenc_ext.alibi_bias_softmax`; causal=True hides the keys after the query in this call.
            q_offset is the position of the first query.
        inplace: as in :class:`WindowBiasSoftmax`.

    Raises:
        ValueError: num_heads is not positive.
        RuntimeError: ``posenc_ext::alibi_bias_softmax: ...``

    Complexity: as in :class:`T5BiasSoftmax`.

    Source: Press, Smith, Lewis, "Train Short, Test Long", 2022.

    Example:
        >>> AlibiBiasSoftmax(num_heads=1, causal=True)(torch.zeros(1, 1, 2, 2))
        tensor([[[[1.0000, 0.0000],
                  [0.4990, 0.5010]]]])
    """

    def forward(
        self,
        scores: Tensor,
        mask: Optional[Tensor] = None,
        regions: Optional[Tensor] = None,
        scale: float = 1.0,
        causal: bool = False,
        inplace: bool = True,
        q_offset: int = 0,
    ) -> Tensor:
        slopes = self.slopes
        if slopes is None:
            wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
            slopes = replicated_like(alibi_slopes(self.num_heads, dtype=wide, device=scores.device), scores)
        return alibi_bias_softmax(
            scores,
            slopes,
            scale=scale,
            mask=mask,
            regions=regions,
            causal=causal or self.causal,
            q_offset=q_offset,
            inplace=inplace,
        )
