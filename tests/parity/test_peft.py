"""LoRA by peft, on the Linear and Embedding layers inside the modules."""

import copy

import pytest
import torch
from torch import nn

from posenc_ext.nn import AttentionPool2d, LogCoordinatePositionBias, T5RelativePositionBias

peft = pytest.importorskip("peft", reason="peft is not installed: requirements/models.txt")


def bias_of_scores(scores: torch.Tensor, bias: nn.Module) -> torch.Tensor:
    lengths = scores.shape[-2:] if isinstance(bias, T5RelativePositionBias) else ()
    return scores + bias(*lengths)


class Model(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) if isinstance(self.module, AttentionPool2d) else bias_of_scores(x, self.module)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (AttentionPool2d((3, 4), 8, 2), (2, 8, 3, 4)),
        (LogCoordinatePositionBias((2, 3), 2, hidden_features=16, mlp_name="mlp"), (2, 2, 6, 6)),
        (T5RelativePositionBias(2), (2, 2, 5, 7)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_adapters_train_and_merge(module, shape):
    """An adapter begins as nothing, gets gradients, changes the result, and merges into the same result."""
    plain, x = Model(copy.deepcopy(module)), torch.randn(shape)
    layers = [n for n, m in plain.named_modules() if isinstance(m, (nn.Linear, nn.Embedding))]
    model = peft.get_peft_model(copy.deepcopy(plain), peft.LoraConfig(r=2, target_modules=layers))
    torch.testing.assert_close(model(x), plain(x))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert gradients
    assert all(g is not None for g in gradients)
    trained = model(x).detach()
    assert not torch.allclose(trained, plain(x))
    merged = model.merge_and_unload()
    assert list(merged.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(merged(x), trained, rtol=1e-4, atol=1e-5)
