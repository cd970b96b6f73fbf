"""Attention from H x W queries to h x w keys with one bias table: python examples/expanded_bias.py"""

import plain_positions
import torch
from torch import Tensor, nn

import posenc_ext


class ReducedAttention(nn.Module):
    """Attention of UTNet: each position of a [B, C, H, W] map attends to the map averaged to h x w cells."""

    def __init__(self, dim: int, num_heads: int, h: int, w: int, source=posenc_ext.nn) -> None:
        super().__init__()
        self.num_heads, self.size = num_heads, (h, w)
        self.q, self.kv = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, 2 * dim, 1)
        self.bias = source.RelativePositionBias(num_heads, h, w)

    def forward(self, x: Tensor) -> Tensor:
        small = nn.functional.adaptive_avg_pool2d(x, self.size)
        q = self.q(x).flatten(2).unflatten(1, (self.num_heads, -1)).mT
        k, v = self.kv(small).flatten(2).unflatten(1, (2, self.num_heads, -1)).mT.unbind(1)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(x.shape[2], x.shape[3]))
        return y.mT.reshape(x.shape)


def outputs(H: int, W: int) -> tuple[Tensor, Tensor]:
    """Outputs of common code and of posenc_ext with the same weights, for an H x W map and 8 x 8 keys."""
    plain = ReducedAttention(32, 4, 8, 8, source=plain_positions)
    ours = ReducedAttention(32, 4, 8, 8)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(1, 32, H, W)
    with torch.no_grad():
        return plain(x), ours(x)


def main() -> None:
    torch.manual_seed(0)
    for H, W in ((8, 8), (16, 24), (64, 64)):
        plain, ours = outputs(H, W)
        same = "the same, bit for bit" if torch.equal(ours, plain) else "DIFFERENT"
        print(f"{H} x {W} queries on 8 x 8 keys: {same}")
    attention = ReducedAttention(32, 4, 8, 8)
    with torch.no_grad():
        shape = attention(torch.randn(1, 32, 20, 30)).shape
    print(f"20 x 30 queries, no multiples of 8: output {list(shape)}; the usual code has no bias for them")
    print(f"keys of the checkpoint: {', '.join(key for key in attention.state_dict() if 'bias.' in key)}")


if __name__ == "__main__":
    main()
