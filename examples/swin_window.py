"""Swin's window attention without an index buffer: python examples/swin_window.py"""

import plain_positions
import torch
from torch import Tensor, nn

import posenc_ext


class WindowAttention(nn.Module):
    """Attention inside the windows of a [B, H, W, C] map; H and W are multiples of the window."""

    def __init__(self, dim: int, window: int, num_heads: int, bias: nn.Module) -> None:
        super().__init__()
        self.window, self.num_heads = window, num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        s = self.window
        windows = x.view(B, H // s, s, W // s, s, C).transpose(2, 3).reshape(-1, s * s, C)
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias())
        y = self.proj(y.transpose(1, 2).flatten(2))
        return y.view(B, H // s, W // s, s, s, C).transpose(2, 3).reshape(B, H, W, C)


def both(dim: int = 96, window: int = 7, num_heads: int = 3) -> tuple[nn.Module, nn.Module]:
    """The attention with common code, and with posenc_ext after loading the same checkpoint."""
    plain, ours = (
        WindowAttention(
            dim, window, num_heads, source.WindowRelativePositionBias((window, window), num_heads)
        )
        for source in (plain_positions, posenc_ext.nn)
    )
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def bias_gradient(attention: nn.Module, x: Tensor) -> Tensor:
    attention(x).square().sum().backward()
    return attention.bias.relative_position_bias_table.grad.double()


def main() -> None:
    torch.manual_seed(0)
    plain, ours = both()
    x = torch.randn(8, 56, 56, 96)
    with torch.no_grad():
        verdict = "outputs the same, bit for bit" if torch.equal(ours(x), plain(x)) else "outputs DIFFER"
    print(f"8 maps of 56 x 56 cells in windows of 7 x 7: {verdict}")
    for name, attention in (("plain", plain), ("posenc_ext", ours)):
        index = [key for key in attention.state_dict() if key.endswith("index")]
        print(
            f"{name:>10}: {len(attention.state_dict())} entries in the checkpoint, of which indices: {index}"
        )
    exact = bias_gradient(plain.double(), x.double())
    error = (bias_gradient(ours, x) - exact).abs().max() / exact.abs().max()
    print(f"gradient of the table, float32 against float64: {error:.0e}")


if __name__ == "__main__":
    main()
