"""Samples, references, tolerances and errors of adding sinusoids, and of the dropout that goes with it."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from op_sinusoidal import INTEGERS, angle_rate, inexact_errors, spec_errors, specs
from op_types import ANGLE_ERROR, FLOAT64_ERROR, FLOATING, Error, Sample, drawn, layouts, sum_error, values
from torch import Tensor

from posenc_ext import reference

ADD = {
    "x_scale": 1.0,
    "base": 10000.0,
    "freq_shift": 0.0,
    "layout": "interleaved",
    "odd": "error",
    "batch_first": True,
    "dropout_p": 0.0,
}


def add_specs(device: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, dict[str, Any], bool]]:
    """(name, x, options, whether small enough for gradcheck)."""
    for name, dim, spec in specs():
        if "scale" not in spec:
            yield name, values((2, 3, dim), device, dtype), spec, True
    for shape in ((0, 3, 4), (2, 0, 4), (1, 1, 2), (3, 1, 6), (1, 5, 6)):
        yield f"x{list(shape)}", values(shape, device, dtype), {"x_scale": 0.5}, True
        yield f"x{list(shape)}-sequence-first", values(shape, device, dtype), {"batch_first": False}, True
    for view, x in layouts(values((2, 3, 8), device, dtype, seed=3)):
        yield f"x-{view}", x, {"x_scale": 8**0.5}, True
        yield f"x-{view}-sequence-first", x, {"batch_first": False, "x_scale": -1.5}, True
    yield "heads-split", values((2, 3, 2, 4), device, dtype).transpose(1, 2)[:, 1], {}, True
    yield "x-scale-zero", values((1, 2, 4), device, dtype), {"x_scale": 0.0}, True
    yield "dropout-off", values((1, 2, 4), device, dtype), {"dropout_p": 0.5}, True
    yield "wide", values((3, 50, 130), device, dtype), {"x_scale": 130**0.5}, False


def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for (name, x, options, small), start in zip(
        add_specs(device, dtype), itertools.cycle((0, 7)), strict=False
    ):
        yield Sample(name, {"x": x, "start": start, **ADD, **options, "training": False}, small)
    x = values((2, 3, 8), device, dtype)
    for start in (-2, 2**24 - 3):
        yield Sample(f"start{start}", {"x": x, "start": start, **ADD, "training": False})
    yield Sample("training", {"x": x, "start": 1, **ADD, "training": True})
    inputs = {"x": x.div(0), "start": 1, **ADD, "dropout_p": 1.0, "training": True}
    yield Sample("all-dropped", inputs, gradients=False)
    for batch_first in (True, False):
        inputs = {**ADD, "batch_first": batch_first, "training": False}
        yield Sample(f"one-sequence-{batch_first}", {"x": x[0], "start": 5, **inputs})


def outs_of(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Results to write to, in every memory layout that does not overlap itself."""
    for view, out in layouts(torch.empty(x.shape, device=x.device, dtype=x.dtype)):
        if not view.startswith("expanded"):
            yield view, out


def out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for sample in samples(device, dtype):
        yield sample.replace(out=torch.empty(sample.inputs["x"].shape, device=device, dtype=dtype))
    x = values((2, 3, 8), device, dtype)
    for view, out in outs_of(x):
        yield Sample(f"out-{view}", {"x": x, "start": 2, **ADD, "training": False, "out": out})


def offsets_out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for sample in offsets_samples(device, dtype):
        yield sample.replace(out=torch.empty(sample.inputs["x"].shape, device=device, dtype=dtype))
    x = values((2, 3, 8), device, dtype)
    for view, out in outs_of(x):
        start = torch.tensor([4, 1], device=device)
        yield Sample(f"out-{view}", {"x": x, "start": start, **ADD, "training": False, "out": out})


def out_reference(*, out: Tensor, **inputs) -> Tensor:
    return reference.add_sinusoidal(**inputs)


def with_out(errors: Iterator[Error], device: str) -> Iterator[Error]:
    """The errors of the arguments, and those of `out` itself."""
    inputs = {}
    for error in errors:
        inputs = {**error.inputs, "out": torch.empty(4, 3, 8, device=device)}
        yield Error(error.name, inputs, error.text)
    name = "posenc_ext::add_sinusoidal"
    inputs = {**inputs, "x": torch.ones(4, 3, 8, device=device)}
    inputs["start"] = (
        torch.zeros(4, dtype=torch.int64, device=device) if isinstance(inputs["start"], Tensor) else 0
    )
    yield from out_errors(name, {**inputs, **ADD}, (4, 3, 8), device)


def out_errors(name: str, inputs: dict[str, Any], shape: tuple[int, ...], device: str) -> Iterator[Error]:
    place, other = torch.empty(0, device=device).device, "cpu" if device == "meta" else "meta"
    wide = [*shape[:-1], shape[-1] + 1]
    for out, text in (
        (torch.empty(wide, device=device), f"out must be empty or have shape {list(shape)}, got {wide}"),
        (
            torch.empty(shape[1:], device=device).expand(shape),
            f"out must not overlap itself, got strides [0, {shape[2]}, 1]",
        ),
        (
            torch.empty(shape, device=device, dtype=torch.float64),
            "out must have the dtype of x (Float), got Double",
        ),
        (torch.empty(shape, device=other), f"out must be on the device of x ({place}), got {other}"),
    ):
        yield Error(f"out-{text[:40]}", {**inputs, "out": out}, f"{name}: {text}")


def offsets_of(x: Tensor, batch_first: bool, kind: int) -> Tensor:
    """Per-sample offsets of several dtypes and strides."""
    batch = x.shape[0 if batch_first else 1]
    offsets = torch.arange(batch, device=x.device) * 9 + 2
    dtype = INTEGERS[kind % len(INTEGERS)]
    if kind % 3 == 0:
        return offsets.to(dtype)
    return torch.stack((offsets, offsets + 1), 1).to(dtype)[:, kind % 3 - 1]


def offsets_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for kind, (name, x, options, small) in enumerate(add_specs(device, dtype)):
        inputs = {**ADD, **options}
        start = offsets_of(x, inputs["batch_first"], kind)
        yield Sample(name, {"x": x, "start": start, **inputs, "training": False}, small)
    x = values((3, 2, 4), device, dtype)
    expanded = torch.tensor([5], device=device).expand(3)
    yield Sample("start-expanded", {"x": x, "start": expanded, **ADD, "training": False})
    far = torch.tensor([-4, 2**24 - 2, 0], device=device)
    yield Sample("start-far", {"x": x, "start": far, **ADD, "training": False})
    for shape in ((), (1,), (3, 1)):
        start = values(shape, device, torch.float64).mul(9).to(torch.int16)
        yield Sample(f"start{list(shape)}", {"x": x, "start": start, **ADD, "training": False})
        if shape != (3, 1):
            inputs = {"x": x[0].T, "start": start, **ADD, "batch_first": False, "training": False}
            yield Sample(f"one-sequence-start{list(shape)}", {**inputs, "odd": "sin"})


AT = {name: value for name, value in ADD.items() if name != "batch_first"}


def positions_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, x, positions, small=True, **options):
        inputs = {"x": x, "positions": positions, **AT, "training": False, **options}
        return Sample(name, inputs, small)

    def some(shape, kind=torch.int64):
        return values(shape, device, torch.float64, seed=5).mul(90).abs().to(kind)

    for name, x, options, small in add_specs(device, dtype):
        options = {key: value for key, value in options.items() if key != "batch_first"}
        yield sample(name, x, some(x.shape[:-1]), small, **options)
    for shape, positions in (
        ((4,), ()),
        ((3, 4), (3,)),
        ((3, 4), (1,)),
        ((3, 4), ()),
        ((2, 3, 4), (1, 3)),
        ((2, 3, 4), (2, 1)),
        ((2, 3, 2, 4), (3, 1)),
        ((0, 4), (0,)),
    ):
        name = f"x{list(shape)}-at{list(positions)}"
        yield sample(name, values(shape, device, dtype), some(positions))
    for kind in INTEGERS:
        yield sample(f"{kind}".removeprefix("torch."), values((2, 3, 4), device, dtype), some((2, 3), kind))
    for view, positions in layouts(some((2, 3))):
        yield sample(f"positions-{view}", values((2, 3, 4), device, dtype), positions)
    signed = torch.tensor([[-3, 2**24 - 1], [0, 700]], device=device)
    yield sample("far", values((2, 2, 40), device, dtype), signed, x_scale=2.0)
    x = values((2, 2, 8), device, dtype).div(0)
    yield sample("all-dropped", x, signed, small=False, dropout_p=1.0, training=True)


def positions_out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for sample in positions_samples(device, dtype):
        yield sample.replace(out=torch.empty(sample.inputs["x"].shape, device=device, dtype=dtype))
    x = values((2, 3, 8), device, dtype)
    for view, out in outs_of(x):
        positions = torch.tensor([[4, 1, 1], [0, 0, 70]], device=device)
        yield Sample(f"out-{view}", {"x": x, "positions": positions, **AT, "training": False, "out": out})


def positions_errors(device: str) -> Iterator[Error]:
    name = "posenc_ext::add_sinusoidal"
    tail = {"positions": torch.zeros(1, dtype=torch.int64, device=device), **AT, "training": False}
    for error in errors(device, "add_sinusoidal", **tail):
        if not error.name.startswith("x["):
            yield error
    x = torch.ones((), device=device)
    text = f"{name}: with positions x must have at least 1 dimension [..., D], got 0"
    yield Error("x[]", {"x": x, **tail}, text)
    yield from position_errors(name, {"x": torch.ones(4, 3, 8, device=device), **tail}, device)
    if device == "cpu":
        for error in inexact_errors(name, device):
            yield Error(error.name, {"x": torch.ones(3, 8), **tail, **error.inputs}, error.text)


def positions_out_errors(device: str) -> Iterator[Error]:
    inputs = {}
    for error in positions_errors(device):
        inputs = {**error.inputs, "out": torch.empty(4, 3, 8, device=device)}
        yield Error(error.name, inputs, error.text)
    x, positions = torch.ones(4, 3, 8, device=device), torch.zeros(3, dtype=torch.int64, device=device)
    inputs = {**inputs, "x": x, "positions": positions}
    yield from out_errors("posenc_ext::add_sinusoidal", inputs, (4, 3, 8), device)


def position_errors(name: str, inputs: dict[str, Any], device: str) -> Iterator[Error]:
    """The errors of positions for rows of shape [4, 3, 8]."""
    rule = "positions must be an integer tensor that broadcasts to shape [4, 3] (one position per row)"
    for shape, dtype, text in (
        ((4, 3), torch.float32, "Float [4, 3]"),
        ((3,), torch.bool, "Bool [3]"),
        ((4,), torch.int64, "Long [4]"),
        ((3, 4), torch.int32, "Int [3, 4]"),
        ((1, 4, 3), torch.int64, "Long [1, 4, 3]"),
        ((4, 3, 8), torch.int64, "Long [4, 3, 8]"),
    ):
        positions = torch.zeros(shape, dtype=dtype, device=device)
        yield Error(f"positions-{text}", {**inputs, "positions": positions}, f"{name}: {rule}, got {text}")
    place, other = torch.ones(1, device=device).device, "cpu" if device == "meta" else "meta"
    text = f"{name}: positions must be on the same device as the rows ({place}), got {other}"
    elsewhere = torch.zeros(3, dtype=torch.int64, device=other)
    yield Error("positions-elsewhere", {**inputs, "positions": elsewhere}, text)


def with_seed_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    seeds = (None, 0, 1, -1, 2**62 + 12345)
    for kind, (name, x, options, small) in enumerate(add_specs(device, dtype)):
        inputs = {**ADD, "dropout_p": (0.1, 0.5, 0.0, 0.9)[kind % 4], **options}
        offsets = offsets_of(x, inputs["batch_first"], kind) if kind % 2 else None
        seed = drawn(seeds[kind % len(seeds)], device)
        yield Sample(
            name, {"x": x, "offsets": offsets, "start": 0 if kind % 2 else 4, **inputs, "seed": seed}, small
        )


def with_seed_reference(x: Tensor, *, offsets: Tensor | None, start: int, **inputs) -> Tensor:
    return reference.add_with_seed(x, start if offsets is None else offsets + start, **inputs)


def add_bound(sample: Sample, expected: Tensor) -> Tensor:
    inputs = sample.inputs
    steps = [torch.as_tensor(inputs[name]) for name in ("offsets", "start") if inputs.get(name) is not None]
    if "positions" in inputs:
        steps = [inputs["positions"]]
    last = sum(float(step.double().abs().max()) for step in steps if step.numel())
    last += max(expected.shape, default=0)
    angle = last * angle_rate({**inputs, "scale": 1.0}, max(expected.shape[-1], 1))
    scaled = (inputs["x"].to(torch.float64) * inputs["x_scale"]).abs() + 1
    oracle = angle * ANGLE_ERROR + (FLOAT64_ERROR + sum_error(inputs["x"].dtype)) * scaled
    if expected.device.type == "cuda" and inputs["x"].dtype == torch.float32:
        oracle = oracle + 0.76 * 2**-24  # of the encoding
    return oracle / (1 - inputs["dropout_p"] or 1.0)


def errors(device: str, op: str = "add_sinusoidal", **tail) -> Iterator[Error]:
    tail = tail or {"start": 0, **ADD, "training": False}

    def call(dim=8, x=None, **options):
        x = torch.ones(4, 3, dim, device=device) if x is None else x
        return {"x": x, **tail, **options}

    name = f"posenc_ext::{op}"
    for shape in ((8,), (2, 2, 2, 2), ()):
        rule = "x must have 2 or 3 dimensions ([L, D], [B, L, D] or [L, B, D])"
        if "seed" in tail:
            rule = "x must have 3 dimensions [B, L, D] or [L, B, D]"
        yield Error(
            f"x{list(shape)}", call(x=torch.ones(shape, device=device)), f"{name}: {rule}, got {len(shape)}"
        )
    for dtype, text in ((torch.int32, "Int"), (torch.complex64, "ComplexFloat"), (torch.bool, "Bool")):
        x = torch.ones(4, 3, 8, dtype=dtype, device=device)
        yield Error(f"x-{text}", call(x=x), f"{name}: x {FLOATING}, got {text}")
    for p, text in ((1.5, "1.5"), (-0.5, "-0.5"), (float("nan"), "nan")):
        yield Error(f"dropout-{text}", call(dropout_p=p), f"{name}: dropout_p must be in [0, 1], got {text}")
    if "start" in tail and not isinstance(tail["start"], Tensor):
        for start, got in ((2**53, 2**53), (-(2**53), -(2**53)), (2**53 - 2, 2**53), (2**62, 2**62)):
            text = f"{name}: positions must be below 2**53 in magnitude, got {got}"
            yield Error(f"start{start}", call(start=start), text)
    yield Error("x-scale", call(x_scale=float("nan")), f"{name}: x_scale must be finite, got nan")
    yield from spec_errors(op, call, scale=False)


def offset_errors(device: str, key: str, **tail) -> Iterator[Error]:
    """The errors of per-sample offsets, given as argument `key`."""
    name = "posenc_ext::add_sinusoidal"
    rule = "start must be an integer tensor of shape [], [1], [4] or [4, 1] (one offset per sample)"
    if key == "offsets":
        rule = "start must be an integer tensor of shape [4] (one offset per sample)"
    x = torch.ones(4, 3, 8, device=device)
    for start, text in (
        (torch.ones(3, device=device), "Float [3]"),
        (torch.ones(4, device=device), "Float [4]"),
        (torch.ones(4, device=device, dtype=torch.bool), "Bool [4]"),
        (torch.ones(3, device=device, dtype=torch.int32), "Int [3]"),
        (torch.ones((), device=device, dtype=torch.bool), "Bool []"),
        (torch.ones(1, 4, device=device, dtype=torch.int64), "Long [1, 4]"),
        (torch.ones(1, 1, device=device, dtype=torch.int64), "Long [1, 1]"),
        (torch.ones(4, 1, 1, device=device, dtype=torch.int64), "Long [4, 1, 1]"),
    ):
        yield Error(f"start-{text}", {"x": x, **tail, key: start}, f"{name}: {rule}, got {text}")
    for dtype, text in ((torch.float32, "Float [1]"), (torch.bool, "Bool [1]")):
        one = {"x": x[:1], **tail, key: torch.ones(1, device=device, dtype=dtype)}
        yield Error(f"start-{text}", one, f"{name}: {rule.replace('4', '1')}, got {text}")
    if device == "cpu":
        for value, got in (
            (2**53, 2**53),
            (-(2**53), -(2**53)),
            (2**53 - 2, 2**53),
        ):
            inexact = {"x": x, **tail, key: torch.tensor([0, 0, value, 0])}
            text = f"{name}: positions must be below 2**53 in magnitude, got {got}"
            yield Error(f"start-{value}", inexact, text)
    other = "cpu" if device == "meta" else "meta"
    elsewhere = torch.ones(4, dtype=torch.int64, device=other)
    text = f"{name}: start must be on the device of x ({x.device}), got {other}"
    yield Error("start-elsewhere", {"x": x, **tail, key: elsewhere}, text)


def offsets_errors(device: str) -> Iterator[Error]:
    start = torch.zeros(4, dtype=torch.int64, device=device)
    tail = {"start": start, **ADD, "training": False}
    yield from errors(device, "add_sinusoidal", **tail)
    yield from offset_errors(device, "start", **tail)


def plain_out_errors(device: str) -> Iterator[Error]:
    yield from with_out(errors(device), device)


def offsets_out_errors(device: str) -> Iterator[Error]:
    yield from with_out(offsets_errors(device), device)


def with_seed_errors(device: str) -> Iterator[Error]:
    tail = {"offsets": None, "start": 0, **ADD, "seed": None}
    yield from errors(device, "add_sinusoidal", **tail)
    yield from offset_errors(device, "offsets", **tail)


def scale_dropout_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, x, scale=1.5, p=0.5, seed=7):
        inputs = {"x": x, "scale": scale, "dropout_p": p, "seed": drawn(seed, device)}
        return Sample(name, inputs, gradients=x.numel() < 100)

    for shape in ((), (0,), (1,), (7,), (2, 3, 9), (2, 0, 3), (3, 4160)):
        yield sample(f"x{list(shape)}", values(shape, device, dtype))
    for view, x in layouts(values((3, 2, 5), device, dtype)):
        yield sample(f"x-{view}", x, scale=-0.5, p=0.1)
    yield sample("no-seed", values((4, 4), device, dtype), seed=None)
    yield sample("p0", values((4, 4), device, dtype), p=0.0)
    yield sample("p-of-half-a-step", values((90_000,), device, dtype), p=2.5 / 65536)
    yield sample("p0.999", values((40,), device, dtype), p=0.999)
    yield sample("p1", values((40,), device, dtype).div(0), p=1.0)
    yield sample("negative-seed", values((40,), device, dtype), seed=-(2**40))


def scale_dropout_reference(x: Tensor, *, scale: float, dropout_p: float, seed: Tensor | None) -> Tensor:
    y = x.to(torch.float64) * scale
    if seed is not None:
        y = reference.drop(y, dropout_p, seed)
    return reference.round_once(y, x.dtype).contiguous()


def scale_dropout_bound(sample: Sample, expected: Tensor) -> Tensor:
    return (FLOAT64_ERROR + sum_error(sample.inputs["x"].dtype)) * expected.abs()


def scale_dropout_errors(device: str) -> Iterator[Error]:
    def call(x=None, scale=1.0, p=0.5, seed=None):
        x = torch.ones(4, 3, device=device) if x is None else x
        seed = torch.zeros(1, dtype=torch.int64, device=device) if seed is None else seed
        return {"x": x, "scale": scale, "dropout_p": p, "seed": seed}

    name = "posenc_ext::_scale_dropout"
    x = torch.ones(4, dtype=torch.int32, device=device)
    yield Error("x-Int", call(x), f"{name}: x {FLOATING}, got Int")
    yield Error("scale", call(scale=float("inf")), f"{name}: scale must be finite, got inf")
    yield Error("dropout", call(p=1.5), f"{name}: dropout_p must be in [0, 1], got 1.5")
    place = torch.ones(1, device=device).device
    rule = f"seed must be one int64 on the device of x ({place})"
    for seed, text in (
        (torch.zeros(2, dtype=torch.int64, device=device), f"Long [2] on {place}"),
        (torch.zeros(1, dtype=torch.int32, device=device), f"Int [1] on {place}"),
        (torch.zeros(1, dtype=torch.uint8, device=device), f"Byte [1] on {place}"),
    ):
        yield Error(f"seed-{text}", call(seed=seed), f"{name}: {rule}, got {text}")
