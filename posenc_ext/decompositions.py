"""Every op of posenc_ext in ATen ops, for compilers and exporters that know no custom op.

The functions take the arguments that the dispatcher passes and do not check them. Sizes may be symbolic:
indices are computed from ``arange``, and angles in float64; where sizes are known, a compiler can fold both.
"""

import functools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from torch import SymInt, Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.nn.functional import pad
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["decompositions"]

_MASK32 = 0xFFFFFFFF

# Before 2.14, ExportedProgram.run_decompositions loses constants that a decomposition creates.
_HAS_CONSTANTS = tuple(int(number) for number in torch.__version__.split(".")[:2]) >= (2, 14)


def decompositions() -> dict[OpOverload, Callable[..., Any]]:
    """Decompositions of every op of posenc_ext into ATen ops: overload -> function.

    For ``ExportedProgram.run_decompositions``, for ``make_fx(decomposition_table=...)`` and for AOT autograd,
    alone or merged into a larger table. Backward ops are included, and so is dropout, with the masks of the
    ops: the same seed drops the same elements.

    Values are those of the ops within rounding. Biases and the buckets of T5 are equal bit for bit. Sinusoids
    are computed in float64 and rounded, with an additional error of \\|angle\\| * 2**-49 at most; from torch
    2.14 on, a table of known length and start is a constant, bit for bit that of the op. Sums and softmax are
    computed in float32 (float64 for float64), where the ops compute some in float64. Gradients of tables, and
    sums over a batch, are deterministic only where ATen's ``index_put`` and ``sum`` are.

    Returns:
        A new dict with every overload in ``torch.ops.posenc_ext``.

    Source: the tables of ``torch._decomp``.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> bias = make_fx(lambda t: torch.ops.posenc_ext.window_bias(t, [2]), decompositions())
    >>> any("posenc_ext" in str(node.target) for node in bias(torch.zeros(3, 1)).graph.nodes)
    False
    """
    table = {_overload(name): function for name, function in _FUNCTIONS.items()}
    table |= {_overload(name): _into(_overload(functional)) for name, functional in _OUT.items()}
    composite = DispatchKey.CompositeImplicitAutograd
    # Not OpOverload.decompose, which would find this table's entry again under run_decompositions.
    table |= {op: functools.partial(op._op_dk, composite) for op in map(_overload, _COMPOSED)}
    return table


def _overload(name: str) -> OpOverload:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.posenc_ext, packet), overload or "default")


def _into(op: OpOverload) -> Callable[..., Tensor]:
    """The overload with ``out`` of a functional op."""
    names = {argument.name for argument in op._schema.arguments}

    def call(*args: Any, out: Tensor, **given: Any) -> Tensor:
        given |= {name: getattr(out, name) for name in ("dtype", "device") if name in names}
        result = op(*args, **given)
        if out.shape != result.shape:
            out.resize_(result.shape)
        return out.copy_(result)

    return call


def _sum_dtype(*dtypes: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in dtypes else torch.float32


# ---- Sinusoids


def waves(
    dim: int | SymInt,
    base: float,
    freq_shift: float,
    scale: float,
    layout: str,
    odd: str,
    order: int = 0,
    device: Optional[torch.device] = None,
) -> tuple[Tensor, Tensor, Optional[Tensor]]:
    """Frequency, phase and, of a derivative, amplitude of every channel, which is a sine: float64 [dim]."""
    if dim % 2 and odd == "zero":
        even = waves(dim - 1, base, freq_shift, scale, layout, odd, order, device)
        return tuple(None if values is None else pad(values, (0, 1)) for values in even)
    pairs = dim // 2
    channel = torch.arange(dim, device=device)
    if layout == "interleaved":
        j, cosine = channel // 2, channel % 2
    else:
        first = pairs if layout == "concat_cos_first" else dim - pairs
        second = (channel >= first).to(torch.int64)
        j = channel - first * second
        cosine = 1 - second if layout == "concat_cos_first" else second
    frequency = scale * base ** (-j.to(torch.float64) / (pairs - freq_shift))
    turns = (cosine + order) % 4  # quarter turns
    phase = (turns % 2).to(torch.float64) * (math.pi / 2)
    return frequency, phase, frequency**order * (1 - turns // 2 * 2) if order else None


def _encode(positions: Tensor, dim: int | SymInt, *spec: Any) -> Tensor:
    """The encoding, or its derivative of the order that ends `spec`, in float64."""
    frequency, phase, amplitude = waves(dim, *spec, device=positions.device)
    value = torch.sin(positions.to(torch.float64).unsqueeze(-1) * frequency + phase)
    return value if amplitude is None else value * amplitude


def sinusoidal_table(
    length: int | SymInt,
    dim: int | SymInt,
    *,
    start: int | SymInt = 0,
    base: float = 10000.0,
    freq_shift: float = 0.0,
    scale: float = 1.0,
    layout: str = "interleaved",
    odd: str = "error",
    dtype: Optional[torch.dtype] = None,
    device: Optional[torch.device] = None,
) -> Tensor:
    dtype = torch.get_default_dtype() if dtype is None else dtype
    spec = (base, freq_shift, scale, layout, odd)
    if _HAS_CONSTANTS and not any(isinstance(size, SymInt) for size in (length, dim, start)):
        names = ("base", "freq_shift", "scale", "layout", "odd")
        given = {**dict(zip(names, spec, strict=True)), "dtype": dtype, "device": device}
        with _disable_current_modes():
            table = torch.ops.posenc_ext.sinusoidal_table(length, dim, start=start, **given)
        return torch.ops.aten.lift_fresh_copy(table)
    positions = torch.arange(start, start + length, device=device)
    return _encode(positions, dim, *spec).to(dtype)


def _sinusoidal(
    positions: Tensor,
    dim: int | SymInt,
    base: float,
    freq_shift: float,
    scale: float,
    layout: str,
    odd: str,
    order: int,
    dtype: Optional[torch.dtype] = None,
) -> Tensor:
    if dtype is None:
        dtype = positions.dtype if positions.is_floating_point() else torch.get_default_dtype()
    return _encode(positions, dim, base, freq_shift, scale, layout, odd, order).to(dtype).contiguous()


def _sinusoidal_backward(
    grad: Tensor,
    positions: Tensor,
    base: float,
    freq_shift: float,
    scale: float,
    layout: str,
    odd: str,
    order: int,
) -> Tensor:
    slope = _encode(positions, grad.shape[-1], base, freq_shift, scale, layout, odd, order)
    return (grad.to(torch.float64) * slope).sum(-1).to(positions.dtype)


# ---- Sums with an encoding or an embedding, and dropout


def _dropout_mask(shape: Sequence[int | SymInt], dropout_p: float, seed: Tensor) -> Tensor:
    """True for retained elements: 16 bits of Philox4x32-10 each, low half of a word first."""
    count = math.prod(shape)
    block = torch.arange((count + 7) // 8, device=seed.device)
    word = [block & _MASK32, block >> 32, torch.zeros_like(block), torch.zeros_like(block)]
    low, high = seed & _MASK32, (seed >> 32) & _MASK32
    for _ in range(10):
        a, b = 0xD2511F53 * word[0], 0xCD9E8D57 * word[2]  # mod 2^64, in int64
        word = [
            ((b >> 32) & _MASK32) ^ word[1] ^ low,
            b & _MASK32,
            ((a >> 32) & _MASK32) ^ word[3] ^ high,
            a & _MASK32,
        ]
        low, high = (low + 0x9E3779B9) & _MASK32, (high + 0xBB67AE85) & _MASK32
    draws = torch.stack([half for w in word for half in (w & 0xFFFF, w >> 16)], dim=-1)
    return (draws.flatten()[:count] >= int(dropout_p * 65536 + 0.5)).view(shape)


def _drop(y: Tensor, dropout_p: float, seed: Optional[Tensor], dtype: torch.dtype) -> Tensor:
    """Dropout with the mask of a seed, if there is one; rounded and contiguous."""
    if seed is not None and dropout_p > 0:
        factor = 1 / (1 - dropout_p) if dropout_p < 1 else 0.0
        y = torch.where(_dropout_mask(y.shape, dropout_p, seed), y * factor, 0.0)
    return y.to(dtype).contiguous()


def _scale_dropout(x: Tensor, scale: float, dropout_p: float, seed: Optional[Tensor]) -> Tensor:
    return _drop(x.to(_sum_dtype(x.dtype)) * scale, dropout_p, seed, x.dtype)


def _add_sinusoidal(
    x: Tensor,
    offsets: Optional[Tensor],
    start: int | SymInt,
    x_scale: float,
    base: float,
    freq_shift: float,
    layout: str,
    odd: str,
    batch_first: bool,
    dropout_p: float,
    seed: Optional[Tensor],
) -> Tensor:
    length, dim, dtype = x.shape[1 if batch_first else 0], x.shape[2], _sum_dtype(x.dtype)
    if offsets is None:
        spec = {"base": base, "freq_shift": freq_shift, "layout": layout, "odd": odd}
        encoding = sinusoidal_table(length, dim, start=start, **spec, dtype=dtype, device=x.device)
        encoding = encoding.unsqueeze(0 if batch_first else 1)
    else:
        steps = torch.arange(start, start + length, device=x.device)
        positions = offsets.to(torch.int64).view(-1, 1) + steps
        positions = positions if batch_first else positions.T
        encoding = _encode(positions, dim, base, freq_shift, 1.0, layout, odd).to(dtype)
    return _drop(x.to(dtype) * x_scale + encoding, dropout_p, seed, x.dtype)


def _add_position_embedding(
    x: Tensor,
    pos_embed: Tensor,
    prefix_tokens: Sequence[Tensor],
    embed_prefix: bool,
    x_scale: float,
    batch_first: bool,
    dropout_p: float,
    seed: Optional[Tensor],
) -> Tensor:
    result = functools.reduce(torch.promote_types, (t.dtype for t in (pos_embed, *prefix_tokens)), x.dtype)
    dtype, batch_axis = _sum_dtype(result), 0 if batch_first else 1
    sizes = [-1, -1, -1]
    sizes[batch_axis] = x.shape[batch_axis]
    pos = pos_embed.to(dtype).flatten(0, -2).unsqueeze(batch_axis)
    prefixes = [prefix.to(dtype).expand(sizes) for prefix in prefix_tokens]
    y = x.to(dtype) * x_scale
    if embed_prefix:
        y = torch.cat([*prefixes, y], 1 - batch_axis) + pos
    else:
        y = torch.cat([*prefixes, y + pos], 1 - batch_axis)
    return _drop(y, dropout_p, seed, result)


def _add_positions(
    x: Tensor, pos_embed: Tensor, positions: Tensor, x_scale: float, dropout_p: float, seed: Optional[Tensor]
) -> Tensor:
    dtype = _sum_dtype(x.dtype)
    y = x.to(dtype) * x_scale + pos_embed[positions.to(torch.int64)].to(dtype)
    return _drop(y, dropout_p, seed, x.dtype)


def _sum_batch(grad: Tensor, batch_first: bool) -> Tensor:
    return grad.to(_sum_dtype(grad.dtype)).sum(0 if batch_first else 1).to(grad.dtype)


def _sum_positions(grad: Tensor, positions: Tensor, num_rows: int | SymInt) -> Tensor:
    index = positions.to(torch.int64).expand(grad.shape[:-1]).reshape(-1)
    rows = grad.to(_sum_dtype(grad.dtype)).unsqueeze(0).flatten(0, -2)
    return _sum_rows(rows, index, num_rows).to(grad.dtype)


def _sum_rows(rows: Tensor, index: Tensor, num_rows: int | SymInt) -> Tensor:
    """The sum of the rows [n, D] of each index [n], [num_rows, D]."""
    return rows.new_zeros(num_rows, rows.shape[1]).index_put((index,), rows, accumulate=True)


# ---- Relative-position biases


def _relative(q_len: int | SymInt, k_len: int | SymInt, q_offset: int | SymInt, device: Any) -> Tensor:
    """key - query, [q_len, k_len]."""
    return torch.arange(k_len, device=device) - torch.arange(q_len, device=device).unsqueeze(1) - q_offset


def window_index(
    device: torch.device,
    window: Sequence[int | SymInt],
    query_size: Optional[Sequence[int | SymInt]] = None,
    prefix_tokens: int = 0,
) -> Tensor:
    """The row of the table for each (query, key) pair, [Q, K]."""
    index = torch.zeros(1, 1, dtype=torch.int64, device=device)
    for size, queries in zip(window, window if query_size is None else query_size, strict=True):
        cell = torch.arange(queries, device=device) * size // queries
        step = cell.unsqueeze(1) - torch.arange(size, device=device) + (size - 1)
        index = (index * (2 * size - 1))[:, None, :, None] + step[None, :, None, :]
        index = index.flatten(2).flatten(0, 1)
    if prefix_tokens:
        rows = math.prod(2 * size - 1 for size in window) + 3
        top = pad(index.new_full((1, index.shape[1]), rows - 3), (1, 0), value=rows - 1)
        index = torch.cat([top, pad(index, (1, 0), value=rows - 2)])
    return index


@functools.cache
def t5_thresholds(rows: int, bidirectional: bool, max_distance: int) -> list[int]:
    """The distances at which the far buckets begin, as the op has them."""
    buckets = rows // 2 if bidirectional else rows
    with _disable_current_modes():
        table = torch.arange(rows, dtype=torch.float64).unsqueeze(1)

        def bucket(distance: int) -> int:
            spec = {"bidirectional": bidirectional, "max_distance": max_distance}
            return int(torch.ops.posenc_ext.t5_bias(table, 1, 1, q_offset=distance, **spec))

        return [
            bisect_left(range(max_distance + 1), far, key=bucket) for far in range(buckets // 2 + 1, buckets)
        ]


def t5_index(
    rows: int,
    q_len: int | SymInt,
    k_len: int | SymInt,
    q_offset: int | SymInt,
    bidirectional: bool,
    max_distance: int,
    device: torch.device,
) -> Tensor:
    buckets = rows // 2 if bidirectional else rows
    relative = _relative(q_len, k_len, q_offset, device)
    distance = relative.abs() if bidirectional else (-relative).clamp(min=0)
    index = distance.clamp(max=buckets // 2)
    for threshold in t5_thresholds(int(rows), bidirectional, max_distance):
        index = index + (distance >= threshold)
    return index + buckets * (relative > 0) if bidirectional else index


def gather_bias(table: Tensor, index: Tensor) -> Tensor:
    return table[index.to(torch.int64)].movedim(-1, -3).contiguous()


def _gather_bias_backward(grad: Tensor, index: Tensor, num_rows: int | SymInt) -> Tensor:
    rows = grad.to(_sum_dtype(grad.dtype)).movedim(-3, -1).flatten(0, -2)
    return _sum_rows(rows, index.to(torch.int64).reshape(-1), num_rows).to(grad.dtype)


def window_bias(table: Tensor, *args: Any, **given: Any) -> Tensor:
    return gather_bias(table, window_index(table.device, *args, **given))


def _window_bias_backward(grad: Tensor, num_rows: int | SymInt, *args: Any, **given: Any) -> Tensor:
    return _gather_bias_backward(grad, window_index(grad.device, *args, **given), num_rows)


def t5_bias(
    table: Tensor,
    q_len: int | SymInt,
    k_len: int | SymInt,
    *,
    q_offset: int | SymInt = 0,
    bidirectional: bool = True,
    max_distance: int = 128,
) -> Tensor:
    sizes = (table.shape[0], q_len, k_len, q_offset)
    return gather_bias(table, t5_index(*sizes, bidirectional, max_distance, table.device))


def _t5_bias_backward(
    grad: Tensor,
    num_rows: int | SymInt,
    q_len: int | SymInt,
    k_len: int | SymInt,
    *,
    q_offset: int | SymInt = 0,
    bidirectional: bool = True,
    max_distance: int = 128,
) -> Tensor:
    index = t5_index(num_rows, q_len, k_len, q_offset, bidirectional, max_distance, grad.device)
    return _gather_bias_backward(grad, index, num_rows)


def alibi_slopes(
    num_heads: int, *, dtype: Optional[torch.dtype] = None, device: Optional[torch.device] = None
) -> Tensor:
    power = 2 ** int(math.log2(num_heads))
    head = torch.arange(num_heads, device=device).to(torch.float64)
    exponent = torch.where(head < power, -8 * (head + 1), -4 * (2 * (head - power) + 1)) / power
    return (2.0**exponent).to(torch.get_default_dtype() if dtype is None else dtype)


def _alibi_distance(
    q_len: int | SymInt, k_len: int | SymInt, q_offset: int | SymInt, causal: bool, device: torch.device
) -> Tensor:
    relative = _relative(q_len, k_len, q_offset, device)
    return relative.clamp(max=0) if causal else -relative.abs()


def alibi_bias(
    slopes: Tensor,
    q_len: int | SymInt,
    k_len: int | SymInt,
    *,
    q_offset: int | SymInt = 0,
    causal: bool = False,
) -> Tensor:
    dtype = _sum_dtype(slopes.dtype)
    distance = _alibi_distance(q_len, k_len, q_offset, causal, slopes.device)
    return (slopes.to(dtype)[:, None, None] * distance.to(dtype)).to(slopes.dtype)


def _alibi_bias_backward(grad: Tensor, *, q_offset: int | SymInt = 0, causal: bool = False) -> Tensor:
    distance = _alibi_distance(*grad.shape[1:], q_offset, causal, grad.device)
    return (grad.to(torch.float64) * distance).sum((1, 2)).to(grad.dtype)


# ---- Softmax with a bias, and attention


def _row_index(kind: str, scores: Tensor, *source: Any, **spec: Any) -> Tensor:
    """The row of the table for each (query, key) pair of scores [..., Q, K]."""
    if kind == "window":
        return window_index(scores.device, *source, **spec)
    if kind == "diagonal":
        queries, keys = scores.shape[-2:]
        return _relative(queries, keys, 1 - queries, scores.device)
    return source[0]


def _bias_softmax(
    kind: str,
    scores: Tensor,
    table: Tensor,
    *source: Any,
    scale: float = 1.0,
    mask: Optional[Tensor] = None,
    regions: Optional[Tensor] = None,
    causal: bool = False,
    q_offset: int | SymInt = 0,
    **spec: Any,
) -> Tensor:
    dtype = _sum_dtype(scores.dtype)
    bias = table.to(dtype)
    if kind:
        bias = gather_bias(bias.T if kind == "diagonal" else bias, _row_index(kind, scores, *source, **spec))
    x = scores.to(dtype) * scale + bias
    if mask is not None:
        x = torch.where(mask, x, -math.inf) if mask.dtype is torch.bool else x + mask.to(dtype)
    if regions is not None:
        samples = scores.shape[:-3]
        other = (regions.unsqueeze(-1) != regions.unsqueeze(-2)).to(dtype)
        window = torch.arange(math.prod(samples), device=scores.device) % regions.shape[0]
        x = x - 100 * other[window].view(*samples, 1, *scores.shape[-2:])
    if causal:
        hidden = _relative(*scores.shape[-2:], q_offset, scores.device) > 0
        x = torch.where(hidden, -math.inf, x)
    return torch.softmax(x, dim=-1).to(scores.dtype).contiguous()


def _bias_softmax_in_place(kind: str, scores: Tensor, *args: Any, **given: Any) -> Tensor:
    return scores.copy_(_bias_softmax(kind, scores, *args, **given))


def _bias_softmax_backward(
    kind: str,
    grad: Tensor,
    result: Tensor,
    table_sizes: Sequence[int | SymInt],
    *source: Any,
    scale: float,
    **spec: Any,
) -> tuple[Tensor, Tensor]:
    dtype = _sum_dtype(grad.dtype)
    result, product = result.to(dtype), grad.to(dtype) * result.to(dtype)
    x = product - result * product.sum(-1, keepdim=True)
    grad_scores = (x * scale).to(grad.dtype).contiguous()
    if len(table_sizes) == 1:  # [0]: of scores alone
        return grad_scores, x.new_zeros(table_sizes)
    grad_bias = x.reshape(-1, *x.shape[-3:]).sum(0)
    if not kind:
        return grad_scores, grad_bias
    rows = table_sizes[1 if kind == "diagonal" else 0]
    grad_table = _gather_bias_backward(grad_bias, _row_index(kind, grad, *source, **spec), rows)
    return grad_scores, grad_table.T.contiguous() if kind == "diagonal" else grad_table


def _attention(kind: str, q: Tensor, k: Tensor, v: Tensor, table: Tensor, *args: Any, **given: Any) -> Tensor:
    scores = torch.matmul(q, k.transpose(-2, -1))
    return torch.matmul(_bias_softmax(kind, scores, table, *args, **given), v).contiguous()


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sinusoidal_table": sinusoidal_table,
    "_sinusoidal": _sinusoidal,
    "_sinusoidal_backward": _sinusoidal_backward,
    "_add_sinusoidal": _add_sinusoidal,
    "_scale_dropout": _scale_dropout,
    "_add_position_embedding": _add_position_embedding,
    "_add_positions": _add_positions,
    "_sum_batch": _sum_batch,
    "_sum_positions": _sum_positions,
    "window_bias": window_bias,
    "_window_bias_backward": _window_bias_backward,
    "t5_bias": t5_bias,
    "_t5_bias_backward": _t5_bias_backward,
    "gather_bias": gather_bias,
    "_gather_bias_backward": _gather_bias_backward,
    "alibi_slopes": alibi_slopes,
    "alibi_bias": alibi_bias,
    "_alibi_bias_backward": _alibi_bias_backward,
    "_window_attention": functools.partial(_attention, "window"),
    "_diagonal_attention": functools.partial(_attention, "diagonal"),
}
_COMPOSED = ["sinusoidal", "add_sinusoidal", "add_sinusoidal.offsets", "add_sinusoidal.positions"]
_COMPOSED += ["add_position_embedding", "add_position_embedding.positions"]
_COMPOSED += [f"{kind}_attention" for kind in ("window", "diagonal", "t5", "alibi")]
_COMPOSED += ["t5_bias_softmax", "alibi_bias_softmax"]
for _kind in ("window", "diagonal", "gather", "", "t5", "alibi"):
    _name = f"{_kind}_bias_softmax".strip("_")
    _COMPOSED += [f"{_name}_", f"{_name}.dropout"]
    if _kind not in ("t5", "alibi"):
        _FUNCTIONS[_name] = functools.partial(_bias_softmax, _kind)
        _FUNCTIONS[f"_{_name}_"] = functools.partial(_bias_softmax_in_place, _kind)
        _FUNCTIONS[f"_{_name}_backward"] = functools.partial(_bias_softmax_backward, _kind)

# Overloads with out, and the functional ones that they are made of.
_OUT = {
    f"{name}.out": name
    for name in (
        "sinusoidal_table",
        "sinusoidal",
        "add_sinusoidal",
        "add_position_embedding",
        "window_bias",
        "t5_bias",
        "gather_bias",
        "alibi_slopes",
        "alibi_bias",
    )
}
_OUT |= {
    f"{name}_out": name
    for name in ("add_sinusoidal.offsets", "add_sinusoidal.positions", "add_position_embedding.positions")
}
