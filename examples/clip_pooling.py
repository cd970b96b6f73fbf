"""CLIP's attention pooling with the same parameters and results, for feature maps of any size."""

import io
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posenc_ext.nn import AttentionPool2d


class PlainPool(nn.Module):
    """CLIP's pooling as commonly written, for feature maps of one size."""

    def __init__(self, size: int, dim: int, num_heads: int, output_dim: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(size**2 + 1, dim) / dim**0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.c_proj = nn.Linear(dim, output_dim)
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding
        q, k, v = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.c_proj(x)[:, 0]


def scripted(module: nn.Module) -> nn.Module:
    """Saves the module as TorchScript and loads it again."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit warns of its deprecation at every call
        torch.jit.save(torch.jit.script(module), file)
        file.seek(0)
        return torch.jit.load(file)


def main() -> None:
    torch.manual_seed(0)
    plain, ours = PlainPool(7, 512, 8, 256), AttentionPool2d(7, 512, 8, 256)
    ours.load_state_dict(plain.state_dict())
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        image = torch.randn(8, 512, 7, 7)
        difference = (plain(image) - ours(image)).abs().max()
        print(f"7 x 7, the size of its positions: largest difference from the usual code {difference:.1e}")
        saved = scripted(ours)
        for size in ((9, 9), (7, 12), (4, 4)):
            image = torch.randn(8, 512, *size)
            same = torch.allclose(saved(image), ours(image), rtol=0, atol=1e-6)
            print(f"{size[0]} x {size[1]}: {tuple(ours(image).shape)}, as TorchScript the same: {same}")
        larger = AttentionPool2d(9, 512, 8, 256)
        larger.load_state_dict(plain.state_dict())
        image = torch.randn(8, 512, 9, 9)
        difference = (larger(image) - ours(image)).abs().max()
        print(f"positions resampled to 9 x 9 once, as the checkpoint is loaded: difference {difference:.1e}")


if __name__ == "__main__":
    main()
