"""Machineries that replace, wrap or hook the children and parameters of a module."""

import copy
import tempfile

import torch
from accelerate import cpu_offload, disk_offload
from machinery import Row, altered, compare, machinery, no_dropout, no_parameters, run
from torch import Tensor, nn
from torch.ao.quantization import float_qparams_weight_only_qconfig, quantize_dynamic
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

OFFLOADING = "Offloading and quantization"
CPU = torch.device("cpu")
NO_PARAMETERS = {"has no parameters": no_parameters}


def no_linear(row: Row) -> bool:
    return not row.has(nn.Linear)


def no_embedding(row: Row) -> bool:
    return not row.has(nn.Embedding)


@machinery(OFFLOADING, "accelerate's `cpu_offload`")
def offload_to_cpu(row: Row) -> None:
    for buffers in (False, True):
        model = row.model().eval()
        expected = run(model, row.x(), False)
        state = {name: t.clone() for name, t in model.state_dict().items()}
        cpu_offload(model, execution_device=CPU, state_dict=state, offload_buffers=buffers)
        assert all(p.is_meta for p in model.parameters())
        with torch.no_grad():
            for _ in range(2):
                compare({"output": model(row.x())}, expected)


@machinery(OFFLOADING, "accelerate's `disk_offload`")
def offload_to_disk(row: Row) -> None:
    model = row.model().eval()
    expected = run(model, row.x(), False)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        disk_offload(model, folder, execution_device=CPU, offload_buffers=True)
        compare({"output": model(row.x())}, expected)


@machinery(OFFLOADING, "`quantize_dynamic` of `nn.Embedding`", {"has no nn.Embedding": no_embedding})
def quantized_embedding(row: Row) -> None:
    model = row.model().eval()
    with torch.no_grad():
        model.module.relative_attention_bias.weight.mul_(50)
    qconfig = {nn.Embedding: float_qparams_weight_only_qconfig}
    quantized = quantize_dynamic(model, qconfig, dtype=torch.quint8)
    expected = run(model, row.x(), False)["output"]
    actual = quantized(row.x())
    assert not torch.equal(actual, expected), "nothing was quantized"
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.05)


@machinery(OFFLOADING, "`quantize_dynamic` of `nn.Linear`", {"has no nn.Linear": no_linear})
def quantized_linear(row: Row) -> None:
    model = row.model().eval()
    quantized = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    expected = run(model, row.x(), False)["output"]
    actual = quantized(row.x())
    assert not torch.equal(actual, expected), "nothing was quantized"
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.3)


PARAMETERS = "Parameters and layers that are replaced"


def owned(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every parameter as its owner and name."""
    return [(m, name) for m in module.modules() for name, _ in list(m.named_parameters(recurse=False))]


class Symmetric(nn.Module):
    def forward(self, t: Tensor) -> Tensor:
        return (t + t.flip(-1)) / 2


@machinery(PARAMETERS, "a parametrization of every parameter", NO_PARAMETERS)
def parametrized(row: Row) -> None:
    model, plain = row.model().eval(), row.model().eval()
    for owner, name in owned(model.module):
        parametrize.register_parametrization(owner, name, Symmetric())
    with torch.no_grad():
        for p in plain.module.parameters():
            p.copy_(Symmetric()(p))
    actual, expected = run(model, row.x()), run(plain, row.x())
    compare(actual, {k: v for k, v in expected.items() if "module." not in k}, rtol=1e-6, atol=1e-6)
    assert altered(actual, row), "the parametrization is not used"
    for owner, name in owned(model.module):
        parameter = getattr(owner, name)
        assert not parameter.requires_grad or parameter.grad is not None, f"{name} has no gradient"
    copy.deepcopy(model.state_dict())


@machinery(PARAMETERS, "weight norm of every matrix", NO_PARAMETERS)
def normed(row: Row) -> None:
    model = row.model().eval()
    expected = run(model, row.x())
    for owner, name in owned(model.module):
        if getattr(owner, name).dim() > 1:
            weight_norm(owner, name)
    actual = run(model, row.x())
    for name in ("output", "gradient of x"):
        if name in expected:
            compare({name: actual[name]}, {name: expected[name]}, rtol=1e-5, atol=1e-5)
    for owner, name in owned(model.module):
        parameter = getattr(owner, name)
        assert not parameter.requires_grad or parameter.grad is not None, f"{name} has no gradient"


@machinery(PARAMETERS, "pruning of every parameter", NO_PARAMETERS)
def pruned(row: Row) -> None:
    model, plain = row.model().eval(), row.model().eval()
    for owner, name in owned(model.module):
        prune.random_unstructured(owner, name, 0.5)
    masks = {name.removesuffix("_mask"): mask for name, mask in model.named_buffers()}
    with torch.no_grad():
        for name, p in plain.module.named_parameters():
            p.mul_(masks["module." + name])
    actual, expected = run(model, row.x()), run(plain, row.x())
    compare(actual, {k: v for k, v in expected.items() if "module." not in k})
    assert altered(actual, row), "the masks are not used"
    for owner, name in owned(model.module):
        parameter = getattr(owner, name)
        assert not parameter.requires_grad or parameter.grad is not None, f"{name} has no gradient"


class LowRank(nn.Module):
    """LoRA around a layer, with no weight of its own name."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        rows, columns = base.weight.shape
        lookup = isinstance(base, nn.Embedding)
        self.down = nn.Parameter(torch.full((rows if lookup else columns, 2), 0.1))
        self.up = nn.Parameter(torch.full((2, columns if lookup else rows), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        down = self.down[x] if isinstance(self.base, nn.Embedding) else x @ self.down
        return self.base(x) + down @ self.up


@machinery(
    PARAMETERS,
    "Linear and Embedding layers replaced by wrappers (LoRA)",
    {"has neither nn.Linear nor nn.Embedding": lambda row: no_linear(row) and no_embedding(row)},
)
def low_rank(row: Row) -> None:
    model, merged = row.model().eval(), row.model().eval()
    for parent in list(model.module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.Linear, nn.Embedding)):
                setattr(parent, name, LowRank(child))
    wrappers = {n.removesuffix(".base"): m for n, m in model.named_modules() if isinstance(m, LowRank)}
    assert wrappers
    with torch.no_grad():
        for name, wrapper in wrappers.items():
            layer = merged.get_submodule(name)
            product = wrapper.down @ wrapper.up
            layer.weight.add_(product if isinstance(layer, nn.Embedding) else product.t())
    actual, expected = run(model, row.x()), run(merged, row.x())
    compare(actual, {k: v for k, v in expected.items() if "module." not in k}, rtol=1e-5, atol=1e-5)
    assert altered(actual, row), "the wrappers are not used"
    for name, wrapper in wrappers.items():
        assert wrapper.down.grad is not None, f"{name}: no gradient of the wrapper"


DROPOUT = "Dropout and hooks"
NO_DROPOUT = {"has no dropout": no_dropout}


@machinery(DROPOUT, "`dropout` replaced by `nn.Identity`", NO_DROPOUT)
def identity(row: Row) -> None:
    model = row.model()
    expected = run(model.eval(), row.x())
    model.module.dropout = nn.Identity()
    compare(run(model.train(), row.x()), expected)


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Renamed(nn.Dropout):
    """A subclass: what its forward does is its own affair."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@machinery(DROPOUT, "`dropout` replaced by another class", NO_DROPOUT)
def another_class(row: Row) -> None:
    outputs = []
    for dropout in (Doubling(), Renamed(0.5)):
        model = row.model().train()
        model.module.dropout = dropout
        outputs.append(run(model, row.x()))
    compare(outputs[1], outputs[0])
    model.module.dropout = nn.Identity()
    assert not torch.equal(run(model, row.x())["output"], outputs[0]["output"]), "its forward is not called"


@machinery(DROPOUT, "`dropout.p` is 1", NO_DROPOUT)
def everything_dropped(row: Row) -> None:
    model = row.model().train()
    model.module.dropout.p = 1.0
    values = run(model, row.x())
    assert all(v.isfinite().all() for v in values.values())
    if not row.has(nn.Linear):
        assert all((v == 0).all() for v in values.values())
        return
    hidden_zero = row.model().eval()  # the MLP of a bias: its hidden features are dropped, not the result
    first = next(m for m in hidden_zero.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        first.weight.zero_()
        first.bias.zero_()
    compare({"output": values["output"]}, run(hidden_zero, row.x(), False))


@machinery(DROPOUT, "dropout in training is `nn.Dropout`'s: rate and scale", NO_DROPOUT)
def dropped(row: Row) -> None:
    model, x = row.model(), row.x()
    model.module.dropout.p = 0.1
    whole = run(model.eval(), x, False)["output"]
    model.train()
    with torch.no_grad():
        if row.has(nn.Linear):  # dropout of hidden features
            seen = []
            with model.module.dropout.register_forward_hook(
                lambda module, args, out: seen.append((*args, out))
            ):
                drawn = torch.stack([model(x) for _ in range(200)])
            assert drawn.unique(dim=0).size(0) > 1, "the result does not depend on the mask"
            whole, drawn = (torch.stack(values) for values in zip(*seen))
        else:
            drawn = torch.stack([model(x) for _ in range(200)])
    kept = drawn != 0
    rate = 1 - kept.sum() / (whole != 0).expand_as(drawn).sum()
    assert abs(rate - 0.1) < 0.02, f"rate {rate}"
    torch.testing.assert_close(drawn, torch.where(kept, whole / 0.9, 0), rtol=1e-5, atol=1e-6)


@machinery(
    DROPOUT, "hooks on every child are called", {"has no children": lambda row: not row.has_children()}
)
def hooks(row: Row) -> None:
    names = [name for name, _ in row.model().module.named_modules() if name]
    kinds = {
        "forward": nn.Module.register_forward_hook,
        "forward pre": nn.Module.register_forward_pre_hook,
        "full backward": nn.Module.register_full_backward_hook,
        "full backward pre": nn.Module.register_full_backward_pre_hook,
    }
    for training in (True, False):
        for kind, register in kinds.items():
            for name in names:
                model, called = row.model().train(training), []
                register(model.module.get_submodule(name), lambda *_, called=called: called.append(1))
                run(model, row.x())
                assert called, f"{kind} hook on {name} was not called, training={training}"
        model, called = row.model().train(training), []
        with register_module_forward_hook(lambda module, *_, called=called: called.append(module)):
            run(model, row.x())
        missed = [name for name in names if model.module.get_submodule(name) not in called]
        assert not missed, f"global forward hook was not called on {missed}, training={training}"


@machinery(DROPOUT, "a forward hook that changes the output changes the result", NO_DROPOUT)
def changing_hook(row: Row) -> None:
    model = row.model().eval()
    expected = run(model, row.x(), False)["output"]
    model.module.dropout.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert not torch.equal(run(model, row.x(), False)["output"], expected), "the hook changed nothing"
