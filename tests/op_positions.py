"""Samples, references, tolerances and errors of adding rows of a table at positions, and of their sums."""

from collections.abc import Iterator
from typing import Any

import torch
from op_add_sinusoidal import out_errors as out_argument_errors
from op_add_sinusoidal import outs_of, position_errors
from op_sinusoidal import INTEGERS
from op_types import FLOAT64_ERROR, FLOATING, Error, Sample, drawn, layouts, sum_bound, sum_error, values
from torch import Tensor

from posenc_ext import reference

EMBED = {"x_scale": 1.0, "dropout_p": 0.0}


def some_positions(shape, device: str, rows: int, kind: torch.dtype = torch.int64) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(max(rows, 1), tuple(shape), generator=generator).to(kind).to(device)


def calls(device: str, dtype: torch.dtype) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(name, arguments but for training or seed, whether small enough for gradcheck)."""

    def call(name, shape=(2, 3, 4), at=None, rows=5, small=True, **changed):
        inputs = {
            "x": values(shape, device, dtype, seed=1),
            "pos_embed": values((rows, shape[-1]), device, dtype, seed=2),
            "positions": some_positions(shape[:-1] if at is None else at, device, rows),
        }
        return name, {**inputs, **EMBED, **changed}, small

    for shape, at in (
        ((2, 3, 4), (2, 3)),
        ((2, 3, 4), (1, 3)),
        ((2, 3, 4), (2, 1)),
        ((2, 3, 4), (3,)),
        ((2, 3, 4), ()),
        ((6, 4), (6,)),
        ((5,), ()),
        ((2, 3, 2, 4), (3, 1)),
        ((0, 4), (0,)),
        ((2, 0, 4), (2, 0)),
        ((2, 3, 0), (2, 3)),
    ):
        yield call(f"x{list(shape)}-at{list(at)}", shape, at)
    yield call("no-rows", (2, 0, 4), rows=0)
    yield call("x-scale", x_scale=-1.7)
    yield call("x-scale-zero", x_scale=0.0)
    yield call("dropout-off", dropout_p=0.5)
    yield call("wide", (3, 40, 530), rows=31, small=False)
    yield call("lines", (3, 40, 512), rows=7, small=False)
    for kind in INTEGERS:
        yield call(f"{kind}".removeprefix("torch."), positions=some_positions((2, 3), device, 5, kind))
    _, plain, _ = call("")
    for argument in ("x", "pos_embed", "positions"):
        for view, tensor in layouts(plain[argument]):
            yield f"{argument}-{view}", {**plain, argument: tensor}, True


def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for name, inputs, small in calls(device, dtype):
        yield Sample(name, {**inputs, "training": False}, small)
    plain = {**next(calls(device, dtype))[1], "training": True}
    yield Sample("training", plain)
    yield Sample("all-dropped", {**plain, "x": plain["x"].div(0), "dropout_p": 1.0}, gradients=False)
    for name in ("x", "pos_embed"):
        yield Sample(f"float32-{name}", {**plain, name: plain[name].float()})


def out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for sample in samples(device, dtype):
        if not sample.name.startswith("float32"):  # an out of a given dtype promotes nothing
            yield sample.replace(
                out=torch.empty_like(sample.inputs["x"], memory_format=torch.contiguous_format)
            )
    inputs = {**next(calls(device, dtype))[1], "training": False}
    for view, out in outs_of(inputs["x"]):
        yield Sample(f"out-{view}", {**inputs, "out": out})


def out_reference(*, out: Tensor, **inputs) -> Tensor:
    return reference.add_position_embedding(**inputs)


def with_seed_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    seeds = (None, 0, 1, -1, 2**62 + 12345)
    for kind, (name, inputs, small) in enumerate(calls(device, dtype)):
        inputs = {**inputs, "dropout_p": inputs["dropout_p"] or (0.1, 0.5, 0.0, 1.0)[kind % 4]}
        yield Sample(name, {**inputs, "seed": drawn(seeds[kind % len(seeds)], device)}, small)


def add_bound(sample: Sample, expected: Tensor) -> Tensor:
    """The error of the oracle's own sum and product, relative to their terms."""
    i = sample.inputs
    x, pos = i["x"].to(torch.float64).abs(), i["pos_embed"].to(torch.float64).abs()
    bound = reference.add_positions(x, pos, i["positions"], abs(i["x_scale"]), 0.0, None)
    plain = i["x_scale"] == 1.0 and i["dropout_p"] == 0.0  # rounded once
    error = FLOAT64_ERROR if plain else FLOAT64_ERROR + sum_error(i["x"].dtype)
    return error * bound.nan_to_num(posinf=0.0) / (1 - i["dropout_p"] or 1.0)


def errors(device: str, promotes: bool = True, **tail) -> Iterator[Error]:
    tail = tail or {"training": False}
    name = "posenc_ext::add_position_embedding"

    def ones(*shape, dtype=torch.float32, device=device):
        return torch.ones(shape, dtype=dtype, device=device)

    positions = ones(4, 3, dtype=torch.int64)
    plain = {"x": ones(4, 3, 8), "pos_embed": ones(5, 8), "positions": positions, **EMBED, **tail}

    text = f"{name}: with positions x must have at least 1 dimension [..., D], got 0"
    yield Error("x[]", {**plain, "x": ones()}, text)
    for dtype, kind in ((torch.int32, "Int"), (torch.complex64, "ComplexFloat"), (torch.bool, "Bool")):
        yield Error(
            f"x-{kind}", {**plain, "x": ones(4, 3, 8, dtype=dtype)}, f"{name}: x {FLOATING}, got {kind}"
        )
        wrong = {**plain, "pos_embed": ones(5, 8, dtype=dtype)}
        yield Error(f"pos-{kind}", wrong, f"{name}: pos_embed {FLOATING}, got {kind}")
    for shape in ((5, 7), (1, 5, 8), (8,), ()):
        text = f"{name}: with positions pos_embed must have shape [rows, 8], got {list(shape)}"
        yield Error(f"pos{list(shape)}", {**plain, "pos_embed": ones(*shape)}, text)
    other, place = "cpu" if device == "meta" else "meta", ones(1).device
    text = f"{name}: pos_embed must be on the device of x ({place}), got {other}"
    yield Error("pos-elsewhere", {**plain, "pos_embed": ones(5, 8, device=other)}, text)
    if not promotes:
        text = f"{name}: pos_embed must have the dtype of x (Float), got BFloat16"
        yield Error("pos-other-dtype", {**plain, "pos_embed": ones(5, 8, dtype=torch.bfloat16)}, text)
    yield from position_errors(name, plain, device)
    for p, text in ((1.5, "1.5"), (-0.5, "-0.5"), (float("nan"), "nan")):
        yield Error(
            f"dropout-{text}", {**plain, "dropout_p": p}, f"{name}: dropout_p must be in [0, 1], got {text}"
        )
    yield Error("x-scale", {**plain, "x_scale": float("nan")}, f"{name}: x_scale must be finite, got nan")
    yield from row_errors(name, plain, device)


def row_errors(name: str, inputs: dict[str, Any], device: str) -> Iterator[Error]:
    """Positions that are none of five rows: on CUDA an assertion, and meta tensors have no values."""
    if device != "cpu":
        return
    for kind, values_of in (
        (torch.int64, (5, -1, 2**62, -(2**63))),
        (torch.int32, (5, -1)),
        (torch.uint8, (255,)),
        (torch.uint64, (5, 2**63 + 1)),
    ):
        for value in values_of:
            positions = torch.tensor([[0, 4, 1]] * 2 + [[1, value, value]] + [[0, 0, 0]], dtype=kind)
            text = f"{name}: positions must be in [0, 5), got {value} at [2, 1]"
            yield Error(f"row-{kind}-{value}", {**inputs, "positions": positions}, text)


def out_errors(device: str) -> Iterator[Error]:
    inputs = {}
    for error in errors(device, promotes=False, training=False):
        inputs = {**error.inputs, "out": torch.empty(4, 3, 8, device=device)}
        yield Error(error.name, inputs, error.text)
    inputs = {**inputs, **EMBED, "positions": torch.zeros(3, dtype=torch.int64, device=device)}
    yield from out_argument_errors("posenc_ext::add_position_embedding", inputs, (4, 3, 8), device)


def with_seed_errors(device: str) -> Iterator[Error]:
    yield from errors(device, promotes=False, seed=None)


def sum_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, grad, positions, num_rows, small=True):
        return Sample(name, {"grad": grad, "positions": positions, "num_rows": num_rows}, small)

    for name, inputs, small in calls(device, dtype):
        rows = inputs["pos_embed"].shape[0]
        yield sample(name, inputs["x"], inputs["positions"], rows, small)
    grad = values((40, 6), device, dtype)
    yield sample("one-row", grad, torch.zeros(1, dtype=torch.int64, device=device), 1, False)
    yield sample("more-rows", grad, some_positions((40,), device, 40), 90, False)


def sum_error_bound(sample: Sample, expected: Tensor) -> Tensor:
    return sum_bound(reference.sum_positions, sample)


def sum_errors(device: str) -> Iterator[Error]:
    name = "posenc_ext::_sum_positions"
    positions = torch.zeros(3, dtype=torch.int64, device=device)
    plain = {"grad": torch.ones(4, 3, 8, device=device), "positions": positions, "num_rows": 5}
    text = f"{name}: grad must have at least 1 dimension [..., D], got 0"
    yield Error("grad[]", {**plain, "grad": torch.ones((), device=device)}, text)
    grad = torch.ones(4, 3, 8, dtype=torch.int64, device=device)
    yield Error("grad-Long", {**plain, "grad": grad}, f"{name}: grad {FLOATING}, got Long")
    text = f"{name}: num_rows must be non-negative, got -1"
    yield Error("num-rows", {**plain, "num_rows": -1}, text)
    yield from position_errors(name, plain, device)
    yield from row_errors(name, plain, device)
