"""Modules with a learned or computed table of biases for the relative positions in a window."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar, Optional

import torch
from torch import Tensor, nn

from .._sharded import replicated_for, replicated_like
from ..compositions import resample_window_table, window_index
from ..ops import gather_bias, window_bias
from ._checkpoints import ComputesKeys, rename_keys
from ._children import CallsChildren
from ._init import fill_parameter


def _check_window(name: str, window: list[int], num_heads: int) -> None:
    if not 1 <= len(window) <= 3:
        raise ValueError(f"{name}: window must have 1 to 3 sizes, got {len(window)}")
    if min(window) < 1:
        raise ValueError(f"{name}: window sizes must be positive, got {window}")
    if num_heads < 1:
        raise ValueError(f"{name}: num_heads must be positive, got {num_heads}")


def _row_count(window: list[int]) -> int:
    return math.prod(2 * size - 1 for size in window)


def _legacy_rows(h: int, w: int, device: torch.device | None) -> Tensor:
    """The table row of each (dy, dx) in code that uses a row stride of 2h-1, [2h-1, 2w-1]."""
    dy = torch.arange(2 * h - 1, device=device).unsqueeze(1)
    return dy * (2 * h - 1) + torch.arange(2 * w - 1, device=device)


class RelativePositionBias(ComputesKeys):
    """A learned bias for attention from every position of an H x W map to a fixed h x w grid of keys.

    Replaces ``RelativePositionBias`` of UTNet: same constructor, parameter and call. Its checkpoints load;
    ``relative_position_index`` is dropped, whether square or flat. Query (Y, X) has the bias of grid cell
    (floor(Y h / H), floor(X w / W)), for any H >= h and W >= w. The original requires multiples of h and w
    and, because of a bug in its row stride, is only correct for h = w.

    Args:
        num_heads: number of attention heads.
        h, w: size of the grid of keys.
        legacy_stride: uses the original row stride of 2h-1 instead of 2w-1, for checkpoints that were trained
            with it; for h < w some pairs then share rows, as they did in training.
        emit_index: "square" for a ``state_dict()`` that the original can load, with
            ``relative_position_index`` [hw, hw]; "flat" for [hw*hw]; None for the table only.

    Shapes and dtypes:
        relative_position_bias_table: parameter [(2h-1)(2w-1), num_heads], initially normal, std 0.02.
        Result: [1, num_heads, H*W, h*w], in the dtype of the table (float64, float32, float16 or bfloat16).

    Raises:
        ValueError: h, w or num_heads is not positive, legacy_stride with h > w (the original raises
            IndexError when called), or emit_index is invalid.
        RuntimeError: ``posenc_ext::window_bias: ...``, for H < h or W < w; from ``load_state_dict``, for a
            ``relative_position_index`` of the right size with other values (the one of the other stride).

    Complexity: O(num_heads H W h w) forward and backward, the size of the result; no index is stored. With
    legacy_stride and h < w, half-precision gradients are rounded twice: per cell, then per row of the table.

    Source: Gao, Zhou, Metaxas, "UTNet: A Hybrid Transformer Architecture for Medical Image Segmentation",
    2021.

    Example:
        >>> bias = RelativePositionBias(num_heads=4, h=16, w=16)
        >>> bias(32, 48).shape
        torch.Size([1, 4, 1536, 256])
    """

    _dropped_keys = ("relative_position_index",)

    def __init__(
        self, num_heads: int, h: int, w: int, legacy_stride: bool = False, emit_index: str | None = None
    ) -> None:
        super().__init__()
        _check_window("RelativePositionBias", [h, w], num_heads)
        if legacy_stride and h > w:
            raise ValueError(f"RelativePositionBias: legacy_stride must be False for h > w, got {h}, {w}")
        self._set_emit_index(emit_index)
        self.num_heads = num_heads
        self.h = h
        self.w = w
        self.legacy_stride = legacy_stride
        self.relative_position_bias_table = nn.Parameter(torch.empty(_row_count([h, w]), num_heads))
        self._register_emitted()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.relative_position_bias_table, std=0.02)
        self._restore_emitted()

    def forward(self, H: int, W: int) -> Tensor:
        table = self.relative_position_bias_table
        if self.legacy_stride and self.h < self.w:
            rows = replicated_like(_legacy_rows(self.h, self.w, table.device), table)
            table = gather_bias(table, rows).flatten(1).t()
        bias = window_bias(table, [self.h, self.w], query_size=[H, W])
        return bias.unsqueeze(0)

    def _computed(self) -> dict[str, Tensor]:
        index = window_index([self.h, self.w], [self.h, self.w])
        if self.legacy_stride:
            index = _legacy_rows(self.h, self.w, None).flatten()[index]
        return {"relative_position_index": index}

    def extra_repr(self) -> str:
        legacy = ", legacy_stride=True" if self.legacy_stride else ""
        return f"num_heads={self.num_heads}, h={self.h}, w={self.w}{legacy}"


class WindowRelativePositionBias(ComputesKeys):
    """A learned bias for attention inside a 1-D, 2-D or 3-D window, with or without a class token.

    Replaces ``relative_position_bias_table``, ``relative_position_index`` and the code around them in:

    - torchvision 0.29: ``ShiftedWindowAttention`` (emit_index="flat"), ``ShiftedWindowAttention3d`` and
      MaxViT's ``RelativePositionalMultiHeadAttention`` ("square").
    - timm 1.0: ``RelPosBias``, Swin's ``WindowAttention``, BEiT's ``Attention`` (prefix_tokens=1; "square"
      for older releases, which keep the index), ``RelPosBiasTf`` of MaxViT-TF (heads_first=True).
    - transformers 5.x: ``SwinRelativePositionBias``; ``BeitRelativePositionBias`` (prefix_tokens=1; only
      square windows, the original confuses the axes of others). 4.x saves the index: "square".
    - the first releases of Swin, Video Swin and BEiT ("square").
    - HAT's ``OCAB``, whose queries attend to a larger, overlapping window (key_window; "square").

    If the map is smaller than the window, pass the smaller window to ``forward``: ``bias((4, 7, 7))``. For N
    tokens of a clipped 3-D window, torchvision and Video Swin use ``bias()[..., :N, :N]`` instead. That is
    the same if only the first axis is clipped; otherwise it selects the biases of other pairs, so use it to
    reproduce their results.

    The tables of these modules load; ``relative_position_index`` is dropped, whether square or flat. A table
    for another window is an error: load it into a module for that window and call ``resampled(window)``.
    The index of HAT, key minus query plus an offset, is negative for some pairs, which then read the table
    from the end: with n = q + k - 1 cells per axis, row i of this table is row
    ``(q * (n + 1) - i) % n**2`` of HAT's.

    Args:
        window: one to three sizes of the window, outermost axis first.
        num_heads: number of attention heads.
        prefix_tokens: 1 for a class token in front of the window (BEiT), which adds three rows to the table.
        heads_first: the table is [num_heads, 2s-1, ...] and indexed by key minus query, as in MaxViT for
            TensorFlow and ``RelPosBiasTf`` of timm; not with prefix_tokens.
        emit_index: "flat" or "square" for a ``state_dict()`` that contains ``relative_position_index`` as
            [N*N] or [N, N], for modules that save it; None for the table only.
        key_window: sizes of the window of the keys, if it differs from that of the queries; not with
            prefix_tokens. The table then has prod(q + k - 1) rows in the order of query minus key.

    Shapes and dtypes:
        relative_position_bias_table: parameter [prod(2s-1) + 3 prefix_tokens, num_heads], initially truncated
            normal, std 0.02.
        forward(window=None): [1, num_heads, N, N] with N = prod(window) + prefix_tokens, in the dtype of the
            table (float64, float32, float16 or bfloat16). Values are copied bit for bit. window defaults to
            that of the module; in a smaller one, each pair has the bias of its relative position.
        With key_window: forward() without arguments, [1, num_heads, prod(window), prod(key_window)].

    Raises:
        ValueError: window does not have one to three sizes; a size or num_heads is not positive;
            prefix_tokens is neither 0 nor 1, or is 1 with heads_first or key_window; emit_index is invalid;
            key_window does not have as many positive sizes as window; from ``forward``, for a window that is
            larger than that of the module, or for any window with key_window.
        RuntimeError: from ``load_state_dict``, for a table of another window, or a
            ``relative_position_index`` of the right size with other values.

    Complexity: O(num_heads N N) forward and backward, the size of the result; no index is stored or read.
    With key_window, each call computes an index [Q, K].

    Source: Liu et al., "Swin Transformer", 2021, section 3.2; Bao et al., "BEiT", 2021, for the class token;
    Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", 2023, for key_window.

    Example:
        >>> bias = WindowRelativePositionBias((7, 7), num_heads=3)
        >>> bias().shape
        torch.Size([1, 3, 49, 49])
        >>> bias((7, 5)).shape
        torch.Size([1, 3, 35, 35])
        >>> WindowRelativePositionBias((7, 7), num_heads=3, emit_index="flat").state_dict().keys()
        odict_keys(['relative_position_bias_table', 'relative_position_index'])
    """

    _dropped_keys = ("relative_position_index",)
    window: list[int]
    key_window: list[int]

    def __init__(
        self,
        window: Sequence[int],
        num_heads: int,
        prefix_tokens: int = 0,
        heads_first: bool = False,
        emit_index: str | None = None,
        key_window: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        name = "WindowRelativePositionBias"
        self.window = list(window)
        self.key_window = self.window if key_window is None else list(key_window)
        self.num_heads = num_heads
        self.prefix_tokens = prefix_tokens
        self.heads_first = heads_first
        _check_window(name, self.window, num_heads)
        if prefix_tokens not in (0, 1):
            raise ValueError(f"{name}: prefix_tokens must be 0 or 1, got {prefix_tokens}")
        if heads_first and prefix_tokens:
            raise ValueError(f"{name}: prefix_tokens must be 0 with heads_first, got {prefix_tokens}")
        if len(self.key_window) != len(self.window) or min(self.key_window) < 1:
            rule = f"key_window must have {len(self.window)} positive sizes, got {self.key_window}"
            raise ValueError(f"{name}: {rule}")
        if prefix_tokens and self.key_window != self.window:
            raise ValueError(f"{name}: prefix_tokens must be 0 with key_window, got {prefix_tokens}")
        self._set_emit_index(emit_index)
        # Cells of the table along each axis.
        self._cells = [q + k - 1 for q, k in zip(self.window, self.key_window, strict=True)]
        rows = math.prod(self._cells) + 3 * prefix_tokens
        shape = [num_heads, *self._cells] if heads_first else [rows, num_heads]
        self.relative_position_bias_table = nn.Parameter(torch.empty(shape))
        self._register_emitted()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self._restore_emitted()

    def resampled(self, window: Sequence[int]) -> "WindowRelativePositionBias":
        """A module for another window with as many axes, with the table of this one resampled.

        See :func:`posenc_ext.resample_window_table`. The new table has the same dtype and device; the rows
        of a class token are unchanged. Not supported with key_window.
        """
        if self.key_window != self.window:
            name = "WindowRelativePositionBias"
            raise ValueError(f"{name}: key_window must be window to resample, got {self.key_window}")
        table = self.relative_position_bias_table.detach()
        rows = table.flatten(1).t() if self.heads_first else table
        rows = resample_window_table(rows, self.window, list(window), self.prefix_tokens)
        with torch.device("meta"):  # skips the initialization
            options = (self.num_heads, self.prefix_tokens, self.heads_first, self.emit_index)
            other = type(self)(window, *options)
        shape = other.relative_position_bias_table.shape
        other.to_empty(device=table.device).to(table.dtype)
        other._restore_emitted()
        fill_parameter(
            other.relative_position_bias_table, rows.t().reshape(shape) if self.heads_first else rows
        )
        return other.train(self.training)

    def _table(self, window: Optional[list[int]]) -> Tensor:
        """The table [rows, num_heads] of this window or a smaller one, in the order of query minus key."""
        table = self.relative_position_bias_table
        if self.heads_first:
            table = table.flatten(1).flip(1).t()
        if window is not None:
            table = table.index_select(0, replicated_like(self._rows_of(list(window), table.device), table))
        return table

    def forward(self, window: Optional[list[int]] = None) -> Tensor:
        sizes = self.window if window is None else list(window)
        table = self._table(window)
        if self.key_window != self.window:
            index = window_index(self.window, self.key_window, device=table.device)
            bias = gather_bias(table, replicated_like(index, table))
        else:
            bias = window_bias(table, sizes, prefix_tokens=self.prefix_tokens)
        return bias.unsqueeze(0)

    def _rows_of(self, window: list[int], device: torch.device) -> Tensor:
        """The rows of the table for a smaller window: the inner cells, then the rows of the prefix."""
        name = "WindowRelativePositionBias"
        if self.key_window != self.window:
            raise ValueError(f"{name}: window must be None with key_window, got {window}")
        fits = len(window) == len(self.window)
        for size, full in zip(window, self.window):
            fits = fits and 1 <= size <= full
        if not fits:
            raise ValueError(f"{name}: window must be within {self.window}, got {window}")
        rows, count = torch.zeros([1], dtype=torch.int64, device=device), 1
        for size, full in zip(window, self.window):
            cells = torch.arange(full - size, full + size - 1, device=device)
            rows = (rows.unsqueeze(1) * (2 * full - 1) + cells).flatten()
            count *= 2 * full - 1
        prefix = torch.arange(count, count + 3 * self.prefix_tokens, device=device)
        return torch.cat([rows, prefix])

    def _computed(self) -> dict[str, Tensor]:
        index = window_index(self.window, self.key_window, self.prefix_tokens)
        return {"relative_position_index": math.prod(self._cells) - 1 - index if self.heads_first else index}

    def extra_repr(self) -> str:
        heads_first = ", heads_first=True" if self.heads_first else ""
        keys = f", key_window={self.key_window}" if self.key_window != self.window else ""
        sizes = f"window={self.window}, num_heads={self.num_heads}"
        return f"{sizes}, prefix_tokens={self.prefix_tokens}{heads_first}{keys}"


def _log_coordinates(
    window: list[int], pretrained_window: list[int], natural: bool, device: torch.device | None
) -> Tensor:
    """float32 [1, 2s-1, ..., axes], by the same operations as torchvision, timm and transformers."""
    axes = [torch.arange(1 - size, size, dtype=torch.float32, device=device) for size in window]
    for axis, size in enumerate(pretrained_window):
        if not natural:
            axes[axis] = axes[axis] / max(size - 1, 1) * 8
    coordinates = torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).unsqueeze(0)
    distance = coordinates.abs() + 1.0
    log = torch.log(distance) if natural else torch.log2(distance)
    signed = torch.sign(coordinates) * log
    return signed if natural else signed / 3.0


# The names of the MLP and of its layers in the replaced modules.
_MLP_LAYERS = {
    "cpb_mlp": ("0", "1", "2"),
    "continuous_position_bias_mlp": ("0", "1", "2"),
    "mlp": ("fc1", "act", "fc2"),
    "meta_mlp": ("fc1", "act", "fc2"),
}


def _mlp_keys(name: str) -> list[str]:
    """Prefixes of the state_dict keys of the first and second layer of the MLP."""
    first, _, second = _MLP_LAYERS[name]
    return [f"{name}.{first}.", f"{name}.{second}."]


class LogCoordinatePositionBias(ComputesKeys, CallsChildren):
    """The bias of a window from a small MLP over log-spaced relative coordinates (Swin v2).

    bias = 16 sigmoid(MLP(sign(c) log2(1 + abs(8 c / (s - 1))) / 3)), where c are the relative coordinates in
    a window of size s. Coordinates are computed in ``forward``; the sigmoid is applied to the prod(2s-1)
    values before they are gathered (169 instead of 2401 for a 7 x 7 window). Replaces

    - torchvision 0.29: ``cpb_mlp`` and the two buffers of ``ShiftedWindowAttentionV2`` (emit_index="flat")
    - timm 1.0: ``WindowAttention`` of Swin v2; ``RelPosMlp``, both modes (mlp_name="mlp",
      hidden_features=128, and dropout=0.125 as in the original in training); the ``meta_mlp`` of
      ``WindowMultiHeadAttention`` of Swin v2 CR (mode="cr", mlp_name="meta_mlp", hidden_features=384)
    - transformers 5.x, 4.x: ``Swinv2SelfAttention`` (mlp_name="continuous_position_bias_mlp")
    - the first release of Swin v2 ("square")

    Args:
        window: one to three sizes of the window, outermost axis first.
        num_heads: number of attention heads.
        hidden_features: number of hidden features of the MLP.
        pretrained_window: sizes that normalize the coordinates, if the weights were trained with another
            window; None or zeros for those of window. A size of 1 divides by 1 (torchvision divides by 0).
        mode: "swin", or "cr" as in timm: coordinates sign(c) log(1 + abs(c)), a bias in the last layer of the
            MLP, and no sigmoid.
        dropout: probability of a hidden feature to be zeroed in training, in [0, 1]. ``module.dropout`` is
            the child of the MLP that applies it and can be replaced.
        prefix_tokens: number of rows and columns of zeros in front of the bias.
        mlp_name: the name of the MLP and of its keys in ``state_dict()``: "cpb_mlp",
            "continuous_position_bias_mlp", "mlp" or "meta_mlp"; ``load_state_dict`` accepts any of these
            keys.
        emit_index: "flat" or "square" for a ``state_dict()`` that also contains ``relative_coords_table`` and
            ``relative_position_index`` [N*N] or [N, N], for modules that save them.

    Shapes and dtypes:
        cpb_mlp: Sequential of Linear(axes, hidden_features), ReLU and Dropout, Linear(hidden_features,
            num_heads); the Linears are children "0" and "2", or "fc1" and "fc2" of "mlp" and "meta_mlp".
        forward(window=None, device=None): [1, num_heads, N, N] with N = prod(window) + prefix_tokens, in the
            dtype of the weights (float64, float32, float16 or bfloat16). Coordinates are computed in float32,
            then rounded to that dtype. A different window, smaller or larger, uses coordinates on the same
            scale, so the pairs of a smaller window have the biases that they have in the window of the
            module. device is where the MLP is called. Default: the device of its parameters, or the device to
            which accelerate's hooks load them.

    Raises:
        ValueError: window does not have one to three sizes; a size, num_heads or hidden_features is not
            positive; pretrained_window does not have as many sizes or has a negative one; mode, mlp_name or
            emit_index is invalid; dropout is not in [0, 1]; prefix_tokens is negative; from ``forward``, for
            a window that does not have as many positive sizes.
        RuntimeError: from ``load_state_dict``, for an index or coordinates of the right size with other
            values (coordinates depend on pretrained_window).

    Complexity: O(prod(2s-1) hidden_features num_heads + num_heads N N) forward and backward.

    Source: Liu et al., "Swin Transformer V2", 2022, section 3.3.

    Example:
        >>> bias = LogCoordinatePositionBias((7, 7), num_heads=3)
        >>> bias().shape
        torch.Size([1, 3, 49, 49])
        >>> list(LogCoordinatePositionBias((7, 7), num_heads=3, mlp_name="mlp").state_dict())
        ['mlp.fc1.weight', 'mlp.fc1.bias', 'mlp.fc2.weight']
    """

    _dropped_keys = (
        "relative_coords_table",
        "relative_position_index",
        "rel_coords_log",
        "relative_coordinates_log",
    )
    __jit_unused_properties__: ClassVar = ["dropout"]
    window: list[int]
    pretrained_window: list[int]

    def __init__(
        self,
        window: Sequence[int],
        num_heads: int,
        hidden_features: int = 512,
        pretrained_window: Sequence[int] | None = None,
        mode: str = "swin",
        dropout: float = 0.0,
        prefix_tokens: int = 0,
        mlp_name: str = "cpb_mlp",
        emit_index: str | None = None,
    ) -> None:
        super().__init__()
        name = "LogCoordinatePositionBias"
        self.window = list(window)
        _check_window(name, self.window, num_heads)
        self.pretrained_window = self.window if pretrained_window is None else list(pretrained_window)
        if len(self.pretrained_window) != len(self.window) or min(self.pretrained_window) < 0:
            rule = f"pretrained_window must have {len(self.window)} sizes >= 0, got {self.pretrained_window}"
            raise ValueError(f"{name}: {rule}")
        if not any(self.pretrained_window):
            self.pretrained_window = self.window
        if hidden_features < 1:
            raise ValueError(f"{name}: hidden_features must be positive, got {hidden_features}")
        if mode not in ("swin", "cr"):
            raise ValueError(f'{name}: mode must be "swin" or "cr", got {mode!r}')
        if not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout must be in [0, 1], got {dropout}")
        if prefix_tokens < 0:
            raise ValueError(f"{name}: prefix_tokens must not be negative, got {prefix_tokens}")
        if mlp_name not in _MLP_LAYERS:
            raise ValueError(f"{name}: mlp_name must be one of {list(_MLP_LAYERS)}, got {mlp_name!r}")
        self._set_emit_index(emit_index)
        self.num_heads = num_heads
        self.mode = mode
        self.prefix_tokens = prefix_tokens
        self.mlp_name = mlp_name
        layers = (
            nn.Linear(len(self.window), hidden_features),
            nn.Sequential(nn.ReLU(), nn.Dropout(dropout)),  # one child, so that the next Linear is "2"
            nn.Linear(hidden_features, num_heads, bias=mode == "cr"),
        )
        self.add_module(mlp_name, nn.Sequential(OrderedDict(zip(_MLP_LAYERS[mlp_name], layers, strict=True))))
        self._register_emitted()

    @property
    def dropout(self) -> nn.Module:
        return getattr(self, self.mlp_name)[1][1]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "dropout":  # nn.Module would register it as a child that is never called
            getattr(self, self.mlp_name)[1][1] = value
        else:
            super().__setattr__(name, value)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._restore_emitted()

    def forward(self, window: Optional[list[int]] = None, device: Optional[torch.device] = None) -> Tensor:
        natural = self.mode == "cr"
        sizes = self.window
        if window is not None:
            sizes = list(window)
            if len(sizes) != len(self.window) or min(sizes) < 1:
                rule = f"window must have {len(self.window)} positive sizes, got {sizes}"
                raise ValueError(f"LogCoordinatePositionBias: {rule}")
        dtype, own_device = self._dtype_and_device()
        device = own_device if device is None else device
        table = _log_coordinates(sizes, self.pretrained_window, natural, device).to(dtype)
        for mlp in self.children():  # the only child; TorchScript cannot look it up by mlp_name
            if not torch.jit.is_scripting():
                table = replicated_for(table, mlp)
            table = mlp(table)
        table = table.flatten(0, -2)
        if not natural:
            table = 16 * torch.sigmoid(table)
        bias = window_bias(table, sizes)
        if self.prefix_tokens > 0:
            bias = nn.functional.pad(bias, [self.prefix_tokens, 0, self.prefix_tokens, 0])
        return bias.unsqueeze(0)

    def _computed(self) -> dict[str, Tensor]:
        coordinates = _log_coordinates(self.window, self.pretrained_window, self.mode == "cr", None)
        index = window_index(self.window, self.window)
        return {"relative_coords_table": coordinates, "relative_position_index": index}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in _MLP_LAYERS:
            if name != self.mlp_name:
                names = dict(zip(_mlp_keys(name), _mlp_keys(self.mlp_name), strict=True))
                rename_keys(state_dict, prefix, names)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        sizes = (
            f"window={self.window}, num_heads={self.num_heads}, pretrained_window={self.pretrained_window}"
        )
        return f"{sizes}, mode={self.mode!r}, prefix_tokens={self.prefix_tokens}"
