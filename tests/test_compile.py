"""torch.compile(fullgraph=True), static and dynamic, with backward, and compiled autograd."""

import pytest
import torch
from everything import Everything, values_and_gradients
from support import cases, costly, function_of, same_bits
from torch._dynamo import compiled_autograd
from torch._dynamo.testing import CompileCounterWithBackend

import posenc_ext


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("op", "sample"), cases(dtypes=(torch.float32,), keep=costly))
def test_graph_capture(op, sample, dynamic):
    """Every op, with its backward, goes whole into the graphs of AOT autograd."""
    names = tuple(name for name in op.differentiable if sample.inputs[name].is_floating_point())
    function = function_of(op, sample, names)
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    leaves = [sample.inputs[name].detach().clone().requires_grad_() for name in names]
    expected, actual = function(*leaves), compiled(*leaves)
    assert same_bits(actual, expected)
    if names:
        gradients = [torch.autograd.grad(output.square().sum(), leaves) for output in (actual, expected)]
        assert all(map(same_bits, *gradients))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_inductor(dynamic):
    """The default backend, on every public op and the arithmetic between them; two sizes when dynamic."""
    module = Everything()
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend=counter)
    for sizes in [(2, 4, 6), (3, 5, 8)] if dynamic else [(2, 4, 6)]:
        torch.testing.assert_close(
            values_and_gradients(compiled, *sizes), values_and_gradients(module, *sizes)
        )
    assert counter.frame_count == 1


def table_of(size):
    return posenc_ext.sinusoidal_table(size, 2 * size, start=size + 1)


def encode(size):
    return posenc_ext.sinusoidal(torch.arange(size), size + size % 2, scale=0.5)


def add(size):
    x = torch.ones(size, size + 1, 2 * size)
    return posenc_ext.add_sinusoidal(x, start=size) + posenc_ext.add_sinusoidal(x, start=torch.arange(size))


def bias(size):
    rows = (2 * size - 1) * (2 * size + 1)
    table = torch.arange(rows * size, dtype=torch.float32).view(rows, size).requires_grad_()
    y = posenc_ext.window_bias(table, [size, size + 1], query_size=[2 * size, size + 3])
    return y * y


@pytest.mark.parametrize("function", [table_of, encode, add, bias], ids=lambda function: function.__name__)
def test_one_graph_for_every_size(function):
    """Lengths, dims, offsets and windows are symbolic: a new size needs no new graph."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for size in (4, 6, 10):
        actual, expected = compiled(size), function(size)
        assert same_bits(actual, expected)
        if expected.requires_grad:
            actual.sum().backward()
    assert counter.frame_count == 1


def test_errors_at_capture():
    compiled = torch.compile(posenc_ext.window_bias, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="table must have 9 rows for window \\[2, 2\\], got 8"):
        compiled(torch.ones(8, 2), [2, 2])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_dropout_drops_the_same_in_backward(backend):
    """Forward and backward are compiled apart: both must use the one seed that was drawn."""

    def function(x):
        return posenc_ext.add_sinusoidal(x, x_scale=3.0, dropout_p=0.5, training=True)

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    x = torch.full((4, 64, 32), 5.0, requires_grad=True)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        y = compiled(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, torch.where(y == 0, 0.0, 6.0))
        outputs.append(y)
    assert same_bits(outputs[0], outputs[1])
    assert 0.4 < (outputs[2] == 0).float().mean() < 0.6
    assert not torch.equal(outputs[0] == 0, outputs[2] == 0)


def test_compiled_autograd():
    """The backward pass itself traced by dynamo: what a hand-written Node must support to train under it."""
    module = Everything()
    expected = values_and_gradients(module)
    with compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        actual = values_and_gradients(module)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
