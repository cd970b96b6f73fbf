"""The input layer of the classic Transformer encoder, emb * sqrt(dim) + sinusoids, with posenc_ext and as
commonly written: at large positions, and for samples that start at different positions.
"""

import math

import torch
from torch import Tensor

import posenc_ext
from posenc_ext.nn import SinusoidalPositionalEncoding

DIM = 512


def far_errors(position: int) -> tuple[float, float]:
    """Largest errors of float32 sinusoids at a position: common formula, posenc_ext."""
    j = torch.arange(0, DIM, 2)
    angle = position * torch.exp(j * (-math.log(10000.0) / DIM))
    plain = torch.stack([angle.sin(), angle.cos()], 1).flatten()
    angle = position * 10000.0 ** (-j.double() / DIM)
    exact = torch.stack([angle.sin(), angle.cos()], 1).flatten()
    ours = SinusoidalPositionalEncoding(DIM, 0.0)(torch.zeros(1, 1, DIM), start=position)[0, 0]
    return (plain - exact).abs().max().item(), (ours - exact).abs().max().item()


def half_rows(length: int) -> tuple[int, int]:
    """The number of distinct rows of a bfloat16 table: computed in bfloat16, and by posenc_ext."""
    position = torch.arange(length, dtype=torch.bfloat16)[:, None]
    angle = position * 10000.0 ** (-torch.arange(0, DIM, 2) / DIM).bfloat16()
    plain = torch.cat([angle.sin(), angle.cos()], 1)
    ours = posenc_ext.sinusoidal_table(length, DIM, dtype=torch.bfloat16)
    return len(plain.float().unique(dim=0)), len(ours.float().unique(dim=0))


def left_padded(prompts: list[Tensor], encoding: SinusoidalPositionalEncoding) -> Tensor:
    """Encodes prompts [length, dim] of different lengths as one left-padded batch, [B, L, dim]."""
    longest = max(map(len, prompts))
    batch = torch.stack([torch.cat([torch.zeros(longest - len(p), DIM), p]) for p in prompts])
    starts = torch.tensor([len(p) - longest for p in prompts])  # the first token of each is at position 0
    return encoding(batch, start=starts)


def main() -> None:
    torch.manual_seed(0)
    print("largest error of float32 sinusoids       usual code    posenc_ext")
    for position in (100, 10_000, 1_000_000):
        plain, ours = far_errors(position)
        print(f"  at position {position:>9,} {plain:>27.1e} {ours:>13.1e}")
    plain_rows, our_rows = half_rows(4096)
    print(f"distinct bfloat16 rows of 4096 positions {plain_rows:>10} {our_rows:>13}")

    encoding = SinusoidalPositionalEncoding(DIM, 0.1, batch_first=True).eval()
    prompts = [torch.randn(length, DIM) for length in (3, 7, 5)]
    batch = left_padded(prompts, encoding)
    same = all(torch.equal(row[-len(p) :], encoding(p[None])[0]) for row, p in zip(batch, prompts))
    print(f"left-padded prompts of 3, 7 and 5 tokens: each as if it were alone: {same}")
    steps = [encoding(prompts[1][None, i : i + 1], start=i) for i in range(7)]
    same = torch.equal(torch.cat(steps, 1), encoding(prompts[1][None]))
    print(f"token by token as in one piece: {same}")


if __name__ == "__main__":
    main()
