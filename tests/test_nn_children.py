"""Children of the bias modules: called, not read; initial values, whichever loop asks for them."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from support import each, same_bits
from test_nn_relative_bias import gradients
from torch import nn
from torch.ao.quantization import float_qparams_weight_only_qconfig, quantize_dynamic
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from posenc_ext.nn import AlibiBias, LogCoordinatePositionBias, T5RelativePositionBias
from posenc_ext.nn._init import fill_parameter

MLP_NAMES = ("cpb_mlp", "continuous_position_bias_mlp", "mlp", "meta_mlp")


class WithoutWeight(nn.Module):
    """Stands in a layer's place, as adapters and quantized layers do."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer

    def forward(self, x):
        return 2 * self.base_layer(x)


def log_coordinates(mlp_name="cpb_mlp", **options):
    return LogCoordinatePositionBias((4, 3), 2, 8, mode="cr", mlp_name=mlp_name, **options)


def last_layer(module):
    return "fc2" if "mlp.fc2.weight" in " ".join(module.state_dict()) else "2"


# Called


def test_what_stands_in_a_child_s_place_is_called():
    t5 = T5RelativePositionBias(3)
    expected = t5(5, 7)
    t5.relative_attention_bias = WithoutWeight(t5.relative_attention_bias)
    assert same_bits(t5(5, 7), 2 * expected)
    for name in MLP_NAMES:
        module = log_coordinates(name)
        expected, mlp = module(), getattr(module, name)
        setattr(mlp, last_layer(module), WithoutWeight(getattr(mlp, last_layer(module))))
        assert same_bits(module(), 2 * expected)
        setattr(module, name, WithoutWeight(mlp))
        assert same_bits(module(), 4 * expected)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@each(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_hooks_of_every_child_are_called(register):
    for build, arguments in ((lambda: T5RelativePositionBias(3), (5, 7)), (log_coordinates, ())):
        module, called = build(), set()
        for child in module.modules():
            getattr(child, register)(lambda child, *_, called=called: called.add(child) or None)
        module(*arguments).sum().backward()
        assert called == set(module.modules())

        module, called = build(), set()
        everywhere = getattr(nn.modules.module, register.replace("register_", "register_module_"))
        handle = everywhere(lambda child, *_, called=called: called.add(child) or None)
        module(*arguments).sum().backward()
        handle.remove()
        assert called == set(module.modules())


@pytest.mark.filterwarnings("ignore")
def test_quantized_children():
    t5 = T5RelativePositionBias(3)
    options = {nn.Embedding: float_qparams_weight_only_qconfig}
    quantized = quantize_dynamic(copy.deepcopy(t5), options, dtype=torch.quint8)
    assert type(quantized.relative_attention_bias) is not nn.Embedding
    # One of 255 steps of a row's range, and half a step of its zero point.
    step = (t5.relative_attention_bias.weight.amax(1) - t5.relative_attention_bias.weight.amin(1)).max() / 255
    for call in (quantized, torch.jit.script(quantized)):
        torch.testing.assert_close(call(5, 7), t5(5, 7), rtol=0, atol=2 * step.item())
    for name in MLP_NAMES:
        module = log_coordinates(name)
        quantized = quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8)
        assert not list(quantized.parameters())
        for call in (quantized, torch.jit.script(quantized)):
            torch.testing.assert_close(call(), module(), rtol=0, atol=0.05)
            assert not torch.equal(call(), module())


def test_parametrized_children():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    t5, module = T5RelativePositionBias(3), log_coordinates("mlp")
    expected = t5(5, 7), module()
    nn.utils.parametrize.register_parametrization(t5.relative_attention_bias, "weight", Doubled())
    assert same_bits(t5(5, 7), 2 * expected[0])
    (gradient,) = gradients(t5, t5(1, 1), torch.ones(1, 3, 1, 1))
    assert gradient[0].tolist() == [2.0] * 3
    nn.utils.parametrize.register_parametrization(module.mlp.fc2, "weight", Doubled())
    nn.utils.parametrize.register_parametrization(module.mlp.fc2, "bias", Doubled())
    assert same_bits(module(), 2 * expected[1])


def test_dtype_is_that_of_the_first_floating_parameter():
    """An adapter in float32 may stand beside weights in bfloat16, and integers be packed into a parameter."""
    module = log_coordinates().bfloat16()
    received = []
    module.cpb_mlp.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0].dtype))
    module.cpb_mlp[2] = nn.Sequential(WithoutWeight(module.cpb_mlp[2]), nn.Identity())
    module.cpb_mlp[2].adapter = nn.Parameter(torch.zeros(1))
    module()
    weight = module.cpb_mlp[0].weight
    module.cpb_mlp[0].weight = nn.Parameter(torch.zeros(8, 2, dtype=torch.uint8), requires_grad=False)
    module.cpb_mlp[0].forward = lambda x: nn.functional.linear(x, weight)
    module()
    assert received == [torch.bfloat16] * 2


@each("sequential", [False, True])
def test_offloaded_children_are_called_where_they_are_executed(sequential):
    """By the attribute of accelerate's hooks; the table of machinery has the hooks themselves."""
    for module, child, arguments in (
        (T5RelativePositionBias(3), "relative_attention_bias", (5, 7)),
        (log_coordinates(), "cpb_mlp", ()),
    ):
        expected, loaded = module(*arguments), copy.deepcopy(getattr(module, child))
        module.to("meta")
        assert module(*arguments).is_meta  # without a hook that is what was asked for
        hook = SimpleNamespace(execution_device=torch.device("cpu"))
        offloaded = getattr(module, child)
        offloaded._hf_hook = SimpleNamespace(hooks=[SimpleNamespace(), hook]) if sequential else hook
        offloaded.forward = loaded.forward  # the hook's work
        assert same_bits(module(*arguments), expected)
        assert module(*arguments, device=torch.device("cpu")).device.type == "cpu"


# Dropout of the log-coordinate MLP


@each("name", MLP_NAMES)
def test_dropout_is_a_child_that_can_be_replaced(name):
    module = log_coordinates(name, dropout=0.5).train()
    assert isinstance(module.dropout, nn.Dropout)
    assert not any(key.startswith("dropout") for key, _ in module.named_modules())
    hits = []
    module.dropout.register_forward_hook(lambda *_: hits.append(1))
    module()
    assert hits == [1]
    module.dropout.p = 1.0
    mlp = getattr(module, name)
    assert torch.equal(module()[0, :, 0, 0], mlp[2].bias)  # every hidden feature is dropped
    kept = module.eval()()
    module.train().dropout = nn.Identity()
    assert same_bits(module(), kept)
    assert type(module.dropout) is nn.Identity
    assert type(mlp[1][1]) is nn.Identity
    assert log_coordinates(name, dropout=1.0).dropout.p == 1.0


# Initial values


def whole_loop(module):
    module.reset_parameters()


def owners_of_parameters(module):
    for child in module.modules():
        if list(child.parameters(recurse=False)):
            child.reset_parameters()


def parents_first(module):
    for child in module.modules():
        if hasattr(child, "reset_parameters"):
            child.reset_parameters()


def children_first(module):
    module.apply(lambda child: child.reset_parameters() if hasattr(child, "reset_parameters") else None)


@each("reset", [whole_loop, owners_of_parameters, parents_first, children_first])
def test_initial_values_from_every_loop(reset):
    """On the meta device, `to_empty`, then a loop, of the module and of its copies."""
    with torch.device("meta"):
        empty = T5RelativePositionBias(512, 64)
    assert type(empty.relative_attention_bias) is nn.Embedding
    for t5 in (empty, copy.deepcopy(empty), pickle.loads(pickle.dumps(empty.to_empty(device="cpu")))):
        t5.to_empty(device="cpu")
        reset(t5)
        weight = t5.relative_attention_bias.weight
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)  # 32768 values: 0.4 % is a deviation
        weight.data.zero_()
    with torch.device("meta"):
        module = LogCoordinatePositionBias((4, 3), 64, mlp_name="mlp")
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        parameter.data.fill_(7)
    reset(module)
    for layer, inputs in ((module.mlp.fc1, 2), (module.mlp.fc2, 512)):
        for parameter in layer.parameters():  # uniform within 1 / sqrt(inputs), as nn.Linear
            assert parameter.abs().max().item() == pytest.approx(inputs**-0.5, rel=0.05)
    with torch.device("meta"):
        alibi = AlibiBias(12, learnable=True)
    alibi.to_empty(device="cpu")
    reset(alibi)
    assert same_bits(alibi.slopes, AlibiBias(12, learnable=True).slopes)


def test_fixed_values_of_sharded_parameters():
    """As the last of four processes, in a fake group: nothing is sent, every process fills its own shard."""
    dist.init_process_group("fake", rank=3, world_size=4, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2, 2))
        value = torch.arange(15.0, dtype=torch.float64).view(5, 3)

        def sharded(value, *placements):
            return nn.Parameter(distribute_tensor(value, mesh, placements, src_data_rank=None))

        for placements, shard in (
            ((Shard(0), Replicate()), value[3:]),
            ((Replicate(), Shard(1)), value[:, 2:]),
            ((Shard(0), Shard(1)), value[3:, 2:]),
            ((Shard(0), Shard(0)), value[4:]),
            ((Replicate(), Replicate()), value),
        ):
            parameter = sharded(torch.zeros(5, 3), *placements)
            fill_parameter(parameter, value)
            assert same_bits(parameter.to_local(), shard.float())
        alibi = AlibiBias(5, learnable=True)
        expected = alibi.slopes.detach()[3:]
        alibi.slopes = sharded(torch.zeros(5), Shard(0), Replicate())
        alibi.reset_parameters()
        assert same_bits(alibi.slopes.to_local(), expected)
    finally:
        dist.destroy_process_group()
