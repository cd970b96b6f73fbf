"""Modules with the names, arguments, parameters and checkpoints of the position code people copy.

They hold parameters and settings and call ``torch.ops.posenc_ext``; the maths is there. None of them has a
buffer: no index to register or to mismatch in a state_dict, no table to run out of rows or to lose digits
under ``.half()``. Keys that the replaced modules keep in their checkpoints are accepted and dropped by
``load_state_dict``, also with ``strict=True``. Load before ``torch.jit.script``: a scripted module accepts
its own keys alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RelativePositionBias", "SinusoidalPositionalEncoding", "WindowRelativePositionBias"]


class _DropsKeys(nn.Module):
    """A module whose older checkpoints hold a buffer that is computed here."""

    _dropped_key = ""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + self._dropped_key, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class SinusoidalPositionalEncoding(_DropsKeys):
    """Scales embeddings by sqrt(dim), adds sinusoids and applies dropout in one pass, with no ``pe`` buffer.

    Replaces the classic ``PositionalEncoding`` of OpenNMT-py up to 2.3 and its many copies. Their
    checkpoints load (``pe`` is dropped, whatever its length); its own state_dict is empty. OpenNMT-py's own
    takes dropout before dim.

    Args:
        dim: channels of the embedding, even.
        dropout: probability in [0, 1) of zeroing an element of the result while training.
        max_len: kept so that calls to the classic module still work; there is no limit on the length.

    Shapes and dtypes:
        emb: [L, B, dim], sequence first; float64, float32, float16 or bfloat16, any strides.
        Result: like emb, contiguous. The sum is made in float64 and rounded once, in every dtype.

    ``step`` is the classic one: every row of emb is at position ``step``, as in decoding one token at a
    time. For L rows at positions s, s + 1, ... call ``posenc_ext.add_sinusoidal(..., start=s)``.

    Raises:
        ValueError: dim is odd, dropout is not in [0, 1), or emb has other than dim channels.
        RuntimeError: ``posenc_ext::add_sinusoidal: ...``, for emb of a wrong dtype or number of dimensions.

    Complexity: O(L B dim) time, one read of emb and one write of the result, no state.

    Source: Vaswani et al. 2017, section 3.5, interleaved sines and cosines.

    Example:
        >>> encoding = SinusoidalPositionalEncoding(4, dropout=0.1).eval()
        >>> encoding(torch.zeros(2, 1, 4))
        tensor([[[0.0000, 1.0000, 0.0000, 1.0000]],
        <BLANKLINE>
                [[0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    _dropped_key = "pe"

    def __init__(self, dim: int, dropout: float, max_len: int = 5000) -> None:
        super().__init__()
        if dim % 2 != 0:
            raise ValueError(f"Cannot use sin/cos positional encoding with odd dim (got dim={dim})")
        if not 0 <= dropout < 1:
            raise ValueError(f"SinusoidalPositionalEncoding: dropout must be in [0, 1), got {dropout}")
        self.dim = dim
        self.max_len = max_len
        # Never called: it keeps p and train()/eval() where code for the classic module looks for them.
        self.dropout = nn.Dropout(dropout)

    def forward(self, emb: Tensor, step: int | None = None) -> Tensor:
        if emb.size(-1) != self.dim:
            rule = f"emb must have {self.dim} channels, got {emb.size(-1)}"
            raise ValueError(f"SinusoidalPositionalEncoding: {rule}")
        # All rows of emb as the batch of one position: that adds the same row of the table to each.
        rows = emb if step is None else emb.flatten(0, 1).unsqueeze(0)
        start = 0 if step is None else step
        scale = math.sqrt(self.dim)
        p, training = self.dropout.p, self.dropout.training
        if torch.jit.is_scripting():
            out = torch.ops.posenc_ext.add_sinusoidal(
                rows, start=start, x_scale=scale, batch_first=False, dropout_p=p, training=training
            )
        else:
            # A choice of overloads costs more here than a small add; TorchScript makes it beforehand.
            out = torch.ops.posenc_ext.add_sinusoidal.default(
                rows, start=start, x_scale=scale, batch_first=False, dropout_p=p, training=training
            )
        return out if step is None else out.view(emb.shape)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def _bias_table(name: str, window: list[int], num_heads: int, prefix_tokens: int) -> nn.Parameter:
    """An uninitialised [rows, heads] table for a window, after the checks that its shape needs."""
    if not 1 <= len(window) <= 3:
        raise ValueError(f"{name}: window must have 1 to 3 sizes, got {len(window)}")
    if min(window) < 1:
        raise ValueError(f"{name}: window sizes must be positive, got {window}")
    if num_heads < 1:
        raise ValueError(f"{name}: num_heads must be positive, got {num_heads}")
    if prefix_tokens not in (0, 1):
        raise ValueError(f"{name}: prefix_tokens must be 0 or 1, got {prefix_tokens}")
    rows = math.prod(2 * size - 1 for size in window) + 3 * prefix_tokens
    return nn.Parameter(torch.empty(rows, num_heads))


class RelativePositionBias(_DropsKeys):
    """A learned bias for attention from every position of an H x W map to a fixed h x w grid of keys.

    Replaces UTNet's ``RelativePositionBias``: same constructor, parameter and call; its checkpoints load, and
    ``relative_position_index`` is dropped in square or flat form. Query (Y, X) has the bias of grid cell
    (floor(Y h / H), floor(X w / W)), for any H >= h and W >= w. The original needs multiples of h and w
    and, by a slip in its row stride, is right for h = w alone.

    Args:
        num_heads: attention heads.
        h, w: size of the grid of keys.

    Shapes and dtypes:
        relative_position_bias_table: parameter [(2h-1)(2w-1), num_heads], initially normal, std 0.02.
        Result: [1, num_heads, H*W, h*w], in the dtype of the table (float64, float32, float16 or bfloat16).

    Raises:
        ValueError: h, w or num_heads is not positive.
        RuntimeError: ``posenc_ext::window_bias: ...``, for H < h or W < w.

    Complexity: O(num_heads H W h w) forward and backward, the size of the result; no index is stored or read.

    Source: Gao, Zhou, Metaxas, "UTNet: A Hybrid Transformer Architecture for Medical Image Segmentation",
    2021.

    Example:
        >>> bias = RelativePositionBias(num_heads=4, h=16, w=16)
        >>> bias(32, 48).shape
        torch.Size([1, 4, 1536, 256])
    """

    _dropped_key = "relative_position_index"

    def __init__(self, num_heads: int, h: int, w: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.h = h
        self.w = w
        self.relative_position_bias_table = _bias_table("RelativePositionBias", [h, w], num_heads, 0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, H: int, W: int) -> Tensor:
        table = self.relative_position_bias_table
        bias = torch.ops.posenc_ext.window_bias(table, [self.h, self.w], query_size=[H, W])
        return bias.unsqueeze(0)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, h={self.h}, w={self.w}"


class WindowRelativePositionBias(_DropsKeys):
    """A learned bias for attention inside a 1-D, 2-D or 3-D window, with or without a class token.

    Replaces the pair ``relative_position_bias_table``, ``relative_position_index`` of Swin, Video Swin and
    BEiT: their tables load, and ``relative_position_index`` is dropped in square or flat form.

    Args:
        window: sizes of the window, one to three of them, outermost axis first.
        num_heads: attention heads.
        prefix_tokens: 1 for a class token in front of the window (BEiT), which adds three rows to the table.

    Shapes and dtypes:
        relative_position_bias_table: parameter [prod(2s-1) + 3 prefix_tokens, num_heads], initially truncated
            normal, std 0.02.
        Result: [1, num_heads, N, N] with N = prod(window) + prefix_tokens, in the dtype of the table
            (float64, float32, float16 or bfloat16).

    Raises:
        ValueError: window has no size or more than three, a size or num_heads is not positive,
            prefix_tokens is neither 0 nor 1.

    Complexity: O(num_heads N N) forward and backward, the size of the result; no index is stored or read.

    Source: Liu et al., "Swin Transformer", 2021, section 3.2; Bao et al., "BEiT", 2021, for the class token.

    Example:
        >>> bias = WindowRelativePositionBias((7, 7), num_heads=3)
        >>> bias().shape
        torch.Size([1, 3, 49, 49])
    """

    _dropped_key = "relative_position_index"
    window: list[int]

    def __init__(self, window: Sequence[int], num_heads: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.window = list(window)
        self.num_heads = num_heads
        self.prefix_tokens = prefix_tokens
        name = "WindowRelativePositionBias"
        self.relative_position_bias_table = _bias_table(name, self.window, num_heads, prefix_tokens)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self) -> Tensor:
        table = self.relative_position_bias_table
        bias = torch.ops.posenc_ext.window_bias(table, self.window, prefix_tokens=self.prefix_tokens)
        return bias.unsqueeze(0)

    def extra_repr(self) -> str:
        return f"window={self.window}, num_heads={self.num_heads}, prefix_tokens={self.prefix_tokens}"
