"""The ops of posenc_ext as typed, scriptable functions.

Each function is a thin wrapper around the op of the same name in ``torch.ops.posenc_ext``, with the same
arguments and defaults; these docstrings are the specification of the ops. Pass arguments that follow a ``*``
in the op's schema by name: the signatures here have no ``*`` because TorchScript does not support
keyword-only arguments with defaults. All ops accept tensors of any strides without copying them, round each
result once, and return the same bits for any number of threads. Sums of gradients are accumulated in float32
(float64 for float64). Supported dtypes are float64, float32, float16 and bfloat16. Errors are
``RuntimeError`` with the message ``posenc_ext::op: rule, got value`` and are raised before any computation.
Each op that is not part of attention also has an overload ``torch.ops.posenc_ext.<op>.out`` that writes into
``out``, a tensor of the shape of the result or an empty one.

``layout`` is the order of the sines s and cosines c of the n = dim // 2 frequencies in a row:

- ``"interleaved"``: s0 c0 s1 c1 ... (Vaswani et al. 2017, "Attention Is All You Need"; the PyTorch tutorial)
- ``"concat"``: s0 .. s{n-1} c0 .. c{n-1} (tensor2tensor, fairseq and Whisper with freq_shift=1; MAE and DiT
  with 0)
- ``"concat_cos_first"``: c0 .. c{n-1} s0 .. s{n-1} (diffusers with flip_sin_to_cos)

``odd`` is the rule for an odd dim: ``"error"``; ``"zero"``, a last channel of zeros (fairseq,
tensor2tensor, diffusers); or ``"sin"``, one more sine of frequency w_n after the other sines (the order
of Marian, whose frequencies for an odd dim correspond to freq_shift=-0.5).
"""

from typing import Optional, Union

import torch
from torch import Tensor

from ._calls import forwards_given_arguments
from ._tracing import check_inplace, default_device, traceable

__all__ = [
    "add_position_embedding",
    "add_sinusoidal",
    "alibi_attention",
    "alibi_bias",
    "alibi_bias_softmax",
    "alibi_slopes",
    "bias_softmax",
    "diagonal_attention",
    "diagonal_bias_softmax",
    "gather_bias",
    "gather_bias_softmax",
    "sinusoidal",
    "sinusoidal_table",
    "t5_attention",
    "t5_bias",
    "t5_bias_softmax",
    "window_attention",
    "window_bias",
    "window_bias_softmax",
]


@traceable
def sinusoidal_table(
    length: int,
    dim: int,
    start: int = 0,
    base: float = 10000.0,
    freq_shift: float = 0.0,
    scale: float = 1.0,
    layout: str = "interleaved",
    odd: str = "error",
    dtype: Optional[torch.dtype] = None,
    device: Optional[torch.device] = None,
) -> Tensor:
    """Sinusoidal encodings of the positions start, start + 1, ..., start + length - 1.

    Row l holds the sines and cosines of ``scale * (start + l) * w_j``, in the order of ``layout``, with
    ``w_j = base ** (-j / (dim // 2 - freq_shift))`` (Vaswani et al. 2017).

    Args:
        length: number of rows, >= 0.
        dim: channels, > 0; even unless ``odd`` says otherwise.
        start: position of the first row; may be negative.
        base: base of the geometric progression of wavelengths, > 0.
        freq_shift: subtracted from dim // 2 in the exponent; dim // 2 - freq_shift must be positive.
        scale: multiplies the positions.
        layout, odd: see the module docstring.
        dtype: dtype of the result. Default: torch's default dtype.
        device: device of the result. Default: torch's default device.

    Returns:
        [length, dim], contiguous. float32, float16 and bfloat16 values are the correctly rounded values of
        the formula for \\|position\\| <= 2**24 (in practice up to 2**31); float64 values are within 1 ulp.
        On CUDA, float32 values are within 0.76 ulp, half-precision values within 0.501 ulp.

    Raises:
        RuntimeError: length is negative, dim is not positive or is odd with ``odd="error"``, base is not
            positive, dim // 2 - freq_shift is not positive, scale is not finite, the magnitude of a position
            is 2**53 or more, or dtype is not supported.

    Complexity: O(length * dim). Not differentiable (no tensor inputs).

    >>> sinusoidal_table(2, 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    return torch.ops.posenc_ext.sinusoidal_table(
        length,
        dim,
        start=start,
        base=base,
        freq_shift=freq_shift,
        scale=scale,
        layout=layout,
        odd=odd,
        dtype=dtype,
        device=default_device(device),
    )


@traceable
@forwards_given_arguments()
def sinusoidal(
    positions: Tensor,
    dim: int,
    base: float = 10000.0,
    freq_shift: float = 0.0,
    scale: float = 1.0,
    layout: str = "interleaved",
    odd: str = "error",
    dtype: Optional[torch.dtype] = None,
) -> Tensor:
    """Sinusoidal encodings of given positions: token positions of any shape, or diffusion timesteps.

    Evaluates the formula of :func:`sinusoidal_table` at ``positions``, which may have any integer or floating
    dtype and are used exactly, without conversion. ``get_timestep_embedding`` of diffusers is this op with
    layout="concat" (or "concat_cos_first" for flip_sin_to_cos), freq_shift=downscale_freq_shift and
    base=max_period.

    Args:
        positions: any shape, any strides, integer or floating.
        dim, base, freq_shift, scale, layout, odd: as in :func:`sinusoidal_table`.
        dtype: dtype of the result. Default: the dtype of positions if it is floating, otherwise torch's
            default dtype.

    Returns:
        ``[*positions.shape, dim]``, contiguous, rounded as in :func:`sinusoidal_table`.

    Raises:
        RuntimeError: positions are bool or complex, the magnitude of an int64 or uint64 position is 2**53 or
            more (on CUDA, a device-side assertion), or an error that :func:`sinusoidal_table` raises for its
            arguments.

    Complexity: O(positions.numel() * dim).

    Gradients: with respect to floating positions, of any order, in reverse and forward mode. The n-th
    derivative with respect to p is (scale w)^n sin(scale p w + n pi / 2). The sum over channels is computed
    in float64 and rounded once to positions.dtype. (On CUDA, except for float64 tensors, it is computed in
    pairs of float32 numbers from slopes with an error of at most 1.5 * 2**-26.)

    >>> sinusoidal(torch.tensor([0.0, 0.5]), 2)
    tensor([[0.0000, 1.0000],
            [0.4794, 0.8776]])
    """
    return torch.ops.posenc_ext.sinusoidal(
        positions, dim, base=base, freq_shift=freq_shift, scale=scale, layout=layout, odd=odd, dtype=dtype
    )


@forwards_given_arguments("start")
def add_sinusoidal(
    x: Tensor,
    start: Union[int, Tensor] = 0,
    x_scale: float = 1.0,
    base: float = 10000.0,
    freq_shift: float = 0.0,
    layout: str = "interleaved",
    odd: str = "error",
    batch_first: bool = True,
    dropout_p: float = 0.0,
    training: bool = False,
    positions: Optional[Tensor] = None,
) -> Tensor:
    """Scales x, adds the sinusoidal encoding of each position and applies dropout, in one pass.

    ``y[b, l] = dropout(x[b, l] * x_scale + pe[start + l])``, the input layer of the classic Transformer with
    x_scale = sqrt(dim) (Vaswani et al. 2017; OpenNMT-py). With ``positions``, each row of x has its own
    position: ``y[i] = dropout(x[i] * x_scale + pe[positions[i]])``. The sum is computed in float64 (float32
    for float16 and bfloat16) and rounded once to the dtype of x.

    Args:
        x: [B, L, D], or [L, B, D] with batch_first=False, or a single sequence [L, D]; with ``positions``,
            [..., D] of any shape. Any strides; with ``positions``, x is copied if it cannot be viewed as
            [rows, D].
        start: position of l = 0. An int, or an integer tensor on the device of x, whose values are not copied
            to the host: [] or [1] for all samples, [B] or [B, 1] with one offset per sample (left-padded
            prompts, caches of different lengths).
        x_scale: multiplies x.
        base, freq_shift, layout, odd: as in :func:`sinusoidal_table`.
        batch_first: whether x is [B, L, D] or [L, B, D].
        dropout_p: probability of an element to be zeroed, in [0, 1]; used only if ``training`` is True. It is
            rounded to a multiple of 2**-16; retained elements are scaled by 1 / (1 - dropout_p).
        training: whether to apply dropout.
        positions: an integer tensor on the device of x that broadcasts to the shape of x without D:
            [B, L] or [1, L] for x [B, L, D] (left-padded or packed batches), [total] for x [total, D]
            (sequences of different lengths without padding). Replaces ``start``. Default: None.

    Returns:
        A contiguous tensor of the shape and dtype of x.

    Raises:
        RuntimeError: x does not have 2 or 3 dimensions (with ``positions``, at least 1), or its dtype is not
            supported; start or positions is a tensor that is not an integer tensor of one of these shapes on
            the device of x; both are given; the magnitude of a position is 2**53 or more (on CUDA, a
            device-side assertion if the position is in a tensor); dropout_p is outside [0, 1]; x_scale is not
            finite; or an error that :func:`sinusoidal_table` raises for the arguments they share.

    Randomness: one number from the default generator of x's device seeds Philox4x32-10, so
    ``torch.manual_seed`` reproduces the result for any number of threads.

    Complexity: O(B L D), one read of x and one write of the result.

    Gradients: with respect to x, of any order, in reverse and forward mode. Backward regenerates the dropout
    mask from its seed.

    >>> add_sinusoidal(torch.zeros(1, 2, 2), start=1)
    tensor([[[ 0.8415,  0.5403],
             [ 0.9093, -0.4161]]])
    >>> add_sinusoidal(torch.zeros(3, 2), positions=torch.tensor([0, 1, 0]))
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403],
            [0.0000, 1.0000]])
    """
    if positions is not None:
        if isinstance(start, Tensor) or start != 0:
            raise RuntimeError("posenc_ext::add_sinusoidal: start must be 0 with positions, got both")
        return torch.ops.posenc_ext.add_sinusoidal(
            x,
            positions=positions,
            x_scale=x_scale,
            base=base,
            freq_shift=freq_shift,
            layout=layout,
            odd=odd,
            dropout_p=dropout_p,
            training=training,
        )
    if torch.jit.is_scripting():  # picks the overload by the static type of start; cannot name an overload
        if isinstance(start, Tensor):
            return torch.ops.posenc_ext.add_sinusoidal(
                x,
                start=start,
                x_scale=x_scale,
                base=base,
                freq_shift=freq_shift,
                layout=layout,
                odd=odd,
                batch_first=batch_first,
                dropout_p=dropout_p,
                training=training,
            )
        return torch.ops.posenc_ext.add_sinusoidal(
            x,
            start=start,
            x_scale=x_scale,
            base=base,
            freq_shift=freq_shift,
            layout=layout,
            odd=odd,
            batch_first=batch_first,
            dropout_p=dropout_p,
            training=training,
        )
    else:  # names the overload: trying them in turn takes longer than a small kernel
        packet = torch.ops.posenc_ext.add_sinusoidal
        op = packet.offsets if isinstance(start, Tensor) else packet.default
        return op(
            x,
            start=start,
            x_scale=x_scale,
            base=base,
            freq_shift=freq_shift,
            layout=layout,
            odd=odd,
            batch_first=batch_first,
            dropout_p=dropout_p,
            training=training,
        )


@forwards_given_arguments("prefix_tokens")
def add_position_embedding(
    x: Tensor,
    pos_embed: Tensor,
    prefix_tokens: Optional[list[Tensor]] = None,
    embed_prefix: bool = True,
    x_scale: float = 1.0,
    batch_first: bool = True,
    dropout_p: float = 0.0,
    training: bool = False,
    positions: Optional[Tensor] = None,
) -> Tensor:
    """Prepends prefix tokens to x, adds a learned position embedding and applies dropout, in one pass.

    ``dropout(cat([*prefix_tokens, x * x_scale], token axis) + pos_embed)``, the input layer of the Vision
    Transformer (Dosovitskiy et al. 2021; DeiT, Touvron et al. 2021, with a second token for distillation;
    the image encoders of CLIP, Radford et al. 2021). With ``positions``, each row of x has its own row of
    pos_embed: ``dropout(x * x_scale + pos_embed[positions])``, the input layer of GPT-2 and BERT on
    left-padded or packed batches. The sum is computed in float64 (float32 for float16 and bfloat16) and
    rounded once.

    Args:
        x: [B, N, D], or [N, B, D] with batch_first=False; any strides. For an image [B, D, H, W], pass the
            view ``image.flatten(2).transpose(1, 2)``, which is read in place. With ``positions``, [..., D] of
            any shape.
        pos_embed: [L, D] or [1, L, D] (with batch_first=False also [L, 1, D]), where L = P + N, or N with
            embed_prefix=False; with ``positions``, [rows, D].
        prefix_tokens: tensors [1 or B, k, D] ([k, 1 or B, D] with batch_first=False) in the order of the
            result: class, distillation and register tokens, or a pooled mean. P is the sum of the k. None
            means no prefix (the op's default is [], but TorchScript does not support list defaults on
            functions).
        embed_prefix: False adds pos_embed to x only, as in DeiT III (Touvron et al. 2022;
            ``no_embed_class`` in timm); dropout applies to all tokens.
        x_scale: multiplies x, but not the prefix tokens.
        batch_first: whether x, prefix tokens and result are [B, N, D] or [N, B, D].
        dropout_p: probability of an element to be zeroed, in [0, 1]; used only if ``training`` is True. It is
            rounded to a multiple of 2**-16; retained elements are scaled by 1 / (1 - dropout_p).
        training: whether to apply dropout.
        positions: an integer tensor on the device of x that broadcasts to the shape of x without D: [B, L] or
            [1, L] for x [B, L, D], [total] for x [total, D]. Cannot be combined with prefix tokens. Default:
            None.

    Returns:
        [B, P + N, D] ([P + N, B, D] with batch_first=False; with ``positions``, the shape of x), contiguous.
        Operands of different dtypes (a bfloat16 x and float32 parameters under autocast) are promoted as by
        ``cat`` and ``+``.

    Raises:
        RuntimeError: x does not have 3 dimensions (with ``positions``, at least 1); the dtype of an operand
            is not supported; an operand is not on the device of x or does not have one of the shapes above;
            a position is not a row of pos_embed (on CUDA, a device-side assertion); positions are combined
            with prefix tokens; dropout_p is outside [0, 1]; or x_scale is not finite.

    Randomness: as in :func:`add_sinusoidal`.

    Complexity: O(B (P + N) D), one read of x and one write of the result.

    Gradients: with respect to x, pos_embed and every prefix token, of any order, in reverse and forward mode;
    only the requested ones are computed. If x_scale is 1 and there is no dropout, the gradient of x is a view
    of the upstream gradient. Sums over the batch, and over the rows of x with the same position, are
    accumulated in float32 (float64 for float64) in a fixed order and rounded once.

    >>> cls, patches = torch.full((1, 1, 2), 5.0), torch.zeros(1, 2, 2)
    >>> add_position_embedding(patches, torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]), [cls])
    tensor([[[5.1000, 5.2000],
             [0.3000, 0.4000],
             [0.5000, 0.6000]]])
    >>> table = torch.tensor([[0.1], [0.2]])
    >>> add_position_embedding(torch.zeros(2, 1), table, positions=torch.tensor([1, 0]))
    tensor([[0.2000],
            [0.1000]])
    """
    if positions is not None:
        if prefix_tokens is not None and len(prefix_tokens) > 0:
            raise RuntimeError(
                "posenc_ext::add_position_embedding: prefix_tokens must be empty with positions, got "
                + str(len(prefix_tokens))
            )
        return torch.ops.posenc_ext.add_position_embedding(
            x, pos_embed, positions=positions, x_scale=x_scale, dropout_p=dropout_p, training=training
        )
    return torch.ops.posenc_ext.add_position_embedding(
        x,
        pos_embed,
        prefix_tokens if prefix_tokens is not None else [],
        embed_prefix=embed_prefix,
        x_scale=x_scale,
        batch_first=batch_first,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def window_bias(
    table: Tensor,
    window: list[int],
    query_size: Optional[list[int]] = None,
    prefix_tokens: int = 0,
) -> Tensor:
    """Relative-position bias of a 1-D, 2-D or 3-D attention window, without an index buffer.

    ``bias[n, q, k] = table[row(q, k), n]`` with, for window sizes s and row-major coordinates of q and k,
    ``row(q, k) = sum_a (q_a - k_a + s_a - 1) * prod_{b > a} (2 s_b - 1)`` (Swin Transformer, Liu et al.
    2021; the same in BEiT, Video Swin, torchvision, timm and transformers).

    Args:
        table: [rows, heads], any strides (so the transpose of a [heads, rows] weight works, too);
            rows = prod(2 s - 1), and 3 more with prefix_tokens=1.
        window: one to three window sizes.
        query_size: a finer grid of queries: one size per axis, each at least that of the window. The query at
            Y on an axis of H queries uses the bias of window cell floor(Y * h / H); the keys are the cells of
            the window. For multiples of the window this is the relative-position bias of UTNet with reduced
            keys.
        prefix_tokens: 0, or 1 for one token in front of queries and keys (the class token of BEiT): the last
            three rows of the table are the biases of (cls, patch), (patch, cls) and (cls, cls).

    Returns:
        [heads, Q, K], contiguous, with Q = prod(query_size or window) + prefix_tokens and K = prod(window)
        + prefix_tokens. Values are copied bit for bit.

    Raises:
        RuntimeError: table does not have 2 dimensions or the number of rows of the window, or its dtype is
            not supported; window does not have 1 to 3 positive sizes; query_size does not have as many sizes
            as window, or one of them is smaller; prefix_tokens is neither 0 nor 1.

    Complexity: O(heads Q K).

    Gradients: with respect to the table, of any order, in reverse and forward mode; sums are accumulated in
    float32 (float64 for float64) in a fixed order and rounded once.

    >>> window_bias(torch.arange(9.0).reshape(9, 1), [2, 2])
    tensor([[[4., 3., 1., 0.],
             [5., 4., 2., 1.],
             [7., 6., 4., 3.],
             [8., 7., 5., 4.]]])
    """
    return torch.ops.posenc_ext.window_bias(table, window, query_size=query_size, prefix_tokens=prefix_tokens)


@traceable
@forwards_given_arguments()
def t5_bias(
    table: Tensor,
    q_len: int,
    k_len: int,
    q_offset: int = 0,
    bidirectional: bool = True,
    max_distance: int = 128,
) -> Tensor:
    """T5's relative-position bias: short distances have a row each, longer ones share logarithmic buckets.

    ``bias[n, q, k] = table[bucket(k - q - q_offset), n]``. With nb = rows // 2 (bidirectional: the second
    half of the rows is for keys after the query) or nb = rows (causal: all keys after the query share row 0),
    m = nb // 2 and distance d, ``bucket = d`` for d < m, otherwise
    ``min(nb - 1, m + trunc(log(d / m) / log(max_distance / m) * (nb - m)))`` (Raffel et al. 2020;
    mesh-tensorflow). On every device the result is bit for bit that of transformers on the CPU: the bucket
    boundaries are computed once, in the same float32 arithmetic.

    Args:
        table: [rows, heads], any strides (so the transpose of a [heads, rows] weight works, too). rows is
            num_buckets: 4 to 4096 if bidirectional, otherwise 2 to 2048.
        q_len, k_len: numbers of queries and keys, >= 0.
        q_offset: position of the first query: the length of the cache while decoding.
        bidirectional: True for encoders, False for causal decoders.
        max_distance: distance at which the last bucket begins, greater than m.

    Returns:
        [heads, q_len, k_len], contiguous. Values are copied bit for bit.

    Raises:
        RuntimeError: table does not have 2 dimensions or such a number of rows, or its dtype is not
            supported; a length is negative; max_distance is not greater than m; q_offset or max_distance is
            2**53 or more.

    Complexity: O(heads q_len k_len).

    Gradients: with respect to the table, of any order, in reverse and forward mode; sums are accumulated in
    float32 (float64 for float64) in a fixed order and rounded once.

    >>> t5_bias(torch.arange(8.0).reshape(8, 1), 2, 4, max_distance=8)
    tensor([[[0., 5., 6., 6.],
             [1., 0., 5., 6.]]])
    """
    return torch.ops.posenc_ext.t5_bias(
        table, q_len, k_len, q_offset=q_offset, bidirectional=bidirectional, max_distance=max_distance
    )


@forwards_given_arguments()
def gather_bias(table: Tensor, index: Tensor) -> Tensor:
    """The bias of an arbitrary index: a row of the table per pair of query and key, heads before the pairs.

    ``bias[..., n, q, k] = table[index[..., q, k], n]``, for an index that depends on the data, as in
    LayoutLMv2 and v3 (buckets of distances between boxes) and Graphormer. transformers gathers the biases of
    LayoutLM without a gradient because the backward of indexing was too slow; here they have one.

    Args:
        table: [rows, heads], any strides (so the transpose of a [heads, rows] weight works, too).
        index: int32 or int64, [..., Q, K], any strides; rows of the table.

    Returns:
        [..., heads, Q, K], contiguous. Values are copied bit for bit.

    Raises:
        RuntimeError: table does not have 2 dimensions, or its dtype is not supported; index has fewer than 2
            dimensions, or another dtype or device. On the CPU, an index outside [0, rows) is an error that
            names its first occurrence. On CUDA the index is not copied to the host; a device-side assertion
            fails instead, as in torch's own indexing, and the next synchronization reports it.

    Complexity: O(index.numel() heads).

    Gradients: with respect to the table, of any order, in reverse and forward mode; sums are accumulated in
    float32 (float64 for float64) in a fixed order, without atomics, and rounded once.

    >>> gather_bias(torch.tensor([[0.0], [0.1], [0.2]]), torch.tensor([[2, 0], [1, 2]]))
    tensor([[[0.2000, 0.0000],
             [0.1000, 0.2000]]])
    """
    return torch.ops.posenc_ext.gather_bias(table, index)


@traceable
def alibi_slopes(
    num_heads: int, dtype: Optional[torch.dtype] = None, device: Optional[torch.device] = None
) -> Tensor:
    """The slopes of ALiBi: a geometric sequence, one slope per head.

    ``2 ** (-8 (i + 1) / n)`` if n = num_heads is a power of two; otherwise the slopes of the next lower power
    of two, followed by every second slope of the doubled one (Press et al. 2022 and their code; BLOOM, MPT).

    Args:
        num_heads: >= 1.
        dtype: dtype of the result. Default: torch's default dtype.
        device: device of the result. Default: torch's default device.

    Returns:
        [num_heads], computed in float64 and rounded once.

    Raises:
        RuntimeError: num_heads is not positive or dtype is not supported.

    Complexity: O(num_heads). Not differentiable (no tensor inputs).

    >>> alibi_slopes(4)
    tensor([0.2500, 0.0625, 0.0156, 0.0039])
    """
    return torch.ops.posenc_ext.alibi_slopes(num_heads, dtype=dtype, device=default_device(device))


@traceable
@forwards_given_arguments()
def alibi_bias(slopes: Tensor, q_len: int, k_len: int, q_offset: int = 0, causal: bool = False) -> Tensor:
    """ALiBi: a penalty on the attention score that grows with the distance between query and key.

    ``bias[n, q, k] = -slopes[n] * |k - q - q_offset|`` (Press et al. 2022, "Train short, test long"). Models
    that use -slope * (last key - k) instead, such as BLOOM, differ by a constant per query, which softmax
    cancels.

    Args:
        slopes: [heads], any stride; :func:`alibi_slopes` or learned.
        q_len, k_len: numbers of queries and keys, >= 0.
        q_offset: position of the first query: the length of the cache while decoding.
        causal: sets the bias to 0 for keys after the query, which the attention mask removes.

    Returns:
        [heads, q_len, k_len], contiguous. Each product is rounded once to the dtype of slopes.

    Raises:
        RuntimeError: slopes does not have 1 dimension, or its dtype is not supported; a length is negative;
            q_offset is 2**53 or more.

    Complexity: O(heads q_len k_len).

    Gradients: with respect to the slopes, of any order, in reverse and forward mode; sums are accumulated in
    float64 in a fixed order and rounded once.

    >>> alibi_bias(torch.tensor([0.5]), 2, 3, q_offset=1)
    tensor([[[-0.5000,  0.0000, -0.5000],
             [-1.0000, -0.5000,  0.0000]]])
    """
    return torch.ops.posenc_ext.alibi_bias(slopes, q_len, k_len, q_offset=q_offset, causal=causal)


@traceable
@forwards_given_arguments()
def window_bias_softmax(
    scores: Tensor,
    table: Tensor,
    window: list[int],
    query_size: Optional[list[int]] = None,
    prefix_tokens: int = 0,
    scale: float = 1.0,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Softmax over the keys with the relative-position bias of a window, which is never stored.

    ``dropout(softmax(scores * scale + bias + mask, dim=-1))`` with ``bias = window_bias(table, window,
    query_size, prefix_tokens)``, in one pass over the scores (Swin Transformer, Liu et al. 2021; BEiT, Bao et
    al. 2021).

    Args:
        scores: [..., heads, Q, K] with any number of leading dimensions, any strides; in most models
            ``q @ k.transpose(-2, -1)``.
        table, window, query_size, prefix_tokens: as in :func:`window_bias`. The dtype of the table may differ
            from that of the scores (bfloat16 scores and a float32 table under autocast).
        scale: multiplies the scores, but not the bias.
        mask: broadcasts to the shape of scores, except that its last dimension is K. A bool mask says which
            keys take part (True), as in ``scaled_dot_product_attention``; a mask of another dtype (float64,
            float32, float16 or bfloat16) is added. Default: None.
        regions: int32 or int64 [windows, N], for scores with Q = K = N, in place of a mask: -100 is added to
            pairs in different regions, as Swin does in shifted windows. The sample with number i (leading
            dimensions flattened) is window ``i % windows``. Cannot be combined with a mask. Default: None.
        causal: hides the keys k > q + q_offset; their result is exactly 0.
        q_offset: position of the first query: the length of the cache while decoding.
        dropout_p, training: as in :func:`add_sinusoidal`, applied to the result of softmax.
        inplace: writes the result over the scores and returns them. This is safe after a matrix product,
            whose backward does not read its result. Cannot be combined with dropout while training, whose
            gradient needs the result before dropout.

    Returns:
        A contiguous tensor of the shape and dtype of scores (scores themselves with inplace=True). Sums are
        computed in float32 (float64 for float64) and rounded once. A row without any key that takes part is
        NaN, as in ``torch.softmax``. A sample has the same result in every batch.

    Raises:
        RuntimeError: scores have fewer than 3 dimensions, or do not have the heads of the table or the
            queries and keys of the window; a dtype is not supported; a tensor is on another device than
            scores; mask or regions do not have one of the shapes above, or both are given; scale is not
            finite; dropout_p is outside [0, 1]; with inplace=True, scores overlap themselves or another
            argument; or an error that :func:`window_bias` raises for the arguments they share.

    Randomness: as in :func:`add_sinusoidal`.

    Complexity: O(scores.numel()). The result is the only large tensor that is allocated (none with
    inplace=True) and the only one that is saved for backward (with dropout: and that after dropout).

    Gradients: with respect to scores, table and an added mask, of any order, in reverse and forward mode.
    Those of scores and table are computed in one pass; sums of the table are accumulated in float32 (float64
    for float64 scores) in a fixed order and rounded once to its dtype. The gradient of a mask and higher
    orders are composed of other ops and allocate tensors of the size of the scores.

    >>> scores, table = torch.zeros(1, 2, 2), torch.tensor([[0.0], [1.0], [2.0]])
    >>> window_bias_softmax(scores, table, [2])
    tensor([[[0.7311, 0.2689],
             [0.7311, 0.2689]]])
    >>> window_bias_softmax(scores, table, [2], mask=torch.tensor([True, False]))
    tensor([[[1., 0.],
             [1., 0.]]])
    """
    if inplace:
        check_inplace("window_bias_softmax", dropout_p, training)
        return torch.ops.posenc_ext.window_bias_softmax_(
            scores,
            table,
            window,
            query_size=query_size,
            prefix_tokens=prefix_tokens,
            scale=scale,
            mask=mask,
            regions=regions,
            causal=causal,
            q_offset=q_offset,
        )
    return torch.ops.posenc_ext.window_bias_softmax(
        scores,
        table,
        window,
        query_size=query_size,
        prefix_tokens=prefix_tokens,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def diagonal_bias_softmax(
    scores: Tensor,
    diagonals: Tensor,
    scale: float = 1.0,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Softmax over the keys with a bias that depends on key - query alone, given by diagonals.

    ``dropout(softmax(scores * scale + bias + mask, dim=-1))`` with
    ``bias[h, q, k] = diagonals[h, k - q + Q - 1]``. Models that share one table among layers, such as T5,
    compute the diagonals once (:meth:`posenc_ext.nn.T5RelativePositionBias.diagonals`) and pass them to every
    layer: backward then adds the gradients of the layers as [heads, Q + K - 1], and looks up the table once.

    Args:
        scores: [..., heads, Q, K], any strides.
        diagonals: [heads, Q + K - 1], any strides; may have another dtype than scores.
        scale, mask, regions, causal, q_offset, dropout_p, training, inplace: as in
            :func:`window_bias_softmax`. q_offset does not shift the diagonals.

    Returns:
        As in :func:`window_bias_softmax`.

    Raises:
        RuntimeError: diagonals do not have this shape, or an error that :func:`window_bias_softmax` raises
            for the arguments they share.

    Randomness, complexity and gradients: as in :func:`window_bias_softmax`, with diagonals as the table.

    >>> diagonal_bias_softmax(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0, 2.0]]))
    tensor([[[0.2689, 0.7311],
             [0.2689, 0.7311]]])
    """
    if inplace:
        check_inplace("diagonal_bias_softmax", dropout_p, training)
        return torch.ops.posenc_ext.diagonal_bias_softmax_(
            scores, diagonals, scale=scale, mask=mask, regions=regions, causal=causal, q_offset=q_offset
        )
    return torch.ops.posenc_ext.diagonal_bias_softmax(
        scores,
        diagonals,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def gather_bias_softmax(
    scores: Tensor,
    table: Tensor,
    index: Tensor,
    scale: float = 1.0,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Softmax over the keys with the bias of an arbitrary index, which is never stored.

    ``dropout(softmax(scores * scale + bias + mask, dim=-1))`` with ``bias = gather_bias(table, index)``.

    Args:
        scores: [..., heads, Q, K], any strides.
        table: [rows, heads], any strides; may have another dtype than scores.
        index: int32 or int64 [Q, K], any strides; rows of the table, the same for all samples.
        scale, mask, regions, causal, q_offset, dropout_p, training, inplace: as in
            :func:`window_bias_softmax`.

    Returns:
        As in :func:`window_bias_softmax`.

    Raises:
        RuntimeError: table or index do not have these shapes; index has another dtype or device, or values
            outside [0, rows) (see :func:`gather_bias`); or an error that :func:`window_bias_softmax` raises
            for the arguments they share.

    Randomness, complexity and gradients: as in :func:`window_bias_softmax`.

    >>> gather_bias_softmax(torch.zeros(1, 1, 2), torch.tensor([[0.0], [1.0]]), torch.tensor([[1, 0]]))
    tensor([[[0.7311, 0.2689]]])
    """
    if inplace:
        check_inplace("gather_bias_softmax", dropout_p, training)
        return torch.ops.posenc_ext.gather_bias_softmax_(
            scores,
            table,
            index,
            scale=scale,
            mask=mask,
            regions=regions,
            causal=causal,
            q_offset=q_offset,
        )
    return torch.ops.posenc_ext.gather_bias_softmax(
        scores,
        table,
        index,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def bias_softmax(
    scores: Tensor,
    bias: Tensor,
    scale: float = 1.0,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Softmax over the keys with a given bias.

    ``dropout(softmax(scores * scale + bias + mask, dim=-1))`` for a bias [heads, Q, K] that the samples
    share.

    Args:
        scores: [..., heads, Q, K], any strides.
        bias: [heads, Q, K], any strides; may have another dtype than scores.
        scale, mask, regions, causal, q_offset, dropout_p, training, inplace: as in
            :func:`window_bias_softmax`.

    Returns:
        As in :func:`window_bias_softmax`.

    Raises:
        RuntimeError: bias does not have this shape, or an error that :func:`window_bias_softmax` raises for
            the arguments they share.

    Randomness, complexity and gradients: as in :func:`window_bias_softmax`, with bias as the table.

    >>> bias_softmax(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]]))
    tensor([[[0.7311, 0.2689]]])
    """
    if inplace:
        check_inplace("bias_softmax", dropout_p, training)
        return torch.ops.posenc_ext.bias_softmax_(
            scores, bias, scale=scale, mask=mask, regions=regions, causal=causal, q_offset=q_offset
        )
    return torch.ops.posenc_ext.bias_softmax(
        scores,
        bias,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def t5_bias_softmax(
    scores: Tensor,
    table: Tensor,
    bidirectional: bool = True,
    max_distance: int = 128,
    scale: float = 1.0,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Softmax over the keys with T5's relative-position bias, which is never stored.

    ``dropout(softmax(scores * scale + bias + mask, dim=-1))`` with ``bias = t5_bias(table, Q, K, q_offset,
    bidirectional, max_distance)`` (Raffel et al. 2020). T5 does not scale its scores. Where layers share a
    table, use :func:`diagonal_bias_softmax`.

    Args:
        scores: [..., heads, Q, K], any strides.
        table: [rows, heads] as in :func:`t5_bias`; may have another dtype than scores.
        bidirectional, max_distance: as in :func:`t5_bias`. bidirectional=False is a bias for causal models,
            but hides no keys: see ``causal``.
        q_offset: position of the first query, for the bias and for ``causal``.
        scale, mask, regions, causal, dropout_p, training, inplace: as in :func:`window_bias_softmax`.

    Returns:
        As in :func:`window_bias_softmax`.

    Raises:
        RuntimeError: an error that :func:`t5_bias` or :func:`window_bias_softmax` raises for the arguments
            they share.

    Randomness and gradients: as in :func:`window_bias_softmax`. Complexity: O(scores.numel()); the diagonals,
    heads (Q + K - 1) values, are computed first.

    >>> t5_bias_softmax(torch.zeros(1, 2, 2), torch.eye(4)[:, :1], max_distance=8)
    tensor([[[0.7311, 0.2689],
             [0.2689, 0.7311]]])
    """
    if inplace:
        check_inplace("t5_bias_softmax", dropout_p, training)
        return torch.ops.posenc_ext.t5_bias_softmax_(
            scores,
            table,
            bidirectional=bidirectional,
            max_distance=max_distance,
            scale=scale,
            mask=mask,
            regions=regions,
            causal=causal,
            q_offset=q_offset,
        )
    return torch.ops.posenc_ext.t5_bias_softmax(
        scores,
        table,
        bidirectional=bidirectional,
        max_distance=max_distance,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def alibi_bias_softmax(
    scores: Tensor,
    slopes: Tensor,
    scale: float = 1.0,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Softmax over the keys with ALiBi, whose bias is never stored.

    ``dropout(softmax(scores * scale + bias + mask, dim=-1))`` with ``bias = alibi_bias(slopes, Q, K,
    q_offset)`` (Press et al. 2022).

    Args:
        scores: [..., heads, Q, K], any strides.
        slopes: [heads], any stride; may have another dtype than scores.
        q_offset: position of the first query, for the bias and for ``causal``.
        scale, mask, regions, causal, dropout_p, training, inplace: as in :func:`window_bias_softmax`.

    Returns:
        As in :func:`window_bias_softmax`. Biases are the products of slope and distance, rounded once to
        float32 (float64 if scores or slopes are float64).

    Raises:
        RuntimeError: slopes do not have this shape, or an error that :func:`window_bias_softmax` raises for
            the arguments they share.

    Randomness and gradients: as in :func:`window_bias_softmax`, with slopes as the table. Complexity:
    O(scores.numel()); the diagonals, heads (Q + K - 1) values, are computed first.

    >>> alibi_bias_softmax(torch.zeros(1, 2, 2), torch.tensor([1.0]), causal=True)
    tensor([[[1.0000, 0.0000],
             [0.2689, 0.7311]]])
    """
    if inplace:
        check_inplace("alibi_bias_softmax", dropout_p, training)
        return torch.ops.posenc_ext.alibi_bias_softmax_(
            scores, slopes, scale=scale, mask=mask, regions=regions, causal=causal, q_offset=q_offset
        )
    return torch.ops.posenc_ext.alibi_bias_softmax(
        scores,
        slopes,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    window: list[int],
    query_size: Optional[list[int]] = None,
    prefix_tokens: int = 0,
    scale: Optional[float] = None,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """Attention with the relative-position bias of a window, which is never stored.

    ``window_bias_softmax(q @ k.transpose(-2, -1), table, window, ...) @ v`` (Swin Transformer, Liu et al.
    2021; BEiT, Bao et al. 2021). The gradient of the table takes no tensor of the size of the bias, and is
    deterministic.

    Args:
        q: [..., heads, Q, channels] with any number of leading dimensions, any strides.
        k: [..., heads, K, channels], of the dtype and leading dimensions of q.
        v: [..., heads, K, channels of v], of the dtype and leading dimensions of q.
        table, window, query_size, prefix_tokens: as in :func:`window_bias`; the table may have another dtype
            than q.
        scale: multiplies the scores. Default: 1 / sqrt(channels).
        mask, regions, causal, q_offset, dropout_p, training: as in :func:`window_bias_softmax`.

    Returns:
        [..., heads, Q, channels of v], contiguous, in the dtype of q.

    Raises:
        RuntimeError: k or v does not have the dtype, device, samples and heads of q; k does not have the
            channels of q, or v the keys of k; or an error that :func:`window_bias_softmax` raises for the
            arguments they share.

    Randomness: as in :func:`add_sinusoidal`.

    Complexity: O(scores.numel() (channels + channels of v)). If a gradient is needed, the scores are stored
    once, and overwritten by the result of softmax, which is saved. Otherwise, on the CPU, they are computed
    in tiles of 512 KiB and never stored whole. Matrix products are those of torch.

    Gradients: with respect to q, k, v, table and an added mask, of any order, in reverse and forward mode;
    sums of the table as in :func:`window_bias_softmax`.

    >>> q = k = v = torch.eye(2).unsqueeze(0)
    >>> window_attention(q, k, v, torch.zeros(3, 1), [2], scale=1.0)
    tensor([[[0.7311, 0.2689],
             [0.2689, 0.7311]]])
    """
    return torch.ops.posenc_ext.window_attention(
        q,
        k,
        v,
        table,
        window,
        query_size=query_size,
        prefix_tokens=prefix_tokens,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def diagonal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    diagonals: Tensor,
    scale: Optional[float] = None,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """Attention with a bias that depends on key - query alone, given by diagonals.

    ``diagonal_bias_softmax(q @ k.transpose(-2, -1), diagonals, ...) @ v``: the attention of models that share
    one table of relative positions among layers.

    Args:
        q, k, v: as in :func:`window_attention`.
        diagonals: [heads, Q + K - 1], as in :func:`diagonal_bias_softmax`.
        scale, mask, regions, causal, q_offset, dropout_p, training: as in :func:`window_attention`.

    Returns:
        As in :func:`window_attention`.

    Raises:
        RuntimeError: an error that :func:`window_attention` or :func:`diagonal_bias_softmax` raises for the
            arguments they share.

    Randomness, complexity and gradients: as in :func:`window_attention`, with diagonals as the table.

    >>> q = k = v = torch.eye(2).unsqueeze(0)
    >>> diagonal_attention(q, k, v, torch.zeros(1, 3), scale=1.0, causal=True)
    tensor([[[1.0000, 0.0000],
             [0.2689, 0.7311]]])
    """
    return torch.ops.posenc_ext.diagonal_attention(
        q,
        k,
        v,
        diagonals,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def t5_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    bidirectional: bool = True,
    max_distance: int = 128,
    scale: Optional[float] = 1.0,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """Attention with T5's relative-position bias, which is never stored.

    ``t5_bias_softmax(q @ k.transpose(-2, -1), table, ...) @ v`` (Raffel et al. 2020). Where layers share a
    table, use :func:`diagonal_attention`.

    Args:
        q, k, v: as in :func:`window_attention`.
        table, bidirectional, max_distance, q_offset: as in :func:`t5_bias_softmax`.
        scale: multiplies the scores; None means 1 / sqrt(channels). Default: 1, as in T5.
        mask, regions, causal, dropout_p, training: as in :func:`window_attention`.

    Returns:
        As in :func:`window_attention`.

    Raises:
        RuntimeError: an error that :func:`window_attention` or :func:`t5_bias_softmax` raises for the
            arguments they share.

    Randomness, complexity and gradients: as in :func:`window_attention`.

    >>> q = k = v = torch.eye(2).unsqueeze(0)
    >>> t5_attention(q, k, v, torch.zeros(4, 1), max_distance=8)
    tensor([[[0.7311, 0.2689],
             [0.2689, 0.7311]]])
    """
    return torch.ops.posenc_ext.t5_attention(
        q,
        k,
        v,
        table,
        bidirectional=bidirectional,
        max_distance=max_distance,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )


@traceable
@forwards_given_arguments()
def alibi_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    scale: Optional[float] = None,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """Attention with ALiBi, whose bias is never stored.

    ``alibi_bias_softmax(q @ k.transpose(-2, -1), slopes, ...) @ v`` (Press et al. 2022).

    Args:
        q, k, v: as in :func:`window_attention`.
        slopes, q_offset: as in :func:`alibi_bias_softmax`.
        scale, mask, regions, causal, dropout_p, training: as in :func:`window_attention`.

    Returns:
        As in :func:`window_attention`.

    Raises:
        RuntimeError: an error that :func:`window_attention` or :func:`alibi_bias_softmax` raises for the
            arguments they share.

    Randomness, complexity and gradients: as in :func:`window_attention`, with slopes as the table.

    >>> q = k = v = torch.eye(2).unsqueeze(0)
    >>> alibi_attention(q, k, v, torch.tensor([1.0]), scale=1.0, causal=True)
    tensor([[[1.0000, 0.0000],
             [0.1192, 0.8808]]])
    """
    return torch.ops.posenc_ext.alibi_attention(
        q,
        k,
        v,
        slopes,
        scale=scale,
        mask=mask,
        regions=regions,
        causal=causal,
        q_offset=q_offset,
        dropout_p=dropout_p,
        training=training,
    )
