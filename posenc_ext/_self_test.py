"""A quick test of every public op against posenc_ext.reference: values and gradients of small inputs."""

import torch
from torch import Tensor

from . import ops, reference


def _calls(device: str) -> dict[str, tuple[tuple, dict]]:
    """For each public op, the arguments of a small call."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(device).requires_grad_()

    positions = torch.tensor([0.5, 3.0, 700.0], device=device, requires_grad=True)
    index = torch.tensor([[0, 1, 4, 2], [2, 2, 0, 3], [1, 0, 4, 4], [3, 1, 2, 0]], device=device)
    scores = leaf(2, 3, 4, 4)  # [batch, heads, queries, keys]
    qkv = leaf(2, 3, 4, 8), leaf(2, 3, 4, 8), leaf(2, 3, 4, 8)
    return {
        "sinusoidal_table": ((5, 8), {"device": device}),
        "sinusoidal": ((positions, 8), {}),
        "add_sinusoidal": ((leaf(2, 5, 8),), {"start": 3, "x_scale": 2.0}),
        "add_position_embedding": ((leaf(2, 4, 8), leaf(5, 8), [leaf(1, 1, 8)]), {}),
        "window_bias": ((leaf(9, 3), [2, 2]), {}),
        "t5_bias": ((leaf(8, 3), 4, 5), {"max_distance": 16}),
        "gather_bias": ((leaf(5, 3), index), {}),
        "alibi_slopes": ((6,), {"device": device}),
        "alibi_bias": ((leaf(3), 4, 5), {}),
        "bias_softmax": ((scores, leaf(3, 4, 4)), {"scale": 0.5}),
        "window_bias_softmax": ((scores, leaf(9, 3), [2, 2]), {}),
        "diagonal_bias_softmax": ((scores, leaf(3, 7)), {"causal": True}),
        "gather_bias_softmax": ((scores, leaf(5, 3), index), {}),
        "t5_bias_softmax": ((scores, leaf(8, 3)), {"max_distance": 16}),
        "alibi_bias_softmax": ((scores, leaf(3)), {}),
        "window_attention": ((*qkv, leaf(9, 3), [2, 2]), {}),
        "diagonal_attention": ((*qkv, leaf(3, 7)), {}),
        "t5_attention": ((*qkv, leaf(8, 3)), {"max_distance": 16}),
        "alibi_attention": ((*qkv, leaf(3)), {"causal": True}),
    }


def _results(module, name: str, args: tuple, options: dict, dtype: torch.dtype) -> list[Tensor]:
    """The result of an op and the gradients of its floating arguments, which are converted to `dtype`."""
    leaves = []

    def convert(value):
        if isinstance(value, list):
            return [convert(item) for item in value]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        leaves.append(value.detach().to(dtype).requires_grad_())
        return leaves[-1]

    result = getattr(module, name)(*map(convert, args), **options)
    if not leaves:
        return [result]
    weights = torch.linspace(-1, 1, result.numel(), dtype=dtype, device=result.device).view(result.shape)
    # Of a scalar: otherwise torch.autograd.grad imports sympy, which takes longer than the whole test.
    return [result, *torch.autograd.grad((result * weights).sum(), leaves)]


def _verdict(name: str, args: tuple, options: dict) -> str:
    try:
        actual = _results(ops, name, args, options, torch.float32)
        expected = _results(reference, name, args, options, torch.float64)
        for what, a, e in zip(["result", *["gradient"] * (len(actual) - 1)], actual, expected, strict=True):
            if a.shape != e.shape:
                return f"FAIL: {what} of shape {list(a.shape)}, expected {list(e.shape)}"
            error = (a.double() - e.double()).abs()
            if not bool((error <= 1e-5 * (1 + e.double().abs())).all()):  # NaN is wrong
                return f"FAIL: {what} off by {error.max().item():.1e}"
    except Exception as error:  # any error is a failure of this op, and the other ops are still tested
        return f"FAIL: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return "PASS"


def self_test() -> dict[str, dict[str, str]]:
    """For each public op and each device that is usable here: "PASS", or "FAIL: " and the reason."""
    results: dict[str, dict[str, str]] = {}
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for name, (args, options) in _calls(device).items():
            results.setdefault(name, {})[device] = _verdict(name, args, options)
    return results
