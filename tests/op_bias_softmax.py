"""Samples, references, tolerances and errors of softmax with a bias, from every source of the bias."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from op_gather_bias import indices
from op_relative_bias import table_rows, window_inputs
from op_types import FLOATING, Error, Sample, adjoint, layouts, packed, round_bound, values
from torch import Tensor

from posenc_ext import reference

OPTIONS = {"scale": 1.0, "mask": None, "regions": None, "causal": False, "q_offset": 0}

CHECKED = ("scale", "mask-keys", "added", "causal-offset")  # options with gradcheck for every source

# What a bias is made from, by the prefix of the op's name: the name of its table; and by the name of a
# sample: queries, keys, the shape of the table with 3 heads, and the other arguments that it is made from.
TABLES = {
    "window": "table",
    "diagonal": "diagonals",
    "gather": "table",
    "": "bias",
    "t5": "table",
    "alibi": "slopes",
}
Source = tuple[int, int, list[int], dict[str, Any]]
PAIRS = {"square": (4, 4), "wide": (3, 7), "tall": (6, 2), "one-key": (3, 1), "one-query": (1, 6)}


def window_source(window, query_size=None, prefix=0) -> Source:
    queries = torch.Size(query_size or window).numel() + prefix
    keys = torch.Size(window).numel() + prefix
    return queries, keys, [table_rows(window, prefix), 3], window_inputs(window, query_size, prefix)


def t5_source(queries, keys, rows=8, bidirectional=True, max_distance=8) -> Source:
    spec = {"bidirectional": bidirectional, "max_distance": max_distance}
    return queries, keys, [rows, 3], spec


def sources(kind: str, device: str) -> dict[str, Source]:
    """Small ones; the first has as many queries as keys."""
    if kind == "window":
        return {
            "window[2, 2]": window_source([2, 2]),
            "window[5]": window_source([5]),
            "window[3, 2]-prefix": window_source([3, 2], None, 1),
            "window[2, 3]-query[4, 6]": window_source([2, 3], [4, 6]),
            "window[2, 2]-query[3, 4]-prefix": window_source([2, 2], [3, 4], 1),
            "window[2, 1, 3]": window_source([2, 1, 3]),
            "window[1]": window_source([1]),
        }
    if kind == "t5":
        return {
            "both": t5_source(4, 4),
            "both-cross": t5_source(5, 7, 9, True, 6),
            "causal-bias": t5_source(5, 4, 6, False, 5),
            "decode": t5_source(1, 6, 5, False, 7),
        }
    shapes = {
        "diagonal": lambda q, k: ([3, q + k - 1], {}),
        "gather": lambda q, k: ([7, 3], {"index": indices([q, k], device)}),
        "": lambda q, k: ([3, q, k], {}),
        "alibi": lambda q, k: ([3], {}),
    }[kind]
    return {name: (q, k, *shapes(q, k)) for name, (q, k) in PAIRS.items()}


def large_sources(kind: str, device: str) -> dict[str, Source]:
    """Rows of every way in which kernels read them: short ones, long ones, and those of several vectors."""
    if kind == "window":
        return {
            "swin": window_source([7, 7]),
            "beit": window_source([6, 5], None, 1),
            "utnet": window_source([4, 8], [16, 9]),
            "video": window_source([3, 4, 5]),
        }
    if kind == "t5":
        return {"encoder": t5_source(70, 90, 32, True, 128), "cached": t5_source(2, 700, 32, False, 128)}
    shapes = {"rows": (33, 17), "long": (3, 530), "longer": (2, 1100)}
    if kind == "gather":
        return {
            name: (q, k, [40, 3], {"index": indices([q, k], device, 40)}) for name, (q, k) in shapes.items()
        }
    sizes = {"diagonal": lambda q, k: [3, q + k - 1], "": lambda q, k: [3, q, k], "alibi": lambda q, k: [3]}
    return {name: (q, k, sizes[kind](q, k), {}) for name, (q, k) in shapes.items()}


def options(lead, queries, keys, device, dtype) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Name, options, and whether all results are finite: what hides keys, from what to what."""
    shown = values([*lead, 1, 1, keys], device, torch.float64, seed=3) > -0.7
    shown[..., 0] = True
    pairs = values([queries, keys], device, torch.float64, seed=4) > 0
    added = values([*lead, 3, queries, keys], device, dtype, seed=5)
    least, nothing = torch.finfo(dtype).min, torch.zeros_like(shown, dtype=dtype)
    yield "scale", {"scale": -0.75}, True
    yield "mask-keys", {"mask": shown}, True
    yield "mask-pairs", {"mask": pairs | (torch.arange(keys, device=device) == 0)}, True
    yield "mask-1d", {"mask": shown[(0,) * (shown.dim() - 1)]}, True
    yield "mask-nothing", {"mask": pairs & (torch.arange(queries, device=device) > 0)[:, None]}, False
    yield "added", {"mask": added, "scale": 0.5}, True
    yield "added-heads", {"mask": added[(0,) * len(lead)][:, :1]}, True
    yield "added-keys", {"mask": added[..., :1, :1, :]}, True
    yield "added-expanded", {"mask": added[..., :1, :].expand(added.shape)}, True
    yield "added-float32", {"mask": added.to(torch.float32)}, True
    yield "added-bfloat16", {"mask": added[0, 0].to(torch.bfloat16)}, True
    yield "added-least", {"mask": nothing.masked_fill(~shown, least)}, False
    yield "added-least-everywhere", {"mask": torch.full([keys], least, dtype=dtype, device=device)}, False
    yield "added-infinite", {"mask": nothing.masked_fill(~shown, -torch.inf)}, False
    yield "causal", {"causal": True}, True
    yield "causal-offset", {"causal": True, "q_offset": 2, "mask": shown}, True
    yield "causal-nothing", {"causal": True, "q_offset": -1}, False
    if queries == keys:
        regions = torch.arange(2 * keys, device=device).view(2, keys) // 3 % 3
        yield "regions", {"regions": regions}, True
        yield "regions-int32-strided", {"regions": regions.to(torch.int32).T.contiguous().T}, True
        yield "regions-one-causal", {"regions": regions[:1], "causal": True}, True


def samples_of(kind: str) -> Callable[[str, torch.dtype], Iterator[Sample]]:
    table_name = TABLES[kind]

    def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
        def sample(name, lead, source: Source, gradients=True, scores=None, table=None, **given):
            queries, keys, shape, arguments = source
            if scores is None:
                scores = values([*lead, 3, queries, keys], device, dtype)
            if table is None:
                table = values(shape, device, dtype, seed=1)
            inputs = {"scores": scores, table_name: table, **arguments, **OPTIONS, **given}
            return Sample(name, inputs, gradients)

        small = sources(kind, device)
        first = next(iter(small.values()))
        for name, source in small.items():
            yield sample(name, [2], source)
        for lead in ([], [2, 1], [0]):
            yield sample(f"lead{lead}", lead, first)
        for name, given, finite in options([2], first[0], first[1], device, dtype):
            checked = finite and (kind == "window" or name in CHECKED)
            yield sample(name, [2], first, gradients=checked, **given)
        shape = [2, 3, first[0], first[1]]
        for view, scores in layouts(values(shape, device, dtype)):
            yield sample(f"scores-{view}", [2], first, scores=scores, gradients=view == "strided")
        for view, table in layouts(values(first[2], device, dtype, seed=1)):
            yield sample(f"table-{view}", [2], first, table=table, gradients=view == "strided")
        table = values(first[2], device, torch.float64, seed=1)
        for other in (torch.float32, torch.bfloat16):
            yield sample(f"table-{other}", [2], first, table=table.to(other))
        yield sample("offset", [2], first, q_offset=3)
        for name, source in large_sources(kind, device).items():
            yield sample(name, [4], source, gradients=False)
            for option, given, _ in options([4], source[0], source[1], device, dtype):
                if option in ("mask-keys", "added", "causal-offset", "regions"):
                    yield sample(f"{name}-{option}", [4], source, gradients=False, **given)
        if kind in ("diagonal", "", "alibi"):  # other sources have at least one query and key
            shapes = {"diagonal": [3, 3], "": [3, 0, 4], "alibi": [3]}
            yield sample("no-query", [2], (0, 4, shapes[kind], {}))
            shapes = {"diagonal": [3, 3], "": [3, 4, 0], "alibi": [3]}
            yield sample("no-key", [2], (4, 0, shapes[kind], {}))

    return samples


def some_samples_of(kind: str) -> Callable[[str, torch.dtype], Iterator[Sample]]:
    """For an op that has the kernel of another one: every layout of scores, and a few more."""
    every = samples_of(kind)
    wanted = ("lead[]", "scale", "mask-keys", "added", "causal-offset", "regions", "offset", "mask-nothing")

    def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
        first = next(iter(sources(kind, device)))
        for sample in every(device, dtype):
            layout = sample.name.startswith("scores-") and "expanded" not in sample.name
            if layout or sample.name in (first, *wanted, *large_sources(kind, device)):
                yield sample

    return samples


def dropout_samples_of(kind: str) -> Callable[[str, torch.dtype], Iterator[Sample]]:
    """Where no random number matters: tests/test_bias_softmax.py has the others."""
    every = samples_of(kind)

    def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
        first = next(iter(sources(kind, device)))
        kept = {s.name: s for s in every(device, dtype) if s.name in (first, "added", "causal-offset")}
        for name, p, training in ((first, 0.5, False), ("added", 0.0, True), ("causal-offset", 1.0, True)):
            inputs = {**kept[name].inputs, "dropout_p": p, "training": training}
            yield Sample(name, inputs, p < 1)

    return samples


def bias_of(kind: str, inputs: dict[str, Any]) -> Tensor:
    """[heads, Q, K] in float64."""
    scores, table = inputs["scores"], inputs[TABLES[kind]].to(torch.float64)
    queries, keys = scores.shape[-2:]
    if kind == "window":
        spec = {name: inputs[name] for name in ("window", "query_size", "prefix_tokens")}
        return reference.window_bias(table, **spec)
    if kind == "t5":
        spec = {name: inputs[name] for name in ("q_offset", "bidirectional", "max_distance")}
        return reference.t5_bias(table, queries, keys, **spec)
    if kind == "alibi":
        return reference.alibi_bias(table, queries, keys, q_offset=inputs["q_offset"])
    if kind == "diagonal":
        index = torch.arange(keys) - torch.arange(queries)[:, None] + queries - 1
        return reference.gather_bias(table.T, index)
    return reference.gather_bias(table, inputs["index"]) if kind == "gather" else table


def unit_of(dtype: torch.dtype) -> float:
    """The error of an operation in the accumulator's type; in float64 of the oracle, too."""
    return 2.0**-52 if dtype is torch.float64 else 2.0**-24


def argument_error(kind: str, inputs: dict[str, Any], unit: float) -> Tensor:
    """Of softmax's argument: a few roundings of its terms, and of its difference to the largest of a row."""
    scores, mask = inputs["scores"].to(torch.float64), inputs["mask"]
    terms = (scores * inputs["scale"]).abs() + bias_of(kind, inputs).abs()
    if mask is not None and mask.dtype is not torch.bool:
        terms = terms + mask.to(torch.float64).abs()
    if inputs["regions"] is not None:
        terms = terms + 100
    return 4 * unit * (terms + terms.nan_to_num(posinf=0.0).amax(-1, keepdim=True))


def probability_error(p: Tensor, argument: Tensor, unit: float) -> Tensor:
    """Of softmax, p in float64, where its arguments have these errors: exp, the sum, and the division."""
    argument = torch.where(p > 0, argument, 0.0)
    relative = argument + (p * argument).sum(-1, keepdim=True) + unit * (p.shape[-1] + 8)
    return p * relative + (2.0**-1021 if unit < 2.0**-50 else 2.0**-125)


def bound_of(kind: str) -> Callable[[Sample, Tensor], Tensor]:
    def bound(sample: Sample, expected: Tensor) -> Tensor:
        if expected.numel() == 0:
            return torch.zeros_like(expected)
        inputs, dtype = sample.inputs, sample.inputs["scores"].dtype
        unit = unit_of(dtype)
        error = probability_error(expected, argument_error(kind, inputs, unit), unit)
        if "dropout_p" not in inputs or inputs["dropout_p"] in (0.0, 1.0):
            return error
        return (error + round_bound(expected, dtype)) / (1 - inputs["dropout_p"])

    return bound


# ---- Errors


def errors_of(name: str, kind: str) -> Callable[[str], Iterator[Error]]:
    op, table_name = f"posenc_ext::{name.partition('.')[0].strip('_')}", TABLES[kind]
    more = {"dropout_p": 0.0, "training": False} if name.endswith(".dropout") else {}

    def errors(device: str) -> Iterator[Error]:
        queries, keys, table_shape, arguments = next(iter(sources(kind, device).values()))

        def call(shape=(2, 3, queries, keys), table=table_shape, dtype=torch.float32, **given):
            table_dtype, place = given.pop("table_dtype", torch.float32), given.pop("place", device)
            inputs = {
                "scores": torch.ones(shape, device=device, dtype=dtype),
                table_name: torch.ones(table, device=place, dtype=table_dtype),
            }
            return {**inputs, **arguments, **OPTIONS, **more, **given}

        def zeros(*shape, dtype=torch.float32, place=device):
            return torch.zeros(shape, dtype=dtype, device=place)

        other, place = "cpu" if device != "cpu" else "meta", "cuda:0" if device == "cuda" else device
        for dtype, text in ((torch.int32, "Int"), (torch.complex64, "ComplexFloat")):
            yield Error(f"scores-{text}", call(dtype=dtype), f"{op}: scores {FLOATING}, got {text}")
            yield Error(
                f"table-{text}", call(table_dtype=dtype), f"{op}: {table_name} {FLOATING}, got {text}"
            )
        text = f"{op}: scores must have at least 3 dimensions [..., heads, Q, K], got 2"
        yield Error("scores2d", call((queries, keys)), text)
        text = f"{op}: {table_name} must be on the device of scores ({place}), got {other}"
        yield Error("table-device", call(place=other), text)
        for scale in (float("inf"), float("nan")):
            yield Error(f"scale{scale}", call(scale=scale), f"{op}: scale must be finite, got {scale}")
        regions = zeros(2, keys, dtype=torch.int64)
        text = f"{op}: mask and regions exclude each other, got both"
        yield Error("both", call(mask=zeros(keys), regions=regions), text)
        text = f"{op}: mask must be on the device of scores ({place}), got {other}"
        yield Error("mask-device", call(mask=zeros(keys, place=other)), text)
        text = f"{op}: mask must be bool, float64, float32, float16 or bfloat16, got Long"
        yield Error("mask-dtype", call(mask=zeros(keys, dtype=torch.int64)), text)
        rule = f"mask must have the keys of scores and broadcast to their shape [2, 3, {queries}, {keys}]"
        for shape in (
            [1],
            [],
            [keys + 1],
            [queries + 1, keys],
            [2, 1, keys],
            [3, 1, 1, keys],
            [1] * 4 + [keys],
        ):
            yield Error(f"mask{shape}", call(mask=zeros(*shape)), f"{op}: {rule}, got {shape}")
        text = f"{op}: regions must be on the device of scores ({place}), got {other}"
        yield Error("regions-device", call(regions=zeros(2, keys, dtype=torch.int64, place=other)), text)
        text = f"{op}: regions must be int32 or int64, got Float"
        yield Error("regions-dtype", call(regions=zeros(2, keys)), text)
        rule = "regions must have shape [windows, N] for scores [..., heads, N, N] of shape"
        for shape in ([keys], [2, keys + 1], [1, 2, keys]):
            text = f"{op}: {rule} [2, 3, {queries}, {keys}], got {shape}"
            yield Error(f"regions{shape}", call(regions=zeros(*shape, dtype=torch.int64)), text)
        rule = "regions must have a number of windows that divides the number of samples"
        for windows in (0, 3, 4):
            given = zeros(windows, keys, dtype=torch.int64)
            yield Error(f"windows{windows}", call(regions=given), f"{op}: {rule} 2, got {windows}")
        for offset in (2**53, -(2**53)):
            text = f"{op}: q_offset must be between -2**53 and 2**53, got {offset}"
            yield Error(f"offset{offset}", call(q_offset=offset), text)
        yield from table_errors(op, kind, queries, keys, call, device)
        if name.endswith(".dropout"):
            for p in (-0.1, 1.5):
                text = f"{op}: dropout_p must be in [0, 1], got {p}"
                yield Error(f"dropout{p}", call(dropout_p=p), text)
        if name.startswith("_") and name.endswith("_"):
            yield from in_place_errors(op, call, queries, keys, kind)

    return errors


def table_errors(op, kind, queries, keys, call, device) -> Iterator[Error]:
    """What each source checks of the table and of the arguments next to it."""
    if kind in ("window", "gather", "t5"):
        text = f"{op}: table must have 2 dimensions [rows, heads], got 1"
        yield Error("table1d", call(table=[9]), text)
        rows = call()["table"].shape[0]
        yield Error("heads", call(table=[rows, 4]), f"{op}: table must have the heads of scores (3), got 4")
    if kind == "window":
        text = f"{op}: table must have 9 rows for window [2, 2], got 8"
        yield Error("rows", call(table=[8, 3]), text)
        text = f"{op}: scores must have the queries and keys of the window (4, 4), got (4, 5)"
        yield Error("keys", call((2, 3, 4, 5)), text)
        text = f"{op}: scores must have the queries and keys of the window (16, 4), got (4, 4)"
        yield Error("queries", call(query_size=[4, 4]), text)
        yield Error("window", call(window=[]), f"{op}: window must have 1 to 3 sizes, got 0")
        yield Error("prefix", call(prefix_tokens=2), f"{op}: prefix_tokens must be 0 or 1, got 2")
    elif kind == "diagonal":
        rule = f"diagonals must have shape [heads, Q + K - 1], here [3, {queries + keys - 1}]"
        for shape in ([3, 8], [4, 7], [7], [1, 3, 7]):
            yield Error(f"diagonals{shape}", call(table=shape), f"{op}: {rule}, got {shape}")
    elif kind == "gather":
        rule = f"index must have the shape [Q, K] of scores, here [{queries}, {keys}]"
        for shape in ([4, 3], [1, 4, 4], [4]):
            index = torch.zeros(shape, dtype=torch.int64, device=device)
            yield Error(f"index{shape}", call(index=index), f"{op}: {rule}, got {shape}")
        index = torch.zeros(4, 4, device=device)
        yield Error("index-dtype", call(index=index), f"{op}: index must be int32 or int64, got Float")
        if device == "cpu":
            for value in (7, -1):
                index = torch.zeros(4, 4, dtype=torch.int64)
                index[1, 3] = index[2, 2] = value
                text = f"{op}: index must be in [0, 7), got {value} at [1, 3]"
                yield Error(f"value{value}", call(index=index), text)
    elif kind == "":
        rule = f"bias must have the shape [heads, Q, K] of scores, here [3, {queries}, {keys}]"
        for shape in ([4, 4], [1, 4, 4], [3, 4, 5], [2, 3, 4, 4]):
            yield Error(f"bias{shape}", call(table=shape), f"{op}: {rule}, got {shape}")
    elif kind == "t5":
        text = f"{op}: table must have at least 4 rows when bidirectional, got 3"
        yield Error("rows3", call(table=[3, 3]), text)
        text = f"{op}: max_distance must be above 2 with 8 rows, bidirectional, got 2"
        yield Error("distance", call(max_distance=2), text)
    else:
        for shape in ([4], [1, 3], []):
            text = f"{op}: slopes must have the shape [heads] of scores, here [3], got {shape}"
            yield Error(f"slopes{shape}", call(table=shape), text)


def in_place_errors(op, call, queries, keys, kind) -> Iterator[Error]:
    inputs = call()
    inputs["scores"] = inputs["scores"][:1].expand(2, -1, -1, -1)
    text = "scores must not overlap itself, got strides"
    yield Error("overlap", inputs, f"{op}: {text} {list(inputs['scores'].stride())}")
    inputs = call()
    table = inputs[TABLES[kind]]
    memory = torch.ones(inputs["scores"].numel() + table.numel(), device=table.device)
    inputs["scores"] = memory[: inputs["scores"].numel()].view(inputs["scores"].shape)
    inputs[TABLES[kind]] = memory[1 : 1 + table.numel()].view(table.shape)
    yield Error("shared", inputs, f"{op}: scores must not overlap {TABLES[kind]}, got one that does")


# ---- The gradients of scores and table


def backward_samples_of(kind: str) -> Callable[[str, torch.dtype], Iterator[Sample]]:
    def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
        def sample(name, lead, source: Source, grad=None, result=None, scale=0.5):
            queries, keys, table, arguments = source
            shape = [*lead, 3, queries, keys]
            if grad is None:
                grad = values(shape, device, dtype)
            if result is None:
                result = values(shape, device, torch.float64, seed=1).softmax(-1).to(dtype)
            inputs = {"grad": grad, "result": result, "table_sizes": table, **arguments, "scale": scale}
            return Sample(name, inputs, gradients=False)

        small = sources(kind, device)
        first = next(iter(small.values()))
        for name, source in {**small, **large_sources(kind, device)}.items():
            yield sample(name, [2], source)
        for lead in ([], [2, 1], [0]):
            yield sample(f"lead{lead}", lead, first)
        if not kind:
            yield sample("scores-alone", [2], (first[0], first[1], [0], {}))
        yield sample("many", [500], first)
        yield sample("scale", [2], first, scale=-3.0)
        shape = [2, 3, first[0], first[1]]
        for view, grad in layouts(values(shape, device, dtype)):
            yield sample(f"grad-{view}", [2], first, grad=grad)
        for view, result in layouts(values(shape, device, torch.float64).softmax(-1).to(dtype)):
            yield sample(f"result-{view}", [2], first, result=result)

    return samples


def collect(kind: str, sample: Sample, grad: Tensor) -> Tensor:
    """The adjoint of the bias: the sums of a table's rows over [..., heads, Q, K] in float64."""
    if sample.inputs["table_sizes"] == [0]:
        return grad.new_zeros(0)
    inputs = {**sample.inputs, "scores": grad}

    def bias(table):
        return bias_of(kind, {**inputs, TABLES[kind]: table})

    return adjoint(bias, inputs["table_sizes"], grad.reshape(-1, *grad.shape[-3:]).sum(0))


def backward_reference_of(kind: str) -> Callable[..., Tensor]:
    def backward(**inputs) -> Tensor:
        grad, result = (inputs[name].to(torch.float64) for name in ("grad", "result"))
        sums = result * (grad - (result * grad).sum(-1, keepdim=True))
        return packed((sums * inputs["scale"], collect(kind, Sample("", inputs), sums)))

    return backward


def backward_bound_of(kind: str) -> Callable[[Sample, Tensor], Tensor]:
    def bound(sample: Sample, expected: Tensor) -> Tensor:
        dtype = sample.inputs["grad"].dtype
        unit, scale = unit_of(dtype), abs(sample.inputs["scale"])
        grad, result = (sample.inputs[name].to(torch.float64) for name in ("grad", "result"))
        product = (result * grad).abs().sum(-1, keepdim=True)
        error = unit * result.abs() * ((grad.shape[-1] + 4) * product + 4 * grad.abs())
        sums = (result * (grad - (result * grad).sum(-1, keepdim=True))).abs()
        of_scores = error * scale + unit * sums * scale
        if dtype.itemsize == 2:  # packed with the sums of the table, the gradient of scores is rounded before
            of_scores = of_scores + round_bound(sums * scale, dtype)
        terms = collect(kind, sample, torch.ones_like(grad))
        return packed((of_scores, collect(kind, sample, error) + unit * terms * collect(kind, sample, sums)))

    return bound


def backward_errors_of(kind: str) -> Callable[[str], Iterator[Error]]:
    op = f"posenc_ext::_{kind}_bias_softmax_backward" if kind else "posenc_ext::_bias_softmax_backward"

    def errors(device: str) -> Iterator[Error]:
        queries, keys, table, arguments = next(iter(sources(kind, device).values()))

        def call(grad=(2, 3, queries, keys), result=None, sizes=table, dtype=torch.float32, **given):
            grad = torch.ones(grad, device=device, dtype=dtype)
            result = torch.ones_like(grad) if result is None else result
            inputs = {"grad": grad, "result": result, "table_sizes": sizes}
            return {**inputs, **arguments, "scale": 1.0, **given}

        place = "cuda:0" if device == "cuda" else device
        yield Error("grad-dtype", call(dtype=torch.int32), f"{op}: grad {FLOATING}, got Int")
        text = f"{op}: grad must have at least 3 dimensions [..., heads, Q, K], got 2"
        yield Error("grad2d", call((queries, keys)), text)
        shape = [2, 3, queries, keys]
        rule = f"{op}: result must have the dtype, shape and device of grad (Float {shape} on {place})"
        result = torch.ones(shape, device=device, dtype=torch.float64)
        yield Error("result-dtype", call(result=result), f"{rule}, got Double {shape} on {place}")
        result = torch.ones(1, 3, queries, keys, device=device)
        yield Error("result-shape", call(result=result), f"{rule}, got Float {list(result.shape)} on {place}")
        yield Error("scale", call(scale=float("nan")), f"{op}: scale must be finite, got nan")
        if kind in ("window", "gather"):
            text = f"{op}: table must have the heads of scores (3), got 4"
            yield Error("heads", call(sizes=[table[0], 4]), text)
        else:
            for error in table_errors(op, kind, queries, keys, lambda table: {"sizes": table}, device):
                yield Error(error.name, call(**error.inputs), error.text)

    return errors
