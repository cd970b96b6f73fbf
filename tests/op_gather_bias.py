"""Samples, references, tolerances and errors of the bias of any index."""

from collections.abc import Iterator

import torch
from op_types import FLOATING, Error, Sample, adjoint, layouts, sum_bound, values
from torch import Tensor

from posenc_ext import reference

ROWS = 7
SHAPES = ([3, 4], [2, 3, 4], [2, 1, 3, 2], [1, 1], [2, 2, 2, 2, 2], [0, 3], [3, 0], [0, 3, 4])


def indices(shape, device, rows=ROWS, dtype=torch.int64, seed=0) -> Tensor:
    """Fixed rows of a table; the last row is never read."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, max(1, rows - 1), tuple(shape), generator=generator).to(dtype).to(device)


def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    table = values((ROWS, 3), device, dtype)
    for shape in SHAPES:
        yield Sample(f"index{shape}", {"table": table, "index": indices(shape, device)})
    yield Sample("int32", {"table": table, "index": indices([2, 3, 5], device, dtype=torch.int32)})
    for heads in (0, 1):
        table = values((ROWS, heads), device, dtype)
        yield Sample(f"heads{heads}", {"table": table, "index": indices([3, 4], device)})
    for view, table in layouts(values((ROWS, 4), device, dtype)):
        yield Sample(f"table-{view}", {"table": table, "index": indices([2, 3, 4], device)})
    table = values((ROWS, 2), device, dtype)
    for view, index in layouts(indices([2, 3, 4], device)):
        # The gaps of the strided one hold 77, which is no row: nothing may read them.
        yield Sample(f"index-{view}", {"table": table, "index": index})
    yield Sample("no-rows", {"table": table[:0], "index": indices([0, 4], device)})
    for name, shape, rows in (
        ("boxes", [2, 70, 90], 64),
        ("wide", [3, 5000], 40),
        ("many", [2, 30, 41], 700),
    ):
        table = values((5, rows), device, dtype).T  # a [heads, rows] weight
        yield Sample(name, {"table": table, "index": indices(shape, device, rows)}, gradients=False)


def index_checks(op: str, call) -> Iterator[Error]:
    name = f"posenc_ext::{op}"
    for dtype, text in ((torch.float32, "Float"), (torch.int16, "Short"), (torch.bool, "Bool")):
        yield Error(
            f"index-{text}", call(index_dtype=dtype), f"{name}: index must be int32 or int64, got {text}"
        )
    for shape in ((4,), ()):
        text = f"{name}: index must have at least 2 dimensions [..., Q, K], got {len(shape)}"
        yield Error(f"index{len(shape)}d", call(index=shape), text)


def errors(device: str) -> Iterator[Error]:
    def call(table=(ROWS, 3), index=(2, 3, 4), dtype=torch.float32, index_dtype=torch.int64, place=device):
        table = torch.ones(table, device=device, dtype=dtype)
        return {"table": table, "index": torch.zeros(index, dtype=index_dtype, device=place)}

    name = "posenc_ext::gather_bias"
    for shape in ((ROWS,), (1, ROWS, 3), ()):
        text = f"{name}: table must have 2 dimensions [rows, heads], got {len(shape)}"
        yield Error(f"table{len(shape)}d", call(shape), text)
    for dtype, text in ((torch.int32, "Int"), (torch.complex64, "ComplexFloat")):
        yield Error(f"table-{text}", call(dtype=dtype), f"{name}: table {FLOATING}, got {text}")
    yield from index_checks("gather_bias", call)
    other = "cpu" if device != "cpu" else "meta"
    place = "cuda:0" if device == "cuda" else device
    yield Error(
        "index-device",
        call(place=other),
        f"{name}: index must be on the device of table ({place}), got {other}",
    )
    if (
        device != "cpu"
    ):  # values are checked where they are: on Meta there are none, on CUDA it is an assertion
        return
    for value in (ROWS, -1, 2**40, -(2**63)):
        for dtype in (torch.int64, torch.int32):
            if not -(2**31) <= value < 2**31 and dtype is torch.int32:
                continue
            inputs = call(index_dtype=dtype)
            inputs["index"][1, 0, 3] = inputs["index"][1, 2, 1] = value
            text = f"{name}: index must be in [0, {ROWS}), got {value} at [1, 0, 3]"
            yield Error(f"value{value}-{dtype}", inputs, text)
    inputs = call((0, 3))
    yield Error("no-rows", inputs, f"{name}: index must be in [0, 0), got 0 at [0, 0, 0]")
    inputs = call((ROWS, 0))
    inputs["index"][0, 1, 1] = ROWS
    yield Error("no-heads", inputs, f"{name}: index must be in [0, {ROWS}), got {ROWS} at [0, 1, 1]")
    inputs = call()
    inputs["index"] = torch.zeros(4, 3, 2, dtype=torch.int64).permute(2, 1, 0)
    inputs["index"][1, 2, 0] = -5
    yield Error("value-transposed", inputs, f"{name}: index must be in [0, {ROWS}), got -5 at [1, 2, 0]")


def backward_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, grad, index, rows=ROWS, gradients=True):
        return Sample(name, {"grad": grad, "index": index, "num_rows": rows}, gradients)

    def upstream(shape, heads=3):
        return values((*shape[:-2], heads, *shape[-2:]), device, dtype)

    for shape in SHAPES:
        yield sample(f"index{shape}", upstream(shape), indices(shape, device))
    yield sample("int32", upstream([3, 4]), indices([3, 4], device, dtype=torch.int32))
    for heads in (0, 1):
        yield sample(f"heads{heads}", upstream([3, 4], heads), indices([3, 4], device))
    for view, grad in layouts(upstream([2, 3, 4], 2)):
        yield sample(f"grad-{view}", grad, indices([2, 3, 4], device))
    for view, index in layouts(indices([2, 3, 4], device)):
        yield sample(f"index-{view}", upstream([2, 3, 4], 2), index)
    yield sample("no-rows", upstream([0, 4]), indices([0, 4], device), rows=0)
    for name, shape, rows in (
        ("boxes", [2, 70, 90], 64),
        ("wide", [3, 700], 40),
        ("blocks", [9, 80, 70], 9),
        ("many", [2, 30, 41], 700),
    ):
        yield sample(name, upstream(shape, 2), indices(shape, device, rows), rows, gradients=False)


def backward_reference(grad: Tensor, index: Tensor, num_rows: int) -> Tensor:
    return adjoint(lambda t: reference.gather_bias(t, index), (num_rows, grad.shape[-3]), grad)


def backward_bound(sample: Sample, expected: Tensor) -> Tensor:
    return sum_bound(backward_reference, sample)


def backward_errors(device: str) -> Iterator[Error]:
    def call(grad=(2, 3, 4, 5), index=(2, 4, 5), dtype=torch.float32, index_dtype=torch.int64, num_rows=ROWS):
        grad = torch.ones(grad, device=device, dtype=dtype)
        index = torch.zeros(index, dtype=index_dtype, device=device)
        return {"grad": grad, "index": index, "num_rows": num_rows}

    name = "posenc_ext::_gather_bias_backward"
    for shape in ((2, 3, 4, 6), (2, 3, 5, 5), (1, 3, 4, 5), (3, 4, 5), (4, 5)):
        rule = "grad must have shape [..., heads, Q, K] for an index of shape [2, 4, 5]"
        yield Error(f"grad{list(shape)}", call(shape), f"{name}: {rule}, got {list(shape)}")
    yield Error("grad-dtype", call(dtype=torch.int32), f"{name}: grad {FLOATING}, got Int")
    yield Error("num_rows", call(num_rows=-1), f"{name}: num_rows must be non-negative, got -1")
    yield from index_checks("_gather_bias_backward", call)
    if device == "cpu":
        inputs = call()
        inputs["index"][1, 3, 4] = ROWS
        yield Error("value", inputs, f"{name}: index must be in [0, {ROWS}), got {ROWS} at [1, 3, 4]")
