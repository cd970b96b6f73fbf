"""Machineries that initialise, save, load and copy modules."""

import copy
import io
import pickle
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from machinery import Row, altered, compare, machinery, no_state, run
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel

INIT = "Meta initialisation: `to_empty`, then `reset_parameters` by"
NOTHING = {"has nothing to initialize": no_state}
REPEATS = 48


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in [*module.named_parameters(), *module.named_buffers()]}


def poison(module: nn.Module) -> None:
    """No value survives: what is not initialised is seen."""
    for t in [*module.parameters(), *module.buffers()]:
        t.detach().fill_(torch.nan if t.is_floating_point() else -7)


@cache
def constructed(row: Row) -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    return [tensors(row.build()) for _ in range(REPEATS)]


def check_same_distribution(actual: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    """Values that are the same in every construction are exact; others pass a Kolmogorov-Smirnov test."""
    for name in expected[0]:
        a, e = (torch.stack([values[name] for values in drawn]) for drawn in (actual, expected))
        if all(torch.equal(value, e[0]) for value in e):
            assert all(torch.equal(value, e[0]) for value in a), f"{name}: not the fixed values"
            continue
        assert not a.isnan().any(), f"{name}: never initialised"
        assert not torch.equal(a[0], a[1]), f"{name}: the same in every call"
        a, e = a.flatten().sort().values, e.flatten().sort().values
        at = torch.cat([a, e])
        gap = (torch.searchsorted(a, at, right=True) - torch.searchsorted(e, at, right=True)).abs().max()
        limit = 2.3 * (2 / len(a)) ** 0.5  # exceeded once in 20000 where the distributions are the same
        scale = f"std {a.std():.3g}, at construction {e.std():.3g}"
        assert gap / len(a) < limit, f"{name}: another distribution: {scale}"


def check_reset(row: Row, reset: Callable[[nn.Module], None]) -> None:
    with torch.device("meta"):
        module = row.build()
    states = [*module.parameters(), *module.buffers()]
    assert all(t.is_meta for t in states), "a tensor of a module built on meta is not on meta"
    module.to_empty(device="cpu")
    drawn = []
    for _ in range(REPEATS):
        poison(module)
        reset(module)
        drawn.append(tensors(module))
    check_same_distribution(drawn, constructed(row))


@machinery(INIT, "the module's own method", NOTHING)
def own(row: Row) -> None:
    check_reset(row, lambda module: module.reset_parameters())


@machinery(INIT, "every module that owns tensors (FSDP1)", NOTHING)
def owners(row: Row) -> None:
    def reset(module: nn.Module) -> None:
        for child in module.modules():
            if [*child.parameters(recurse=False), *child.buffers(recurse=False)]:
                child.reset_parameters()

    check_reset(row, reset)


@machinery(INIT, "a walk, parents first (torchtitan)", NOTHING)
def parents_first(row: Row) -> None:
    def reset(module: nn.Module) -> None:
        for child in module.modules():
            if hasattr(child, "reset_parameters"):
                child.reset_parameters()

    check_reset(row, reset)


@machinery(INIT, "`apply`, children first", NOTHING)
def children_first(row: Row) -> None:
    def reset(module: nn.Module) -> None:
        module.apply(lambda child: child.reset_parameters() if hasattr(child, "reset_parameters") else None)

    check_reset(row, reset)


STATE = "State"


@machinery(STATE, "built on meta, `load_state_dict(assign=True)`, twice")
def assign(row: Row) -> None:
    source = row.model(seed=3).eval()
    with torch.device("meta"):
        model = row.model().eval()
    for _ in range(2):
        model.load_state_dict(copy.deepcopy(source.state_dict()), assign=True)
    compare(run(model, row.x()), run(source, row.x()))
    compare(model.state_dict(), source.state_dict())


@machinery(STATE, "keys are parameters, buffers and attributes")
def keys(row: Row) -> None:
    model = row.model()
    state = model.state_dict(keep_vars=True)
    named = dict([*model.named_parameters(), *model.named_buffers()])
    assert list(state) == [name for name in state if name in named], f"{list(state)} against {list(named)}"
    assert dict(model.named_parameters()).keys() <= state.keys()
    for name, value in state.items():
        owner, _, attribute = name.rpartition(".")
        assert getattr(model.get_submodule(owner), attribute) is value, f"{name} is another attribute"


@machinery(STATE, "`functional_call(module, module.state_dict())`")
def functional(row: Row) -> None:
    model, other = row.model().eval(), row.model().eval()
    actual = {"output": functional_call(model, dict(model.state_dict()), row.x())}
    compare(actual, run(model, row.x(), False), rtol=1e-6, atol=1e-6)
    changed = {k: v + 0.25 for k, v in model.named_parameters() if k != "gain"}
    other.load_state_dict({**other.state_dict(), **changed})
    actual = {"output": functional_call(model, changed, row.x())}
    compare(actual, run(other, row.x(), False), rtol=1e-6, atol=1e-6)
    assert altered(actual, row), "the given parameters are not used"


@machinery(STATE, "safetensors' `save_model`, `load_model`")
def safetensors(row: Row) -> None:
    source, target = row.model(seed=3).eval(), row.model().eval()
    poison(target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_model(source, path)
        load_model(target, path, strict=True)
    compare(run(target, row.x()), run(source, row.x()))
    compare(target.state_dict(), source.state_dict())


@machinery(STATE, "`deepcopy`, `pickle`, `torch.save` of the module")
def copies(row: Row) -> None:
    source = row.model().eval()
    expected = run(source, row.x())
    source.zero_grad()
    buffer = io.BytesIO()
    torch.save(source, buffer)
    buffer.seek(0)
    whole = torch.load(buffer, weights_only=False)
    for model in (copy.deepcopy(source), pickle.loads(pickle.dumps(source)), whole):
        assert list(model.state_dict()) == list(source.state_dict())
        assert repr(model) == repr(source)
        compare(run(model, row.x()), expected)
        poison(model)  # nothing is shared
        if hasattr(model.module, "reset_parameters"):
            model.module.reset_parameters()
            fixed = {k: v for k, v in tensors(source.module).items() if all_equal(row, k)}
            compare(tensors(model.module), fixed)
    compare(run(source, row.x()), expected)


def all_equal(row: Row, name: str) -> bool:
    drawn = constructed(row)
    return all(torch.equal(values[name], drawn[0][name]) for values in drawn)


@machinery(STATE, "`torch.save` of the state_dict, `weights_only`")
def saved(row: Row) -> None:
    source, target = row.model(seed=3).eval(), row.model().eval()
    poison(target)
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    target.load_state_dict(torch.load(buffer, weights_only=True))
    compare(run(target, row.x()), run(source, row.x()))
    compare(target.state_dict(), source.state_dict())


@machinery(STATE, "`AveragedModel`, with and without buffers")
def averaged(row: Row) -> None:
    for use_buffers in (False, True):
        model = row.model().eval()
        average = AveragedModel(model, use_buffers=use_buffers)
        for step in (0, 1):
            with torch.no_grad():
                for p in model.module.parameters():
                    p.add_(step)
            average.update_parameters(model)
        with torch.no_grad():
            for p in model.module.parameters():
                p.sub_(0.5)
        actual = run(average, row.x(), False)
        compare(actual, run(model, row.x(), False), rtol=1e-5, atol=1e-5)
        assert altered(actual, row), "the average is not used"
        compare(tensors(average.module), tensors(model), rtol=1e-6, atol=1e-6)
        for name, buffer in row.model().named_buffers():
            assert torch.equal(average.module.get_buffer(name), buffer), f"{name} was averaged"


@machinery(STATE, "a whole checkpoint cast to half types, and cast back", NOTHING)
def cast_checkpoint(row: Row) -> None:
    """Parameters are rounded; what is computed is not, though the checkpoint has it rounded."""
    source = row.model().eval()
    for dtype in (torch.bfloat16, torch.float16):
        target = row.model().eval()
        target.load_state_dict({name: value.to(dtype) for name, value in source.state_dict().items()})
        compare(run(target, row.x(), False), run(source, row.x(), False), rtol=2**-6, atol=2**-6)
        for name, value in source.named_buffers():
            assert torch.equal(target.get_buffer(name), value), f"{name} was rounded"
