"""torch.compile(fullgraph=True), static and dynamic, with backward, and compiled autograd."""

from functools import partial

import pytest
import torch
from everything import Everything, values_and_gradients
from support import costly, each, function_of, same, same_bits, walk
from torch._dynamo import compiled_autograd
from torch._dynamo.testing import CompileCounterWithBackend

import posenc_ext


def one_graph(function, **options):
    """By a compiler that has seen nothing before, in one graph."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, **options)


@each("dynamic", [False, True], ids=["static", "dynamic"])
@walk("compile", dtypes=(torch.float32,), keep=costly)
def test_graph_capture(op, sample, dynamic):
    """Every op, with its backward, goes whole into the graphs of AOT autograd."""
    tensors = sample.tensors()
    names = tuple(name for name in op.gradients(sample) if tensors[name].is_floating_point())
    function = function_of(op, sample, names)
    compiled = one_graph(function, dynamic=dynamic, backend="aot_eager")
    leaves = [tensors[name].detach().clone().requires_grad_() for name in names]
    expected, actual = function(*leaves), compiled(*leaves)
    assert same(op, actual, expected)
    if names:
        gradients = [torch.autograd.grad(output.square().sum(), leaves) for output in (actual, expected)]
        # Traced, an op in place is a copy, through which the gradient of a hidden key becomes 0 from -0.
        equal = torch.equal if op.in_place else partial(same, op)
        assert all(equal(a, b) for a, b in zip(*gradients, strict=True))


@each("dynamic", [False, True], ids=["static", "dynamic"])
def test_inductor(dynamic):
    """The default backend, on every public op and the arithmetic between them."""
    module = Everything()
    counter = CompileCounterWithBackend("inductor")
    compiled = one_graph(module, dynamic=dynamic, backend=counter)
    graphs = []
    for sizes in [(2, 4, 6), (3, 5, 6)] if dynamic else [(2, 4, 6)]:
        actual, expected = (values_and_gradients(m, *sizes) for m in (compiled, module))
        torch.testing.assert_close(actual, expected)
        graphs.append(counter.frame_count)
    assert graphs[-1] == graphs[0], "a new size needed a new graph"


def table(size, x):
    return posenc_ext.sinusoidal_table(size, 8, start=size + 1)


def timesteps(size, x):
    return posenc_ext.sinusoidal(x.sum((1, 2)), 8, scale=0.5)


def add(size, x):
    return posenc_ext.add_sinusoidal(x, start=size)


def add_offsets(size, x):
    return posenc_ext.add_sinusoidal(x, start=torch.arange(x.size(1)), batch_first=False)


def embed(size, x):
    x = x[: size * size]
    tokens, cls = x.transpose(0, 1), x[:1].mean(0, keepdim=True).mean(1, keepdim=True)
    prefixes = [cls, tokens[:, :2]]
    return posenc_ext.add_position_embedding(tokens, x[:, 0], prefixes, embed_prefix=False)


def bias(size, x):
    rows = x.sum((1, 2)).expand(2, -1).T  # [(2 size - 1)(2 size + 1), heads]
    return posenc_ext.window_bias(rows, [size, size + 1], query_size=[2 * size, size + 3])


def t5(size, x):
    return posenc_ext.t5_bias(x[:, :, 0].T[:, :16].T, size, size + 3, q_offset=size)


def gather(size, x):
    return posenc_ext.gather_bias(x[:4, :, 0], torch.arange(size)[None] % 4)


def alibi(size, x):
    return posenc_ext.alibi_bias(x[0, 0], size, size + 3, q_offset=size)


def window_softmax(size, x):
    n = size * size
    rows = x.sum((1, 2)).expand(2, -1).T[: (2 * size - 1) ** 2]
    return posenc_ext.window_bias_softmax(x[:n, 0, :2].T[:, :, None] * x[:n, 0, 0], rows, [size, size])


def t5_softmax(size, x):
    scores = x.unflatten(2, (2, 4))[:, 0].transpose(1, 2)  # [samples, 4, 2]
    scores = scores.unsqueeze(1) @ x[:, None, :size, :2].transpose(-2, -1)
    return posenc_ext.t5_bias_softmax(scores, x[:16, 0, :1], q_offset=size, causal=True, inplace=True)


def alibi_attend(size, x):
    heads = x.unflatten(2, (2, 4)).transpose(1, 2)
    return posenc_ext.alibi_attention(heads, heads, heads, x[0, 0, :2], causal=True, q_offset=size)


FUNCTIONS = [table, timesteps, add, add_offsets, embed, bias, t5, gather, alibi]
FUNCTIONS += [window_softmax, t5_softmax, alibi_attend]


@each("function", FUNCTIONS)
def test_a_new_size_needs_no_new_graph(function):
    """Lengths, offsets and windows are symbolic; dim is a constant of the model."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = one_graph(function, dynamic=True, backend=counter)
    graphs = []
    for size in (4, 6, 10):
        x = torch.randn((2 * size - 1) * (2 * size + 1), size + 2, 8, requires_grad=True)
        actual, expected = compiled(size, x), function(size, x)
        assert same_bits(actual, expected)
        if expected.requires_grad:
            gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected)]
            torch.testing.assert_close(*gradients, rtol=0, atol=0)
        graphs.append(counter.frame_count)
    assert graphs == graphs[:1] * 3


def test_errors_at_capture():
    compiled = one_graph(posenc_ext.window_bias, backend="aot_eager")
    with pytest.raises(Exception, match="table must have 9 rows for window \\[2, 2\\], got 8"):
        compiled(torch.ones(8, 2), [2, 2])


@each("backend", ["aot_eager", "inductor"])
def test_dropout_drops_the_same_in_backward(backend):
    """Forward and backward are compiled separately: both must use the one seed that was drawn."""

    def function(x):
        return posenc_ext.add_sinusoidal(x, x_scale=3.0, dropout_p=0.5, training=True)

    compiled = one_graph(function, backend=backend)
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

    def dropped(x, timesteps, step):
        torch.manual_seed(step)
        return posenc_ext.add_sinusoidal(
            module(x, timesteps, step), dropout_p=0.5, training=True, x_scale=2.0
        )

    dropped.parameters = module.parameters
    expected = values_and_gradients(dropped)
    with compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        actual = values_and_gradients(dropped)
    torch.testing.assert_close(actual, expected)  # the uses of x are added in another order
