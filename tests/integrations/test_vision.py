"""Models of torchvision, timm and MONAI, accelerated, against the same models as they are."""

import collections
import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
from support import same_bits
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from vision_models import CASES, Case

import posenc_ext

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.library} {case.name}")
SOME = ("torchvision Swin", "torchvision Swin v2", "timm Swin", "timm ViT", "timm LeViT", "monai Swin UNETR")
some_cases = pytest.mark.parametrize(
    "case",
    [case for case in CASES if f"{case.library} {case.name}" in SOME],
    ids=lambda case: f"{case.library} {case.name}",
)


def pair(case: Case) -> tuple[nn.Module, nn.Module]:
    """The model, and a copy of it, accelerated."""
    model = case.build()
    ours = copy.deepcopy(model)
    posenc_ext.accelerate(ours)
    return model, ours


def mode(model: nn.Module, training: bool) -> nn.Module:
    model.train(training)  # returns None for LeViT of timm
    return model


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output and all gradients of a training step, with the same dropout masks in every call."""
    torch.manual_seed(2)
    x = x.clone().requires_grad_()
    output = model(x)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    model.zero_grad()
    output.backward(upstream.to(output.dtype))
    results = {"output": output.detach(), "gradient of x": x.grad}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            grad = parameter.grad
            results[name.removeprefix("module.")] = grad.full_tensor() if isinstance(grad, DTensor) else grad
    return results


def error(actual: Tensor, exact: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((actual.double() - exact).abs().max() / exact.abs().max())


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert same_bits(actual[name], value), name


@each_case
def test_results_are_those_of_the_library(case):
    """In float64 to rounding; in float32 and under autocast no farther from float64 than the library's."""
    model, ours = pair(case)
    report = posenc_ext.accelerate(ours)
    counts = collections.Counter(row.class_name for row in report.replaced)
    assert counts == {f"{case.library}.{name}": count for name, count in case.replaced.items()}
    assert len(report.skipped) == case.kept
    assert list(ours.state_dict()) == list(model.state_dict())
    assert repr(ours) == repr(model)
    assert all(isinstance(new, type(old)) for new, old in zip(ours.modules(), model.modules()))

    x = case.input()
    for training in (True, False):
        exact = step(mode(copy.deepcopy(model).double(), training), x.double())
        double = step(mode(copy.deepcopy(ours).double(), training), x.double())
        theirs = step(mode(copy.deepcopy(model), training), x)
        single = step(mode(copy.deepcopy(ours), training), x)
        assert double.keys() == single.keys() == exact.keys()
        for name, value in exact.items():
            assert error(double[name], value) < 1e-11, (name, training)
            assert error(single[name], value) <= 2 * error(theirs[name], value) + 1e-6, (name, training)
        if case.equal:
            assert same_bits(single["output"], theirs["output"])
        with torch.autocast("cpu", torch.bfloat16):
            theirs = step(mode(copy.deepcopy(model), training), x)
            half = step(mode(copy.deepcopy(ours), training), x)
        for name, value in exact.items():
            assert error(half[name], value) <= 2 * error(theirs[name], value) + 0.01, (name, training)


@each_case
def test_the_model_can_be_copied_saved_and_restored(case):
    model, ours = pair(case)
    x = case.input()
    expected, restored = step(mode(ours, True), x), step(mode(copy.deepcopy(model), True), x)
    mode(ours, False)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    loaded = case.build()
    loaded.load_state_dict(torch.load(file))
    posenc_ext.accelerate(loaded)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), loaded):
        assert [type(module) for module in other.modules()] == [type(module) for module in ours.modules()]
        assert_same(step(mode(other, True), x), expected)
    plain = case.build()
    plain.load_state_dict(ours.state_dict())
    posenc_ext.restore(ours)
    assert [type(module) for module in ours.modules()] == [type(module) for module in model.modules()]
    for other in (plain, ours):
        assert_same(step(mode(other, True), x), restored)


@each_case
def test_the_model_can_be_compiled_and_scripted(case):
    _, ours = pair(case)
    x = case.input()
    mode(ours, False)
    with torch.no_grad():
        expected = ours(x)
        torch._dynamo.reset()
        assert same_bits(torch.compile(ours, backend="eager", fullgraph=True)(x), expected)
        if case.script:
            assert error(torch.jit.script(ours)(x), expected.double()) < 1e-6


@some_cases
def test_a_compiled_model_trains(case):
    _, ours = pair(case)
    x = case.input()
    for module in ours.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    mode(ours, False)
    expected = step(ours, x)
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for name, value in step(compiled, x).items():
        assert error(value, expected[name.removeprefix("_orig_mod.")].double()) < 1e-5, name


@some_cases
def test_the_model_can_be_checkpointed(case):
    _, ours = pair(case)
    expected = step(ours, case.input())
    for name, module in ours.named_modules():
        if any(row.name == name for row in posenc_ext.accelerate(ours).rows):
            forward = module.forward
            module.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)
    assert_same(step(ours, case.input()), expected)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    file = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@some_cases
def test_the_model_trains_with_ddp_and_fsdp2(case, group):
    _, ours = pair(case)
    x = case.input()
    expected = step(ours, x)
    assert_same(step(DistributedDataParallel(copy.deepcopy(ours)), x), expected)
    sharded = copy.deepcopy(ours)
    for row in posenc_ext.accelerate(ours).replaced:
        if row.name:
            fully_shard(sharded.get_submodule(row.name), mesh=group)
    fully_shard(sharded, mesh=group)
    assert posenc_ext.accelerate(sharded) == posenc_ext.accelerate(ours)
    actual = step(sharded, x)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert error(actual[name], value.double()) < 1e-6, name


def test_a_model_that_fsdp2_has_wrapped_is_left_alone(group):
    model = CASES[0].build()
    for module in model.modules():
        if type(module).__name__ == "ShiftedWindowAttention":
            fully_shard(module, mesh=group)
    report = posenc_ext.accelerate(model)
    assert not report.replaced
    assert {row.skipped_because.partition(":")[0] for row in report.rows} == {
        "FSDPShiftedWindowAttention is a subclass of ShiftedWindowAttention"
    }
