"""Reference implementation (test oracle): every public op in plain PyTorch, written from the formulas only.

Same names, arguments and defaults as `posenc_ext.ops`. Values are computed in float64 and rounded once to the
dtype of the result; gradients are computed by PyTorch's autograd, with sums in float64. Not optimized.

Limits: bias gathers and dropout masks are exact. A sinusoid has the error of its float64 angle
a = scale * p * w, about |a| * 2^-50. For positions up to 2^24 this is far below half a float32 ulp of values
near 1, but not of values near 0, so this file is not precise enough to test correct rounding.

>>> sinusoidal_table(2, 4, dtype=torch.float64)[1]
tensor([0.8415, 0.5403, 0.0100, 1.0000], dtype=torch.float64)
>>> window_index([2, 2])
tensor([[4, 3, 1, 0],
        [5, 4, 2, 1],
        [7, 6, 4, 3],
        [8, 7, 5, 4]])
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# The relative-position bias schemes: ops that look up a bias in a table by the positions of query and key.
SCHEMES = frozenset({"t5_bias", "window_bias"})

_MASK32 = 0xFFFFFFFF


def round_once(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounds a float64 `value` once to `dtype`; PyTorch's cast to a half type first rounds to float32.

    >>> above_a_tie = torch.tensor(1 + 2**-8 + 2**-40, dtype=torch.float64)
    >>> round_once(above_a_tie, torch.bfloat16).item(), above_a_tie.to(torch.bfloat16).item()
    (1.0078125, 1.0)
    """
    if dtype in (torch.float16, torch.bfloat16):
        with torch.no_grad():
            # Round to odd in float32, so that an inexact value is never a tie in the second rounding.
            single = value.to(torch.float32)
            inexact = single.to(torch.float64) != value
            outward = (value.abs() > single.to(torch.float64).abs()).to(torch.int32) * 2 - 1
            bits = single.view(torch.int32)
            odd = torch.where(inexact & (bits % 2 == 0), bits + outward, bits).view(torch.float32)
            shift = torch.where(value.abs() < 1e30, odd.to(torch.float64) - value, 0.0)
        value = value + shift
    return value.to(dtype)


def encode(
    positions: Tensor,
    dim: int,
    base: float,
    freq_shift: float,
    scale: float,
    layout: str,
    odd: str,
    order: int = 0,
) -> Tensor:
    """The order-th derivative of the encoding with respect to the position, in float64."""
    pairs, extra = dim // 2, dim % 2
    if extra and odd not in ("zero", "sin"):
        raise ValueError(f'dim must be even unless odd is "zero" or "sin", got {dim}')
    j = torch.arange(pairs + 1 if extra and odd == "sin" else pairs, device=positions.device)
    frequency = base ** (-j.to(torch.float64) / (pairs - freq_shift))
    angle = scale * positions.to(torch.float64)[..., None] * frequency
    sin, cos = angle.sin(), angle.cos()
    for _ in range(order):
        sin, cos = scale * frequency * cos, -scale * frequency * sin
    cos = cos[..., :pairs]
    if layout == "interleaved":
        parts = [torch.stack((sin[..., :pairs], cos), dim=-1).flatten(-2), sin[..., pairs:]]
    elif layout == "concat":
        parts = [sin, cos]
    elif layout == "concat_cos_first":
        parts = [cos, sin]
    else:
        raise ValueError(f"unknown layout {layout!r}")
    if extra and odd == "zero":
        parts.append(angle.new_zeros(*positions.shape, 1))
    return torch.cat(parts, dim=-1)


def sinusoidal_table(
    length: int,
    dim: int,
    *,
    start: int = 0,
    base: float = 10000.0,
    freq_shift: float = 0.0,
    scale: float = 1.0,
    layout: str = "interleaved",
    odd: str = "error",
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Rows `start` to `start + length - 1` of the sinusoidal table, [length, dim]."""
    positions = torch.arange(start, start + length, device=device)
    return sinusoidal(
        positions, dim, base=base, freq_shift=freq_shift, scale=scale, layout=layout, odd=odd, dtype=dtype
    )


def sinusoidal(
    positions: Tensor,
    dim: int,
    *,
    base: float = 10000.0,
    freq_shift: float = 0.0,
    scale: float = 1.0,
    layout: str = "interleaved",
    odd: str = "error",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The encoding of each position, [*positions.shape, dim]; differentiable in floating positions."""
    if dtype is None:
        dtype = positions.dtype if positions.is_floating_point() else torch.get_default_dtype()
    return round_once(encode(positions, dim, base, freq_shift, scale, layout, odd), dtype)


def add_sinusoidal(
    x: Tensor,
    *,
    start: int | Tensor = 0,
    x_scale: float = 1.0,
    base: float = 10000.0,
    freq_shift: float = 0.0,
    layout: str = "interleaved",
    odd: str = "error",
    batch_first: bool = True,
    dropout_p: float = 0.0,
    training: bool = False,
    positions: Tensor | None = None,
) -> Tensor:
    """dropout(x * x_scale + encoding of start + l) for x [B, L, D] ([L, B, D] unless `batch_first`), [L, D].

    With `positions`, which broadcast to the shape of x [..., D] without D, adds the encodings of these.
    """
    seed = draw_seed(x.device) if training and dropout_p > 0 else None
    if positions is not None:
        y = x.to(torch.float64) * x_scale + encode(positions, x.shape[-1], base, freq_shift, 1.0, layout, odd)
        return round_once(y if seed is None else drop(y, dropout_p, seed), x.dtype).contiguous()
    if x.dim() == 2:
        x, batch_first = x[None], True
        return add_with_seed(x, start, x_scale, base, freq_shift, layout, odd, True, dropout_p, seed)[0]
    return add_with_seed(x, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p, seed)


def add_with_seed(
    x: Tensor,
    start: int | Tensor,
    x_scale: float,
    base: float,
    freq_shift: float,
    layout: str,
    odd: str,
    batch_first: bool,
    dropout_p: float,
    seed: Tensor | None,
) -> Tensor:
    """`add_sinusoidal` with the dropout mask of a given seed, or without dropout when `seed` is None."""
    steps = torch.arange(x.shape[1 if batch_first else 0], device=x.device)
    if isinstance(start, Tensor):
        positions = start.to(torch.int64).view(-1, 1) + steps
    else:
        positions = (start + steps)[None]
    if not batch_first:
        positions = positions.T
    y = x.to(torch.float64) * x_scale + encode(positions, x.shape[2], base, freq_shift, 1.0, layout, odd)
    if seed is not None:
        y = drop(y, dropout_p, seed)
    return round_once(y, x.dtype).contiguous()


def add_position_embedding(
    x: Tensor,
    pos_embed: Tensor,
    prefix_tokens: Sequence[Tensor] | None = None,
    *,
    embed_prefix: bool = True,
    x_scale: float = 1.0,
    batch_first: bool = True,
    dropout_p: float = 0.0,
    training: bool = False,
    positions: Tensor | None = None,
) -> Tensor:
    """dropout(cat([*prefix_tokens, x * x_scale]) + pos_embed), or with pos_embed added to x only.

    With `positions`: dropout(x * x_scale + pos_embed[positions]).
    """
    seed = draw_seed(x.device) if training and dropout_p > 0 else None
    if positions is not None:
        dtype = torch.promote_types(x.dtype, pos_embed.dtype)
        return add_positions(x.to(dtype), pos_embed.to(dtype), positions, x_scale, dropout_p, seed)
    return embed_with_seed(
        x, pos_embed, prefix_tokens or (), embed_prefix, x_scale, batch_first, dropout_p, seed
    )


def embed_with_seed(
    x: Tensor,
    pos_embed: Tensor,
    prefix_tokens: Sequence[Tensor],
    embed_prefix: bool,
    x_scale: float,
    batch_first: bool,
    dropout_p: float,
    seed: Tensor | None,
) -> Tensor:
    """`add_position_embedding` with the dropout mask of a given seed, or without dropout for `seed` None."""
    dtype = x.dtype
    for tensor in (pos_embed, *prefix_tokens):
        dtype = torch.promote_types(dtype, tensor.dtype)
    batch_axis, token_axis = (0, 1) if batch_first else (1, 0)
    pos = pos_embed.to(torch.float64).flatten(0, -2).unsqueeze(batch_axis)
    sizes = [-1, -1, -1]
    sizes[batch_axis] = x.shape[batch_axis]
    prefixes = [prefix.to(torch.float64).expand(sizes) for prefix in prefix_tokens]
    y = x.to(torch.float64) * x_scale
    if embed_prefix:
        y = torch.cat([*prefixes, y], token_axis) + pos
    else:
        y = torch.cat([*prefixes, y + pos], token_axis)
    if seed is not None:
        y = drop(y, dropout_p, seed)
    return round_once(y, dtype).contiguous()


def add_positions(
    x: Tensor, pos_embed: Tensor, positions: Tensor, x_scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """`add_position_embedding` at positions with the dropout mask of a given seed, or without dropout."""
    rows = pos_embed.to(torch.float64)[positions.to(torch.int64)]
    y = x.to(torch.float64) * x_scale + rows
    return round_once(y if seed is None else drop(y, dropout_p, seed), x.dtype).contiguous()


def sum_positions(grad: Tensor, positions: Tensor, num_rows: int) -> Tensor:
    """The sum of the rows of grad [..., D] at each position, [num_rows, D]."""
    index = positions.to(torch.int64).expand(grad.shape[:-1]).flatten()
    rows = grad.to(torch.float64)[None].flatten(0, -2)
    zeros = rows.new_zeros(num_rows, grad.shape[-1])
    return round_once(zeros.index_add(0, index, rows), grad.dtype)


def sum_batch(grad: Tensor, batch_first: bool) -> Tensor:
    """The sum over the samples of [B, N, D], or of [N, B, D] when not `batch_first`."""
    return round_once(grad.to(torch.float64).sum(0 if batch_first else 1), grad.dtype)


def draw_seed(device: torch.device) -> Tensor:
    """One int64 seed from the default generator of `device`."""
    return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=device)


def philox(counter: Sequence[Tensor], key: int) -> list[Tensor]:
    """Philox4x32-10: four random words of 32 bits from a counter of four words and a 64-bit key.

    >>> [f"{int(word):08x}" for word in philox([torch.tensor(0)] * 4, 0)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    word = list(counter)
    key_low, key_high = key & _MASK32, (key >> 32) & _MASK32
    for _ in range(10):
        product0, product1 = 0xD2511F53 * word[0], 0xCD9E8D57 * word[2]  # mod 2^64, in int64
        word = [
            ((product1 >> 32) & _MASK32) ^ word[1] ^ key_low,
            product1 & _MASK32,
            ((product0 >> 32) & _MASK32) ^ word[3] ^ key_high,
            product0 & _MASK32,
        ]
        key_low, key_high = (key_low + 0x9E3779B9) & _MASK32, (key_high + 0xBB67AE85) & _MASK32
    return word


def drop(y: Tensor, dropout_p: float, seed: Tensor) -> Tensor:
    """Applies dropout with the mask of a seed; retained elements are scaled by 1 / (1 - dropout_p)."""
    retained = 1 - dropout_p if dropout_p < 1 else 1.0  # any number if all elements are dropped
    return torch.where(dropout_mask(y.shape, dropout_p, seed), y / retained, 0.0)


def dropout_mask(shape: Sequence[int], dropout_p: float, seed: Tensor) -> Tensor:
    """True for retained elements of a contiguous result of this shape: 16 bits of Philox per element."""
    i = torch.arange(torch.Size(shape).numel(), device=seed.device)
    counter = [i // 8 & _MASK32, i // 8 >> 32, torch.zeros_like(i), torch.zeros_like(i)]
    words = torch.stack(philox(counter, int(seed)))
    draw = (words.gather(0, (i % 8 // 2)[None])[0] >> 16 * (i % 2)) & 0xFFFF
    return (draw >= int(dropout_p * 65536 + 0.5)).view(shape)


def window_index(
    window: Sequence[int], query_size: Sequence[int] | None = None, prefix_tokens: int = 0
) -> Tensor:
    """The row of the bias table for each (query, key) pair, [Q, K].

    >>> window_index([2], prefix_tokens=1)
    tensor([[5, 3, 3],
            [4, 1, 0],
            [4, 2, 1]])
    """
    query_size = window if query_size is None else query_size
    keys = torch.cartesian_prod(*(torch.arange(s) for s in window)).view(-1, len(window))
    cells = (torch.arange(big) * s // big for s, big in zip(window, query_size))
    queries = torch.cartesian_prod(*cells).view(-1, len(window))
    index = torch.zeros(len(queries), len(keys), dtype=torch.int64)
    for axis, s in enumerate(window):
        index = index * (2 * s - 1) + queries[:, None, axis] - keys[None, :, axis] + s - 1
    if prefix_tokens:
        rows = torch.Size(2 * s - 1 for s in window).numel() + 3
        index = torch.nn.functional.pad(index, (1, 0, 1, 0))
        index[0, :], index[:, 0], index[0, 0] = rows - 3, rows - 2, rows - 1
    return index


def window_bias(
    table: Tensor, window: Sequence[int], *, query_size: Sequence[int] | None = None, prefix_tokens: int = 0
) -> Tensor:
    """Relative-position bias of a 1-D, 2-D or 3-D window, [heads, Q, K], from a table [rows, heads]."""
    index = window_index(window, query_size, prefix_tokens).to(table.device)
    return gather_bias(table, index)


def t5_bucket(rel: Tensor, num_buckets: int, bidirectional: bool, max_distance: int) -> Tensor:
    """The bucket of each difference key - query; the logarithm is computed in float32, as in the source.

    >>> t5_bucket(torch.tensor([-20, -3, 0, 3, 20]), 32, True, 128)
    tensor([10,  3,  0, 19, 26])
    """
    buckets = num_buckets // 2 if bidirectional else num_buckets
    distance = rel.abs() if bidirectional else (-rel).clamp(min=0)
    exact = buckets // 2
    ratio = distance.clamp(min=exact).to(torch.float32) / exact
    steps = torch.log(ratio) / math.log(max_distance / exact) * (buckets - exact)
    far = (exact + steps.to(torch.int64)).clamp(max=buckets - 1)
    bucket = torch.where(distance < exact, distance, far)
    return bucket + buckets * (rel > 0) if bidirectional else bucket


def relative_positions(q_len: int, k_len: int, q_offset: int, device: torch.device) -> Tensor:
    """key - query for every pair, [q_len, k_len]; the first query is at q_offset."""
    return torch.arange(k_len, device=device) - torch.arange(q_len, device=device)[:, None] - q_offset


def t5_bias(
    table: Tensor,
    q_len: int,
    k_len: int,
    *,
    q_offset: int = 0,
    bidirectional: bool = True,
    max_distance: int = 128,
) -> Tensor:
    """T5's bucketed relative-position bias, [heads, q_len, k_len], from a table [num_buckets, heads]."""
    rel = relative_positions(q_len, k_len, q_offset, table.device)
    return gather_bias(table, t5_bucket(rel, table.shape[0], bidirectional, max_distance))


def gather_bias(table: Tensor, index: Tensor) -> Tensor:
    """The rows of a table [rows, heads] selected by an index [..., Q, K], as [..., heads, Q, K]."""
    bias = table.to(torch.float64)[index.to(torch.int64)]  # so that gradients are also summed in float64
    return bias.to(table.dtype).movedim(-1, -3).contiguous()


def alibi_slopes(
    num_heads: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """The slopes of ALiBi for any number of heads, [num_heads]."""
    power = 2 ** int(math.log2(num_heads))
    exponents = [-8 * (i + 1) / power for i in range(power)]
    # Every second slope for 2 * power heads.
    exponents += [-4 * (2 * i + 1) / power for i in range(num_heads - power)]
    slopes = torch.tensor([2**e for e in exponents], dtype=torch.float64, device=device)
    return round_once(slopes, torch.get_default_dtype() if dtype is None else dtype)


def alibi_bias(slopes: Tensor, q_len: int, k_len: int, *, q_offset: int = 0, causal: bool = False) -> Tensor:
    """-slope * distance, [heads, q_len, k_len]; causal: 0 for keys after the query."""
    rel = relative_positions(q_len, k_len, q_offset, slopes.device)
    distance = -rel.clamp(max=0) if causal else rel.abs()
    bias = 0.0 - slopes.to(torch.float64)[:, None, None] * distance.to(torch.float64)
    return round_once(bias, slopes.dtype)


def bias_softmax(
    scores: Tensor,
    bias: Tensor,
    *,
    scale: float = 1.0,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """dropout(softmax(scores * scale + bias + mask)) over the keys of scores [..., heads, Q, K].

    A bool mask shows keys; regions [windows, N] add -100 to pairs of different ones.
    """
    x = scores.to(torch.float64) * scale + bias.to(torch.float64)
    if mask is not None:
        x = x.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else x + mask.to(torch.float64)
    if regions is not None:
        other = (regions.unsqueeze(-1) != regions.unsqueeze(-2)).to(torch.float64)
        window = torch.arange(scores.shape[:-3].numel(), device=scores.device) % len(regions)
        x = x - 100 * other[window].view(*scores.shape[:-3], 1, *scores.shape[-2:])
    if causal:
        rel = relative_positions(*scores.shape[-2:], q_offset, scores.device)
        x = x.masked_fill(rel > 0, -math.inf)
    result = round_once(torch.softmax(x, dim=-1), scores.dtype)
    if not training or dropout_p == 0:
        return result
    return round_once(drop(result.to(torch.float64), dropout_p, draw_seed(scores.device)), scores.dtype)


def window_bias_softmax(
    scores: Tensor,
    table: Tensor,
    window: Sequence[int],
    *,
    query_size: Sequence[int] | None = None,
    prefix_tokens: int = 0,
    scale: float = 1.0,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """`bias_softmax` with the bias of a window."""
    bias = window_bias(table, window, query_size=query_size, prefix_tokens=prefix_tokens)
    options = (scale, mask, regions, causal, q_offset, dropout_p, training)
    return bias_softmax(scores, bias, **_named(options))


def diagonal_bias_softmax(
    scores: Tensor,
    diagonals: Tensor,
    *,
    scale: float = 1.0,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """`bias_softmax` with bias[h, q, k] = diagonals[h, k - q + Q - 1]."""
    queries, keys = scores.shape[-2:]
    index = relative_positions(queries, keys, 1 - queries, scores.device)
    options = (scale, mask, regions, causal, q_offset, dropout_p, training)
    return bias_softmax(scores, gather_bias(diagonals.T, index), **_named(options))


def gather_bias_softmax(
    scores: Tensor,
    table: Tensor,
    index: Tensor,
    *,
    scale: float = 1.0,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """`bias_softmax` with the rows of a table selected by an index."""
    options = (scale, mask, regions, causal, q_offset, dropout_p, training)
    return bias_softmax(scores, gather_bias(table, index), **_named(options))


def t5_bias_softmax(
    scores: Tensor,
    table: Tensor,
    *,
    bidirectional: bool = True,
    max_distance: int = 128,
    scale: float = 1.0,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """`bias_softmax` with T5's bias."""
    spec = {"bidirectional": bidirectional, "max_distance": max_distance, "q_offset": q_offset}
    options = (scale, mask, regions, causal, q_offset, dropout_p, training)
    return bias_softmax(scores, t5_bias(table, *scores.shape[-2:], **spec), **_named(options))


def alibi_bias_softmax(
    scores: Tensor,
    slopes: Tensor,
    *,
    scale: float = 1.0,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """`bias_softmax` with ALiBi."""
    bias = alibi_bias(slopes.to(torch.float64), *scores.shape[-2:], q_offset=q_offset)
    options = (scale, mask, regions, causal, q_offset, dropout_p, training)
    return bias_softmax(scores, bias, **_named(options))


def _named(options: tuple) -> dict:
    """The options of `bias_softmax` by name."""
    names = ("scale", "mask", "regions", "causal", "q_offset", "dropout_p", "training")
    return dict(zip(names, options, strict=True))


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, softmax: Callable[..., Tensor]) -> Tensor:
    """softmax(q @ k^T, scale) @ v in float64, rounded once."""
    scores = q.to(torch.float64) @ k.to(torch.float64).transpose(-2, -1)
    result = softmax(scores, q.shape[-1] ** -0.5 if scale is None else scale)
    return round_once(result @ v.to(torch.float64), q.dtype)


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    window: Sequence[int],
    *,
    query_size: Sequence[int] | None = None,
    prefix_tokens: int = 0,
    scale: float | None = None,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """`window_bias_softmax` between the two products of attention."""
    spec = {"query_size": query_size, "prefix_tokens": prefix_tokens}

    def softmax(scores: Tensor, scale: float) -> Tensor:
        options = (scale, mask, regions, causal, q_offset, dropout_p, training)
        return window_bias_softmax(scores, table, window, **spec, **_named(options))

    return _attend(q, k, v, scale, softmax)


def diagonal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    diagonals: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """`diagonal_bias_softmax` between the two products of attention."""

    def softmax(scores: Tensor, scale: float) -> Tensor:
        options = (scale, mask, regions, causal, q_offset, dropout_p, training)
        return diagonal_bias_softmax(scores, diagonals, **_named(options))

    return _attend(q, k, v, scale, softmax)


def t5_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    *,
    bidirectional: bool = True,
    max_distance: int = 128,
    scale: float | None = 1.0,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """`t5_bias_softmax` between the two products of attention."""
    spec = {"bidirectional": bidirectional, "max_distance": max_distance}

    def softmax(scores: Tensor, scale: float) -> Tensor:
        options = (scale, mask, regions, causal, q_offset, dropout_p, training)
        return t5_bias_softmax(scores, table, **spec, **_named(options))

    return _attend(q, k, v, scale, softmax)


def alibi_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    regions: Tensor | None = None,
    causal: bool = False,
    q_offset: int = 0,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """`alibi_bias_softmax` between the two products of attention."""

    def softmax(scores: Tensor, scale: float) -> Tensor:
        options = (scale, mask, regions, causal, q_offset, dropout_p, training)
        return alibi_bias_softmax(scores, slopes, **_named(options))

    return _attend(q, k, v, scale, softmax)
