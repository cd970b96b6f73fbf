"""The child ``dropout`` of the modules that let an op do it: whatever is done to it has its effect."""

import pytest
import torch
from support import each, same_bits
from torch import nn

from posenc_ext.nn import LearnedPositionalEmbedding, SinusoidalPositionalEncoding, VisionPositionEmbedding

MODULES = {
    "classic": lambda: SinusoidalPositionalEncoding(8, 0.5, batch_first=True),
    "learned": lambda: LearnedPositionalEmbedding(64, 8, dropout=0.5),
    "vision": lambda: VisionPositionEmbedding(8, 8, dropout=0.5),
}
EVERY = each("build", MODULES.values(), ids=MODULES)
X = torch.randn(2, 64, 8)


class Tripled(nn.Dropout):
    """A subclass with a forward of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 3 * input


def scripted(module):
    return torch.jit.script(module)


def compiled(module):
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


@EVERY
@pytest.mark.filterwarnings("ignore:`torch.jit")
@each("form", [lambda module: module, scripted, compiled], ids=["eager", "script", "compile"])
def test_another_module_is_called(build, form):
    for other, effect in (
        (nn.Identity(), lambda x: x),
        (Tripled(0.5), lambda x: 3 * x),
        (nn.AlphaDropout(0.5), nn.AlphaDropout(0.5)),
        (nn.Dropout1d(0.5), nn.Dropout1d(0.5)),
    ):
        module = build()
        expected = module.eval()(X)
        module.dropout = other
        module.train()
        torch.manual_seed(0)
        actual = form(module)(X)
        torch.manual_seed(0)
        assert same_bits(actual, effect(expected))


@EVERY
def test_hooks_are_called(build):
    def tripled(module, *args):
        return tuple(3 * x for x in args[-1]) if isinstance(args[-1], tuple) else 3 * args[-1]

    def only_dropout(module, *args):
        return tripled(module, *args) if isinstance(module, nn.Dropout) else None

    for register in (
        lambda m: m.dropout.register_forward_hook(tripled),
        lambda m: m.dropout.register_forward_pre_hook(tripled),
        lambda m: nn.modules.module.register_module_forward_hook(only_dropout),
    ):
        module = build().eval()
        expected = module(X)
        handle = register(module)
        assert same_bits(module(X), 3 * expected)
        assert same_bits(compiled(module)(X), 3 * expected)
        handle.remove()
        assert same_bits(module(X), expected)
    for name in ("register_full_backward_hook", "register_full_backward_pre_hook"):
        module, calls, x = build(), [], X.clone().requires_grad_()
        getattr(module.dropout, name)(lambda *args, calls=calls: calls.append(1))
        module(x).sum().backward()
        assert calls == [1]
    module = build().eval()
    expected = module(X)
    module.dropout.forward = lambda x: 3 * x  # how accelerate hooks a module
    assert same_bits(module(X), 3 * expected)


@EVERY
def test_everything_is_dropped(build):
    module = build()
    module.dropout.p = 1.0
    x = X.clone().requires_grad_()
    out = module(x)
    assert not out.any()
    out.sum().backward()
    assert not x.grad.any()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in module.parameters())


def test_plain_dropout_is_fused():
    """No second pass: the mask is that of the op's generator, and one op runs."""
    for build in MODULES.values():
        module = build()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            module(X)
        names = {event.name for event in profile.events()}
        assert not names & {"aten::dropout", "aten::native_dropout", "aten::bernoulli_"}
