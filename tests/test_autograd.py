"""Gradients: of any order, in both modes, for every stride of the upstream gradient, in every dtype."""

import pytest
import torch
from op_db import OPS
from op_types import DTYPES, layouts, values
from support import differentiable, each, function_of, leaves, same, same_bits, walk
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import posenc_ext
from posenc_ext import reference

FLOAT64 = (torch.float64,)
DIFFERENTIABLE = [op for op in OPS if op.differentiable]


def sample_of(op, dtype=torch.float64):
    return next(sample for sample in op.samples("cpu", dtype) if sample.name == op.costly[0])


@walk(dtypes=FLOAT64, keep=differentiable)
def test_gradcheck(op, sample):
    function = function_of(op, sample, op.gradients(sample))
    checks = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(function, leaves(op, sample), **checks)


@walk(dtypes=FLOAT64, keep=differentiable)
def test_gradgradcheck(op, sample):
    function = function_of(op, sample, op.gradients(sample))
    checks = {"check_fwd_over_rev": True, "check_rev_over_rev": True}
    assert gradgradcheck(function, leaves(op, sample), **checks)


@each("layout", ["interleaved", "concat", "concat_cos_first"])
def test_derivatives_of_any_order(layout):
    """The k-th derivative of the sine wave with frequency w is w^k sin(wp + k pi/2)."""
    spec = {"base": 50.0, "scale": 1.5, "layout": layout, "odd": "sin"}
    weights = values((7,), "cpu", torch.float64)
    positions = torch.tensor([0.0, 0.7, -3.0, 12.0], dtype=torch.float64, requires_grad=True)
    derivative = posenc_ext.sinusoidal(positions, 7, **spec) @ weights
    for order in range(1, 6):
        (derivative,) = torch.autograd.grad(derivative.sum(), positions, create_graph=True)
        encoding = reference.encode(positions.detach(), 7, 50.0, 0.0, 1.5, layout, "sin", order)
        torch.testing.assert_close(derivative.detach(), encoding @ weights, rtol=1e-12, atol=1e-12)


@each("dtype", DTYPES)
def test_gradients_are_the_adjoint_ops(dtype):
    """Autograd calls the adjoint op, whose values the table checks, with nothing lost on the way."""
    positions = values((2, 3), "cpu", torch.float64).mul(5).to(dtype).requires_grad_()
    y = posenc_ext.sinusoidal(positions, 6, scale=0.5, layout="concat", dtype=torch.float32)
    upstream = values(y.shape, "cpu", y.dtype, seed=1)
    (actual,) = torch.autograd.grad(y, positions, upstream)
    assert same_bits(
        actual,
        torch.ops.posenc_ext._sinusoidal_backward(
            upstream, positions.detach(), 10000.0, 0.0, 0.5, "concat", "error", 1
        ),
    )

    x = values((2, 3, 6), "cpu", dtype).requires_grad_()
    y = posenc_ext.add_sinusoidal(x, x_scale=6**0.5)
    upstream = values(y.shape, "cpu", dtype, seed=1)
    (actual,) = torch.autograd.grad(y, x, upstream)
    assert same_bits(actual, reference.round_once(upstream.to(torch.float64) * 6**0.5, dtype))

    table = values((15, 3), "cpu", dtype).requires_grad_()
    y = posenc_ext.window_bias(table, [2, 3], query_size=[3, 3])
    upstream = values(y.shape, "cpu", dtype, seed=1)
    (actual,) = torch.autograd.grad(y, table, upstream)
    assert same_bits(
        actual, torch.ops.posenc_ext._window_bias_backward(upstream, 15, [2, 3], query_size=[3, 3])
    )


@each("dtype", DTYPES)
@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_upstream_gradients_of_any_stride(op, dtype):
    sample = sample_of(op, dtype)
    inputs = leaves(op, sample)
    output = function_of(op, sample, op.gradients(sample))(*inputs)
    for view, upstream in layouts(values(output.shape, "cpu", output.dtype, seed=1)):
        actual = torch.autograd.grad(output, inputs, upstream, retain_graph=True)
        expected = torch.autograd.grad(output, inputs, upstream.contiguous(), retain_graph=True)
        for a, b, leaf in zip(actual, expected, inputs, strict=True):
            assert (a.shape, a.dtype) == (leaf.shape, leaf.dtype)
            assert same(op, a, b), view


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_gradients_through_views_of_the_argument(op):
    """Strided or expanded, an argument gets the gradient of its contiguous copy, pulled through the view."""
    sample = sample_of(op)
    name = op.differentiable[0]
    for view, argument in layouts(sample.inputs[name]):
        leaf = argument.clone(memory_format=torch.contiguous_format).requires_grad_()
        function_of(op, sample, (name,))(leaf).square().sum().backward()
        if view.startswith("expanded"):
            axis = int(view.removeprefix("expanded"))
            source = argument.narrow(axis, 0, 1).detach().clone().requires_grad_()
            function_of(op, sample, (name,))(source.expand(argument.shape)).square().sum().backward()
            expected = leaf.grad.sum(axis, keepdim=True)
        else:
            source = argument.detach().requires_grad_()
            function_of(op, sample, (name,))(source).square().sum().backward()
            expected = leaf.grad
        torch.testing.assert_close(source.grad, expected)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_graph_only_where_asked(op):
    sample = sample_of(op)
    assert op(sample).grad_fn is None
    with torch.no_grad():
        assert not function_of(op, sample, op.gradients(sample))(*leaves(op, sample)).requires_grad
    with torch.inference_mode():
        result = op(sample)
        assert result.is_inference()
    assert same(op, result, op(sample))
    for name, tensor in zip(op.gradients(sample), leaves(op, sample), strict=True):
        alone = function_of(op, sample, (name,))(tensor.detach().clone().requires_grad_())
        assert alone.requires_grad


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_one_gradient_of_several(op):
    """Asking for one argument's gradient gives the same numbers as asking for all of them."""
    sample = sample_of(op)
    inputs = leaves(op, sample)
    every = torch.autograd.grad(function_of(op, sample, op.gradients(sample))(*inputs).square().sum(), inputs)
    for name, expected in zip(op.gradients(sample), every, strict=True):
        leaf = sample.tensors()[name].detach().clone().requires_grad_()
        (alone,) = torch.autograd.grad(function_of(op, sample, (name,))(leaf).square().sum(), leaf)
        if op.one_by_one:
            torch.testing.assert_close(alone, expected, rtol=1e-14, atol=1e-14)
        else:
            assert same(op, alone, expected)


@each("dtype", DTYPES)
def test_create_graph_changes_no_bit(dtype):
    """A gradient that will be differentiated again is the same gradient."""
    positions = values((40,), "cpu", dtype).requires_grad_()
    y = posenc_ext.sinusoidal(positions, 64)
    upstream = values(y.shape, "cpu", dtype, seed=1)
    (plain,) = torch.autograd.grad(y, positions, upstream, retain_graph=True)
    (recorded,) = torch.autograd.grad(y, positions, upstream, create_graph=True)
    assert recorded.requires_grad
    assert same_bits(plain, recorded)


def test_integer_positions_have_no_gradient():
    assert not posenc_ext.sinusoidal(torch.arange(4), 6).requires_grad


def test_changed_position_is_noticed():
    """Positions are saved for backward: a change in place between forward and backward is an error."""
    leaf = torch.ones(3, requires_grad=True)
    positions = leaf * 2
    y = posenc_ext.sinusoidal(positions, 4)
    positions.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_changed_index_is_noticed():
    """An index is saved for backward: a change in place between forward and backward is an error."""
    table, index = torch.ones(4, 2, requires_grad=True), torch.zeros(2, 3, dtype=torch.int64)
    y = posenc_ext.gather_bias(table, index)
    index.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_biases_save_nothing():
    """The gradient of a linear op needs none of its tensors: they may change, and nothing is kept alive."""
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        leaf = torch.ones(9, 2, requires_grad=True)
        table = leaf * 1.0
        y = posenc_ext.window_bias(table, [2, 2])
        table.zero_()
        y.sum().backward()
        posenc_ext.t5_bias(leaf * 0.0, 4, 5, max_distance=8).sum().backward()
        posenc_ext.alibi_bias(leaf[0] * 0.0, 4, 5).sum().backward()
        x = torch.ones(2, 3, 4, requires_grad=True)
        posenc_ext.add_sinusoidal(x, x_scale=2.0).sum().backward()
    assert packed == []
    assert torch.equal(leaf.grad, torch.tensor([1.0, 2, 1, 2, 4, 2, 1, 2, 1])[:, None].expand(9, 2))
    assert torch.equal(x.grad, torch.full_like(x, 2.0))


def test_saved_tensor_hooks_see_the_positions():
    """Positions go through the hooks that offload or compress saved tensors."""
    positions = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t * 2):
        y = posenc_ext.sinusoidal(positions, 2)
    y[:, 0].sum().backward()
    assert len(packed) == 1
    torch.testing.assert_close(positions.grad, (2 * positions.detach()).cos())


def test_graph_is_freed_by_backward():
    y = posenc_ext.sinusoidal(torch.ones(3, requires_grad=True), 4)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in")
def test_anomaly_mode():
    table = torch.full((9, 1), 2.0, requires_grad=True)
    with torch.autograd.detect_anomaly(check_nan=True), pytest.raises(RuntimeError, match="nan values"):
        (posenc_ext.window_bias(table, [2, 2]) * float("nan")).sum().backward()


@each("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_forward_mode_keeps_dtype(op, dtype):
    sample, name = sample_of(op, dtype), op.differentiable[0]
    argument = sample.inputs[name].contiguous()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(argument, values(argument.shape, "cpu", dtype, seed=2))
        primal, tangent = forward_ad.unpack_dual(function_of(op, sample, (name,))(dual))
        assert (tangent.dtype, tangent.shape) == (primal.dtype, primal.shape)
        assert tangent.abs().sum() > 0
