"""The wrappers take their arguments as any Python function does, whichever way they pass them on."""

import sys
import threading

import pytest
import torch
from support import Calls, cases, requiring_gradients, same_bits
from torch.overrides import TorchFunctionMode

import posenc_ext

PLAIN = {name: posenc_ext._C.plain_call(f"posenc_ext::{name}") for name in posenc_ext.ops.__all__}


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


@pytest.mark.parametrize("calls", [bias_calls, embedding_calls, offset_calls])
def test_by_position_and_by_name(calls):
    for number, (expected, call) in enumerate(calls()):
        assert same_bits(call(), expected), number


def test_missing_and_unknown_arguments_are_said():
    with pytest.raises(TypeError, match="window"):
        posenc_ext.window_bias(torch.zeros(1, 1))
    with pytest.raises(TypeError, match="windows"):
        posenc_ext.window_bias(torch.zeros(1, 1), windows=[1])
    with pytest.raises(TypeError, match="table"):
        posenc_ext.window_bias(torch.zeros(1, 1), [1], table=torch.zeros(1, 1))


@pytest.mark.parametrize(("op", "sample"), cases(keep=lambda op, sample: op.name in PLAIN))
def test_a_plain_call_is_that_of_torch_ops(op, sample):
    sample = requiring_gradients(op, sample)
    inputs = {name: value for name, value in sample.inputs.items() if name != "device"}
    torch.manual_seed(0)
    expected = op.overload(**inputs)
    torch.manual_seed(0)
    actual = PLAIN[op.name](**inputs)
    assert same_bits(actual, expected)
    assert actual.requires_grad == expected.requires_grad
    assert actual.grad_fn is None or actual.grad_fn.name() == expected.grad_fn.name()


class Subclass(torch.Tensor):
    pass


class Seen(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.func = func
        return func(*args, **(kwargs or {}))


TABLE, STEPS, X = torch.ones(9, 1), torch.arange(3), torch.ones(1, 2, 4)


@pytest.mark.parametrize(
    ("name", "args", "given"),
    [
        ("window_bias", (TABLE.as_subclass(Subclass), [2, 2]), {}),
        ("window_bias", (TABLE.numpy(), [2, 2]), {}),
        ("window_bias", (None, [2, 2]), {}),
        ("window_bias", (TABLE, 2), {}),
        ("window_bias", (TABLE, [2.0, 2]), {}),
        ("window_bias", (TABLE, [2, 2**63]), {}),
        ("window_bias", (TABLE, [2, 2]), {"prefix_tokens": True}),
        ("window_bias", (TABLE, [2, 2]), {"prefix": 0}),
        ("window_bias", (TABLE, [2, 2]), {"window": [2, 2]}),
        ("window_bias", (TABLE, [2, 2], None), {}),
        ("window_bias", (TABLE,), {}),
        ("window_bias", (), {}),
        ("window_bias", (TABLE,) * 20, {}),
        ("sinusoidal", (STEPS, 4), {"base": "10"}),
        ("sinusoidal", (STEPS, 4), {"layout": "\ud800"}),
        ("sinusoidal", (STEPS, 4), {"layout": b"concat"}),
        ("sinusoidal", (STEPS, 4), {"dtype": torch.int8}),
        ("sinusoidal", (STEPS, 4), {"dtype": float}),
        ("sinusoidal_table", (2, 4), {"device": "cpu"}),
        ("add_sinusoidal", (X,), {"training": 1}),
        ("add_sinusoidal", (X,), {"start": torch.zeros(1, dtype=torch.int64)}),
        ("add_position_embedding", (X, X, [X, 1]), {}),
        ("add_position_embedding", (X, X, None), {}),
    ],
)
def test_other_calls_are_left_to_torch_ops(name, args, given):
    assert PLAIN[name](*args, **given) is NotImplemented


def test_modes_see_the_op():
    with Seen() as mode:
        assert PLAIN["window_bias"](TABLE, [2, 2]) is NotImplemented
        posenc_ext.window_bias(TABLE, [2, 2])
    assert mode.func in (torch.ops.posenc_ext.window_bias, torch.ops.posenc_ext.window_bias.default)
    with Calls() as calls:
        assert isinstance(PLAIN["window_bias"](TABLE, [2, 2]), torch.Tensor)
    assert calls.names == ["posenc_ext.window_bias"]


def test_an_error_of_a_mode_passes_through():
    class Refuses(Calls):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            raise LookupError("refused")

    with Refuses(), pytest.raises(LookupError, match="refused"):
        PLAIN["window_bias"](TABLE, [2, 2])


def test_an_unknown_op_is_an_error():
    with pytest.raises(RuntimeError, match="no_such_op"):
        posenc_ext._C.plain_call("posenc_ext::no_such_op")
    with pytest.raises(TypeError):
        posenc_ext._C.plain_call(1)


def test_other_threads_of_python_run_during_a_call():
    go, ran = threading.Lock(), threading.Event()
    go.acquire()
    other = threading.Thread(target=lambda: (go.acquire(), ran.set()))
    other.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # seconds: no thread runs until another one lets it
    try:
        go.release()
        for _ in range(1000):
            PLAIN["sinusoidal_table"](1000, 64, dtype=torch.float64)
            if ran.is_set():
                break
        assert ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        other.join()


@pytest.mark.parametrize(
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
