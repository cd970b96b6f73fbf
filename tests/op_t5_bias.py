"""Samples, references, tolerances and errors of T5's relative-position bias."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from op_types import FLOATING, Error, Sample, adjoint, into_out, layouts, out_errors, sum_bound, values
from torch import Tensor

from posenc_ext import reference

# name: rows, q_len, k_len, q_offset, bidirectional, max_distance
SHAPES = {
    "both": (8, 5, 7, 0, True, 8),
    "causal": (8, 5, 7, 0, False, 16),
    "causal-decode": (6, 1, 9, 8, False, 5),
    "both-cross": (9, 4, 6, 3, True, 6),  # an odd row that nothing reads
    "both-behind": (4, 3, 5, 40, True, 20),
    "both-ahead": (4, 3, 5, -40, True, 20),
    "causal-ahead": (5, 3, 5, -2, False, 7),
    "fewest": (2, 3, 3, 0, False, 2),
    "one-pair": (4, 1, 1, 0, True, 2),
    "no-query": (8, 0, 3, 0, True, 8),
    "no-key": (8, 3, 0, 0, True, 8),
}


def t5_inputs(q_len, k_len, q_offset=0, bidirectional=True, max_distance=128) -> dict[str, Any]:
    sizes = {"q_len": q_len, "k_len": k_len, "q_offset": q_offset}
    return {**sizes, "bidirectional": bidirectional, "max_distance": max_distance}


def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for name, (rows, *sizes) in SHAPES.items():
        yield Sample(name, {"table": values((rows, 3), device, dtype), **t5_inputs(*sizes)})
    for heads in (0, 1):
        yield Sample(f"heads{heads}", {"table": values((8, heads), device, dtype), **t5_inputs(4, 5)})
    for view, table in layouts(values((10, 4), device, dtype)):
        yield Sample(f"table-{view}", {"table": table, **t5_inputs(6, 5, 2, max_distance=9)})
    for name, rows, sizes in (
        ("encoder", 32, (150, 150)),
        ("decoder", 32, (140, 140, 0, False)),
        ("cached", 32, (3, 300, 297, False)),
        ("far", 33, (6, 400, 100, True, 200)),
    ):
        table = values((5, rows), device, dtype).T  # a [heads, rows] weight
        yield Sample(name, {"table": table, **t5_inputs(*sizes)}, gradients=False)


def checks(op: str, call: Callable[..., dict[str, Any]]) -> Iterator[Error]:
    """What the op and its adjoint check alike; lengths are checked by both, under the name of the op."""
    name = "posenc_ext::t5_bias"
    both, causal = {"bidirectional": True}, {"bidirectional": False}
    for rows, rule, options in (
        (3, "table must have at least 4 rows when bidirectional", both),
        (0, "table must have at least 4 rows when bidirectional", both),
        (1, "table must have at least 2 rows when causal", causal),
        (4097, "table must have at most 4096 rows when bidirectional", both),
        (2049, "table must have at most 2048 rows when causal", causal),
    ):
        yield Error(f"rows{rows}", call(rows=rows, **options), f"{name}: {rule}, got {rows}")
    for rows, distance, exact, options in (
        (32, 8, 8, both),
        (32, 16, 16, causal),
        (33, 8, 8, both),
        (32, -1, 8, both),
        (2, 1, 1, causal),
    ):
        kind = "bidirectional" if options["bidirectional"] else "causal"
        text = f"{name}: max_distance must be above {exact} with {rows} rows, {kind}, got {distance}"
        yield Error(f"distance{rows}-{distance}", call(rows=rows, max_distance=distance, **options), text)
    text = f"{name}: max_distance must be below 2**53, got {2**53}"
    yield Error("distance-huge", call(max_distance=2**53), text)
    for offset in (2**53, -(2**53), 2**63 - 1):
        text = f"{name}: q_offset must be between -2**53 and 2**53, got {offset}"
        yield Error(f"offset{offset}", call(q_offset=offset), text)
    for argument in ("q_len", "k_len"):
        text = f"{name}: {argument} must be non-negative, got -1"
        yield Error(argument, call(**{argument: -1}), text)
    lengths = [2**30, 2**30]
    text = f"{name}: [q_len, k_len] must have a product below 2**53, got {lengths}"
    yield Error("product", call(q_len=lengths[0], k_len=lengths[1]), text)


def errors(device: str) -> Iterator[Error]:
    def call(rows=32, dtype=torch.float32, shape=None, q_len=5, k_len=7, **sizes):
        table = torch.ones((rows, 2) if shape is None else shape, device=device, dtype=dtype)
        return {"table": table, **t5_inputs(q_len, k_len, **sizes)}

    name = "posenc_ext::t5_bias"
    for shape in ((32,), (1, 32, 2), ()):
        text = f"{name}: table must have 2 dimensions [rows, heads], got {len(shape)}"
        yield Error(f"table{len(shape)}d", call(shape=shape), text)
    for dtype, text in ((torch.int32, "Int"), (torch.complex64, "ComplexFloat")):
        yield Error(f"table-{text}", call(dtype=dtype), f"{name}: table {FLOATING}, got {text}")
    yield from checks("t5_bias", call)


def out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def shape(table, q_len, k_len, **_):
        return table.shape[1], q_len, k_len

    yield from into_out(samples(device, dtype), shape)


def out_reference(out: Tensor, **inputs) -> Tensor:
    return reference.t5_bias(**inputs)


def errors_of_out(device: str) -> Iterator[Error]:
    call = {"table": torch.ones((32, 2), device=device), **t5_inputs(5, 7)}
    yield from out_errors("t5_bias", lambda: call, [2, 5, 7])
    for error in errors(device):
        yield Error(error.name, {**error.inputs, "out": torch.empty(0, device=device)}, error.text)


def backward_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, grad, rows, *sizes, gradients=True):
        return Sample(name, {"grad": grad, "num_rows": rows, **t5_inputs(*sizes)}, gradients)

    for name, (rows, q_len, k_len, *rest) in SHAPES.items():
        grad = values((3, q_len, k_len), device, dtype)
        yield sample(name, grad, rows, q_len, k_len, *rest)
    for heads in (0, 1):
        yield sample(f"heads{heads}", values((heads, 4, 5), device, dtype), 8, 4, 5)
    for view, grad in layouts(values((2, 6, 5), device, dtype)):
        yield sample(f"grad-{view}", grad, 10, 6, 5, 2, True, 9)
    for name, rows, sizes in (
        ("encoder", 32, (150, 150)),
        ("decoder", 32, (140, 140, 0, False)),
        ("cached", 32, (3, 300, 297, False)),
    ):
        yield sample(name, values((4, *sizes[:2]), device, dtype), rows, *sizes, gradients=False)


def backward_reference(grad: Tensor, num_rows: int, **sizes) -> Tensor:
    return adjoint(lambda t: reference.t5_bias(t, **sizes), (num_rows, grad.shape[0]), grad)


def backward_bound(sample: Sample, expected: Tensor) -> Tensor:
    return sum_bound(backward_reference, sample)


def backward_errors(device: str) -> Iterator[Error]:
    def call(rows=32, shape=(2, 5, 7), dtype=torch.float32, q_len=5, k_len=7, **sizes):
        grad = torch.ones(shape, device=device, dtype=dtype)
        return {"grad": grad, "num_rows": rows, **t5_inputs(q_len, k_len, **sizes)}

    name = "posenc_ext::_t5_bias_backward"
    for shape in ((2, 5, 6), (2, 6, 7), (5, 7), (1, 2, 5, 7)):
        text = f"{name}: grad must have shape [heads, 5, 7], got {list(shape)}"
        yield Error(f"grad{list(shape)}", call(shape=shape), text)
    yield Error("grad-dtype", call(dtype=torch.int32), f"{name}: grad {FLOATING}, got Int")
    yield from checks("_t5_bias_backward", call)
