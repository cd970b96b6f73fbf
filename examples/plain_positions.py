"""Common position code in plain PyTorch: the classes of posenc_ext.nn with buffers and indexing."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SinusoidalPositionalEncoding(nn.Module):
    """A buffer with a table of sinusoids; forward scales the input, adds the first rows, applies dropout."""

    def __init__(self, dim: int, dropout: float, max_len: int = 5000) -> None:
        super().__init__()
        if dim % 2 != 0:
            raise ValueError(f"Cannot use sin/cos positional encoding with odd dim (got dim={dim})")
        position = torch.arange(max_len).unsqueeze(1)
        frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
        pe = torch.zeros(max_len, dim)
        pe[:, 0::2] = torch.sin(position * frequency)
        pe[:, 1::2] = torch.cos(position * frequency)
        self.register_buffer("pe", pe.unsqueeze(1))
        self.dropout = nn.Dropout(dropout)
        self.dim = dim

    def forward(self, emb: Tensor, step: int | None = None) -> Tensor:
        emb = emb * math.sqrt(self.dim)
        emb = emb + (self.pe[: emb.size(0)] if step is None else self.pe[step])
        return self.dropout(emb)


def relative_position_index(window: Sequence[int]) -> Tensor:
    """The row of the bias table for each (query, key) pair of a window, [N, N]."""
    cells = torch.stack(torch.meshgrid([torch.arange(size) for size in window], indexing="ij")).flatten(1)
    index = torch.zeros(cells.shape[1], cells.shape[1], dtype=torch.int64)
    for position, size in zip(cells, window, strict=True):
        index = index * (2 * size - 1) + position[:, None] - position[None, :] + size - 1
    return index


class RelativePositionBias(nn.Module):
    """The bias of an H x W map of queries and an h x w grid of keys: gathers for the grid, repeats rows."""

    def __init__(self, num_heads: int, h: int, w: int) -> None:
        super().__init__()
        self.h = h
        self.w = w
        rows = (2 * h - 1) * (2 * w - 1)
        self.relative_position_bias_table = nn.Parameter(torch.randn(rows, num_heads) * 0.02)
        self.register_buffer("relative_position_index", relative_position_index((h, w)))

    def forward(self, H: int, W: int) -> Tensor:
        keys = self.h * self.w
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(self.h, self.w, keys, -1)
        bias = bias.repeat_interleave(H // self.h, dim=0).repeat_interleave(W // self.w, dim=1)
        return bias.view(H * W, keys, -1).permute(2, 0, 1).contiguous().unsqueeze(0)


class WindowRelativePositionBias(nn.Module):
    """The bias inside a window: gathers a table row for each (query, key) pair, moves the heads first."""

    def __init__(self, window: Sequence[int], num_heads: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        index = relative_position_index(window)
        rows = math.prod(2 * size - 1 for size in window) + 3 * prefix_tokens
        if prefix_tokens:
            index = nn.functional.pad(index, (1, 0, 1, 0))
            index[0, :] = rows - 3
            index[:, 0] = rows - 2
            index[0, 0] = rows - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", index)

    def forward(self) -> Tensor:
        n = self.relative_position_index.shape[0]
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(n, n, -1)
        return bias.permute(2, 0, 1).contiguous().unsqueeze(0)
