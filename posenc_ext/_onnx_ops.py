"""The ops in ONNX Script: each function has the arguments of its op and is called while a model is exported.

Tensors are ``ir.Value``; sizes are integers, or scalar values where they are dynamic.
"""

import math
from collections.abc import Callable
from typing import Any, Optional

import torch
from onnxscript import ir
from onnxscript import opset18 as op
from torch import Tensor
from torch._ops import OpOverload

from .decompositions import t5_index, t5_thresholds, waves, window_index

Size = Any  # int, or ir.Value of a scalar

_TORCH = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}
_ONNX = {dtype: onnx for onnx, dtype in _TORCH.items()}


def _constant(tensor: Tensor) -> ir.Value:
    return op.Constant(value=ir.tensor(tensor.cpu().numpy()))


def _cast(x: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Of a known dtype, so that numbers next to it get the same."""
    y = op.Cast(x, to=dtype)
    y.dtype = dtype
    return y


def _sum_dtype(*dtypes: ir.DataType) -> ir.DataType:
    return ir.DataType.DOUBLE if ir.DataType.DOUBLE in dtypes else ir.DataType.FLOAT


def _dtype(number: Optional[int]) -> ir.DataType:
    """The dtype of an argument; the exporter passes -1 for None."""
    return _ONNX[torch.get_default_dtype()] if number in (None, -1) else ir.DataType(number)


def _no_dropout(seed: Any) -> None:
    if seed is not None:
        raise ValueError("posenc_ext.onnx: dropout is not exported: call model.eval() first")


def _size(x: ir.Value, axis: int) -> Size:
    """An integer where it is known."""
    axis %= len(x.shape)
    size = x.shape[axis]
    return size if isinstance(size, int) else op.Squeeze(op.Shape(x, start=axis, end=axis + 1))


def _range(start: Size, length: Size) -> ir.Value:
    if isinstance(start, int) and isinstance(length, int):
        return _constant(torch.arange(start, start + length))
    return op.Add(op.Range(0, length, 1), start)


# ---- Sinusoids


def _encode(positions: ir.Value, dtype: ir.DataType, dim: int, *spec: Any) -> ir.Value:
    frequency, phase, amplitude = waves(dim, *spec)
    angle = op.Mul(op.Unsqueeze(_cast(positions, ir.DataType.DOUBLE), [-1]), _constant(frequency))
    value = op.Sin(op.Add(angle, _constant(phase)))
    return _cast(value if amplitude is None else op.Mul(value, _constant(amplitude)), dtype)


def _table(dtype: ir.DataType, length: Size, dim: int, start: Size, *spec: Any) -> ir.Value:
    if isinstance(length, int) and isinstance(start, int):
        names = ("base", "freq_shift", "scale", "layout", "odd")
        given = {**dict(zip(names, spec, strict=True)), "dtype": _TORCH[dtype], "device": torch.device("cpu")}
        table = torch.ops.posenc_ext.sinusoidal_table(length, dim, start=start, **given)
        return _cast(_constant(table.to(_TORCH[_sum_dtype(dtype)])), dtype)
    return _encode(_range(start, length), dtype, dim, *spec)


def sinusoidal_table(
    length,
    dim,
    start=0,
    base=10000.0,
    freq_shift=0.0,
    scale=1.0,
    layout="interleaved",
    odd="error",
    dtype=None,
    device=None,
):
    return _table(_dtype(dtype), length, dim, start, base, freq_shift, scale, layout, odd)


def sinusoidal(positions, dim, base, freq_shift, scale, layout, odd, order, dtype=None):
    if dtype in (None, -1) and positions.dtype in _TORCH:
        dtype = positions.dtype
    return _encode(positions, _dtype(dtype), dim, base, freq_shift, scale, layout, odd, order)


# ---- Sums with an encoding or an embedding


def scale_dropout(x, scale, dropout_p, seed=None):
    _no_dropout(seed)
    return _cast(op.Mul(_cast(x, _sum_dtype(x.dtype)), scale), x.dtype)


def add_sinusoidal(
    x, offsets, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p, seed=None
):
    _no_dropout(seed)
    length, dim, dtype = _size(x, 1 if batch_first else 0), _size(x, 2), _sum_dtype(x.dtype)
    spec = (base, freq_shift, 1.0, layout, odd)
    if offsets is None:
        encoding = op.Unsqueeze(_table(dtype, length, dim, start, *spec), [0 if batch_first else 1])
    else:
        shape = [-1, 1] if batch_first else [1, -1]
        offsets = op.Reshape(_cast(offsets, ir.DataType.INT64), shape)
        steps = op.Unsqueeze(_range(start, length), [0 if batch_first else 1])
        encoding = _encode(op.Add(offsets, steps), dtype, dim, *spec)
    return _cast(op.Add(op.Mul(_cast(x, dtype), x_scale), encoding), x.dtype)


def _promoted(*tensors: ir.Value) -> ir.DataType:
    dtype = _TORCH[tensors[0].dtype]
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, _TORCH[tensor.dtype])
    return _ONNX[dtype]


def add_position_embedding(
    x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first, dropout_p, seed=None
):
    _no_dropout(seed)
    result = _promoted(x, pos_embed, *prefix_tokens)
    dtype, batch_axis = _sum_dtype(result), 0 if batch_first else 1
    y = op.Mul(_cast(x, dtype), x_scale)
    pos = op.Reshape(_cast(pos_embed, dtype), [-1, _size(x, 2)])
    pos = op.Unsqueeze(pos, [batch_axis])
    if not embed_prefix:
        y = op.Add(y, pos)
    if prefix_tokens:
        batch = op.Shape(x, start=batch_axis, end=batch_axis + 1)
        one = op.Constant(value_ints=[1])
        shape = op.Concat(batch, one, one, axis=0) if batch_first else op.Concat(one, batch, one, axis=0)
        prefixes = [op.Expand(_cast(prefix, dtype), shape) for prefix in prefix_tokens]
        y = op.Concat(*prefixes, y, axis=1 - batch_axis)
    return _cast(op.Add(y, pos) if embed_prefix else y, result)


def add_positions(x, pos_embed, positions, x_scale, dropout_p, seed=None):
    _no_dropout(seed)
    dtype = _sum_dtype(x.dtype)
    rows = op.Gather(_cast(pos_embed, dtype), _cast(positions, ir.DataType.INT64), axis=0)
    return _cast(op.Add(op.Mul(_cast(x, dtype), x_scale), rows), x.dtype)


# ---- Relative-position biases


def _relative(q_len: Size, k_len: Size, q_offset: Size) -> ir.Value:
    """key - query, [q_len, k_len]."""
    return op.Sub(op.Unsqueeze(_range(0, k_len), [0]), op.Unsqueeze(_range(q_offset, q_len), [1]))


def gather_bias(table, index):
    pairs = len(index.shape)
    order = [*range(pairs - 2), pairs, pairs - 2, pairs - 1]
    return op.Transpose(op.Gather(table, index, axis=0), perm=order)


def _gather(table: ir.Value, index: ir.Value) -> ir.Value:
    """gather_bias for an index [Q, K] without a known shape."""
    return op.Transpose(op.Gather(table, index, axis=0), perm=[2, 0, 1])


def window_bias(table, window, query_size=None, prefix_tokens=0):
    index = window_index(torch.device("cpu"), window, query_size, prefix_tokens)
    return _gather(table, _constant(index.to(torch.int32)))


def t5_bias(table, q_len, k_len, q_offset=0, bidirectional=True, max_distance=128):
    rows, cpu = table.shape[0], torch.device("cpu")
    last = max([1, *t5_thresholds(rows, bidirectional, max_distance)])  # beyond, buckets do not change
    buckets = t5_index(rows, 1, 2 * last + 1, last, bidirectional, max_distance, cpu)[0]
    distance = op.Clip(_relative(q_len, k_len, q_offset), -last, last)
    return _gather(table, op.Gather(_constant(buckets), op.Add(distance, last)))


def alibi_slopes(num_heads, dtype=None, device=None):
    dtype = _dtype(dtype)
    given = {"dtype": _TORCH[dtype], "device": torch.device("cpu")}
    slopes = torch.ops.posenc_ext.alibi_slopes(num_heads, **given)
    return _cast(_constant(slopes.to(_TORCH[_sum_dtype(dtype)])), dtype)


def alibi_bias(slopes, q_len, k_len, q_offset=0, causal=False):
    relative, dtype = _relative(q_len, k_len, q_offset), _sum_dtype(slopes.dtype)
    distance = op.Clip(relative, None, 0) if causal else op.Neg(op.Abs(relative))
    column = op.Unsqueeze(_cast(slopes, dtype), [1, 2])
    return _cast(op.Mul(column, _cast(distance, dtype)), slopes.dtype)


# ---- Softmax with a bias, and attention


def bias_softmax(scores, bias, scale=1.0, mask=None, regions=None, causal=False, q_offset=0):
    dtype, (queries, keys) = _sum_dtype(scores.dtype), (_size(scores, -2), _size(scores, -1))
    x = op.Add(op.Mul(_cast(scores, dtype), scale), _cast(bias, dtype))
    hidden = _cast(op.Constant(value_float=-math.inf), dtype)
    if mask is not None:
        is_bool = mask.dtype is ir.DataType.BOOL
        x = op.Where(mask, x, hidden) if is_bool else op.Add(x, _cast(mask, dtype))
    if regions is not None:
        other = op.Not(op.Equal(op.Unsqueeze(regions, [-1]), op.Unsqueeze(regions, [-2])))
        added = op.Unsqueeze(op.Mul(_cast(other, dtype), -100.0), [1])  # [windows, 1, N, N]
        # The sample with number i is window i % windows.
        shape = op.Concat(op.Constant(value_ints=[-1]), op.Shape(scores, start=-3), axis=0)
        samples = op.Reshape(x, shape)
        count = op.Squeeze(op.Shape(samples, end=1))
        window = op.Mod(op.Range(0, count, 1), op.Squeeze(op.Shape(regions, end=1)))
        x = op.Reshape(op.Add(samples, op.Gather(added, window, axis=0)), op.Shape(scores))
    if causal:
        x = op.Where(op.Greater(_relative(queries, keys, q_offset), 0), hidden, x)
    return _cast(op.Softmax(x, axis=-1), scores.dtype)


def window_bias_softmax(scores, table, window, query_size=None, prefix_tokens=0, **options):
    return bias_softmax(scores, window_bias(table, window, query_size, prefix_tokens), **options)


def diagonal_bias_softmax(scores, diagonals, **options):
    queries, keys = _size(scores, -2), _size(scores, -1)
    index = _relative(queries, keys, 1 - queries if isinstance(queries, int) else op.Sub(1, queries))
    return bias_softmax(scores, op.Gather(diagonals, index, axis=1), **options)


def gather_bias_softmax(scores, table, index, **options):
    return bias_softmax(scores, gather_bias(table, index), **options)


def _scores(q: ir.Value, k: ir.Value) -> ir.Value:
    axes = list(range(len(k.shape)))
    scores = op.MatMul(q, op.Transpose(k, perm=[*axes[:-2], axes[-1], axes[-2]]))
    scores.dtype, scores.shape = q.dtype, ir.Shape([*q.shape[:-1], k.shape[-2]])
    return scores


def window_attention(q, k, v, table, window, **given):
    return op.MatMul(window_bias_softmax(_scores(q, k), table, window, **given), v)


def diagonal_attention(q, k, v, diagonals, **given):
    return op.MatMul(diagonal_bias_softmax(_scores(q, k), diagonals, **given), v)


_OPS = torch.ops.posenc_ext
# The exporter decomposes the public ops that are composed of others.
TRANSLATIONS: dict[OpOverload, Callable[..., Any]] = {
    _OPS.sinusoidal_table.default: sinusoidal_table,
    _OPS._sinusoidal.default: sinusoidal,
    _OPS._scale_dropout.default: scale_dropout,
    _OPS._add_sinusoidal.default: add_sinusoidal,
    _OPS._add_position_embedding.default: add_position_embedding,
    _OPS._add_positions.default: add_positions,
    _OPS.window_bias.default: window_bias,
    _OPS.t5_bias.default: t5_bias,
    _OPS.gather_bias.default: gather_bias,
    _OPS.alibi_slopes.default: alibi_slopes,
    _OPS.alibi_bias.default: alibi_bias,
    _OPS.bias_softmax.default: bias_softmax,
    _OPS.window_bias_softmax.default: window_bias_softmax,
    _OPS.diagonal_bias_softmax.default: diagonal_bias_softmax,
    _OPS.gather_bias_softmax.default: gather_bias_softmax,
    _OPS._window_attention.default: window_attention,
    _OPS._diagonal_attention.default: diagonal_attention,
}
