"""Samples, references, tolerances and errors of attention with a bias."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from op_bias_softmax import (
    CHECKED,
    OPTIONS,
    TABLES,
    argument_error,
    bias_of,
    large_sources,
    options,
    probability_error,
    sources,
    table_errors,
    unit_of,
)
from op_types import FLOATING, Error, Sample, layouts, round_bound, values
from torch import Tensor

from posenc_ext import reference

COSTLY = ("first", "added", "causal-offset")
CHANNELS, VALUES = 2, 3  # of q and k, and of v


def samples_of(kind: str, inference: bool = False) -> Callable[[str, torch.dtype], Iterator[Sample]]:
    default = {**OPTIONS, "scale": 0.5 if inference else 1.0 if kind == "t5" else None}
    last = {} if inference else {"dropout_p": 0.0, "training": False}

    def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
        def sample(name, lead, source, gradients=True, **given):
            queries, keys, shape, arguments = source
            inputs: dict[str, Any] = {
                "q": values([*lead, 3, queries, CHANNELS], device, dtype),
                "k": values([*lead, 3, keys, CHANNELS], device, dtype, seed=1),
                "v": values([*lead, 3, keys, VALUES], device, dtype, seed=2),
                TABLES[kind]: values(shape, device, dtype, seed=3),
            }
            return Sample(name, {**inputs, **arguments, **default, **last, **given}, gradients)

        small = sources(kind, device)
        first = next(iter(small.values()))
        queries, keys = first[:2]
        yield sample("first", [2], first)
        for name, source in small.items():
            yield sample(name, [2], source, gradients=False)
        for lead in ([], [2, 1], [0]):
            yield sample(f"lead{lead}", lead, first, gradients=False)
        for name, given, finite in options([2], queries, keys, device, dtype):
            if "least" not in name:  # whose rows are even in half types' scores, which are rounded before
                checked = finite and kind == "window" and name in CHECKED
                yield sample(name, [2], first, gradients=checked, **given)
        for argument, shape in (
            ("q", [2, 3, queries, CHANNELS]),
            ("k", [2, 3, keys, CHANNELS]),
            ("v", [2, 3, keys, VALUES]),
        ):
            for view, tensor in layouts(values(shape, device, dtype, seed=4)):
                yield sample(f"{argument}-{view}", [2], first, gradients=False, **{argument: tensor})
        table = values(first[2], device, torch.float64, seed=3)
        yield sample("table-float32", [2], first, **{TABLES[kind]: table.to(torch.float32)})
        yield sample("offset", [2], first, gradients=False, q_offset=3)
        if not inference:
            yield sample("dropped", [2], first, gradients=False, dropout_p=1.0, training=True)
        for name, source in large_sources(kind, device).items():
            yield sample(name, [4], source, gradients=False)
        if kind == "diagonal":  # whose shapes are free
            for name, count, size, samples in (("tiles-heads", 3, 700, 2), ("tiles-samples", 3, 200, 7)):
                source = (size, size, [count, 2 * size - 1], {})
                yield sample(name, [samples], source, gradients=False, causal=True)

    return samples


def inference_samples_of(kind: str) -> Callable[[str, torch.dtype], Iterator[Sample]]:
    return samples_of(kind, inference=True)


def bound_of(kind: str) -> Callable[[Sample, Tensor], Tensor]:
    """Of products in the accumulator's type, rounded to the dtype, and of softmax between them."""

    def bound(sample: Sample, expected: Tensor) -> Tensor:
        inputs, dtype = sample.inputs, sample.inputs["q"].dtype
        if expected.numel() == 0 or inputs.get("dropout_p") == 1.0:
            return torch.zeros_like(expected)
        unit = unit_of(dtype)
        q, k, v = (inputs[name].to(torch.float64) for name in ("q", "k", "v"))
        scale = q.shape[-1] ** -0.5 if inputs["scale"] is None else inputs["scale"]
        scores, size = q @ k.transpose(-2, -1), q.abs() @ k.abs().transpose(-2, -1)
        inputs = {**inputs, "scores": scores, "scale": scale}
        p = probabilities(kind, inputs)
        error = (unit * (q.shape[-1] + 2) * size + rounding(scores, dtype)) * abs(scale)
        error = probability_error(p, argument_error(kind, inputs, unit) + error, unit) + rounding(p, dtype)
        return error @ v.abs() * 1.01 + unit * (p.shape[-1] + 2) * (p @ v.abs())

    return bound


def rounding(value: Tensor, dtype: torch.dtype) -> Tensor:
    return round_bound(value, dtype) if dtype.itemsize == 2 else torch.zeros_like(value)


def probabilities(kind: str, inputs: dict[str, Any]) -> Tensor:
    given = {name: inputs[name] for name in OPTIONS}
    return reference.bias_softmax(inputs["scores"], bias_of(kind, inputs), **given)


def errors_of(name: str, kind: str) -> Callable[[str], Iterator[Error]]:
    op, inference = f"posenc_ext::{name.strip('_')}", name.startswith("_")
    last = {} if inference else {"dropout_p": 0.0, "training": False}

    def errors(device: str) -> Iterator[Error]:
        queries, keys, table_shape, arguments = next(iter(sources(kind, device).values()))
        q_shape, k_shape, v_shape = [2, 3, queries, 5], [2, 3, keys, 5], [2, 3, keys, 6]

        def call(q=q_shape, k=k_shape, v=v_shape, table=table_shape, dtype=torch.float32, **given):
            q_dtype, place = given.pop("q_dtype", dtype), given.pop("place", device)
            table_dtype = given.pop("table_dtype", torch.float32)
            inputs = {
                "q": torch.ones(q, device=device, dtype=q_dtype),
                "k": torch.ones(k, device=place, dtype=dtype),
                "v": torch.ones(v, device=device, dtype=dtype),
                TABLES[kind]: torch.ones(table, device=device, dtype=table_dtype),
            }
            return {**inputs, **arguments, **OPTIONS, **last, **given}

        other, place = "cpu" if device != "cpu" else "meta", "cuda:0" if device == "cuda" else device
        yield Error("q-dtype", call(dtype=torch.int32), f"{op}: q {FLOATING}, got Int")
        text = f"{op}: q must have at least 3 dimensions [..., heads, Q, channels], got 2"
        yield Error("q2d", call([queries, 5]), text)
        rule = f"must have the samples and heads of q {q_shape}"
        for shape in ([3, keys, 5], [1, 3, keys, 5], [2, 4, keys, 5]):
            yield Error(f"k{shape}", call(k=shape), f"{op}: k {rule}, got {shape}")
            yield Error(f"v{shape}", call(v=shape), f"{op}: v {rule}, got {shape}")
        rule = f"k must have the dtype and device of q (Double on {place})"
        yield Error("k-dtype", call(q_dtype=torch.float64), f"{op}: {rule}, got Float on {place}")
        rule = f"k must have the dtype and device of q (Float on {place})"
        yield Error("k-device", call(place=other), f"{op}: {rule}, got Float on {other}")
        text = f"{op}: k must have the channels of q (5), got 4"
        yield Error("channels", call(k=[2, 3, keys, 4]), text)
        text = f"{op}: v must have the keys of k ({keys}), got {keys + 1}"
        yield Error("keys", call(v=[2, 3, keys + 1, 6]), text)
        text = f"{op}: {TABLES[kind]} {FLOATING}, got Int"
        yield Error("table-dtype", call(table_dtype=torch.int32), text)
        yield Error("scale", call(scale=float("inf")), f"{op}: scale must be finite, got inf")
        mask, regions = (
            torch.zeros(keys, device=device),
            torch.zeros(2, keys, dtype=torch.int64, device=device),
        )
        text = f"{op}: mask and regions exclude each other, got both"
        yield Error("both", call(mask=mask, regions=regions), text)
        rule = f"mask must have the keys of scores and broadcast to their shape [2, 3, {queries}, {keys}]"
        yield Error("mask", call(mask=mask[:1]), f"{op}: {rule}, got [1]")
        rule = "regions must have a number of windows that divides the number of samples"
        yield Error("windows", call(regions=torch.cat([regions, regions[:1]])), f"{op}: {rule} 2, got 3")
        text = f"{op}: q_offset must be between -2**53 and 2**53, got {2**53}"
        yield Error("offset", call(q_offset=2**53), text)
        for error in table_errors(op, kind, queries, keys, call, device):
            if error.name != "keys":  # of scores
                yield error
        if not inference:
            for p in (-0.1, 1.5):
                text = f"{op}: dropout_p must be in [0, 1], got {p}"
                yield Error(f"dropout{p}", call(dropout_p=p, training=True), text)

    return errors
