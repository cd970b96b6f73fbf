"""T5's bias when decoding with a KV cache, step by step and at once: python examples/t5_decoding.py"""

import torch
from torch import Tensor, nn

import posenc_ext

Cache = tuple[Tensor, Tensor]


class CausalAttention(nn.Module):
    """Self-attention of a T5 decoder: unscaled scores, a bias by distance, and a cache of past keys."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.bias = posenc_ext.nn.T5RelativePositionBias(num_heads, bidirectional=False)

    def forward(self, x: Tensor, past: Cache | None = None) -> tuple[Tensor, Tensor, Cache]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        start = k.shape[2] - q.shape[2]  # the length of the cache: the position of the first query
        bias = self.bias(q.shape[2], k.shape[2], start)
        ahead = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(start + 1)
        weights = (q @ k.mT + bias).masked_fill(ahead, -torch.inf).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2), bias, (k, v)


def decode(attention: CausalAttention, x: Tensor) -> tuple[float, bool]:
    """Largest difference of the outputs, and whether the bias of each step is its row of the full bias."""
    full, full_bias, _ = attention(x)
    cache, outputs, same = None, [], True
    for step in range(x.shape[1]):
        output, bias, cache = attention(x[:, step : step + 1], cache)
        outputs.append(output)
        same &= torch.equal(bias, full_bias[:, :, step : step + 1, : step + 1])
    return (torch.cat(outputs, 1) - full).abs().max().item(), same


def main() -> None:
    torch.manual_seed(0)
    attention = CausalAttention(dim=64, num_heads=8)
    with torch.no_grad():
        nn.init.normal_(attention.bias.relative_attention_bias.weight)
        difference, same = decode(attention, torch.randn(2, 150, 64))
    verdict = "rows of the full bias, bit for bit" if same else "OTHER than the full bias"
    print(f"150 steps with a cache: their biases are {verdict}")
    print(f"outputs differ by {difference:.0e}: matrix products of other shapes")


if __name__ == "__main__":
    main()
