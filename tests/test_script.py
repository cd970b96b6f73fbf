"""TorchScript: every op scripted, traced, saved, loaded and frozen gives the same values and gradients."""

import inspect
import io
import re

import pytest
import torch
from everything import Everything, inputs, values_and_gradients
from op_db import OPS
from support import costly, function_of, requiring_gradients, same, same_bits, walk

import posenc_ext

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit")  # TorchScript is deprecated, and in use


def script(op):
    """A scripted function of every argument of the op, in the order of its schema."""
    arguments = op.overload._schema.arguments
    declared = ", ".join(f"{argument.name}: {argument.type}" for argument in arguments)
    passed = ", ".join(f"{a.name}={a.name}" if a.kwarg_only else a.name for a in arguments)
    results = ", ".join("Tensor" for _ in op.overload._schema.returns)
    result = results if results == "Tensor" else f"Tuple[{results}]"
    source = f"def function({declared}) -> {result}:\n    return torch.ops.posenc_ext.{op.packet}({passed})\n"
    return torch.jit.CompilationUnit(source).function


def saved_and_loaded(function):
    buffer = io.BytesIO()
    torch.jit.save(function, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def gradients(output, sample):
    wanted = [tensor for tensor in sample.tensors().values() if tensor.requires_grad]
    return torch.autograd.grad(output.square().sum(), wanted) if wanted else ()


def check_same(op, sample, function):
    expected_sample, sample = (requiring_gradients(op, sample, clone=True) for _ in range(2))
    expected = op(expected_sample)
    for _ in range(3):  # the profiling executor optimises from the second call on
        actual = op.apply(function, sample.inputs)
        assert same(op, actual, expected)
        for a, b in zip(
            gradients(actual, sample), gradients(op(expected_sample), expected_sample), strict=True
        ):
            assert same(op, a, b)


@walk(dtypes=(torch.float32, torch.float64), keep=costly)
def test_script(op, sample):
    scripted = script(op)
    check_same(op, sample, scripted)
    check_same(op, sample, saved_and_loaded(scripted))


@walk(dtypes=(torch.float32,), keep=lambda op, sample: costly(op, sample) and op.wrapper)
def test_wrappers_are_scriptable(op, sample):
    check_same(op, sample, torch.jit.script(op.wrapper))


@walk("trace", dtypes=(torch.float64,), keep=costly)
def test_trace(op, sample):
    sample = requiring_gradients(op, sample, clone=True)
    tensors = tuple(sample.tensors().values())
    function = function_of(op, sample, tuple(sample.tensors()))
    traced = torch.jit.trace(function, tensors)
    assert re.search(f"posenc_ext::_?{op.packet}", str(traced.inlined_graph))
    expected = function(*tensors)
    for candidate in (traced, saved_and_loaded(traced)):
        for _ in range(3):
            actual = candidate(*tensors)
            assert same(op, actual, expected)
            for a, b in zip(gradients(actual, sample), gradients(function(*tensors), sample), strict=True):
                assert same(op, a, b)


def traced_calls(x):
    """Ops whose sizes, as integers or in lists, by position or by name, depend on x."""
    n, table = x.size(1), torch.arange(64.0).view(32, 2)
    yield posenc_ext.sinusoidal_table(n, 2 * x.shape[2], start=n, device="cpu", dtype=torch.float64)
    yield posenc_ext.sinusoidal_table(n, 4, layout="concat")
    yield posenc_ext.sinusoidal(x[:, 0, 0], 2 * n)
    yield posenc_ext.window_bias(table[:9], [2, 2], [x.size(2), n])
    yield posenc_ext.t5_bias(table, n, n + 1, q_offset=n - 1, bidirectional=False)
    yield posenc_ext.alibi_bias(posenc_ext.alibi_slopes(2, device=x.device), q_len=1, k_len=n)
    yield posenc_ext.sinusoidal_grid([2, 2], 8, device=torch.device("cpu"))
    scores = x[:, :, None] * x[:, :, :, None]  # [samples, heads, Q, K]
    slopes = posenc_ext.alibi_slopes(n, device=x.device)
    yield posenc_ext.alibi_bias_softmax(scores, slopes, causal=True, q_offset=n)
    yield posenc_ext.alibi_bias_softmax(scores * 2, slopes, q_offset=n, inplace=True)
    yield posenc_ext.alibi_attention(scores, scores, scores, slopes, causal=True, q_offset=n)


def test_a_trace_follows_sizes():
    traced = torch.jit.trace(lambda x: tuple(traced_calls(x)), torch.zeros(2, 3, 4))
    x = torch.ones(1, 5, 6)
    for candidate in (traced, saved_and_loaded(traced)):
        for number, (actual, expected) in enumerate(zip(candidate(x), traced_calls(x), strict=True)):
            assert same_bits(actual, expected), number


def test_module_scripted_saved_loaded_and_frozen():
    module = Everything()
    expected = values_and_gradients(module)
    scripted = torch.jit.script(module)
    loaded = saved_and_loaded(scripted)
    for candidate in (scripted, loaded):
        for _ in range(3):
            (y, *gradients), (wanted, *others) = values_and_gradients(candidate), list(expected)
            assert same_bits(y, wanted)
            # Optimized graphs add the uses of x in another order.
            torch.testing.assert_close(gradients.pop(0), others.pop(0))
            assert all(map(same_bits, gradients, others))
    frozen = torch.jit.freeze(loaded.eval())
    with torch.no_grad():
        assert same_bits(frozen(*inputs(), 3), expected[0])


def test_the_module_calls_every_public_op():
    code = inspect.getsource(Everything)
    assert {op.packet for op in OPS if op.wrapper} == set(re.findall(r"posenc_ext\.(\w+)\(", code))
