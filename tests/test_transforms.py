"""torch.func: grad, vjp, jvp, vmap and their compositions agree with plain autograd and with loops."""

import pytest
import torch
from support import costly, differentiable, each, function_of, leaves, walk

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap loops over these ops
WALK = walk(
    dtypes=(torch.float64,), keep=lambda op, sample: costly(op, sample) and differentiable(op, sample)
)


def batchable(op, sample):
    """What vmap can add a dimension to: a tensor without one is not overwritten by a result with one."""
    return ("scores",) if op.in_place else op.gradients(sample)


@WALK
def test_grad(op, sample):
    function = function_of(op, sample, op.gradients(sample))
    inputs = leaves(op, sample)
    expected = torch.autograd.grad(function(*inputs).square().sum(), inputs)
    plain = [tensor.detach() for tensor in inputs]
    actual = torch.func.grad(lambda *t: function(*t).square().sum(), argnums=tuple(range(len(plain))))(*plain)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


@WALK
def test_jvp_is_the_transpose_of_vjp(op, sample):
    function = function_of(op, sample, op.gradients(sample))
    inputs = tuple(tensor.detach() for tensor in leaves(op, sample))
    tangents = tuple(torch.randn_like(tensor) for tensor in inputs)
    output, forward = torch.func.jvp(function, inputs, tangents)
    again, pull = torch.func.vjp(function, *inputs)
    torch.testing.assert_close(output, again, rtol=0, atol=0)
    cotangent = torch.randn_like(output)
    pulled = sum((t * g).sum() for t, g in zip(tangents, pull(cotangent), strict=True))
    torch.testing.assert_close((forward * cotangent).sum(), pulled)
    assert forward.abs().sum() > 0


@WALK
def test_jacobians_agree(op, sample):
    function = function_of(op, sample, op.gradients(sample)[:1])
    (tensor, *_) = (leaf.detach() for leaf in leaves(op, sample))
    torch.testing.assert_close(torch.func.jacfwd(function)(tensor), torch.func.jacrev(function)(tensor))


@WALK
def test_hessian(op, sample):
    """Forward over reverse equals reverse over reverse."""
    function = function_of(op, sample, op.gradients(sample)[:1])
    (tensor, *_) = (leaf.detach() for leaf in leaves(op, sample))

    def loss(t):
        return function(t).pow(3).sum()

    hessian = torch.func.hessian(loss)(tensor)
    torch.testing.assert_close(hessian, torch.func.jacrev(torch.func.jacrev(loss))(tensor))


@WALK
@each("axis", [0, -1])
def test_vmap(op, sample, axis, capfd):
    """Over each tensor; an op without a rule loops and says so."""
    for name in batchable(op, sample):
        function = function_of(op, sample, (name,))
        rows = torch.stack([sample.tensors()[name] * k for k in (1.0, -0.5, 2.0)], dim=axis)
        actual = torch.func.vmap(function, in_dims=axis)(rows)
        warned = "performance drop" in capfd.readouterr().err  # a warning from C++, which goes to stderr
        assert warned or op.batched
        expected = torch.stack([function(row) for row in rows.unbind(axis)])
        torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


@WALK
def test_gradients_per_sample(op, sample):
    """vmap over grad, what per-sample gradients are made of."""
    for name in batchable(op, sample):

        def loss(tensor, name=name):
            return function_of(op, sample, (name,))(tensor).square().sum()

        rows = torch.stack([sample.tensors()[name] * k for k in (1.0, -0.5)])
        actual = torch.func.vmap(torch.func.grad(loss))(rows)
        expected = torch.stack([torch.func.grad(loss)(row) for row in rows])
        torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)
