"""Softmax with a bias, over its scores too, and attention under what traces, compiles and transforms."""

import io

import pytest
import torch
from op_types import values
from support import each, same_bits
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

OPS = torch.ops.posenc_ext


class Layer(nn.Module):
    """Every source, over the scores or not, and each attention; of tokens [B, heads, N, channels]."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.table = nn.Parameter(values((15, 2), "cpu", torch.float32, seed=1))
        self.buckets = nn.Parameter(values((32, 2), "cpu", torch.float32, seed=2))
        self.slopes = nn.Parameter(values((2,), "cpu", torch.float32, seed=3).abs())

    def softmax(self, x: Tensor) -> Tensor:
        x = x.softmax(-1)  # no pattern of fused attention
        return torch.matmul(x, x.transpose(-2, -1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n = x.size(2)
        tokens = x[:, :, :6]
        scores = self.softmax(tokens)
        ids = torch.arange(n, device=x.device)
        index = (ids + ids.unsqueeze(1)) % 15
        pairs = OPS.gather_bias(self.table, index)
        if self.in_place:
            p = OPS.window_bias_softmax_(scores, self.table, [2, 3], scale=0.5)
            a = OPS.t5_bias_softmax_(self.softmax(x), self.buckets, mask=mask)
            b = OPS.alibi_bias_softmax_(self.softmax(x), self.slopes, causal=True, q_offset=n // 4)
            c = OPS.gather_bias_softmax_(self.softmax(x), self.table, index)
            d = OPS.bias_softmax_(self.softmax(x), pairs)
        else:
            p = OPS.window_bias_softmax(scores, self.table, [2, 3], scale=0.5)
            a = OPS.t5_bias_softmax(self.softmax(x), self.buckets, mask=mask)
            b = OPS.alibi_bias_softmax(self.softmax(x), self.slopes, causal=True, q_offset=n // 4)
            c = OPS.gather_bias_softmax(self.softmax(x), self.table, index)
            d = OPS.bias_softmax(self.softmax(x), pairs)
        y = torch.matmul(a + b + c + d, x)
        y = (
            y
            + OPS.t5_attention(x, x, x, self.buckets, causal=True)
            + OPS.alibi_attention(x, x, x, self.slopes)
        )
        short = torch.matmul(p, tokens) + OPS.window_attention(
            tokens, tokens, tokens, self.table, [2, 3], scale=0.5
        )
        return y + short.mean(2, keepdim=True)


SIZES = ((3, 8), (5, 11))  # no two are equal: duck shaping would take them for one
LAYERS = [Layer(), Layer(in_place=True)]
IDS = ["new", "in place"]


def inputs(batch: int = 3, length: int = 8) -> tuple[Tensor, Tensor]:
    x = values((batch, 2, length, 4), "cpu", torch.float32, seed=batch)
    mask = values((batch, 1, length, length), "cpu", torch.float32, seed=4)
    return x.requires_grad_(), mask.requires_grad_()


def values_and_gradients(function, layer: Layer, *sizes: int) -> list[Tensor]:
    x, mask = inputs(*sizes)
    output = function(x, mask)
    return [output.detach(), *torch.autograd.grad(output.square().mean(), [x, mask, *layer.parameters()])]


def plain(*sizes: int) -> tuple[Tensor, Tensor]:
    x, mask = inputs(*sizes)
    return x.detach(), mask.detach()


def test_over_the_scores_everything_is_the_same():
    found = [values_and_gradients(layer, layer) for layer in LAYERS]
    assert all(map(same_bits, *found))


@each("backend", ["aot_eager", "inductor"])
@each("dynamic", [False, True], ids=["static", "dynamic"])
@each("layer", LAYERS, ids=IDS)
def test_compile(layer, dynamic, backend):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend=counter)
    for sizes in SIZES[: 2 if dynamic else 1]:
        expected = values_and_gradients(layer, layer, *sizes)
        torch.testing.assert_close(values_and_gradients(compiled, layer, *sizes), expected)
    assert counter.frame_count == 1
    with torch.no_grad():
        torch.testing.assert_close(compiled(*plain()), layer(*plain()))


@each("in_place", [False, True])
def test_compiled_over_an_argument(in_place):
    """The scores that a compiled function was given are written, if and only if it says so."""

    def function(scores, slopes):
        return (OPS.alibi_bias_softmax_ if in_place else OPS.alibi_bias_softmax)(scores, slopes) * 2

    torch._dynamo.reset()
    scores, slopes = values((2, 3, 5, 5), "cpu", torch.float32), torch.ones(3)
    expected = OPS.alibi_bias_softmax(scores, slopes)
    given = scores.clone()
    result = torch.compile(function, fullgraph=True, backend="aot_eager")(given, slopes)
    assert same_bits(result, expected * 2)
    assert same_bits(given, expected if in_place else scores)


@each("strict", [True, False])
@each("layer", LAYERS, ids=IDS)
def test_export(layer, strict):
    program = exported(layer, strict)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer)
    for sizes in SIZES:
        for module in (program.module(), loaded.module(), program.run_decompositions().module()):
            torch.testing.assert_close(module(*plain(*sizes)), layer(*plain(*sizes)).detach())


def exported(layer: Layer, strict: bool = False):
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=7, max=512)
    shapes = ({0: batch, 2: length}, {0: batch, 2: length, 3: length})
    return torch.export.export(layer, plain(), dynamic_shapes=shapes, strict=strict)


def test_aot_inductor(tmp_path):
    """One package with the softmax and the attention that has no gradient."""

    class Inference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", values((15, 2), "cpu", torch.float32, seed=1))

        def forward(self, x: Tensor) -> Tensor:
            scores = torch.matmul(x, x.transpose(-2, -1))
            p = OPS.window_bias_softmax(scores, self.table, [2, 3], scale=0.5)
            return torch.matmul(p, x) + OPS.window_attention(x, x, x * 2, self.table, [2, 3])

    x = values((3, 2, 6, 4), "cpu", torch.float32)
    with torch.no_grad():
        program = torch.export.export(
            Inference(), (x,), dynamic_shapes=({0: torch.export.Dim("b", min=2, max=64)},)
        )
        decomposed = program.run_decompositions()
        names = {str(node.target) for node in decomposed.graph.nodes}
        assert {"posenc_ext.window_bias_softmax.default", "posenc_ext._window_attention.default"} <= names
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        package = torch._inductor.aoti_load_package(path)
        for batch in (3, 5):
            x = values((batch, 2, 6, 4), "cpu", torch.float32, seed=batch)
            torch.testing.assert_close(package(x), Inference()(x))


@pytest.mark.filterwarnings("ignore:.torch.jit")
@each("layer", LAYERS, ids=IDS)
def test_script_saved_and_loaded(layer):
    scripted = torch.jit.script(layer)
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    expected = values_and_gradients(layer, layer)
    for module in (scripted, loaded):
        for _ in range(3):  # the profiling executor optimises from the second call on
            actual = values_and_gradients(module, module)
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


@each("layer", LAYERS, ids=IDS)
def test_autocast(layer):
    """Scores in bfloat16, tables in float32: so are their gradients, and they are near those of float32."""
    expected = values_and_gradients(layer, layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = values_and_gradients(layer, layer)
    for a, b in zip(actual[1:], expected[1:], strict=True):
        assert a.dtype is torch.float32
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.1 * b.abs().max().item())


@each("layer", LAYERS, ids=IDS)
def test_checkpoint(layer):
    function = lambda x, mask: checkpoint(layer, x, mask, use_reentrant=False)  # noqa: E731
    assert all(map(same_bits, values_and_gradients(function, layer), values_and_gradients(layer, layer)))


def test_checkpoint_drops_the_same():
    x, slopes = values((2, 3, 9, 9), "cpu", torch.float32).requires_grad_(), torch.ones(3, requires_grad=True)

    def function(x, slopes):
        return OPS.alibi_bias_softmax.dropout(x * 1.0, slopes, dropout_p=0.4, training=True)

    found = []
    for call in (function, lambda *args: checkpoint(function, *args, use_reentrant=False)):
        torch.manual_seed(3)
        found.append(torch.autograd.grad(call(x, slopes).square().sum(), [x, slopes]))
    assert all(map(same_bits, *found))


@each("layer", LAYERS, ids=IDS)
@each("mode", ["real", "fake", "symbolic"])
def test_make_fx(layer, mode):
    parameters = dict(layer.named_parameters())

    def step(x, mask, *weights):
        output = torch.func.functional_call(layer, dict(zip(parameters, weights, strict=True)), (x, mask))
        return output, *torch.autograd.grad(output.square().mean(), [x, mask, *weights])

    arguments = [*inputs(), *parameters.values()]
    graph = make_fx(step, tracing_mode=mode)(*arguments)
    other = [*inputs(*SIZES[1 if mode == "symbolic" else 0]), *parameters.values()]
    torch.testing.assert_close(graph(*other), step(*other))


@each("layer", LAYERS, ids=IDS)
def test_compiled_autograd(layer):
    expected = values_and_gradients(layer, layer)
    with compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        actual = values_and_gradients(layer, layer)
    torch.testing.assert_close(actual, expected)  # gradients of several uses are added in another order


# ---- torch.func

CALLS = {
    "softmax": lambda x, table: OPS.window_bias_softmax(x @ x.mT, table, [2, 2], scale=0.5),
    "in place": lambda x, table: OPS.window_bias_softmax_(x @ x.mT, table, [2, 2], scale=0.5),
    "attention": lambda x, table: OPS.window_attention(x, x, x, table, [2, 2]),
    "alibi attention": lambda x, table: OPS.alibi_attention(x, x, x, table[0]),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@each("function", CALLS.values(), ids=CALLS)
def test_transforms(function):
    x = values((2, 3, 4, 5), "cpu", torch.float64, seed=1) / 2
    table = values((9, 3), "cpu", torch.float64, seed=2)

    def loss(x, table):
        return function(x, table).pow(3).sum()

    leaves = [x.clone().requires_grad_(), table.clone().requires_grad_()]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    close = torch.testing.assert_close
    close(torch.func.grad(loss, argnums=(0, 1))(x, table), expected)
    _, pull = torch.func.vjp(loss, x, table)
    close(pull(torch.ones((), dtype=torch.float64)), expected)
    tangents = (torch.ones_like(x), torch.ones_like(table) / 3)
    _, forward = torch.func.jvp(loss, (x, table), tangents)
    close(forward, sum((e * t).sum() for e, t in zip(expected, tangents, strict=True)))

    # Over samples, and over tables: an ensemble.
    close(torch.func.vmap(function, (0, None))(x, table), function(x, table))
    tables = torch.stack([table, table * 2])
    if function is CALLS["in place"]:
        with pytest.raises(RuntimeError, match="is not possible"):  # as for every op of torch
            torch.func.vmap(function, (None, 0))(x, tables)
    else:
        close(torch.func.vmap(function, (None, 0))(x, tables), torch.stack([function(x, t) for t in tables]))
    # Gradients for each sample, and of a loss over a vmap.
    per_sample = torch.func.vmap(torch.func.grad(loss, argnums=1), (0, None))(x, table)
    close(per_sample.sum(0), expected[1])
    summed = torch.func.grad(lambda t: torch.func.vmap(loss, (0, None))(x, t).sum())(table)
    close(summed, expected[1])

    small = x[:1, :, :, :2].contiguous()
    hessian = torch.func.hessian(lambda t: loss(small, t))(table)
    close(hessian, torch.func.jacrev(torch.func.jacrev(lambda t: loss(small, t)))(table))
    close(hessian.reshape(27, 27), hessian.reshape(27, 27).T)
    assert hessian.abs().sum() > 0


def test_gradient_of_a_mask_alone_under_transforms():
    """Scores that no transform sees are not written by one that sees the mask."""
    x, table = values((2, 3, 4, 5), "cpu", torch.float64), values((9, 3), "cpu", torch.float64)
    mask = values((4, 4), "cpu", torch.float64)
    for call in (
        lambda m: OPS.window_attention(x, x, x, table, [2, 2], mask=m),
        lambda m: OPS.window_bias_softmax(x @ x.mT, table, [2, 2], mask=m),
    ):
        leaf = mask.clone().requires_grad_()
        (expected,) = torch.autograd.grad(call(leaf).square().sum(), leaf)
        torch.testing.assert_close(torch.func.grad(lambda m, c=call: c(m).square().sum())(mask), expected)
        masks = torch.stack([mask, -mask])
        batched = torch.func.vmap(torch.func.grad(lambda m, c=call: c(m).square().sum()))(masks)
        torch.testing.assert_close(batched[0], expected)


# ---- In place, and what is saved


def softmax_(scores: Tensor, table: Tensor | None = None) -> Tensor:
    return OPS.bias_softmax_(scores, torch.zeros(scores.shape[-3:]) if table is None else table)


def test_in_place_on_a_leaf_is_an_error():
    scores = torch.ones(1, 2, 3, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        softmax_(scores)
    assert torch.equal(scores, torch.ones(1, 2, 3, 3))
    with torch.no_grad():
        softmax_(scores)
    torch.testing.assert_close(scores.detach().sum(), torch.tensor(6.0))


@each("wants", ["scores", "table"])
def test_in_place_on_a_view(wants):
    """Autograd of the base follows, also where the base wants no gradient until a table brings one."""
    base = values((2, 2, 2, 3, 4), "cpu", torch.float64).requires_grad_(wants == "scores")
    table = values((2, 3, 4), "cpu", torch.float64, seed=1).requires_grad_(wants == "table")

    def run(in_place):
        whole = base * 2
        if in_place:
            assert softmax_(whole[1], table) is not None
        else:
            whole = torch.stack([whole[0], OPS.bias_softmax(whole[1], table)])
        return whole, torch.autograd.grad(whole.pow(2).sum(), base if wants == "scores" else table)[0]

    for actual, expected in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-14)


def test_in_place_on_a_view_twice_differentiated():
    """The result that is saved has the history of the view, not of the op alone."""
    base = values((2, 1, 2, 2, 3), "cpu", torch.float64).requires_grad_()
    table = values((2, 2, 3), "cpu", torch.float64, seed=1).requires_grad_()

    def run(base, table):
        whole = base * 2
        softmax_(whole[1], table)
        return whole

    assert torch.autograd.gradgradcheck(run, (base, table))


def test_in_place_where_the_scores_are_still_needed_is_an_error():
    """A product saves its factors: scores that another op saved must not be written over."""
    leaf = torch.ones(1, 2, 3, 3, requires_grad=True)
    scores = leaf * 1.0
    square = scores.square()
    p = softmax_(scores)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (square.sum() + p.sum()).backward()


def test_matmul_does_not_need_its_scores():
    x = values((2, 3, 4, 5), "cpu", torch.float64).requires_grad_()
    found = [
        torch.autograd.grad(CALLS[name](x, torch.ones(9, 3).double()).square().sum(), x)[0]
        for name in ("softmax", "in place")
    ]
    torch.testing.assert_close(*found, rtol=0, atol=0)


@each("in_place", [False, True])
@each("table_only", [False, True])
def test_result_changed_in_place_is_an_error(in_place, table_only):
    leaf = torch.ones(1, 2, 3, 3, requires_grad=not table_only)
    table = torch.zeros(2, 3, 3, requires_grad=True)
    p = (OPS.bias_softmax_ if in_place else OPS.bias_softmax)(leaf * 1.0, table)
    p.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        p.sum().backward()


@each("call", ["bias_softmax", "bias_softmax_"])
def test_only_the_result_is_saved_and_by_hooks(call):
    """What offloads or compresses saved tensors sees one: the result, of which gradients are made."""
    packed, values_given = [], values((1, 2, 3, 3), "cpu", torch.float64)
    leaf = values_given.clone().requires_grad_()
    table = torch.zeros(2, 3, 3, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t.clone(), lambda t: t):
        p = getattr(OPS, call)(leaf + 0.0, table)
    assert [t.shape for t in packed] == [p.shape]
    assert same_bits(packed[0], p)
    grads = torch.autograd.grad(p.square().sum(), [leaf, table])
    again = values_given.clone().requires_grad_()
    (expected,) = torch.autograd.grad(again.softmax(-1).square().sum(), again)
    torch.testing.assert_close(grads[0], expected)
    torch.testing.assert_close(grads[1], expected[0])


def test_gradients_have_the_same_bits_whichever_are_needed():
    scores, table = values((40, 2, 49, 49), "cpu", torch.float32), values((169, 2), "cpu", torch.float32)
    mask = values((49, 49), "cpu", torch.float32)
    tensors = {"scores": scores, "table": table, "mask": mask}
    grad = values(scores.shape, "cpu", torch.float32, seed=1)
    found: dict[str, Tensor] = {}
    for names in (("scores", "table"), ("scores",), ("table",), ("mask",), ("scores", "table", "mask")):
        leaves = {name: tensors[name].clone().requires_grad_() for name in names}
        y = OPS.window_bias_softmax(**{**tensors, **leaves}, window=[7, 7], scale=0.3)
        for name, gradient in zip(names, torch.autograd.grad(y, list(leaves.values()), grad), strict=True):
            assert same_bits(gradient, found.setdefault(name, gradient)), f"{name} of {names}"


def test_the_adjoint_is_differentiable():
    """As a graph of forward and backward needs that is differentiated again."""
    y = values((2, 2, 4, 4), "cpu", torch.float64).softmax(-1).requires_grad_()
    grad = values(y.shape, "cpu", torch.float64, seed=1).requires_grad_()

    def function(grad, y):
        return OPS._window_bias_softmax_backward(grad, y, [9, 2], [2, 2], scale=0.5)

    torch.testing.assert_close(function(grad, y), function(grad.detach(), y.detach()))
    assert torch.autograd.gradcheck(function, (grad, y), check_forward_ad=True)


def test_in_place_over_memory_of_another_argument_is_an_error():
    scores, bias = values((2, 3, 4, 5), "cpu", torch.float32), torch.zeros(3, 4, 5)
    before = scores.clone()
    with pytest.raises(RuntimeError, match="scores must not overlap mask"):
        OPS.bias_softmax_(scores, bias, mask=scores)
    with pytest.raises(RuntimeError, match="scores must not overlap bias"):
        OPS.bias_softmax_(scores, scores[1])
    with pytest.raises(RuntimeError, match="scores must not overlap itself"):
        OPS.bias_softmax_(scores[:1].expand(2, 3, 4, 5), bias)
    assert same_bits(scores, before)


def test_in_place_tangents():
    """Of a table alone, and of scores too: those of the op that makes a new result."""
    scores, table = values((2, 3, 4, 4), "cpu", torch.float64), values((9, 3), "cpu", torch.float64, seed=1)
    for names in (("table",), ("scores",), ("scores", "table")):
        with forward_ad.dual_level():
            tensors = {"scores": scores.clone(), "table": table}
            for name in names:
                tensors[name] = forward_ad.make_dual(tensors[name], torch.ones_like(tensors[name]).cumsum(-1))
            expected = forward_ad.unpack_dual(OPS.window_bias_softmax(**tensors, window=[2, 2]))
            result = OPS.window_bias_softmax_(**tensors, window=[2, 2])
            assert forward_ad.unpack_dual(tensors["scores"]).tangent is not None
            actual = forward_ad.unpack_dual(result)
            torch.testing.assert_close(actual.primal, expected.primal, rtol=0, atol=0)
            torch.testing.assert_close(actual.tangent, expected.tangent)
            assert actual.tangent.abs().sum() > 0
