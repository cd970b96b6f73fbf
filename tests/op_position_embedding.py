"""Samples, references, tolerances and errors of adding position embeddings, and of the sum over a batch."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from op_add_sinusoidal import out_errors as out_argument_errors
from op_types import FLOAT64_ERROR, FLOATING, Error, Sample, drawn, layouts, sum_error, values
from torch import Tensor

from posenc_ext import reference

EMBED = {"embed_prefix": True, "x_scale": 1.0, "batch_first": True, "dropout_p": 0.0}

# The prefix tokens of a call: (number of tokens, whether every sample has its own).
PREFIXES = {
    "none": (),
    "cls": ((1, False),),
    "mean": ((1, True),),
    "cls-dist": ((1, False), (1, False)),
    "registers": ((1, False), (2, True)),
    "three": ((1, True), (0, False), (1, False)),
}


def operands(
    device: str,
    dtype: torch.dtype,
    sizes: tuple[int, int, int] = (2, 3, 4),
    prefixes: tuple[tuple[int, bool], ...] = ((1, False),),
    pos: str = "rows",
    **options,
) -> dict[str, Any]:
    """x, pos_embed, prefix_tokens and options of one call, for sizes (B, N, D)."""
    batch, tokens, dim = sizes
    options = {**EMBED, **options}
    batch_first = options["batch_first"]
    length = tokens + sum(k for k, _ in prefixes) if options["embed_prefix"] else tokens
    shape = {"rows": (length, dim), "batch-one": (1, length, dim), "one-between": (length, 1, dim)}[pos]

    def batched(n: int, b: int, seed: int) -> Tensor:
        return values((b, n, dim) if batch_first else (n, b, dim), device, dtype, seed)

    return {
        "x": batched(tokens, batch, 1),
        "pos_embed": values(shape, device, dtype, seed=2),
        "prefix_tokens": [batched(k, batch if own else 1, 3 + i) for i, (k, own) in enumerate(prefixes)],
        **options,
    }


def image_view(
    sizes: tuple[int, int, int, int], device: str, dtype: torch.dtype, batch_first: bool
) -> Tensor:
    """The tokens of an image [B, D, H, W] as a view of it."""
    image = values(sizes, device, dtype, seed=1).flatten(2)
    return image.transpose(1, 2) if batch_first else image.permute(2, 0, 1)


def calls(device: str, dtype: torch.dtype) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(name, arguments but for training or seed, whether small enough for gradcheck)."""

    def call(name, small=True, **changed):
        return name, operands(device, dtype, **changed), small

    for (kind, prefixes), embed_prefix, batch_first in itertools.product(
        PREFIXES.items(), (True, False), (True, False)
    ):
        name = kind + "-patches-embedded" * (not embed_prefix) + "-sequence-first" * (not batch_first)
        yield call(name, prefixes=prefixes, embed_prefix=embed_prefix, batch_first=batch_first)
    for sizes in ((0, 3, 4), (1, 3, 4), (3, 0, 4), (2, 3, 0), (1, 1, 1), (3, 1, 5)):
        yield call(f"sizes{list(sizes)}", sizes=sizes, prefixes=PREFIXES["registers"], x_scale=0.5)
        yield call(f"sizes{list(sizes)}-sequence-first", sizes=sizes, batch_first=False)
    yield call("empty", sizes=(2, 0, 4), prefixes=())
    yield call("pos-batch-one", pos="batch-one")
    yield call("pos-batch-one-sequence-first", pos="batch-one", batch_first=False)
    yield call("pos-one-between", pos="one-between", batch_first=False)
    yield call("x-scale", x_scale=4**0.5 + 0.1, prefixes=PREFIXES["registers"])
    yield call("x-scale-zero", x_scale=0.0, embed_prefix=False)
    yield call("dropout-off", dropout_p=0.5)
    for argument in ("x", "pos_embed"):
        for batch_first in (True, False):
            plain = operands(device, dtype, pos="batch-one", batch_first=batch_first)
            for view, tensor in layouts(plain[argument]):
                name = f"{argument}-{view}" + "-sequence-first" * (not batch_first)
                yield name, {**plain, argument: tensor}, True
    plain = operands(device, dtype, prefixes=PREFIXES["registers"])
    for i in range(2):
        for view, tensor in layouts(plain["prefix_tokens"][i]):
            prefixes = [tensor if j == i else other for j, other in enumerate(plain["prefix_tokens"])]
            yield f"prefix{i}-{view}", {**plain, "prefix_tokens": prefixes}, True
    for batch_first in (True, False):
        inputs = operands(
            device, dtype, sizes=(2, 6, 4), batch_first=batch_first, prefixes=PREFIXES["registers"]
        )
        inputs["x"] = image_view((2, 4, 2, 3), device, dtype, batch_first)
        yield "image" + "-sequence-first" * (not batch_first), inputs, True
        # More than one square of tokens and channels, with rests.
        options = {"batch_first": batch_first, "x_scale": 1.5, "embed_prefix": batch_first}
        inputs = operands(device, dtype, sizes=(2, 77, 70), prefixes=PREFIXES["registers"], **options)
        inputs["x"] = image_view((2, 70, 7, 11), device, dtype, batch_first)
        yield "wide-image" + "-sequence-first" * (not batch_first), inputs, False
        name = "wide" + "-sequence-first" * (not batch_first)
        yield call(name, small=False, sizes=(3, 70, 300), batch_first=batch_first)
    many = tuple((1 + i % 2, i % 3 == 0) for i in range(11))
    yield call("many-prefixes", sizes=(2, 2, 2), prefixes=many)
    yield call("many-prefixes-sequence-first", sizes=(2, 2, 2), prefixes=many, batch_first=False)


def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    for name, inputs, small in calls(device, dtype):
        yield Sample(name, {**inputs, "training": False}, small)
    plain = {**operands(device, dtype, prefixes=PREFIXES["registers"]), "training": False}
    yield Sample("training", {**plain, "training": True})
    inputs = {**plain, "x": plain["x"].div(0), "dropout_p": 1.0, "training": True}
    yield Sample("all-dropped", inputs, gradients=False)
    for name in ("x", "pos_embed", "prefix_tokens"):
        wide = plain[name].float() if name != "prefix_tokens" else [t.float() for t in plain[name]]
        yield Sample(f"float32-{name}", {**plain, name: wide})


def out_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def result(inputs: dict[str, Any]) -> Tensor:
        return torch.empty_like(reference.add_position_embedding(**inputs))

    for sample in samples(device, dtype):
        if not sample.name.startswith("float32"):  # an out of a given dtype promotes nothing
            yield sample.replace(out=result(sample.inputs))
    inputs = {**operands(device, dtype, prefixes=PREFIXES["registers"]), "training": False}
    for view, out in layouts(result(inputs)):
        if not view.startswith("expanded"):
            yield Sample(f"out-{view}", {**inputs, "out": out})


def out_reference(*, out: Tensor, **inputs) -> Tensor:
    return reference.add_position_embedding(**inputs)


def out_errors(device: str) -> Iterator[Error]:
    for error in errors(device, promotes=False, training=False):
        yield Error(error.name, {**error.inputs, "out": torch.empty(8, 197, 16, device=device)}, error.text)
    inputs = {**operands(device, torch.float32, sizes=(2, 3, 4)), "training": False}
    yield from out_argument_errors("posenc_ext::add_position_embedding", inputs, (2, 4, 4), device)


def with_seed_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    seeds = (None, 0, 1, -1, 2**62 + 12345)
    for kind, (name, inputs, small) in enumerate(calls(device, dtype)):
        p = (0.1, 0.5, 0.0, 0.9)[kind % 4]
        inputs = {**inputs, "dropout_p": inputs["dropout_p"] or p}
        yield Sample(name, {**inputs, "seed": drawn(seeds[kind % len(seeds)], device)}, small)


def add_bound(sample: Sample, expected: Tensor) -> Tensor:
    """The error of the oracle's own sum and products, relative to their terms."""
    inputs = {name: value for name, value in sample.inputs.items() if name not in ("training", "seed", "out")}
    for name in ("x", "pos_embed"):
        inputs[name] = inputs[name].to(torch.float64).abs()
    inputs["prefix_tokens"] = [t.to(torch.float64).abs() for t in inputs["prefix_tokens"]]
    inputs["x_scale"] = abs(inputs["x_scale"])
    plain = inputs["x_scale"] == 1.0 and inputs["dropout_p"] == 0.0  # rounded once
    error = FLOAT64_ERROR if plain else FLOAT64_ERROR + sum_error(sample.inputs["x"].dtype)
    return error * reference.embed_with_seed(**inputs, seed=None) / (1 - inputs["dropout_p"] or 1.0)


def errors(device: str, promotes: bool = True, **tail) -> Iterator[Error]:
    tail = tail or {"training": False}
    name = "posenc_ext::add_position_embedding"

    def ones(*shape, dtype=torch.float32, device=device):
        return torch.ones(shape, dtype=dtype, device=device)

    def call(batch_first=True, **changed):
        x, cls = ((8, 196, 16), (1, 1, 16)) if batch_first else ((196, 8, 16), (1, 1, 16))
        plain = {"x": ones(*x), "pos_embed": ones(1, 197, 16), "prefix_tokens": [ones(*cls)]}
        return {**plain, **EMBED, "batch_first": batch_first, **tail, **changed}

    for shape in ((3, 8), (2, 2, 2, 2), ()):
        text = f"{name}: x must have 3 dimensions [B, N, D] or [N, B, D], got {len(shape)}"
        yield Error(f"x{list(shape)}", call(x=ones(*shape)), text)
    for dtype, kind in ((torch.int32, "Int"), (torch.complex64, "ComplexFloat"), (torch.bool, "Bool")):
        yield Error(f"x-{kind}", call(x=ones(8, 196, 16, dtype=dtype)), f"{name}: x {FLOATING}, got {kind}")
        pos = ones(197, 16, dtype=dtype)
        yield Error(f"pos-{kind}", call(pos_embed=pos), f"{name}: pos_embed {FLOATING}, got {kind}")
        prefix = [ones(1, 1, 16), ones(1, 0, 16, dtype=dtype)]
        text = f"{name}: prefix_tokens[1] {FLOATING}, got {kind}"
        yield Error(f"prefix-{kind}", call(prefix_tokens=prefix), text)
    rule = "pos_embed must have shape [197, 16] or [1, 197, 16]"
    for shape in (
        (196, 16),
        (197, 15),
        (2, 197, 16),
        (1, 196, 16),
        (1, 197, 1),
        (197, 1, 16),
        (16,),
        (),
        (1, 1, 197, 16),
    ):
        text = f"{name}: {rule}, got {list(shape)}"
        yield Error(f"pos{list(shape)}", call(pos_embed=ones(*shape)), text)
    text = f"{name}: {rule.replace('197', '196')}, got [1, 197, 16]"
    yield Error("pos-patches", call(embed_prefix=False), text)
    rule = "pos_embed must have shape [197, 16], [1, 197, 16] or [197, 1, 16]"
    for shape in ((8, 16), (197, 8, 16), (1, 8, 16)):
        text = f"{name}: {rule}, got {list(shape)}"
        yield Error(f"pos{list(shape)}-sequence", call(batch_first=False, pos_embed=ones(*shape)), text)
    for batch_first, rule in ((True, "[1 or 8, k, 16]"), (False, "[k, 1 or 8, 16]")):
        for shape in ((2, 3, 16), (1, 1, 15), (1, 16), (1, 1, 1, 16)):
            for i in range(2):
                prefixes = [ones(1, 1, 16)] * i + [ones(*shape)]
                text = f"{name}: prefix_tokens[{i}] must have shape {rule}, got {list(shape)}"
                inputs = call(batch_first=batch_first, prefix_tokens=prefixes)
                yield Error(f"prefix{i}-{list(shape)}-{batch_first}", inputs, text)
    other = "cpu" if device == "meta" else "meta"
    place = ones(1).device
    for argument, tensor in (
        ("pos_embed", ones(197, 16, device=other)),
        ("prefix_tokens[0]", ones(1, 1, 16, device=other)),
    ):
        key, value = ("pos_embed", tensor) if argument == "pos_embed" else ("prefix_tokens", [tensor])
        text = f"{name}: {argument} must be on the device of x ({place}), got {other}"
        yield Error(f"{key}-elsewhere", call(**{key: value}), text)
    if not promotes:
        text = f"{name}: pos_embed must have the dtype of x (Float), got BFloat16"
        yield Error("pos-other-dtype", call(pos_embed=ones(197, 16, dtype=torch.bfloat16)), text)
        text = f"{name}: prefix_tokens[0] must have the dtype of x (Float), got Double"
        yield Error("prefix-other-dtype", call(prefix_tokens=[ones(1, 1, 16, dtype=torch.float64)]), text)
    for p, text in ((1.5, "1.5"), (-0.5, "-0.5"), (float("nan"), "nan")):
        yield Error(f"dropout-{text}", call(dropout_p=p), f"{name}: dropout_p must be in [0, 1], got {text}")
    for scale, text in ((float("nan"), "nan"), (float("-inf"), "-inf")):
        yield Error(f"x-scale-{text}", call(x_scale=scale), f"{name}: x_scale must be finite, got {text}")


def with_seed_errors(device: str) -> Iterator[Error]:
    yield from errors(device, promotes=False, seed=None)
    place = torch.ones(1, device=device).device
    x = torch.ones(2, 3, 4, device=device)
    inputs = {"x": x, "pos_embed": x[0], "prefix_tokens": [], **EMBED}
    rule = f"seed must be one int64 on the device of x ({place})"
    seed = torch.zeros(2, dtype=torch.int64, device=device)
    yield Error(
        "seed",
        {**inputs, "seed": seed},
        f"posenc_ext::add_position_embedding: {rule}, got Long [2] on {place}",
    )


def sum_batch_samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name, grad, batch_first=True):
        return Sample(name, {"grad": grad, "batch_first": batch_first}, gradients=grad.numel() < 100)

    for batch_first in (True, False):
        end = "" if batch_first else "-sequence-first"
        for shape in ((0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 2, 3), (5, 2, 3), (2, 5, 3), (9, 1, 2)):
            yield sample(f"grad{list(shape)}{end}", values(shape, device, dtype), batch_first)
        for view, grad in layouts(values((5, 4, 3), device, dtype)):
            yield sample(f"grad-{view}{end}", grad, batch_first)
        # The patches of a gradient whose prefix tokens are left out, and of an image.
        yield sample(f"grad-patches{end}", values((6, 6, 2), device, dtype)[:, 1:], batch_first)
        yield sample(f"grad-image{end}", image_view((5, 3, 2, 2), device, dtype, batch_first), batch_first)
        yield sample(f"grad-wide{end}", values((37, 43, 101), device, dtype), batch_first)


def sum_batch_bound(sample: Sample, expected: Tensor) -> Tensor:
    """The error of adding in float32 (float64 for float64), one sample after another."""
    grad, batch_first = sample.inputs["grad"], sample.inputs["batch_first"]
    unit = 2.0**-53 if grad.dtype is torch.float64 else 2.0**-24
    return grad.shape[0 if batch_first else 1] * unit * reference.sum_batch(grad.double().abs(), batch_first)


def sum_batch_errors(device: str) -> Iterator[Error]:
    name = "posenc_ext::_sum_batch"
    for shape in ((2, 3), (), (1, 2, 3, 4)):
        inputs = {"grad": torch.ones(shape, device=device), "batch_first": True}
        rule = "grad must have 3 dimensions [B, N, D] or [N, B, D]"
        yield Error(f"grad{list(shape)}", inputs, f"{name}: {rule}, got {len(shape)}")
    inputs = {"grad": torch.ones(1, 2, 3, dtype=torch.int64, device=device), "batch_first": False}
    yield Error("grad-Long", inputs, f"{name}: grad {FLOATING}, got Long")
