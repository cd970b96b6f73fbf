"""Modules that hold a table of relative-position biases."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._checkpoints import DropsKeys


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


class RelativePositionBias(DropsKeys):
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

    _dropped_keys = ("relative_position_index",)

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


class WindowRelativePositionBias(DropsKeys):
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

    _dropped_keys = ("relative_position_index",)
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
