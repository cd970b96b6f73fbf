"""A bias with a data-dependent index, as in LayoutLMv3, and its gradient: python examples/layout_bias.py"""

import torch
from torch import Tensor

import posenc_ext

BINS, REACH = 64, 256


def buckets(coordinates: Tensor) -> Tensor:
    """The row of the table for each pair of boxes, [B, L, L]: the distance in bins of 2 * REACH / BINS."""
    distance = coordinates.unsqueeze(-2) - coordinates.unsqueeze(-1)
    return (distance.clamp(-REACH, REACH - 1) + REACH) * BINS // (2 * REACH)


def gradient_errors(index: Tensor, heads: int) -> tuple[float, float]:
    """Largest relative errors of the gradient of a bfloat16 table: with indexing, with gather_bias."""
    upstream = torch.rand(len(index), heads, *index.shape[1:]).bfloat16()

    def gradient(gather, dtype: torch.dtype) -> Tensor:
        table = torch.zeros(BINS, heads, dtype=dtype, requires_grad=True)
        gather(table).backward(upstream.to(dtype))
        return table.grad.double()

    def plain(table: Tensor) -> Tensor:
        return table[index].permute(0, 3, 1, 2)

    def ours(table: Tensor) -> Tensor:
        return posenc_ext.gather_bias(table, index)

    exact = gradient(plain, torch.float64)
    seen = exact > 0
    errors = (((gradient(f, torch.bfloat16) - exact) / exact)[seen].abs().max().item() for f in (plain, ours))
    return tuple(errors)


def main() -> None:
    torch.manual_seed(0)
    index = buckets(torch.randint(0, 1000, (2, 400)))
    table = torch.randn(BINS, 12)
    same = torch.equal(posenc_ext.gather_bias(table, index), table[index].permute(0, 3, 1, 2))
    print(f"biases of 2 pages of 400 boxes, 12 heads: {'the same, bit for bit' if same else 'DIFFERENT'}")
    plain, ours = gradient_errors(index, 12)
    print(
        f"bfloat16 gradient of the table, relative error: {plain:.1%} by indexing, {ours:.1%} by gather_bias"
    )


if __name__ == "__main__":
    main()
