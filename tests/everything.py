"""One module that calls every public op as a model would, for scripting, compiling and exporting."""

import torch
from torch import Tensor

import posenc_ext


class Everything(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        # Two uses of each at most: a sum of two gradients has the same bits in either order.
        self.table = torch.nn.Parameter(torch.randn(18, 2, generator=generator))
        self.buckets = torch.nn.Parameter(torch.randn(18, 2, generator=generator))
        self.slopes = torch.nn.Parameter(torch.randn(2, generator=generator))
        self.window = torch.nn.Parameter(torch.randn(6, 2, generator=generator))
        self.diagonals = torch.nn.Parameter(torch.randn(2, 2047, generator=generator))
        self.rows = torch.nn.Parameter(torch.randn(36, 2, generator=generator))
        self.t5 = torch.nn.Parameter(torch.randn(16, 2, generator=generator))
        self.rates = torch.nn.Parameter(torch.randn(2, generator=generator))

    def forward(self, x: Tensor, timesteps: Tensor, step: int) -> Tensor:
        y = torch.ops.posenc_ext.add_sinusoidal(x, start=step, x_scale=2.0)
        y = y + posenc_ext.add_sinusoidal(x, start=timesteps.to(torch.int64))
        y = y + posenc_ext.sinusoidal(timesteps, x.size(2), layout="concat").unsqueeze(1)
        y = y + posenc_ext.sinusoidal_table(x.size(1), x.size(2), dtype=x.dtype)
        cls, pos_embed = x[:1, :1].mean((0, 1), keepdim=True), x[0] * 0.5
        y = y + posenc_ext.add_position_embedding(x, pos_embed, [cls], embed_prefix=False)[:, 1:]
        y = posenc_ext.add_position_embedding(y, pos_embed)
        bias = posenc_ext.window_bias(self.table, [2, 3], prefix_tokens=1)
        wide = posenc_ext.window_bias(self.table[:15], [2, 3], query_size=[4, 3])
        t5 = posenc_ext.t5_bias(self.buckets, x.size(1), x.size(1), q_offset=step, max_distance=16)
        rows = torch.arange(x.size(1), device=x.device) % 18
        gathered = posenc_ext.gather_bias(self.buckets, rows.unsqueeze(0))
        slopes = posenc_ext.alibi_slopes(2, dtype=x.dtype) * self.slopes
        alibi = posenc_ext.alibi_bias(slopes, x.size(1), x.size(1), causal=True)
        y = y + (t5 + gathered + alibi).mean()
        y = y + self.attend(torch.tanh(0.1 * y), step)
        return y * bias.mean() + wide.sum()

    def attend(self, x: Tensor, step: int) -> Tensor:
        """Softmax with a bias and attention, on parameters that nothing else uses."""
        length = x.size(1)
        x = x.unsqueeze(1).expand(-1, 2, -1, -1)
        scores = torch.matmul(x, x.transpose(-2, -1))
        shown = torch.arange(length, device=x.device) < length - 1
        rows = torch.arange(length, device=x.device)
        rows = (rows.unsqueeze(1) + rows) % 18
        diagonals = self.diagonals[:, : 2 * length - 1]
        pairs = posenc_ext.gather_bias_softmax(scores, self.rows[:18], rows, scale=0.5, mask=shown)
        pairs = posenc_ext.bias_softmax(pairs * 2, posenc_ext.gather_bias(self.rows[18:], rows), inplace=True)
        wide = posenc_ext.diagonal_bias_softmax(pairs * 2, diagonals, inplace=True)
        wide = wide + posenc_ext.alibi_bias_softmax(scores, self.rates, causal=True, q_offset=step)
        wide = wide + posenc_ext.t5_bias_softmax(scores, self.t5, max_distance=16, q_offset=step)
        window = posenc_ext.window_bias_softmax(scores[:, :, :2, :2], self.window[:3], [2, 1], inplace=True)
        two = x[:, :, :2]
        y = posenc_ext.window_attention(two, two, two, self.window[3:], [2, 1]).sum() + window.square().sum()
        y = y + posenc_ext.t5_attention(x, x, x, self.t5, max_distance=16, causal=True)
        y = y + posenc_ext.alibi_attention(x, x, x, self.rates, mask=shown)
        y = y + posenc_ext.diagonal_attention(x, x, x, diagonals) + torch.matmul(wide, x)
        return y.mean(1)


def inputs(batch: int = 2, length: int = 4, dim: int = 6) -> tuple[Tensor, Tensor]:
    """x and timesteps that require gradients."""
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, length, dim, generator=generator)
    timesteps = torch.rand(batch, generator=generator) * 1000
    return x.requires_grad_(), timesteps.requires_grad_()


def values_and_gradients(module, *sizes: int) -> list[Tensor]:
    """The output, and the gradients of x, timesteps and every parameter."""
    x, timesteps = inputs(*sizes)
    output = module(x, timesteps, 3)
    parameters = list(module.parameters())
    return [output.detach(), *torch.autograd.grad(output.square().mean(), [x, timesteps, *parameters])]
