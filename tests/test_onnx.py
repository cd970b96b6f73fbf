"""ONNX: every op, every module and whole models, exported and run in onnxruntime on the CPU.

python tests/test_onnx.py prints the largest differences.
"""

import copy
import logging

import pytest
import torch
from everything import Everything, inputs
from op_db import OPS
from op_types import Op, Sample
from test_decompositions import check
from test_nn_every import MODULES
from torch import Tensor, nn

import posenc_ext
from posenc_ext.nn import (
    AttentionPool2d,
    LearnedPositionalEmbedding,
    SinusoidalPositionalEmbedding,
    SinusoidalPositionalEncoding,
    T5RelativePositionBias,
    TimestepEmbedding,
    VisionPositionEmbedding,
    WindowBiasSoftmax,
    WindowRelativePositionBias,
)

REASON = "needs onnx, onnxscript and onnxruntime: pip install -r requirements/onnx.txt"
pytest.importorskip("onnxscript", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)

BOUND = 2.0**-15  # of modules and models, whose values are of order 1, in float32
EXACT = ("window_bias", "t5_bias", "gather_bias", "alibi_slopes", "sinusoidal_table")


def exported(module: nn.Module, given: tuple, dynamic_shapes=None):
    """A function of inputs that runs the model in onnxruntime."""
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    table = posenc_ext.onnx.translation_table()
    options = {"dynamo": True, "dynamic_shapes": dynamic_shapes, "verbose": False}
    program = torch.onnx.export(module.eval(), given, custom_translation_table=table, **options)
    assert {node.domain for node in program.model.graph.all_nodes()} <= {"", "pkg.onnxscript.torch_lib"}
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]

    def run(*tensors: Tensor) -> list[Tensor]:
        feed = {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


def difference(actual: Tensor, expected: Tensor) -> float:
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert torch.equal(actual.isnan(), expected.isnan())
    error = (actual.to(torch.float64) - expected.detach().to(torch.float64)).abs().nan_to_num(0.0)
    return float(error.max()) if error.numel() else 0.0


class Calls(nn.Module):
    """Many calls in one model: every export takes seconds."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        return [call(tensors[first : first + count]) for call, first, count in self.calls]


def op_results(dtype: torch.dtype) -> list[tuple[Op, Sample, Tensor, Tensor]]:
    """The costly samples of every public op, what onnxruntime computes, and what the op does."""
    samples, calls, tensors = [], [], []
    for op in OPS:
        for sample in op.samples("cpu", dtype) if op.wrapper else ():
            if sample.name not in op.costly or sample.inputs.get("training"):
                continue
            given = sample.tensors()

            def call(values, op=op, sample=sample, given=given):
                return op(sample, **dict(zip(given, values, strict=True)))

            samples.append((op, sample))
            calls.append((call, len(tensors), len(given)))
            tensors += [tensor.clone() for tensor in given.values()]
    module = Calls(calls)
    actual, expected = exported(module, (tensors,))(*tensors), module(tensors)
    return [(*case, a, b) for case, a, b in zip(samples, actual, expected, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_every_op(dtype):
    for op, sample, actual, expected in op_results(dtype):
        error = difference(actual, expected)
        if op.packet in EXACT:
            assert error == 0.0, op.name
        elif dtype is torch.float16:  # whose products onnxruntime may sum in another precision
            assert error <= 2.0**-6, f"{op.name} {sample.name}: {error}"
        else:
            check(op, sample, actual)


class Modules(nn.Module):
    """Modules with arguments that are constants, except tensors."""

    def __init__(self, table):
        super().__init__()
        self.modules_of = nn.ModuleList(build().eval() for build, _ in table.values())
        self.arguments = [arguments for _, arguments in table.values()]

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        tensors, results = iter(tensors), []
        for module, arguments in zip(self.modules_of, self.arguments, strict=True):
            given = [next(tensors) if isinstance(value, Tensor) else value for value in arguments]
            results.append(module(*given))
        return results


def module_differences() -> dict[str, float]:
    module = Modules(MODULES)
    tensors = [value for arguments in module.arguments for value in arguments if isinstance(value, Tensor)]
    actual = exported(module, (tensors,))(*tensors)
    return {name: difference(a, b) for name, a, b in zip(MODULES, actual, module(tensors), strict=True)}


def test_every_module():
    for name, error in module_differences().items():
        assert error <= BOUND, f"{name}: {error}"


class Dynamic(nn.Module):
    """Modules that accept any batch and any length."""

    def __init__(self):
        super().__init__()
        self.encoding = SinusoidalPositionalEncoding(6, 0.0, batch_first=True)
        self.embedding = SinusoidalPositionalEmbedding(9, 6, 0)
        self.learned = LearnedPositionalEmbedding(64, 6)
        self.timesteps = TimestepEmbedding(6, True, 0)
        self.vision = VisionPositionEmbedding((3, 4), 6)
        self.pool = AttentionPool2d((3, 4), 6, 2)
        self.softmax = WindowBiasSoftmax((3, 4), 6)
        self.t5 = T5RelativePositionBias(6)

    def forward(self, x: Tensor, tokens: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        y = self.learned(self.encoding(x)) + self.embedding(tokens)
        scores = torch.matmul(y, y.mT).unsqueeze(1) / 32 + self.t5(y.size(1), y.size(1))
        map_ = image.unflatten(-1, (3, 4))
        windows = image.unsqueeze(-1) * image.unsqueeze(-2)
        times = self.timesteps(image.mean((1, 2)) * 100)
        return scores, self.vision(map_), self.pool(map_), self.softmax(windows), times


def dynamic_inputs(batch: int, length: int) -> tuple[Tensor, ...]:
    tokens = torch.randint(0, 9, (batch, length))
    return torch.randn(batch, length, 6), tokens, torch.randn(batch, 6, 12)


def dynamic_differences() -> list[float]:
    batch, length = torch.export.Dim("batch", min=2), torch.export.Dim("length", min=2, max=64)
    module, results = Dynamic(), []
    shapes = ({0: batch, 1: length}, {0: batch, 1: length}, {0: batch})
    run = exported(module, dynamic_inputs(2, 5), shapes)
    for sizes in ((2, 5), (7, 40)):
        given = dynamic_inputs(*sizes)
        results += [difference(a, b) for a, b in zip(run(*given), module(*given), strict=True)]
    module = Everything()
    run = exported(module, (*inputs(), 3), {"x": shapes[0], "timesteps": {0: batch}, "step": None})
    for sizes in ((2, 4, 6), (5, 9, 6)):
        given = inputs(*sizes)
        results.append(difference(run(*given)[0], module(*given, 3)))
    return results


def test_dynamic_batch_and_length():
    assert max(dynamic_differences()) <= BOUND


def test_dropout_is_an_error():
    module = SinusoidalPositionalEncoding(6, 0.5)
    module.eval = module.train  # which torch.onnx.export calls
    with pytest.raises(Exception, match=r"dropout is not exported: call model.eval\(\) first"):
        exported(module.train(), (torch.randn(5, 2, 6),))


def replace_biases(model: nn.Module, kind: type, method: str, build) -> int:
    """Our module, with the weights of each attention, in place of its bias."""
    attentions = [module for module in model.modules() if isinstance(module, kind)]
    for attention in attentions:
        attention.position_bias = ours = build(attention)
        setattr(attention, method, lambda *sizes, ours=ours, **_: ours(*sizes[:2]))
    return len(attentions)


def swin() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torchvision = pytest.importorskip("torchvision", reason="Swin is a model of torchvision")
    kind = torchvision.models.swin_transformer.ShiftedWindowAttention
    model = torchvision.models.SwinTransformer([4, 4], 12, [2, 2], [2, 3], [7, 7], num_classes=5)

    def build(attention):
        ours = WindowRelativePositionBias(attention.window_size, attention.num_heads)
        ours.relative_position_bias_table = nn.init.normal_(attention.relative_position_bias_table)
        return ours

    assert replace_biases(model, kind, "get_relative_position_bias", build) == 4
    nn.init.normal_(model.head.weight)
    return model.eval(), (torch.randn(2, 3, 56, 56),)


class Vit(nn.Module):
    """torchvision's, with its encoder after our position embedding."""

    def __init__(self, vit: nn.Module):
        super().__init__()
        self.vit = vit
        self.embed = VisionPositionEmbedding((3, 3), 12)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(self.vit.conv_proj(image))
        return self.vit.heads(self.vit.encoder.ln(self.vit.encoder.layers(x))[:, 0])


def vit() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torchvision = pytest.importorskip("torchvision", reason="ViT is a model of torchvision")
    model = Vit(torchvision.models.VisionTransformer(48, 16, 2, 3, 12, 24, num_classes=5))
    nn.init.normal_(model.embed.cls_token), nn.init.normal_(model.vit.heads[0].weight)
    return model.eval(), (torch.randn(2, 3, 48, 48),)


class T5Encoder(nn.Module):
    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        return self.encoder(input_ids=tokens).last_hidden_state


def t5() -> tuple[nn.Module, tuple[Tensor, ...]]:
    transformers = pytest.importorskip("transformers", reason="T5 is a model of transformers")
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=4)
    model = transformers.T5EncoderModel(config)

    def build(attention):
        ours = T5RelativePositionBias(attention.n_heads)
        ours.relative_attention_bias = attention.relative_attention_bias
        return ours

    first = model.encoder.block[0].layer[0].SelfAttention
    assert replace_biases(first, type(first), "compute_bias", build) == 1
    return T5Encoder(model).eval(), (torch.randint(2, 50, (2, 40)),)


MODELS = {"Swin (torchvision)": swin, "ViT (torchvision)": vit, "T5 encoder (transformers)": t5}


def model_difference(build) -> float:
    """At the sizes that were traced, and at a batch of 5 (and a length of 23)."""
    torch.manual_seed(0)
    model, given = build()
    batch = torch.export.Dim("batch", min=2)
    dynamic = {0: batch, 1: torch.export.Dim("length", min=2, max=512)} if build is t5 else {0: batch}
    run = exported(copy.deepcopy(model), given, (dynamic,))
    others = [given[0], torch.cat([given[0]] * 3)[:5]]
    if build is t5:
        others.append(others[1][:, :23])
    return max(difference(run(other)[0], model(other)) for other in others)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_whole_models(build):
    assert model_difference(build) <= BOUND


def main() -> None:
    torch.manual_seed(0)
    print(f"largest differences, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, CPU")
    largest = {}
    for column, dtype in enumerate((torch.float32, torch.float16)):
        for op, _, actual, expected in op_results(dtype):
            row = largest.setdefault(op.name, [0.0, 0.0])
            row[column] = max(row[column], difference(actual, expected))
    print(f"{'op':<40}{'float32':>10}{'float16':>10}")
    for name, (single, half) in largest.items():
        print(f"{name:<40}{single:>10.1e}{half:>10.1e}")
    print(f"{len(MODULES)} modules, float32: {max(module_differences().values()):.1e}")
    print(f"modules and ops, dynamic batch and length: {max(dynamic_differences()):.1e}")
    for name, build in MODELS.items():
        print(f"{name}: {model_difference(build):.1e}")


if __name__ == "__main__":
    with torch.no_grad():
        main()
