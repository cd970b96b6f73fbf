"""Functions composed of the ops: positions of padded batches, sinusoidal grids, resampled tables.

Sinusoids come from :mod:`posenc_ext.ops` and are rounded as described there; resampling computes the values
of torch's ``interpolate`` in float64 and rounds once. Every function can be called from TorchScript. Errors
are ``ValueError`` with the message ``posenc_ext.function: rule, got value``; a scripted function raises
``torch.jit.Error`` with the same message.
"""

import math
from typing import Optional, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from ._resampling import known_equal, resample_grid
from .ops import sinusoidal, sinusoidal_table

__all__ = [
    "detr_sine",
    "padding_positions",
    "resample_position_embedding",
    "resample_window_table",
    "sinusoidal_grid",
]


def padding_positions(tokens: Tensor, padding_idx: int, past_length: Union[int, Tensor] = 0) -> Tensor:
    """Positions of the tokens of a padded batch; padding is not counted.

    ``position = (cumsum(tokens != padding_idx) + past_length) * (tokens != padding_idx) + padding_idx``: the
    first real token has position padding_idx + 1, wherever the padding is; padding has position padding_idx.

    Args:
        tokens: [B, L], integer; any strides.
        padding_idx: token ID of the padding.
        past_length: number of real tokens before these, as in decoding with a cache: an int >= 0, or an
            integer tensor with one number per sample, [B] or [B, 1] (also [] or [1]), whose values are not
            checked.

    Returns:
        [B, L], int64, contiguous, on the device of tokens.

    Raises:
        ValueError: tokens is not an integer [B, L]; past_length is negative or a tensor of another shape or
            dtype.

    Complexity: O(B L). Not differentiable.

    Source: fairseq ``utils.make_positions``; transformers
    ``M2M100SinusoidalPositionalEmbedding.create_position_ids_from_input_ids`` and the same in RoBERTa.

    >>> padding_positions(torch.tensor([[5, 6, 7], [1, 1, 8]]), padding_idx=1)
    tensor([[2, 3, 4],
            [1, 1, 2]])
    >>> padding_positions(torch.tensor([[9], [9]]), padding_idx=1, past_length=torch.tensor([3, 1]))
    tensor([[5],
            [3]])
    """
    name = "posenc_ext.padding_positions"
    if tokens.dim() != 2:
        raise ValueError(f"{name}: tokens must have 2 dimensions, got {tokens.dim()}")
    if not is_integer(tokens):
        raise ValueError(f"{name}: tokens must be integers, got {tokens.dtype}")
    mask = tokens.ne(padding_idx).to(torch.int64)
    if isinstance(past_length, Tensor):
        counts = mask.cumsum(1) + per_sample(f"{name}: past_length", past_length, tokens.size(0))
    else:
        if past_length < 0:
            raise ValueError(f"{name}: past_length must be >= 0, got {past_length}")
        counts = mask.cumsum(1) + past_length
    return counts * mask + padding_idx


def per_sample(what: str, number: Tensor, batch: int) -> Tensor:
    """Converts an integer tensor [], [1], [B] or [B, 1] to int64 [B, 1] or [1, 1]."""
    column = number.dim() == 2 and number.size(1) == 1
    if not is_integer(number) or (number.dim() > 1 and not column):
        got = f"{number.dtype} {list(number.shape)}"
        raise ValueError(f"{what} must be an int or an integer tensor [], [1], [B] or [B, 1], got {got}")
    if number.numel() != 1 and number.numel() != batch:
        raise ValueError(f"{what} must have one value or {batch}, got {number.numel()}")
    return number.reshape(-1, 1).to(torch.int64)


def is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def sinusoidal_grid(
    size: list[int],
    dim: int,
    order: str = "mae",
    base: float = 10000.0,
    scale: Optional[list[float]] = None,
    extra_tokens: int = 0,
    dtype: Optional[torch.dtype] = None,
    device: Optional[torch.device] = None,
) -> Tensor:
    """Sinusoidal encodings of the cells of a 1-D, 2-D or 3-D grid, in the channel order of a given library.

    Each axis has n pairs of channels: sines s and cosines c of the frequencies ``w_j = base ** (-j / n)``.
    Libraries disagree on their order in a row; ``order`` selects the library. With rows y and columns x of a
    size [H, W]:

    - ``"mae"``: [s x, c x, s y, c y]; n = dim / 4. MAE, DiT, and ``get_2d_sincos_pos_embed`` of diffusers,
      whose scale is base_size / size / interpolation_scale for each axis.
    - ``"cogvideox"``: size [T, H, W]; dim / 4 channels [s t, c t], then "mae" in the other 3 dim / 4.
      ``get_3d_sincos_pos_embed`` of diffusers (whose spatial_size is width, height).
    - ``"timm"``: [s y, s x, c y, c x]. ``build_sincos2d_pos_embed`` of timm; for reverse_coord=True, reverse
      size.
    - ``"timm_interleaved"``: [s y, c y, s x, c x]. The same with interleave_sin_cos=True.
    - ``"mocov3"``: [s y, c y, s x, c x]. MoCo v3, which calls y "w": for grids that are not square, its
      tables list the cells column by column and equal these with a reversed size.
    - ``"monai"``: [s x, c x, s y, c y]; 3-D of size [H, W, D]: [s x, c x, s y, c y, s z, c z].
      ``build_sincos_position_embedding`` of MONAI.
    - ``"positional_encodings"``: one to three axes, first axis first, each [s0 c0 s1 c1 ...] in
      2 ceil(dim / (2 axes)) channels, truncated to dim channels. The PyPI package positional-encodings.

    For the grid of DETR, which counts the cells of a mask, see :func:`detr_sine`.

    Args:
        size: cells along each axis, > 0, slowest axis first: [L], [H, W] or [T, H, W], depending on order.
        dim: channels; a multiple of 4 ("mae", "timm", "timm_interleaved", "mocov3", 2-D "monai"), of 6 (3-D
            "monai"), of 16 ("cogvideox"), or any positive number ("positional_encodings").
        order: see above.
        base: base of the geometric progression of wavelengths, > 0.
        scale: multiplies the positions of each axis, in the order of size. Default: 1 for each axis.
        extra_tokens: rows of zeros in front of the grid (a class token in MAE, MoCo v3 and diffusers).
        dtype: dtype of the result. Default: torch's default dtype.
        device: device of the result. Default: torch's default device.

    Returns:
        [extra_tokens + prod(size), dim], contiguous, cells in row-major order; rounded as in
        :func:`sinusoidal_table`.

    Raises:
        ValueError: order is unknown; order does not support the number of axes or dim; a size is not
            positive; scale does not have as many factors as size; extra_tokens is negative.
        RuntimeError: ``posenc_ext::sinusoidal_table: ...``, for base, scale and dtype.

    Complexity: O(sum(size) dim) sinusoids and O(prod(size) dim) copies. Not differentiable (no tensor
    inputs).

    >>> sinusoidal_grid([1, 2], 4, order="mae")
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0000, 1.0000]])
    >>> sinusoidal_grid([1, 2], 4, order="timm")
    tensor([[0.0000, 0.0000, 1.0000, 1.0000],
            [0.0000, 0.8415, 1.0000, 0.5403]])
    """
    axes = len(size)
    multiple = 4
    fits = axes == 2
    if order == "cogvideox":
        multiple, fits = 16, axes == 3
    elif order == "monai":
        multiple, fits = 2 * axes, axes == 2 or axes == 3
    elif order == "positional_encodings":
        multiple, fits = 1, 1 <= axes <= 3
    elif order not in ["mae", "timm", "timm_interleaved", "mocov3"]:
        orders = "mae, cogvideox, timm, timm_interleaved, mocov3, monai, positional_encodings"
        raise ValueError(f"posenc_ext.sinusoidal_grid: order must be one of {orders}, got {order}")
    if not fits:
        rule = f"size has a wrong number of axes for order {order}"
        raise ValueError(f"posenc_ext.sinusoidal_grid: {rule}, got {axes}")
    if min(size) < 1:
        raise ValueError(f"posenc_ext.sinusoidal_grid: sizes must be positive, got {size}")
    if dim < 1 or dim % multiple != 0:
        rule = f"dim must be a positive multiple of {multiple} for order {order} with {axes} axes"
        raise ValueError(f"posenc_ext.sinusoidal_grid: {rule}, got {dim}")
    if scale is not None and len(scale) != axes:
        rule = f"scale must have one factor for each of {axes} axes"
        raise ValueError(f"posenc_ext.sinusoidal_grid: {rule}, got {len(scale)}")
    if extra_tokens < 0:
        raise ValueError(f"posenc_ext.sinusoidal_grid: extra_tokens must be >= 0, got {extra_tokens}")

    # The number of channels of each axis, and the axes in the order of their channels.
    channels = [dim // axes] * axes
    blocks = [0, 1, 2][:axes]
    if order == "mae":
        blocks = [1, 0]
    elif order == "cogvideox":
        channels, blocks = [dim // 4, 3 * dim // 8, 3 * dim // 8], [0, 2, 1]
    elif order == "monai":
        blocks = [1, 0, 2][:axes]
    elif order == "positional_encodings":
        channels = [2 * ((dim + 2 * axes - 1) // (2 * axes))] * axes
    layout = "interleaved" if order == "positional_encodings" else "concat"

    parts: list[Tensor] = []
    left = dim
    for axis in blocks:
        table = sinusoidal_table(
            size[axis],
            channels[axis],
            base=base,
            scale=1.0 if scale is None else scale[axis],
            layout=layout,
            dtype=dtype,
            device=device,
        )
        table = table[:, :left]
        left = max(left - channels[axis], 0)
        sizes = list(size)
        sizes.append(table.size(1))
        for _ in range(axes - 1 - axis):
            table = table.unsqueeze(1)
        parts.append(table.expand(sizes))
    if order == "timm":  # the sines of both axes, then the cosines of both
        half = dim // 4
        sines, cosines = [part[..., :half] for part in parts], [part[..., half:] for part in parts]
        parts = sines + cosines
    grid = torch.cat(parts, -1).view(-1, dim)
    return F.pad(grid, [0, 0, extra_tokens, 0]) if extra_tokens > 0 else grid


def detr_sine(
    mask: Tensor,
    num_features: int,
    base: float = 10000.0,
    normalize: bool = False,
    scale: float = 2 * math.pi,
    dtype: Optional[torch.dtype] = None,
) -> Tensor:
    """DETR's sine encoding: positions count the valid cells of a mask, starting at 1, along each axis.

    ``y = cumsum(mask, rows)`` and ``x = cumsum(mask, columns)``; with ``normalize``,
    ``y / (y_last + 1e-6) * scale``, and likewise for x, in float64. Each is encoded in num_features
    interleaved channels (s0 c0 s1 c1 ...), y first.

    Args:
        mask: [B, H, W], bool or integer, any strides: nonzero for the image, zero for padding. This is the
            pixel mask of transformers; ``NestedTensor.mask`` of the original DETR is its negation. For a grid
            without padding, pass ``torch.ones(B, H, W, dtype=torch.bool)``.
        num_features: channels per axis, even, > 0.
        base: ``temperature`` in the sources, > 0.
        normalize: whether to scale the positions so that the last one along each axis is ``scale``.
        scale: see normalize.
        dtype: dtype of the result. Default: torch's default dtype. Positions are exact in every dtype,
            whereas the sources count in the dtype of the result.

    Returns:
        [B, 2 num_features, H, W] in channels-last memory, on the device of mask; rounded as in
        :func:`sinusoidal`.

    Raises:
        ValueError: mask is not a bool or integer [B, H, W], or num_features is not even and positive.
        RuntimeError: ``posenc_ext::sinusoidal: ...``, for base and dtype.

    Complexity: O(B H W num_features). Not differentiable.

    Source: Carion et al., "End-to-End Object Detection with Transformers", 2020, ``PositionEmbeddingSine``;
    ``DetrSinePositionEmbedding`` of transformers and its copies.

    >>> detr_sine(torch.ones(1, 1, 2, dtype=torch.bool), 2)[0, :, 0]
    tensor([[ 0.8415,  0.8415],
            [ 0.5403,  0.5403],
            [ 0.8415,  0.9093],
            [ 0.5403, -0.4161]])
    """
    if mask.dim() != 3:
        raise ValueError(f"posenc_ext.detr_sine: mask must have 3 dimensions, got {mask.dim()}")
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(f"posenc_ext.detr_sine: mask must be bool or integer, got {mask.dtype}")
    if num_features < 2 or num_features % 2 != 0:
        rule = "num_features must be even and positive"
        raise ValueError(f"posenc_ext.detr_sine: {rule}, got {num_features}")
    if dtype is None:
        dtype = torch.empty(0).dtype  # TorchScript does not support torch.get_default_dtype
    parts: list[Tensor] = []
    for axis in [1, 2]:
        positions = mask.ne(0).to(torch.int64).cumsum(axis)
        if normalize:
            extent = positions.narrow(axis, mask.size(axis) - 1, 1) if mask.size(axis) > 0 else positions
            positions = positions.to(torch.float64) / (extent.to(torch.float64) + 1e-6) * scale
        parts.append(sinusoidal(positions, num_features, base=base, dtype=dtype))
    return torch.cat(parts, -1).permute(0, 3, 1, 2)


def resample_position_embedding(
    pos_embed: Tensor,
    new_size: list[int],
    prefix_tokens: int = 1,
    old_size: Optional[list[int]] = None,
    mode: str = "bicubic",
    antialias: bool = True,
    align_corners: bool = False,
) -> Tensor:
    """Resamples the learned position embeddings of image patches to another grid; prefix rows are unchanged.

    Computes in float64 and rounds once. Libraries disagree on the options: the defaults are those of
    ``resample_abs_pos_embed`` of timm. ``interpolate_pos_encoding`` of transformers (ViT, DeiT, DINOv2) and
    the fine-tuning code of DeiT use antialias=False; ``interpolate_embeddings`` of torchvision uses
    antialias=False, align_corners=True. The original code of DINO passes a scale factor instead of a size,
    which shifts its sampling points by up to a tenth of a new cell; this is not supported.

    Args:
        pos_embed: [1, P + H W, D] or [P + H W, D], P = prefix_tokens; float64, float32, float16 or bfloat16,
            any strides.
        new_size: [H', W'], > 0.
        prefix_tokens: number of leading rows that do not belong to a patch (cls, dist, registers).
        old_size: [H, W]. Default: a square.
        mode: "bicubic", "bilinear" or "nearest", as in ``torch.nn.functional.interpolate``.
        antialias: applies a low-pass filter if the grid shrinks; only for "bicubic" and "bilinear".
        align_corners: whether the corner cells of both grids coincide; only for "bicubic" and "bilinear".

    Returns:
        [1, P + H' W', D] or [P + H' W', D], in the dtype of pos_embed; pos_embed itself if the sizes are
        known to be equal (an equal copy while tracing, or for symbolic sizes that may differ).

    Raises:
        ValueError: pos_embed is neither [rows, D] nor [1, rows, D]; it does not have prefix_tokens + H W
            rows; old_size is None and the number of patches is not a square; new_size or old_size does not
            have 2 positive sizes; prefix_tokens is negative; mode is unknown.

    Complexity: O((H + W') H' W D), a product with a dense matrix per axis; for common grid sizes no slower
    than ``interpolate``. Gradients: with respect to pos_embed, of any order, in reverse and forward mode,
    without atomics.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, section 3.2.

    >>> resample_position_embedding(torch.arange(5.0).view(1, 5, 1), [1, 1], mode="bilinear").flatten()
    tensor([0.0000, 2.5000])
    """
    name = "posenc_ext.resample_position_embedding"
    if pos_embed.dim() != 2 and (pos_embed.dim() != 3 or pos_embed.size(0) != 1):
        raise ValueError(f"{name}: pos_embed must be [rows, D] or [1, rows, D], got {list(pos_embed.shape)}")
    if prefix_tokens < 0:
        raise ValueError(f"{name}: prefix_tokens must be >= 0, got {prefix_tokens}")
    if len(new_size) != 2 or min(new_size) < 1:
        raise ValueError(f"{name}: new_size must have 2 positive sizes, got {new_size}")
    if mode not in ["bicubic", "bilinear", "nearest"]:
        raise ValueError(f"{name}: mode must be bicubic, bilinear or nearest, got {mode}")
    rows = pos_embed.size(-2) - prefix_tokens
    if old_size is None:
        side = int(math.sqrt(max(rows, 0)) + 0.5)
        if rows < 1 or side * side != rows:
            raise ValueError(f"{name}: rows after the prefix must be a square without old_size, got {rows}")
        old = [side, side]
    else:
        if len(old_size) != 2 or min(old_size) < 1:
            raise ValueError(f"{name}: old_size must have 2 positive sizes, got {old_size}")
        old = [old_size[0], old_size[1]]
        if rows != old[0] * old[1]:
            rule = f"pos_embed must have {prefix_tokens + old[0] * old[1]} rows for old_size {old}"
            raise ValueError(f"{name}: {rule}, got {pos_embed.size(-2)}")
    if known_equal(old[0], new_size[0]) and known_equal(old[1], new_size[1]):
        return pos_embed
    grid = pos_embed.narrow(-2, prefix_tokens, rows).reshape(old[0], old[1], -1)
    if mode == "nearest":
        image = grid.permute(2, 0, 1).unsqueeze(0)
        grid = F.interpolate(image, new_size, mode=mode).squeeze(0).permute(1, 2, 0)
    else:
        grid = resample_grid(grid, new_size, mode, antialias, align_corners)
    patches = grid.reshape(new_size[0] * new_size[1], -1)
    if pos_embed.dim() == 3:
        patches = patches.unsqueeze(0)
    return torch.cat([pos_embed.narrow(-2, 0, prefix_tokens), patches], -2) if prefix_tokens > 0 else patches


def resample_window_table(
    table: Tensor,
    old_window: list[int],
    new_window: list[int],
    prefix_tokens: int = 0,
) -> Tensor:
    """Resamples a table of relative-position biases (see :func:`window_bias`) to another 1-D to 3-D window.

    The table is a grid of prod(2s-1) cells per head. It is resampled by cubic convolution without
    antialiasing along each axis whose size changes, in float64, and rounded once; the three rows of a class
    token are unchanged. In 2-D this matches ``resize_rel_pos_bias_table_simple`` of timm and the checkpoint
    loaders of Swin, which use bicubic ``interpolate`` and assume a square window. The original loader of
    BEiT, ``resize_rel_pos_bias_table`` of timm, spaces the cells in a geometric progression instead; this is
    not supported. Video Swin makes a table for window [t, h, w] from a 2-D one for window [h, w] by
    ``table.repeat(2 * t - 1, 1)``.

    Args:
        table: [prod(2s-1) + 3 prefix_tokens, heads]; float64, float32, float16 or bfloat16, any strides.
        old_window: one to three sizes s, > 0.
        new_window: the same number of sizes s', > 0.
        prefix_tokens: 0, or 1 for the three rows of a class token at the end of the table (BEiT).

    Returns:
        [prod(2s'-1) + 3 prefix_tokens, heads], in the dtype of table; table itself if the windows are equal.

    Raises:
        ValueError: table is not [rows, heads] with the number of rows of old_window; old_window does not have
            one to three positive sizes; new_window does not have as many; prefix_tokens is neither 0 nor 1.

    Complexity: a product with a [2s'-1, 2s-1] matrix per axis. Gradients: with respect to table, of any
    order, in reverse and forward mode.

    Source: Liu et al., "Swin Transformer V2", 2022, section 3.1; Keys, "Cubic Convolution Interpolation for
    Digital Image Processing", 1981, with torch's coefficient a = -0.75.

    >>> resample_window_table(torch.ones(9, 2), [2, 2], [3, 4]).shape
    torch.Size([35, 2])
    """
    name = "posenc_ext.resample_window_table"
    axes = len(old_window)
    if not 1 <= axes <= 3 or min(old_window) < 1:
        raise ValueError(f"{name}: old_window must have 1 to 3 positive sizes, got {old_window}")
    if len(new_window) != axes or min(new_window) < 1:
        raise ValueError(f"{name}: new_window must have {axes} positive sizes, got {new_window}")
    if prefix_tokens != 0 and prefix_tokens != 1:
        raise ValueError(f"{name}: prefix_tokens must be 0 or 1, got {prefix_tokens}")
    old = [2 * size - 1 for size in old_window]
    new = [2 * size - 1 for size in new_window]
    rows = 1
    for cells in old:
        rows *= cells
    if table.dim() != 2 or table.size(0) != rows + 3 * prefix_tokens:
        rule = f"table must be [{rows + 3 * prefix_tokens}, heads] for window {old_window}"
        raise ValueError(f"{name}: {rule}, got {list(table.shape)}")
    if old == new:
        return table
    resampled = resample_grid(table.narrow(0, 0, rows).unflatten(0, old), new).flatten(0, -2)
    prefix = table.narrow(0, rows, 3 * prefix_tokens)
    return torch.cat([resampled, prefix]) if prefix_tokens > 0 else resampled


def window_index(
    window: list[int],
    key_window: list[int],
    prefix_tokens: int = 0,
    device: Optional[torch.device] = None,
) -> Tensor:
    """The row of the bias table for each query of a window and each key of another: query - key, row-major.

    [Q, K], int64. With prefix_tokens=1, three more rows follow: (cls, patch), (patch, cls) and (cls, cls).

    >>> window_index([2], [2], prefix_tokens=1)
    tensor([[5, 3, 3],
            [4, 1, 0],
            [4, 2, 1]])
    """
    index = torch.zeros([1, 1], dtype=torch.int64, device=device)
    rows = 1
    for queries, keys in zip(window, key_window):
        offset = torch.arange(queries, device=device).unsqueeze(1) - torch.arange(keys, device=device)
        index = index.unsqueeze(1).unsqueeze(3) * (queries + keys - 1) + (offset + keys - 1).unsqueeze(1)
        index = index.flatten(2).flatten(0, 1)
        rows *= queries + keys - 1
    if prefix_tokens > 0:
        index = F.pad(index, [1, 0, 1, 0], value=float(rows))
        index[1:, 0] = rows + 1
        index[0, 0] = rows + 2
    return index
