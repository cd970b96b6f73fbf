"""Decompositions: every op in ATen ops, with the values of the op."""

import doctest
import sys

import torch
from everything import Everything, inputs, values_and_gradients
from functorch.compile import make_boxed_func
from op_db import OPS
from op_types import Op, Sample, packed, round_bound
from support import differentiable, function_of, leaves, same_bits, seed, walk, widen
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.fx.experimental.proxy_tensor import make_fx

from posenc_ext import decompositions

TABLE = decompositions()
EXACT = {"window_bias", "t5_bias", "gather_bias"}


def undecomposed(graph: torch.fx.Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if "posenc_ext" in str(node.target)}


def decomposed(op: Op, sample: Sample) -> Tensor:
    """The decomposition, called as the dispatcher calls it."""
    given = dict(op.separate(sample.inputs))
    positional = [given.pop(a.name) for a in op.overload._schema.arguments if not a.kwarg_only]
    return packed(TABLE[op.overload](*positional, **given))


def check(op: Op, sample: Sample, actual: Tensor) -> None:
    """The bound of the op, and an ulp of the dtype of sums at the largest value and at 1."""
    seed(0)
    expected = op.reference(**widen(sample).inputs)
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    eps = torch.finfo(torch.float64 if actual.dtype is torch.float64 else torch.float32).eps
    bound = round_bound(expected, actual.dtype) + eps * (1 + expected[expected.isfinite()].abs().max())
    if op.error_bound is not None:
        bound = bound + op.error_bound(sample, expected)
    error = (actual.to(torch.float64) - expected).abs()
    overflow = expected.abs() > torch.finfo(actual.dtype).max
    equal = (overflow & (actual == expected.sign() * torch.inf)) | (actual.isnan() & expected.isnan())
    wrong = ~((error <= bound) | equal)
    assert not wrong.any(), f"off by {error[wrong]}, allowed {bound.expand_as(error)[wrong]}"


def first(op: Op, sample: Sample) -> bool:
    return sample.name == op.costly[0]


def test_every_overload_has_a_decomposition():
    assert {op.overload for op in OPS} == set(TABLE)


def test_example():
    result = doctest.testmod(sys.modules["posenc_ext.decompositions"])  # the function hides the module
    assert (result.failed, result.attempted) == (0, 3)


@walk()
def test_values(op, sample):
    expected = op(sample)
    seed(0)
    actual = decomposed(op, sample)
    assert actual.dtype == expected.dtype
    assert op.writes_out or op.in_place or actual.is_contiguous()
    if op.packet in EXACT:
        assert same_bits(actual, expected)
    else:
        check(op, sample, actual)


@walk(dtypes=(torch.float32,), keep=first)
def test_symbolic_trace(op, sample):
    """Sizes are symbolic, and nothing but ATen is left."""
    names = tuple(sample.tensors())
    function = function_of(op, sample, names)
    tensors = tuple(sample.tensors().values())
    mode = "real" if op.writes_out else "symbolic"  # an empty out is resized
    graph = make_fx(function, decomposition_table=TABLE, tracing_mode=mode)(*tensors)
    assert not undecomposed(graph.graph)
    seed(0)
    check(op, sample, packed(graph(*tensors)))


def test_exported_program():
    module = Everything()
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=3, max=512)
    shapes = {"x": {0: batch, 1: length}, "timesteps": {0: batch}, "step": None}
    with torch.no_grad():
        given = tuple(tensor.detach() for tensor in inputs())
        program = torch.export.export(module, (*given, 3), dynamic_shapes=shapes)
        for table in (TABLE, {**torch.export.default_decompositions(), **TABLE}):
            lowered = program.run_decompositions(table)
            assert not undecomposed(lowered.graph)
            for sizes in ((2, 4, 6), (5, 9, 6)):
                given = tuple(tensor.detach() for tensor in inputs(*sizes))
                torch.testing.assert_close(lowered.module()(*given, 3), module(*given, 3))


def test_training_graph():
    """A compiler for AOT autograd gets forward and backward in ATen ops."""
    graphs = []

    def compiler(graph, example_inputs):
        graphs.append(graph)
        return make_boxed_func(graph)

    module = Everything()
    expected = values_and_gradients(module)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend=aot_autograd(fw_compiler=compiler, decompositions=TABLE))
    actual = values_and_gradients(compiled)
    assert len(graphs) == 2
    assert not undecomposed(graphs[0].graph) | undecomposed(graphs[1].graph)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@walk(
    dtypes=(torch.float64,),
    keep=lambda op, sample: first(op, sample) and differentiable(op, sample) and not op.in_place,
)
def test_gradients(op, sample):
    """Autograd of the decomposition is the gradient of the op."""
    names = op.gradients(sample)
    results, gradients = [], []
    for function in (op, lambda sample: decomposed(op, sample)):
        seed(0)
        tensors = leaves(op, sample)
        results.append(function(sample.replace(**dict(zip(names, tensors, strict=True)))))
        upstream = torch.randn(results[0].shape, dtype=results[0].dtype)
        gradients.append(torch.autograd.grad(results[-1], tensors, upstream, allow_unused=True))
    torch.testing.assert_close(gradients[1], gradients[0])
