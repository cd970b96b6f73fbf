"""Samples, references, tolerances and errors of ALiBi."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from op_types import FLOATING, Error, Sample, adjoint, layouts, values
from torch import Tensor

from posenc_ext import reference

# name: q_len, k_len, q_offset, causal
SHAPES = {
    "both": (4, 6, 0, False),
    "causal": (4, 6, 0, True),
    "decode": (1, 7, 6, True),
    "cross": (5, 3, 2, False),
    "behind": (3, 4, 30, False),
    "ahead": (3, 4, -30, False),
    "ahead-causal": (3, 4, -2, True),
    "no-query": (0, 3, 0, False),
    "no-key": (3, 0, 0, False),
}


def alibi_inputs(q_len, k_len, q_offset=0, causal=False) -> dict[str, Any]:
    return {"q_len": q_len, "k_len": k_len, "q_offset": q_offset, "causal": causal}


def slope_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for heads in (1, 2, 3, 7, 8, 12, 16, 20, 71, 112):
        inputs = {"num_heads": heads, "dtype": dtype, "device": torch.device(device)}
        yield Sample(f"heads{heads}", inputs)


def slope_errors(device: str) -> Iterator[Error]:
    def call(num_heads=8, dtype=torch.float32):
        return {"num_heads": num_heads, "dtype": dtype, "device": torch.device(device)}

    name = "posenc_ext::alibi_slopes"
    for heads in (0, -3):
        yield Error(f"heads{heads}", call(heads), f"{name}: num_heads must be positive, got {heads}")
    for dtype, text in ((torch.int32, "Int"), (torch.complex64, "ComplexFloat")):
        yield Error(f"dtype-{text}", call(dtype=dtype), f"{name}: dtype {FLOATING}, got {text}")


def slope_out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    yield Sample("out", {"num_heads": 12, "out": torch.zeros(12, device=device, dtype=dtype)})
    yield Sample("out-strided", {"num_heads": 5, "out": torch.zeros(10, device=device, dtype=dtype)[::2]})
    yield Sample("out-empty", {"num_heads": 3, "out": torch.empty(0, device=device, dtype=dtype)})


def slope_out_reference(num_heads: int, out: Tensor) -> Tensor:
    return reference.alibi_slopes(num_heads, dtype=out.dtype, device=out.device)


def slope_out_errors(device: str) -> Iterator[Error]:
    def call(num_heads=8, shape=(8,), dtype=torch.float32):
        return {"num_heads": num_heads, "out": torch.zeros(shape, device=device, dtype=dtype)}

    name = "posenc_ext::alibi_slopes"
    yield Error("heads", call(0), f"{name}: num_heads must be positive, got 0")
    yield Error("dtype", call(dtype=torch.int32), f"{name}: dtype {FLOATING}, got Int")
    for shape in ((7,), (8, 1)):
        text = f"{name}: out must be empty or have shape [8], got {list(shape)}"
        yield Error(f"shape{list(shape)}", call(shape=shape), text)
    inputs = {"num_heads": 8, "out": torch.zeros(1, device=device).expand(8)}
    yield Error("overlap", inputs, f"{name}: out must not overlap itself, got strides [0]")


def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for name, sizes in SHAPES.items():
        yield Sample(name, {"slopes": values((3,), device, dtype), **alibi_inputs(*sizes)})
    for heads in (0, 1):
        yield Sample(f"heads{heads}", {"slopes": values((heads,), device, dtype), **alibi_inputs(4, 5)})
    for view, slopes in layouts(values((4,), device, dtype)):
        yield Sample(f"slopes-{view}", {"slopes": slopes, **alibi_inputs(3, 5, 1)})
    slopes = reference.alibi_slopes(12, dtype=dtype, device=device)
    yield Sample("bloom", {"slopes": slopes, **alibi_inputs(60, 70, 10, True)}, gradients=False)
    # Distances beyond float16's range: infinite there, rounded once elsewhere.
    for name, sizes in {
        "long": (35, 2100, 3),
        "far": (2, 3, 2**24 + 1),
        "farthest": (2, 3, 2**53 - 1),
        "farthest-ahead": (2, 3, 1 - 2**53),
    }.items():
        yield Sample(name, {"slopes": slopes, **alibi_inputs(*sizes)}, gradients=False)


def checks(call: Callable[..., dict[str, Any]], name: str) -> Iterator[Error]:
    for offset in (2**53, -(2**53)):
        text = f"{name}: q_offset must be between -2**53 and 2**53, got {offset}"
        yield Error(f"offset{offset}", call(q_offset=offset), text)


def errors(device: str) -> Iterator[Error]:
    def call(shape=(3,), dtype=torch.float32, q_len=5, k_len=7, **sizes):
        slopes = torch.ones(shape, device=device, dtype=dtype)
        return {"slopes": slopes, **alibi_inputs(q_len, k_len, **sizes)}

    name = "posenc_ext::alibi_bias"
    for shape in ((3, 1), ()):
        text = f"{name}: slopes must have 1 dimension [heads], got {len(shape)}"
        yield Error(f"slopes{len(shape)}d", call(shape), text)
    yield Error("slopes-dtype", call(dtype=torch.int32), f"{name}: slopes {FLOATING}, got Int")
    for argument in ("q_len", "k_len"):
        yield Error(argument, call(**{argument: -1}), f"{name}: {argument} must be non-negative, got -1")
    text = f"{name}: [q_len, k_len] must have a product below 2**53, got [{2**30}, {2**30}]"
    yield Error("product", call(q_len=2**30, k_len=2**30), text)
    yield from checks(call, name)


def backward_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, grad, q_offset=0, causal=False, gradients=True):
        return Sample(name, {"grad": grad, "q_offset": q_offset, "causal": causal}, gradients)

    for name, (q_len, k_len, *rest) in SHAPES.items():
        yield sample(name, values((3, q_len, k_len), device, dtype), *rest)
    for heads in (0, 1):
        yield sample(f"heads{heads}", values((heads, 4, 5), device, dtype))
    for view, grad in layouts(values((2, 6, 5), device, dtype)):
        yield sample(f"grad-{view}", grad, 1)
    yield sample("bloom", values((4, 60, 70), device, dtype), 10, True, gradients=False)
    yield sample("long", values((2, 3, 2100), device, dtype), 1000, gradients=False)
    yield sample("farthest", values((4, 5, 6), device, dtype), 2**53 - 1, gradients=False)


def backward_reference(grad: Tensor, q_offset: int, causal: bool) -> Tensor:
    heads, q_len, k_len = grad.shape

    def bias(slopes):
        return reference.alibi_bias(slopes, q_len, k_len, q_offset=q_offset, causal=causal)

    return adjoint(bias, (heads,), grad)


def backward_bound(sample: Sample, expected: Tensor) -> Tensor:
    """Sums are made in float64 for every dtype."""
    terms = sample.inputs["grad"].shape[1:].numel()
    inputs = {**sample.inputs, "grad": sample.inputs["grad"].to(torch.float64).abs()}
    return backward_reference(**inputs).abs() * (terms + 1) * 2.0**-53


def backward_errors(device: str) -> Iterator[Error]:
    def call(shape=(2, 5, 7), dtype=torch.float32, q_offset=0):
        grad = torch.ones(shape, device=device, dtype=dtype)
        return {"grad": grad, "q_offset": q_offset, "causal": False}

    name = "posenc_ext::_alibi_bias_backward"
    for shape in ((5, 7), (1, 2, 5, 7), ()):
        text = f"{name}: grad must have 3 dimensions [heads, q_len, k_len], got {len(shape)}"
        yield Error(f"grad{len(shape)}d", call(shape), text)
    yield Error("grad-dtype", call(dtype=torch.int32), f"{name}: grad {FLOATING}, got Int")
    yield from checks(call, name)
