"""accelerate() on models of diffusers, with random weights."""

import copy
import pickle

import pytest
import torch
from torch import nn

diffusers = pytest.importorskip("diffusers", reason="not installed: requirements/models.txt")

from diffusers.models import embeddings  # noqa: E402

from posenc_ext import accelerate, restore  # noqa: E402


def unet() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def dit() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=1,
        sample_size=8,
        num_embeds_ada_norm=10,
        norm_num_groups=1,
    )


def run(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    channels = model.config.in_channels
    sample = torch.randn(2, channels, 8, 8, generator=generator, dtype=model.dtype)
    options = {"class_labels": torch.tensor([3, 4])} if "DiT" in type(model).__name__ else {}
    return model(sample, timestep=torch.tensor([7, 950]), **options).sample


def error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    return (actual.double() - exact.double()).norm().item()


@pytest.mark.parametrize("make", [unet, dit])
def test_outputs_and_gradients(make):
    """Hardly farther from float64 than the library; after restore, those of the library."""
    plain = make().eval()
    ours = copy.deepcopy(plain)
    report = accelerate(ours)
    assert {row.class_name for row in report.replaced} == {"diffusers.Timesteps"}
    assert accelerate(ours) == report
    assert list(ours.state_dict()) == list(plain.state_dict())
    exact = copy.deepcopy(ours).double()
    results = {}
    for name, model in {"plain": plain, "ours": ours, "exact": exact}.items():
        output = run(model)
        output.square().sum().backward()
        results[name] = [output.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    largest = max(grad.norm().item() for grad in results["exact"][1:])
    for theirs, mine, target in zip(*results.values(), strict=True):
        assert error(mine, target) <= 1.25 * error(theirs, target) + 2**-22 * largest
    assert torch.equal(run(pickle.loads(pickle.dumps(ours))), run(ours))
    restore(ours)
    assert torch.equal(run(ours), run(plain))


def test_timesteps():
    """Within the rounding of float32 angles, in float32 for any dtype of timesteps."""
    for arguments in ((32, True, 0), (33, False, 1), (16, True, 0.5, 1000)):
        plain = embeddings.Timesteps(*arguments)
        ours = copy.deepcopy(plain)
        assert len(accelerate(ours).replaced) == 1
        for timesteps in (
            torch.arange(0, 1000, 7),
            torch.linspace(0, 1, 50),
            torch.rand(5).half(),
            torch.rand(5).double(),
        ):
            theirs, mine = plain(timesteps), ours(timesteps)
            assert mine.dtype is theirs.dtype
            largest = timesteps.double().max().item() * (arguments[3] if len(arguments) > 3 else 1)
            assert (mine - theirs).abs().max() <= 1e-7 * largest + 6e-8
        torch.compiler.reset()
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(timesteps), mine)
        with pytest.raises(AssertionError, match="1d-array"):
            ours(torch.zeros(2, 2))


def test_grids_are_kept():
    report = accelerate(dit())
    kept = {row.class_name: row.skipped_because for row in report.skipped}
    assert kept == {"diffusers.PatchEmbed": "its sin-cos grid is computed in float64 and stored in a buffer"}
