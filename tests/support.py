"""Walking the table of ops, and comparing with its references."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from op_db import OPS
from op_types import DEVICES, DTYPES, Op, Sample, round_bound
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def seed(number: int) -> None:
    """torch.manual_seed without its tracebacks for devices that are not there: 0.3 ms a call in pytest."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)


@contextmanager
def settings() -> Iterator[None]:
    """The same random numbers for every test and sample; no global setting is left to the next one."""
    seed(0)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def check_each(check: Callable, samples: Iterable[tuple[str, dict]]) -> None:
    """Calls check(**arguments) for every (name, arguments); fails at the end, naming all that failed."""
    import pytest  # here: bench/ imports this file where there is no pytest

    count, failures = 0, []
    for name, arguments in samples:
        count += 1
        try:
            with settings():
                check(**arguments)
        except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:  # no sample is skipped
            failures.append((name, error))
    assert count, "no samples"
    if failures:
        texts = [f"{name}: {type(error).__name__}: {error}"[:2000] for name, error in failures]
        text = f"{len(failures)} of {count} samples fail\n" + "\n".join(texts)
        raise AssertionError(text) from failures[0][1]


def looped(test: Callable, names: Iterable[str], samples: Callable[[dict], Iterable], outer: tuple = ()):
    """`test` as a loop over samples(fixtures), which give it the arguments of these names."""

    @functools.wraps(test)
    def loop(**given):
        chosen = {name: given.pop(name) for name in outer}
        check_each(test, ((name, arguments | given) for name, arguments in samples(chosen)))

    kept = [p for name, p in inspect.signature(test).parameters.items() if name not in names]
    added = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in outer]
    loop.__signature__ = inspect.Signature(added + kept)
    return loop


def label(value) -> str:
    return getattr(value, "__name__", str(value)).removeprefix("torch.")


def each(names: str | tuple[str, ...], values: Iterable, ids: Iterable[str] | None = None) -> Callable:
    """pytest.mark.parametrize, but one test: a loop that names every value that fails."""
    names = (names,) if isinstance(names, str) else names
    rows = [(value,) if len(names) == 1 else tuple(value) for value in values]
    found = list(ids) if ids is not None else ["-".join(map(label, row)) for row in rows]
    arguments = [dict(zip(names, row, strict=True)) for row in rows]
    return lambda test: looped(test, names, lambda _: zip(found, arguments, strict=True))


def walk(
    *properties: str,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    devices: tuple[str, ...] = DEVICES,
    keep: Callable[[Op, Sample], bool] = lambda op, sample: True,
) -> Callable:
    """A test of (op, sample) for every op that has these properties: a loop over its dtypes and samples."""
    import pytest

    def samples(op: Op, device: str) -> Iterator[tuple[str, dict]]:
        for dtype in dtypes:
            for sample in op.samples(device, dtype):
                if keep(op, sample):
                    yield f"{label(dtype)} {sample.name}", {"op": op, "sample": sample}

    chosen = [
        pytest.param(op, device, id=op.name if device == "cpu" else f"{op.name}-{device}")
        for device in devices
        for op in OPS
        if op.supports(*properties) and any(True for _ in samples(op, device))
    ]

    def decorate(test: Callable) -> Callable:
        loop = looped(test, ("op", "sample"), lambda given: samples(**given), outer=("op", "device"))
        return pytest.mark.parametrize(("op", "device"), chosen)(loop)

    return decorate


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
        if op.in_place and name == "scores":
            continue  # a leaf that requires gradients cannot be overwritten
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


def same(op: Op, a: Tensor, b: Tensor) -> bool:
    """Equality bit for bit, except of matrix products: a few roundings of values of order 1."""
    if not op.products or not a.is_floating_point():
        return same_bits(a, b)
    bound = 64 * torch.finfo(a.dtype).eps
    close = torch.isclose(a.detach(), b.detach(), rtol=bound, atol=bound, equal_nan=True)
    return (a.dtype, a.shape) == (b.dtype, b.shape) and bool(close.all())


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
    equal = (overflow & (actual == expected.sign() * torch.inf)) | (actual.isnan() & expected.isnan())
    wrong = ~((error <= bound) | equal)  # NaN is wrong
    assert not wrong.any(), f"{sample.name}: off by {error[wrong]}, allowed {bound.expand_as(error)[wrong]}"


class Calls(TorchDispatchMode):
    """The names of the ops that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))
