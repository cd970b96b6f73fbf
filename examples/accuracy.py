"""The accuracy of plain PyTorch position code and of posenc_ext: python examples/accuracy.py"""

import math

import plain_positions
import torch
from torch import Tensor, nn

import posenc_ext


def sinusoid_errors(position: int, dim: int) -> list[float]:
    """Largest errors of float32 sines at a position: common code, posenc_ext."""
    j = torch.arange(0, dim, 2)
    exact = torch.sin(position * 10000.0 ** (-j.double() / dim))
    plain = torch.sin(position * torch.exp(j * (-math.log(10000.0) / dim)))
    ours = posenc_ext.sinusoidal(torch.tensor(position), dim)[0::2]
    return [(sines - exact).abs().max().item() for sines in (plain, ours)]


def bias_gradient(module: nn.Module, upstream: Tensor) -> Tensor:
    """The gradient of the table of a window bias, computed in the dtype of the upstream gradient."""
    module.to(upstream.dtype)().backward(upstream)
    return module.relative_position_bias_table.grad.double()


def bias_gradient_errors(window: tuple[int, int], heads: int) -> list[float]:
    """Largest relative errors of bfloat16 gradients, for positive upstream gradients: common code, ours."""
    size = math.prod(window)
    upstream = torch.rand(1, heads, size, size).bfloat16()
    exact = bias_gradient(plain_positions.WindowRelativePositionBias(window, heads), upstream.double())
    gradients = [
        bias_gradient(source.WindowRelativePositionBias(window, heads), upstream)
        for source in (plain_positions, posenc_ext.nn)
    ]
    return [((gradient - exact) / exact).abs().max().item() for gradient in gradients]


def main() -> None:
    torch.manual_seed(0)
    print(f"largest errors, torch {torch.__version__}              plain PyTorch    posenc_ext")
    plain, ours = sinusoid_errors(1_000_000, 512)
    print(f"float32 sinusoids at position 1,000,000              {plain:>10.1e}    {ours:>10.1e}")
    plain, ours = bias_gradient_errors((32, 32), 16)
    print(f"bfloat16 table gradient, 32 x 32 window, relative    {plain:>10.1%}    {ours:>10.1%}")


if __name__ == "__main__":
    main()
