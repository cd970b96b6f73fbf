"""Random shapes, strides, windows and numbers against the reference."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from op_db import OPS
from op_types import DTYPES, Sample, layouts, values
from support import check_against_reference, function_of, same_bits

BY_NAME = {op.name: op for op in OPS}

dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**31)
numbers = {"min_value": -4.0, "max_value": 4.0, "allow_subnormal": False}


@st.composite
def tensors(draw, shape, dtype, size=1.0):
    """A tensor of this shape with a drawn order of axes, step and offset in memory, or a stride of 0."""
    view = draw(st.sampled_from([name for name, _ in layouts(torch.empty(shape))]))
    return dict(layouts((values(shape, "cpu", torch.float64, seed=draw(seeds)) * size).to(dtype)))[view]


@st.composite
def specs(draw):
    """dim and the numbers of a sinusoid; frequencies stay such that the float64 oracle can follow."""
    dim = draw(st.integers(2, 40))
    odd = (
        draw(st.sampled_from(["zero", "sin"])) if dim % 2 else draw(st.sampled_from(["error", "zero", "sin"]))
    )
    shift = draw(st.floats(-2.0, dim // 2 - 0.75))
    return dim, {
        "base": draw(st.floats(1.0, 1e5)),
        "freq_shift": shift,
        "scale": draw(st.floats(**numbers)),
        "layout": draw(st.sampled_from(["interleaved", "concat", "concat_cos_first"])),
        "odd": odd,
    }


def check(name, inputs):
    op, sample = BY_NAME[name], Sample("drawn", inputs)
    check_against_reference(op, sample, op(sample))
    return op, sample


@given(st.data(), specs(), dtypes)
def test_sinusoidal(data, spec, dtype):
    dim, spec = spec
    shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
    positions = data.draw(tensors(shape, data.draw(dtypes), size=50.0))
    check("sinusoidal", {"positions": positions, "dim": dim, **spec, "dtype": dtype})
    length, start = data.draw(st.integers(0, 40)), data.draw(st.integers(-1000, 1000))
    inputs = {
        "length": length,
        "dim": dim,
        "start": start,
        **spec,
        "dtype": dtype,
        "device": torch.device("cpu"),
    }
    check("sinusoidal_table", inputs)
    order = data.draw(st.integers(0, 5))
    grad = data.draw(tensors([*positions.shape, dim], data.draw(dtypes)))
    check("_sinusoidal_backward", {"grad": grad, "positions": positions, **spec, "order": order})


@given(st.data(), specs(), dtypes)
def test_add_sinusoidal(data, spec, dtype):
    dim, spec = spec
    del spec["scale"]
    shape = [data.draw(st.integers(0, 4)), data.draw(st.integers(0, 20)), dim]
    x = data.draw(tensors(shape, dtype))
    batch_first = data.draw(st.booleans())
    inputs = {"x_scale": data.draw(st.floats(**numbers)), **spec, "batch_first": batch_first}
    seed = data.draw(st.none() | st.integers(-(2**63), 2**63 - 1))
    seed = None if seed is None else torch.tensor([seed])
    offsets = None
    if data.draw(st.booleans()):
        batch = shape[0 if batch_first else 1]
        offsets = torch.tensor(data.draw(st.lists(st.integers(-500, 500), min_size=batch, max_size=batch)))
        offsets = offsets.to(torch.int64)
    start = data.draw(st.integers(-500, 500))
    p = data.draw(st.floats(0.0, 0.9))
    check(
        "_add_sinusoidal",
        {"x": x, "offsets": offsets, "start": start, **inputs, "dropout_p": p, "seed": seed},
    )


@st.composite
def windows(draw):
    """window, query_size and prefix_tokens, of at most some thousand pairs."""
    axes = draw(st.integers(1, 3))
    window = draw(st.lists(st.integers(1, {1: 30, 2: 7, 3: 4}[axes]), min_size=axes, max_size=axes))
    query = None
    if draw(st.booleans()):
        query = [size + draw(st.integers(0, size + 3)) for size in window]
    return {"window": window, "query_size": query, "prefix_tokens": draw(st.integers(0, 1))}


@given(st.data(), windows(), dtypes)
def test_window_bias(data, sizes, dtype):
    rows = torch.Size(2 * s - 1 for s in sizes["window"]).numel() + 3 * sizes["prefix_tokens"]
    heads = data.draw(st.integers(0, 9))
    op, sample = check("window_bias", {"table": data.draw(tensors([rows, heads], dtype)), **sizes})
    bias = op(sample)
    grad = data.draw(tensors(list(bias.shape), dtype))
    adjoint, backward = check("_window_bias_backward", {"grad": grad, "num_rows": rows, **sizes})
    leaf = sample.inputs["table"].detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function_of(op, sample, ("table",))(leaf), leaf, grad)
    assert same_bits(gradient, adjoint(backward))


@given(st.data(), windows())
def test_adjoints_are_adjoint(data, sizes):
    """<A t, g> = <t, A* g> in float64."""
    rows = torch.Size(2 * s - 1 for s in sizes["window"]).numel() + 3 * sizes["prefix_tokens"]
    table = values((rows, 3), "cpu", torch.float64, seed=data.draw(seeds))
    bias = torch.ops.posenc_ext.window_bias(table, **sizes)
    grad = values(bias.shape, "cpu", torch.float64, seed=data.draw(seeds))
    back = torch.ops.posenc_ext._window_bias_backward(grad, rows, **sizes)
    left, right = (bias * grad).sum(), (table * back).sum()
    scale = (bias * grad).abs().sum()
    assert (left - right).abs() <= 1e-13 * scale


@given(st.data(), dtypes)
def test_t5_bias(data, dtype):
    bidirectional = data.draw(st.booleans())
    rows = data.draw(st.integers(4 if bidirectional else 2, 80))
    exact = rows // (4 if bidirectional else 2)
    inputs = {"q_len": data.draw(st.integers(0, 30)), "k_len": data.draw(st.integers(0, 60))}
    inputs["q_offset"] = data.draw(st.integers(-100, 300) | st.sampled_from([2**53 - 1, 1 - 2**53]))
    inputs["bidirectional"] = bidirectional
    inputs["max_distance"] = data.draw(st.integers(exact + 1, 2 * exact + 200) | st.just(2**53 - 1))
    heads = data.draw(st.integers(0, 5))
    op, sample = check("t5_bias", {"table": data.draw(tensors([rows, heads], dtype)), **inputs})
    grad = data.draw(tensors(list(op(sample).shape), dtype))
    check("_t5_bias_backward", {"grad": grad, "num_rows": rows, **inputs})


@given(st.data(), dtypes)
def test_gather_bias(data, dtype):
    rows, heads = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 5))
    shape = data.draw(st.lists(st.integers(0, 5), max_size=3)) + [data.draw(st.integers(0, 40)) for _ in "QK"]
    index = values(shape, "cpu", torch.float64, seed=data.draw(seeds)).mul(1e4).to(torch.int64) % rows
    if data.draw(st.booleans()):
        index = index.to(torch.int32)
    if data.draw(st.booleans()):
        index = index.transpose(-1, -2)
    op, sample = check("gather_bias", {"table": data.draw(tensors([rows, heads], dtype)), "index": index})
    grad = data.draw(tensors(list(op(sample).shape), dtype))
    check("_gather_bias_backward", {"grad": grad, "index": index, "num_rows": rows})


@given(st.data(), dtypes)
def test_alibi_bias(data, dtype):
    inputs = {"q_len": data.draw(st.integers(0, 30)), "k_len": data.draw(st.integers(0, 60))}
    offset = {"q_offset": data.draw(st.integers(-100, 300)), "causal": data.draw(st.booleans())}
    slopes = data.draw(tensors([data.draw(st.integers(0, 9))], dtype))
    op, sample = check("alibi_bias", {"slopes": slopes, **inputs, **offset})
    check("_alibi_bias_backward", {"grad": data.draw(tensors(list(op(sample).shape), dtype)), **offset})
