"""Samples, references, tolerances and errors of the relative-position bias."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from op_types import FLOATING, Error, Sample, adjoint, into_out, layouts, out_errors, sum_bound, values
from torch import Tensor

from posenc_ext import reference

WINDOWS = (
    ("window[1]", [1], None, 0),
    ("window[4]", [4], None, 0),
    ("window[3]-prefix", [3], None, 1),
    ("window[1]-prefix", [1], None, 1),
    ("window[3]-query[6]", [3], [6], 0),
    ("window[3]-query[7]", [3], [7], 0),
    ("window[2, 3]", [2, 3], None, 0),
    ("window[4, 1]", [4, 1], None, 0),
    ("window[3, 2]-prefix", [3, 2], None, 1),
    ("window[2, 3]-query[4, 6]", [2, 3], [4, 6], 0),
    ("window[2, 3]-query[5, 4]-prefix", [2, 3], [5, 4], 1),
    ("window[2, 2]-query[2, 2]", [2, 2], [2, 2], 0),
    ("window[2, 1, 3]", [2, 1, 3], None, 0),
    ("window[1, 2, 2]-prefix", [1, 2, 2], None, 1),
    ("window[2, 2, 1]-query[3, 4, 2]", [2, 2, 1], [3, 4, 2], 0),
    ("window[1, 2, 1]-query[2, 3, 1]-prefix", [1, 2, 1], [2, 3, 1], 1),
)


def window_inputs(window, query_size, prefix_tokens):
    return {"window": window, "query_size": query_size, "prefix_tokens": prefix_tokens}


def table_rows(window, prefix_tokens=0) -> int:
    return torch.Size(2 * s - 1 for s in window).numel() + 3 * prefix_tokens


def bias_shape(heads, window, query_size, prefix_tokens) -> list[int]:
    queries = torch.Size(query_size or window).numel() + prefix_tokens
    return [heads, queries, torch.Size(window).numel() + prefix_tokens]


def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for name, window, query_size, prefix in WINDOWS:
        table = values((table_rows(window, prefix), 3), device, dtype)
        yield Sample(name, {"table": table, **window_inputs(window, query_size, prefix)})
    for heads in (0, 1):
        table = values((table_rows([2, 2], 1), heads), device, dtype)
        yield Sample(f"heads{heads}", {"table": table, **window_inputs([2, 2], None, 1)})
    for view, table in layouts(values((15, 4), device, dtype)):
        yield Sample(f"table-{view}", {"table": table, **window_inputs([2, 3], None, 0)})
        yield Sample(f"table-{view}-query", {"table": table, **window_inputs([2, 3], [5, 3], 0)})
    for name, window, query_size, prefix in (
        ("swin", [7, 7], None, 0),
        ("beit", [6, 5], None, 1),
        ("utnet", [4, 8], [16, 9], 0),
        ("video", [3, 4, 5], None, 0),
    ):
        table = values((5, table_rows(window, prefix)), device, dtype).T  # a [heads, rows] weight
        yield Sample(name, {"table": table, **window_inputs(window, query_size, prefix)}, gradients=False)


def window_checks(op: str, call: Callable[..., dict[str, Any]]) -> Iterator[Error]:
    name = f"posenc_ext::{op}"
    for window in ([], [2, 2, 2, 2]):
        text = f"{name}: window must have 1 to 3 sizes, got {len(window)}"
        yield Error(f"window{len(window)}", call(window=window), text)
    for window in ([0, 7], [7, -1]):
        yield Error(
            f"window{window}", call(window=window), f"{name}: window sizes must be positive, got {window}"
        )
    rule = "query_size must have as many sizes as window [7, 7]"
    for query in ([14], [7, 7, 7], []):
        yield Error(f"query{query}", call(query_size=query), f"{name}: {rule}, got {query}")
    for query in ([6, 14], [14, 6]):
        text = f"{name}: query_size must be at least the window [7, 7], got {query}"
        yield Error(f"query{query}", call(query_size=query), text)
    for prefix in (2, -1):
        text = f"{name}: prefix_tokens must be 0 or 1, got {prefix}"
        yield Error(f"prefix{prefix}", call(prefix_tokens=prefix), text)


def errors(device: str) -> Iterator[Error]:
    def call(table=(169, 3), window=(7, 7), dtype=torch.float32, query_size=None, prefix_tokens=0):
        table = torch.ones(table, device=device, dtype=dtype)
        return {"table": table, **window_inputs(list(window), query_size, prefix_tokens)}

    name = "posenc_ext::window_bias"
    for shape in ((169,), (1, 169, 3), ()):
        text = f"{name}: table must have 2 dimensions [rows, heads], got {len(shape)}"
        yield Error(f"table{len(shape)}d", call(shape), text)
    for dtype, text in ((torch.int32, "Int"), (torch.complex64, "ComplexFloat")):
        yield Error(f"table-{text}", call(dtype=dtype), f"{name}: table {FLOATING}, got {text}")
    text = f"{name}: table must have 169 rows for window [7, 7], got 168"
    yield Error("rows", call((168, 3)), text)
    text = f"{name}: table must have 172 rows for window [7, 7] and prefix_tokens 1, got 169"
    yield Error("rows-prefix", call(prefix_tokens=1), text)
    yield Error("rows-1d", call(window=[84]), f"{name}: table must have 167 rows for window [84], got 169")
    yield from window_checks("window_bias", call)


def out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def shape(table, window, query_size, prefix_tokens, **_):
        return bias_shape(table.shape[1], window, query_size, prefix_tokens)

    yield from into_out(samples(device, dtype), shape)


def out_reference(out: Tensor, **inputs) -> Tensor:
    return reference.window_bias(**inputs)


def errors_of_out(device: str) -> Iterator[Error]:
    table = torch.ones((169, 3), device=device)
    call = {"table": table, **window_inputs([7, 7], None, 0)}
    yield from out_errors("window_bias", lambda: call, [3, 49, 49])
    for error in errors(device):
        yield Error(error.name, {**error.inputs, "out": torch.empty(0, device=device)}, error.text)


def backward_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, grad, window, query_size=None, prefix=0, gradients=True):
        inputs = {"grad": grad, "num_rows": table_rows(window, prefix)}
        return Sample(name, {**inputs, **window_inputs(window, query_size, prefix)}, gradients)

    for name, *sizes in WINDOWS:
        yield sample(name, values(bias_shape(3, *sizes), device, dtype), *sizes)
    for heads in (0, 1):
        yield sample(
            f"heads{heads}", values(bias_shape(heads, [2, 2], None, 1), device, dtype), [2, 2], None, 1
        )
    for view, grad in layouts(values(bias_shape(2, [2, 3], None, 0), device, dtype)):
        yield sample(f"grad-{view}", grad, [2, 3])
    for view, grad in layouts(values(bias_shape(2, [3, 2], [5, 4], 1), device, dtype)):
        yield sample(f"grad-{view}-query-prefix", grad, [3, 2], [5, 4], 1)
    for name, *sizes in (("swin", [7, 7], None, 0), ("beit", [6, 5], None, 1), ("utnet", [4, 8], [16, 9], 0)):
        yield sample(name, values(bias_shape(5, *sizes), device, dtype), *sizes, gradients=False)


def backward_reference(grad: Tensor, num_rows: int, **sizes) -> Tensor:
    return adjoint(lambda t: reference.window_bias(t, **sizes), (num_rows, grad.shape[0]), grad)


def backward_bound(sample: Sample, expected: Tensor) -> Tensor:
    return sum_bound(backward_reference, sample)


def backward_errors(device: str) -> Iterator[Error]:
    def call(
        grad=(3, 49, 49), num_rows=169, window=(7, 7), dtype=torch.float32, query_size=None, prefix_tokens=0
    ):
        inputs = {"grad": torch.ones(grad, device=device, dtype=dtype), "num_rows": num_rows}
        return {**inputs, **window_inputs(list(window), query_size, prefix_tokens)}

    name = "posenc_ext::_window_bias_backward"
    for shape in ((3, 49, 48), (3, 48, 49), (49, 49), (1, 3, 49, 49)):
        text = f"{name}: grad must have shape [heads, 49, 49], got {list(shape)}"
        yield Error(f"grad{list(shape)}", call(shape), text)
    text = f"{name}: grad must have shape [heads, 197, 50], got [3, 49, 49]"
    yield Error("grad-query", call(num_rows=172, query_size=[14, 14], prefix_tokens=1), text)
    yield Error("grad-dtype", call(dtype=torch.int32), f"{name}: grad {FLOATING}, got Int")
