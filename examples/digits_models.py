"""Two small image classifiers; their position code (posenc_ext.nn or plain_positions) is an argument."""

from types import ModuleType

from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention from x [B, Q, D] to context [B, K, D], with an optional bias [1, heads, Q, K]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        pairs = self.key_value(context).unflatten(-1, (2, self.heads, -1))
        key, value = pairs.permute(2, 0, 3, 1, 4).unbind(0)
        score = (query * self.scale) @ key.transpose(-2, -1)
        if bias is not None:
            score = score + bias
        return self.out((score.softmax(-1) @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm Transformer block; context and bias are passed to the attention, context defaults to x."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        normed = self.norm1(x)
        x = x + self.dropout(self.attention(normed, normed if context is None else context, bias))
        return x + self.dropout(self.mlp(self.norm2(x)))


class RowTransformer(nn.Module):
    """An image as the sequence of its 8 rows: linear embedding, sinusoids and dropout, two blocks, mean."""

    def __init__(self, positions: ModuleType, dropout: float = 0.0) -> None:
        super().__init__()
        dim = 64
        self.embed = nn.Linear(8, dim)
        self.position = positions.SinusoidalPositionalEncoding(dim, dropout)
        self.blocks = nn.ModuleList([Block(dim, heads=4, dropout=dropout) for _ in range(2)])
        self.norm = nn.LayerNorm(dim)
        self.classify = nn.Linear(dim, 10)

    def forward(self, image: Tensor) -> Tensor:  # [B, 8, 8]
        x = self.position(self.embed(image.transpose(0, 1))).transpose(0, 1)
        for block in self.blocks:
            x = block(x)
        return self.classify(self.norm(x).mean(1))


class WindowTransformer(nn.Module):
    """An image as an 8 x 8 grid of overlapping 3 x 3 patches: attention inside 4 x 4 windows with a
    relative-position bias, then from all 64 patches to a 4 x 4 grid of averages with the expanded bias."""

    def __init__(self, positions: ModuleType) -> None:
        super().__init__()
        dim, heads = 32, 4
        self.embed = nn.Conv2d(1, dim, kernel_size=3, padding=1)
        self.window_bias = positions.WindowRelativePositionBias((4, 4), heads)
        self.window_block = Block(dim, heads)
        self.grid_bias = positions.RelativePositionBias(heads, 4, 4)
        self.grid_block = Block(dim, heads)
        self.norm = nn.LayerNorm(dim)
        self.classify = nn.Linear(dim, 10)

    def forward(self, image: Tensor) -> Tensor:  # [B, 8, 8]
        x = self.embed(image.unsqueeze(1)).permute(0, 2, 3, 1)  # [B, 8, 8, D]
        windows = x.unflatten(1, (2, 4)).unflatten(3, (2, 4)).transpose(2, 3).reshape(-1, 16, x.size(-1))
        windows = self.window_block(windows, None, self.window_bias())
        x = windows.view(-1, 2, 2, 4, 4, x.size(-1)).transpose(2, 3).reshape(-1, 8, 8, x.size(-1))
        grid = x.unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))  # [B, 4, 4, D]
        x = self.grid_block(x.flatten(1, 2), grid.flatten(1, 2), self.grid_bias(8, 8))
        return self.classify(self.norm(x).mean(1))
