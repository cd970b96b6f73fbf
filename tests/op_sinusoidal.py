"""Samples, references, tolerances and errors of the sinusoidal family."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from op_out import outs
from op_types import (
    ANGLE_ERROR,
    DTYPES,
    FLOAT64_ERROR,
    FLOATING,
    Error,
    Sample,
    layouts,
    round_bound,
    values,
)
from torch import Tensor

from posenc_ext import reference

SPEC = {"base": 10000.0, "freq_shift": 0.0, "scale": 1.0, "layout": "interleaved", "odd": "error"}
LAYOUTS = ("interleaved", "concat", "concat_cos_first")
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def specs() -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(name, dim, spec): every layout with every kind of odd dim, then the numbers."""
    for layout in LAYOUTS:
        for dim, odd in ((8, "error"), (7, "zero"), (7, "sin"), (6, "zero"), (2, "error")):
            yield f"{layout}-{odd}{dim}", dim, {"layout": layout, "odd": odd}
        yield f"{layout}-sin1", 1, {"layout": layout, "odd": "sin", "freq_shift": -1.0}
        yield f"{layout}-zero1", 1, {"layout": layout, "odd": "zero", "freq_shift": -1.0}
    yield "tensor2tensor", 8, {"layout": "concat", "freq_shift": 1.0}
    yield "diffusion", 10, {"layout": "concat_cos_first", "freq_shift": 1.0, "scale": 1000.0}
    yield "fractional-shift", 5, {"freq_shift": 0.5, "odd": "sin"}
    yield "base500", 12, {"base": 500.0, "scale": -0.25}
    yield "base1", 4, {"base": 1.0}
    yield "base0.5", 4, {"base": 0.5}
    yield "scale0", 4, {"scale": 0.0}


def spec_errors(op: str, call: Callable[..., dict[str, Any]], scale: bool) -> Iterator[Error]:
    """The errors of the arguments that every sinusoidal op shares; `call` takes dim and overrides."""
    name = f"posenc_ext::{op}"
    even = 'dim must be even unless odd is "zero" or "sin"'
    yield Error("dim-zero", call(dim=0), f"{name}: dim must be positive, got 0")
    yield Error("dim-odd", call(dim=7), f"{name}: {even}, got 7")
    yield Error(
        "no-frequency", call(dim=2, freq_shift=1.0), f"{name}: dim // 2 - freq_shift must be positive, got 0"
    )
    yield Error(
        "one-channel", call(dim=1, odd="sin"), f"{name}: dim // 2 - freq_shift must be positive, got 0"
    )
    yield Error(
        "shift-large", call(freq_shift=6.5), f"{name}: dim // 2 - freq_shift must be positive, got -2.5"
    )
    for base, text in ((-1.0, "-1"), (0.0, "0"), (float("inf"), "inf"), (float("nan"), "nan")):
        yield Error(f"base-{text}", call(base=base), f"{name}: base must be positive and finite, got {text}")
    yield Error("shift-nan", call(freq_shift=float("nan")), f"{name}: freq_shift must be finite, got nan")
    if scale:
        yield Error("scale-inf", call(scale=float("inf")), f"{name}: scale must be finite, got inf")
    known = '"interleaved", "concat" or "concat_cos_first"'
    yield Error("layout", call(layout="x"), f'{name}: layout must be {known}, got "x"')
    yield Error("odd", call(odd="x"), f'{name}: odd must be "error", "zero" or "sin", got "x"')


def inexact_errors(name: str, device: str) -> Iterator[Error]:
    """Positions of 64 bits that doubles do not hold, among three."""
    for value in (2**53, -(2**53), 2**62 + 1, -(2**63)):
        text = f"{name}: positions must be below 2**53 in magnitude, got {value}"
        yield Error(f"inexact{value}", {"positions": torch.tensor([0, value, 0], device=device)}, text)
    value = 2**64 - 1
    positions = torch.tensor([0, value, 0], dtype=torch.uint64, device=device)
    text = f"{name}: positions must be below 2**53 in magnitude, got {value}"
    yield Error(f"inexact{value}", {"positions": positions}, text)


def largest_angle(positions: Tensor, spec: Mapping[str, Any], dim: int) -> Tensor:
    """The largest angle of any channel, per position: what the oracle's error grows with."""
    exponent = -(dim // 2) / (dim // 2 - spec["freq_shift"])
    frequency = max(1.0, spec["base"] ** exponent) * abs(spec["scale"])
    return (positions.to(torch.float64) * frequency).abs()


def device_error(expected: Tensor, dtype: torch.dtype) -> Tensor:
    """What CUDA's float32 sines are off by, up to 0.76 ulp of float32: half an ulp of it is a rounding that
    float32 results have anyway."""
    if expected.device.type != "cuda" or dtype == torch.float64:
        return torch.zeros_like(expected)
    return round_bound(expected, torch.float32) * (0.52 if dtype == torch.float32 else 1.52)


def sinusoid_bound(sample: Sample, expected: Tensor) -> Tensor:
    inputs = sample.inputs
    if "positions" in inputs:
        positions = inputs["positions"]
    else:
        positions = inputs["start"] + torch.arange(inputs["length"], device=expected.device)
    angle = largest_angle(positions, inputs, inputs["dim"])[..., None]
    derivative = angle_rate(inputs, inputs["dim"]) ** inputs.get("order", 0)
    oracle = (angle * ANGLE_ERROR + FLOAT64_ERROR * (1 + inputs.get("order", 0))) * derivative
    if inputs.get("order", 0) != 0:  # in float64 everywhere
        return oracle
    return oracle + device_error(expected, inputs.get("dtype") or positions.dtype)


def angle_rate(spec: Mapping[str, Any], dim: int) -> float:
    """The largest |d angle / d position|."""
    return float(largest_angle(torch.ones(()), spec, dim))


def table_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, length, dim, start=0, **spec):
        inputs = {
            "length": length,
            "dim": dim,
            "start": start,
            **SPEC,
            **spec,
            "dtype": dtype,
            "device": device,
        }
        return Sample(name, {**inputs, "device": torch.device(device)})

    for name, dim, spec in specs():
        yield sample(name, 5, dim, **spec)
    yield sample("no-rows", 0, 4)
    yield sample("negative-start", 7, 6, start=-3)
    yield sample("start", 40, 130, start=1000)
    yield sample("far", 3, 64, start=2**24 - 3)


def table_out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for sample in table_samples(device, dtype):
        inputs = {name: value for name, value in sample.inputs.items() if name not in ("dtype", "device")}
        out = torch.empty(inputs["length"], inputs["dim"], device=device, dtype=dtype)
        yield Sample(sample.name, {**inputs, "out": out})
    for view, out in layouts(torch.empty(6, 10, device=device, dtype=dtype)):
        if not view.startswith("expanded"):
            yield Sample(f"out-{view}", {"length": 6, "dim": 10, "start": 2, **SPEC, "out": out})
    for length in (6, 70):  # row by row, and by angle addition
        out = torch.empty(length, 35, device=device, dtype=dtype)[:, :32]
        yield Sample(f"rows-apart-{length}", {"length": length, "dim": 32, "start": 2, **SPEC, "out": out})


def table_errors(device: str) -> Iterator[Error]:
    def call(dim=8, length=4, dtype=torch.float32, **spec):
        inputs = {"length": length, "dim": dim, "start": 0, **SPEC, **spec, "dtype": dtype}
        return {**inputs, "device": torch.device(device)}

    name = "posenc_ext::sinusoidal_table"
    yield Error("length", call(length=-1), f"{name}: length must be non-negative, got -1")
    for start, got in ((2**53, 2**53), (-(2**53), -(2**53)), (2**53 - 3, 2**53)):
        text = f"{name}: positions must be below 2**53 in magnitude, got {got}"
        yield Error(f"start{start}", {**call(), "start": start}, text)
    yield Error("dtype", call(dtype=torch.int32), f"{name}: dtype {FLOATING}, got Int")
    yield Error("dtype-complex", call(dtype=torch.complex64), f"{name}: dtype {FLOATING}, got ComplexFloat")
    yield from spec_errors("sinusoidal_table", call, scale=True)


def table_out_errors(device: str) -> Iterator[Error]:
    for error in table_errors(device):
        if not error.name.startswith("dtype"):
            inputs = {name: value for name, value in error.inputs.items() if name not in ("dtype", "device")}
            yield Error(error.name, {**inputs, "out": torch.empty(4, 8, device=device)}, error.text)


def table_out_reference(*, out: Tensor, **inputs) -> Tensor:
    return reference.sinusoidal_table(**inputs, dtype=out.dtype, device=out.device)


def positions_of(device: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for shape in ((), (0,), (5,), (2, 0, 3), (2, 3, 1)):
        yield f"positions{list(shape)}", values(shape, device, torch.float64).mul(9).to(dtype)
    for view, positions in layouts(values((3, 4), device, torch.float64).mul(5).to(dtype)):
        yield f"positions-{view}", positions


def finite_differences(inputs: Mapping[str, Any]) -> bool:
    """Whether gradcheck's steps are short against the wavelengths."""
    return abs(inputs["scale"]) <= 1


def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, positions, dim=6, dtype=dtype, gradients=True, **spec):
        inputs = {"positions": positions, "dim": dim, **SPEC, **spec, "dtype": dtype}
        return Sample(name, inputs, gradients and finite_differences(inputs))

    some = torch.tensor([0.0, 1.0, -2.5, 7.25, 0.3], device=device, dtype=torch.float64)
    for name, dim, spec in specs():
        yield sample(name, some.to(dtype), dim, **spec)
    for name, positions in positions_of(device, dtype):
        yield sample(name, positions, dtype=None)
    for integer in INTEGERS:
        yield sample(
            f"{integer}".removeprefix("torch."), torch.tensor([0, 1, 100], device=device).to(integer)
        )
    yield sample("integer-default", torch.tensor([3, 1], device=device), dtype=None)
    strided = torch.arange(24, device=device, dtype=torch.int32).view(4, 6)[1:, ::2].T
    yield sample("integer-strided", strided)
    for source in DTYPES:
        if source is not dtype:
            yield sample(f"from-{source}".replace("torch.", ""), some.to(source))
    yield sample("far", torch.tensor([2.0**24, 2.0**23 + 1], device=device), 64, gradients=False)
    yield sample("wide", values((70,), device, torch.float64).mul(300).to(dtype), 258, gradients=False)


def errors(device: str) -> Iterator[Error]:
    def call(dim=8, positions=None, dtype=None, **spec):
        positions = torch.ones(3, device=device) if positions is None else positions
        return {"positions": positions, "dim": dim, **SPEC, **spec, "dtype": dtype}

    name = "posenc_ext::sinusoidal"
    for kind, text in ((torch.bool, "Bool"), (torch.complex64, "ComplexFloat")):
        positions = torch.ones(3, device=device, dtype=kind)
        yield Error(
            text, call(positions=positions), f"{name}: positions must be integer or floating, got {text}"
        )
    yield Error("dtype", call(dtype=torch.int64), f"{name}: dtype {FLOATING}, got Long")
    if device == "cpu":
        for error in inexact_errors(name, device):
            yield Error(error.name, call(**error.inputs), error.text)
    yield from spec_errors("sinusoidal", call, scale=True)


def out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    """Each sample into `out` of this dtype, by turns in every memory layout."""
    for i, sample in enumerate(samples(device, dtype)):
        inputs = {name: value for name, value in sample.inputs.items() if name != "dtype"}
        kinds = list(outs(reference.sinusoidal(**inputs, dtype=dtype)))
        for name, out in kinds if sample.name == "diffusion" else [kinds[i % len(kinds)]]:
            yield Sample(f"{sample.name}-{name}", {**inputs, "out": out}, gradients=False)
    for dim in (6, 32):  # channels side by side, rows apart
        positions, out = values((5,), device, dtype), torch.empty(5, dim + 3, device=device, dtype=dtype)
        inputs = {"positions": positions, "dim": dim, **SPEC, "out": out[:, :dim]}
        yield Sample(f"rows-apart-{dim}", inputs, gradients=False)


def out_reference(*, out: Tensor, **inputs) -> Tensor:
    return reference.sinusoidal(**inputs, dtype=out.dtype)


def out_bound(sample: Sample, expected: Tensor) -> Tensor:
    inputs = {name: value for name, value in sample.inputs.items() if name != "out"}
    return sinusoid_bound(Sample(sample.name, {**inputs, "dtype": sample.inputs["out"].dtype}), expected)


def out_errors(device: str) -> Iterator[Error]:
    def inputs_of(error: Error) -> dict[str, Any]:
        return {name: value for name, value in error.inputs.items() if name != "dtype"}

    for error in errors(device):
        if error.name != "dtype":
            yield Error(error.name, {**inputs_of(error), "out": torch.empty(0, device=device)}, error.text)
    name = "posenc_ext::sinusoidal"
    place = "cuda:0" if device == "cuda" else device
    other = "cpu" if device != "cpu" else "meta"
    positions = torch.ones(3, device=device)
    memory = torch.zeros(24, device=device)
    rule = "out must be empty or have shape [3, 8]"
    for case, out, text in (
        ("out-dtype", torch.empty(0, device=device, dtype=torch.int64), f"dtype {FLOATING}, got Long"),
        ("out-shape", torch.empty(3, 9, device=device), f"{rule}, got [3, 9]"),
        ("out-dims", torch.empty(24, device=device), f"{rule}, got [24]"),
        (
            "out-device",
            torch.empty(3, 8, device=other),
            f"out must be on the device of positions ({place}), got {other}",
        ),
        ("out-overlaps", memory[:8].expand(3, 8), "out must not overlap itself, got strides [0, 1]"),
        (
            "out-requires-grad",
            torch.empty(3, 8, device=device, requires_grad=True),
            "out must not require grad, got a tensor that does",
        ),
    ):
        yield Error(case, {"positions": positions, "dim": 8, **SPEC, "out": out}, f"{name}: {text}")
    text = f"{name}: out must not overlap positions, got one that does"
    yield Error("out-shared", {"positions": memory[:3], "dim": 8, **SPEC, "out": memory.view(3, 8)}, text)
    text = f"{name}: with out, no argument may require grad, got one that does"
    needy = {"positions": positions.clone().requires_grad_(), "dim": 8, **SPEC}
    yield Error("input-requires-grad", {**needy, "out": torch.empty(3, 8, device=device)}, text)


def with_order(inputs: Mapping[str, Any], order: int) -> dict[str, Any]:
    """The arguments of `_sinusoidal` from those of `sinusoidal`: order stands before dtype."""
    return {
        **{name: inputs[name] for name in ("positions", "dim", *SPEC)},
        "order": order,
        "dtype": inputs["dtype"],
    }


def derivative_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for sample, order in zip(samples(device, dtype), itertools.cycle((0, 1, 2, 3, 4)), strict=False):
        yield Sample(f"{sample.name}-order{order}", with_order(sample.inputs, order), sample.gradients)
    some = torch.tensor([[1.5, -2.25]], device=device, dtype=dtype)
    for order in (1, 2, 3, 7):
        for layout in LAYOUTS:
            inputs = {
                "positions": some,
                "dim": 7,
                **SPEC,
                "scale": 0.5,
                "layout": layout,
                "odd": "sin",
                "dtype": None,
            }
            yield Sample(f"{layout}-derivative{order}", with_order(inputs, order))


def derivative_errors(device: str) -> Iterator[Error]:
    for error in errors(device):
        yield Error(error.name, with_order(error.inputs, 1), error.text)
    inputs = {"positions": torch.ones(3, device=device), "dim": 8, **SPEC, "dtype": None}
    text = "posenc_ext::sinusoidal: order must be in [0, 1000], got -1"
    yield Error("order", with_order(inputs, -1), text)


def derivative_reference(positions: Tensor, dim: int, *, order: int, dtype, **spec) -> Tensor:
    if dtype is None:
        dtype = positions.dtype if positions.is_floating_point() else torch.get_default_dtype()
    return reference.round_once(reference.encode(positions, dim, **spec, order=order), dtype)


def backward_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, positions, dim, order, grad=None, **spec):
        grad = values((*positions.shape, dim), device, dtype, seed=1) if grad is None else grad
        inputs = {"grad": grad, "positions": positions, **SPEC, **spec, "order": order}
        return Sample(name, inputs, finite_differences(inputs))

    some = torch.tensor([[0.5, -1.25], [3.0, 7.5]], device=device, dtype=torch.float64)
    for (name, dim, spec), order in zip(specs(), itertools.cycle((1, 2, 3, 0)), strict=False):
        yield sample(f"{name}-order{order}", some.to(dtype), dim, order, **spec)
    for name, positions in positions_of(device, dtype):
        yield sample(name, positions, 6, 1)
    for view, grad in layouts(values((2, 2, 6), device, dtype, seed=2)):
        yield sample(f"grad-{view}", some.to(dtype), 6, 1, grad)
    for source in DTYPES:
        if source is not dtype:
            yield sample(f"positions-{source}".replace("torch.", ""), some.to(source), 4, 1)


def backward_reference(grad: Tensor, positions: Tensor, *, order: int, **spec) -> Tensor:
    encoding = reference.encode(positions, grad.shape[-1], **spec, order=order)
    return reference.round_once((grad.to(torch.float64) * encoding).sum(-1), positions.dtype)


def backward_bound(sample: Sample, expected: Tensor) -> Tensor:
    inputs = sample.inputs
    dim = inputs["grad"].shape[-1]
    angle = largest_angle(inputs["positions"], inputs, dim)
    size = inputs["grad"].to(torch.float64).abs().sum(-1) * angle_rate(inputs, dim) ** inputs["order"]
    oracle = (angle * ANGLE_ERROR + FLOAT64_ERROR * (dim + 1 + inputs["order"])) * size
    if expected.device.type == "cuda" and torch.float64 not in (
        inputs["grad"].dtype,
        inputs["positions"].dtype,
    ):
        oracle = oracle + 1.5 * 2.0**-26 * size  # slopes are pairs of float32
    return oracle


def backward_errors(device: str) -> Iterator[Error]:
    def call(dim=8, grad=None, positions=None, order=1, **spec):
        positions = torch.ones(3, device=device) if positions is None else positions
        grad = torch.ones(3, dim, device=device) if grad is None else grad
        return {"grad": grad, "positions": positions, **SPEC, **spec, "order": order}

    name = "posenc_ext::_sinusoidal_backward"
    rule = "grad must have the shape of positions [3] and one more dimension"
    for shape in ((4, 8), (3,), (3, 1, 8), ()):
        text = f"{name}: {rule}, got {list(shape)}"
        yield Error(f"grad{list(shape)}", call(grad=torch.ones(shape, device=device)), text)
    whole = torch.ones(3, dtype=torch.int64, device=device)
    yield Error("positions", call(positions=whole), f"{name}: positions {FLOATING}, got Long")
    whole = torch.ones(3, 8, dtype=torch.int64, device=device)
    yield Error("grad-dtype", call(grad=whole), f"{name}: grad {FLOATING}, got Long")
    other = "cpu" if device == "meta" else "meta"
    rule = f"grad must be on the device of positions ({torch.ones(1, device=device).device})"
    yield Error("grad-elsewhere", call(grad=torch.ones(3, 8, device=other)), f"{name}: {rule}, got {other}")
    yield Error("order", call(order=-1), f"{name}: order must be in [0, 1000], got -1")
    yield from spec_errors("_sinusoidal_backward", call, scale=True)
