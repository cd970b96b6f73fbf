"""The wrappers take their arguments as any Python function does, whichever way they pass them on."""

import pytest
import torch
from support import Calls, each, same_bits
from torch.overrides import TorchFunctionMode

import posenc_ext


def bias_calls():
    table, op = torch.arange(54.0).reshape(18, 3), posenc_ext.window_bias
    expected = torch.ops.posenc_ext.window_bias(table, [2, 3], query_size=[4, 3], prefix_tokens=1)
    yield expected, lambda: op(table, [2, 3], [4, 3], 1)
    yield expected, lambda: op(table, [2, 3], query_size=[4, 3], prefix_tokens=1)
    yield expected, lambda: op(table, prefix_tokens=1, query_size=[4, 3], window=[2, 3])
    yield expected, lambda: op(prefix_tokens=1, query_size=[4, 3], window=[2, 3], table=table)


def embedding_calls():
    x, pos_embed, op = torch.ones(1, 2, 3), torch.ones(3, 3), posenc_ext.add_position_embedding
    cls = torch.zeros(1, 1, 3)
    expected = torch.ops.posenc_ext.add_position_embedding(x, pos_embed, [cls])
    yield expected, lambda: op(x, pos_embed, [cls])
    yield expected, lambda: op(x, pos_embed, prefix_tokens=[cls])
    expected = torch.ops.posenc_ext.add_position_embedding(x, pos_embed[:2], [])
    yield expected, lambda: op(x, pos_embed[:2])
    yield expected, lambda: op(x, pos_embed[:2], None)
    yield expected, lambda: op(x, pos_embed[:2], prefix_tokens=None, x_scale=1.0)
    yield expected, lambda: op(x, pos_embed=pos_embed[:2])


def offset_calls():
    x, op = torch.zeros(2, 3, 4), posenc_ext.add_sinusoidal
    yield posenc_ext.add_sinusoidal(x, start=torch.tensor([5, 5])), lambda: op(x, start=5)
    yield posenc_ext.add_sinusoidal(x, start=torch.tensor([5, 5])), lambda: op(x, 5)


def softmax_calls():
    scores, table, op = torch.randn(2, 3, 4, 4), torch.randn(9, 3), posenc_ext.window_bias_softmax
    mask = torch.tensor([True, True, False, True])
    expected = torch.ops.posenc_ext.window_bias_softmax(scores, table, [2, 2], scale=0.5, mask=mask)
    yield expected, lambda: op(scores, table, [2, 2], scale=0.5, mask=mask)
    yield expected, lambda: op(scores, table, [2, 2], None, 0, 0.5, mask)
    yield expected, lambda: op(scores, table, [2, 2], scale=0.5, mask=mask, dropout_p=0.5)
    yield expected, lambda: op(scores.clone(), table, [2, 2], scale=0.5, mask=mask, inplace=True)
    yield (
        expected,
        lambda: op(scores.clone(), table, [2, 2], None, 0, 0.5, mask, None, False, 0, 0.5, False, True),
    )


@each("calls", [bias_calls, embedding_calls, offset_calls, softmax_calls])
def test_by_position_and_by_name(calls):
    for number, (expected, call) in enumerate(calls()):
        assert same_bits(call(), expected), number


@each("name", [name for name in posenc_ext.ops.__all__ if name.endswith("_softmax")])
def test_in_place_returns_the_scores(name):
    """With every argument of the function; with dropout in training, there is an error and no change."""
    second = {"window": torch.randn(7, 3), "diagonal": torch.randn(3, 7), "gather": torch.randn(5, 3)}
    second |= {"": torch.randn(3, 4, 4), "t5": torch.randn(32, 3), "alibi": torch.randn(3)}
    kind = name.removesuffix("bias_softmax").rstrip("_")
    third = {"window": [[4]], "gather": [torch.zeros(4, 4, dtype=torch.int64)]}.get(kind, [])
    scores, function = torch.randn(2, 3, 4, 4), getattr(posenc_ext, name)
    before = scores.clone()
    text = f"posenc_ext::{name}: inplace must be False with dropout, got True"
    with pytest.raises(RuntimeError) as caught:
        function(scores, second[kind], *third, dropout_p=0.5, training=True, inplace=True)
    assert str(caught.value) == text
    assert same_bits(scores, before)
    expected = function(scores, second[kind], *third, scale=2.0, causal=True)
    assert same_bits(scores, before)
    given = {"scale": 2.0, "causal": True, "dropout_p": 0.5, "inplace": True}
    assert function(scores, second[kind], *third, **given) is scores
    assert same_bits(scores, expected)


def test_missing_and_unknown_arguments_are_said():
    with pytest.raises(TypeError, match="window"):
        posenc_ext.window_bias(torch.zeros(1, 1))
    with pytest.raises(TypeError, match="windows"):
        posenc_ext.window_bias(torch.zeros(1, 1), windows=[1])
    with pytest.raises(TypeError, match="table"):
        posenc_ext.window_bias(torch.zeros(1, 1), [1], table=torch.zeros(1, 1))


class Seen(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.func = func
        return func(*args, **(kwargs or {}))


def test_modes_see_the_op():
    table = torch.ones(9, 1)
    with Seen() as mode:
        posenc_ext.window_bias(table, [2, 2])
    assert mode.func in (torch.ops.posenc_ext.window_bias, torch.ops.posenc_ext.window_bias.default)
    with Calls() as calls:
        posenc_ext.window_bias(table, [2, 2])
    assert calls.names == ["posenc_ext.window_bias"]


@each(
    "make",
    [
        lambda **options: posenc_ext.sinusoidal_table(2, 4, **options),
        lambda **options: posenc_ext.alibi_slopes(4, **options),
        lambda **options: posenc_ext.sinusoidal_grid([2, 2], 4, "mae", extra_tokens=1, **options),
    ],
)
def test_the_default_device_is_that_of_torch(make):
    with torch.device("meta"):
        assert make().is_meta
        assert make(device="cpu").is_cpu
        assert make(device=torch.device("cpu")).is_cpu
        assert torch.compile(make, fullgraph=True, backend="eager")().is_meta
    assert make().is_cpu


def test_modules_keep_their_devices_under_another_default():
    alibi = posenc_ext.nn.AlibiBias(4, learnable=True)
    encoding = posenc_ext.nn.SinusoidalPositionalEncoding(4, 0.0, max_len=3, emit_pe=True)
    with torch.device("meta"):
        alibi.reset_parameters()
        assert encoding.state_dict()["pe"].is_cpu
        module = posenc_ext.nn.VisionPositionEmbedding.from_sinusoidal([2, 2], 4, order="mae")
        assert module.pos_embed.is_meta
    assert alibi.slopes.is_cpu
