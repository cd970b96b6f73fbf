"""Walking the table of ops, and comparing with its references."""

from collections.abc import Callable

import torch
from op_db import OPS
from op_types import DEVICES, DTYPES, Op, Sample, round_bound
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def cases(
    *properties: str,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    devices: tuple[str, ...] = DEVICES,
    keep: Callable[[Op, Sample], bool] = lambda op, sample: True,
) -> list:
    """One test parameter (op, sample) for every sample of every op that has these properties."""
    import pytest  # here: bench/gpu_test.py needs none

    parameters = []
    for op in OPS:
        if not op.supports(*properties):
            continue
        for device in devices:
            for dtype in dtypes:
                for sample in op.samples(device, dtype):
                    if keep(op, sample):
                        kind = f"{dtype}".removeprefix("torch.")
                        place = "" if device == "cpu" else f"{device}-"
                        name = f"{op.name}-{place}{kind}-{sample.name}"
                        parameters.append(pytest.param(op, sample, id=name))
    return parameters


def differentiable(op: Op, sample: Sample) -> bool:
    """Whether gradcheck can take this sample as it stands: float64 throughout, and small."""
    tensors = [sample.tensors()[name] for name in op.gradients(sample)]
    output = sample.inputs.get("dtype") in (None, torch.float64)
    return bool(tensors) and sample.gradients and output and all(t.dtype is torch.float64 for t in tensors)


def costly(op: Op, sample: Sample) -> bool:
    return sample.name in op.costly


def leaves(op: Op, sample: Sample) -> list[Tensor]:
    """Copies of the differentiable arguments that require gradients, strides kept where nothing overlaps."""
    return [sample.tensors()[name].detach().clone().requires_grad_() for name in op.gradients(sample)]


def requiring_gradients(op: Op, sample: Sample, clone: bool = False) -> Sample:
    """The same call on leaves that require gradients, where an argument may have one."""
    found = {}
    for name in op.gradients(sample):
        tensor = sample.tensors()[name]
        if tensor.is_floating_point() or tensor.is_complex():
            found[name] = (tensor.detach().clone() if clone else tensor.detach()).requires_grad_()
    return sample.replace(**found)


def function_of(op: Op, sample: Sample, names: tuple[str, ...]) -> Callable[..., Tensor]:
    """The op as a function of the named arguments alone."""
    return lambda *tensors: op(sample, **dict(zip(names, tensors, strict=True)))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality bit for bit: NaN equals NaN, and -0 differs from 0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[a.element_size()]
    return torch.equal(a.detach().contiguous().view(integer), b.detach().contiguous().view(integer))


def widen(sample: Sample) -> Sample:
    """The same call with every floating tensor, and the result, in float64."""
    inputs = {name: t.to(torch.float64) for name, t in sample.tensors().items() if t.is_floating_point()}
    if "dtype" in sample.inputs:
        inputs["dtype"] = torch.float64
    return sample.replace(**inputs)


def check_against_reference(op: Op, sample: Sample, actual: Tensor) -> None:
    """Bit equality for gathers; else half an ulp of the result's dtype and the oracle's own error."""
    if op.error_bound is None:
        expected = op.reference(**sample.inputs)
        assert same_bits(actual, expected), f"{sample.name}:\n{actual}\n{expected}"
        return
    expected = op.reference(**widen(sample).inputs)
    assert actual.shape == expected.shape
    bound = round_bound(expected, actual.dtype) + op.error_bound(sample, expected)
    error = (actual.to(torch.float64) - expected).abs()
    overflow = expected.abs() > torch.finfo(actual.dtype).max
    error = torch.where(overflow & (actual == expected.sign() * torch.inf), 0.0, error)
    wrong = ~(error <= bound)  # NaN is wrong
    assert not wrong.any(), f"{sample.name}: off by {error[wrong]}, allowed {bound.expand_as(error)[wrong]}"


class Calls(TorchDispatchMode):
    """The names of the ops that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))
