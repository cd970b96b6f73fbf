"""Overloads that write into an argument `out`, made from the entries of the ops that return a new tensor."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from op_types import Error, Op, Sample
from torch import Tensor

OUT = "writes into an argument: transforms take the overload that returns a new tensor"
ALIAS = "AOT autograd does not support a custom op that returns one of its arguments"
UNSUPPORTED = {"trace": OUT, "compile": ALIAS, "export": ALIAS}


def outs(like: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Tensors to write a result like this one into, of every memory layout; empty ones are to grow."""
    yield "out", torch.zeros_like(like)
    yield "out-offset", like.new_zeros(like.numel() + 1)[1:].view(like.shape)
    yield (
        "out-transposed",
        torch.zeros_like(like.permute(*reversed(range(like.dim()))).contiguous()).permute(
            *reversed(range(like.dim()))
        ),
    )
    yield "out-strided", like.new_zeros([2 * n + 1 for n in like.shape])[(slice(1, None, 2),) * like.dim()]
    yield "out-empty", like.new_empty(0)


def into(op: Op, of: str) -> Op:
    """The entry of the overload of `op` that writes into `out` what is of the dtype of the argument `of`."""

    def samples(device: str, dtype: torch.dtype) -> Iterator[Sample]:
        for i, sample in enumerate(op.samples(device, dtype)):
            kinds = list(outs(op.reference(**sample.inputs)))
            for name, out in kinds if sample.name in op.costly else [kinds[i % len(kinds)]]:
                yield Sample(f"{sample.name}-{name}", {**sample.inputs, "out": out}, gradients=False)

    def reference(out: Tensor, **inputs) -> Tensor:
        return op.reference(**inputs)

    def errors(device: str) -> Iterator[Error]:
        name = f"posenc_ext::{op.packet}"
        out = torch.empty(0, device=device)
        for error in op.errors(device):
            yield Error(error.name, {**error.inputs, "out": out.clone()}, error.text)
        sample = next(sample for sample in op.samples(device, torch.float32) if sample.name == op.costly[0])
        inputs = sample.inputs
        right = op(sample)

        def wrong(case: str, out: Tensor, text: str, **replaced) -> Error:
            return Error(case, {**sample.replace(**replaced).inputs, "out": out}, f"{name}: {text}")

        shape = list(right.shape)
        for size in ([*shape, 1], [*shape[:-1], shape[-1] + 1]):
            text = f"out must be empty or have shape {shape}, got {size}"
            yield wrong(f"out{size}", right.new_zeros(size), text)
        overlapping = right.new_zeros([1] * right.dim()).expand(right.shape)
        text = f"out must not overlap itself, got strides {list(overlapping.stride())}"
        yield wrong("out-overlaps", overlapping, text)
        place = "cuda:0" if device == "cuda" else device
        other = "cpu" if device != "cpu" else "meta"
        text = f"out must have the dtype of {of} (Float), got Double"
        yield wrong("out-dtype", right.to(torch.float64), text)
        text = f"out must be on the device of {of} ({place}), got {other}"
        yield wrong("out-device", torch.empty(shape, device=other), text)
        memory = torch.zeros(inputs[of].numel() + right.numel(), device=device)
        text = f"out must not overlap {of}, got one that does"
        shared = memory[: inputs[of].numel()].view(inputs[of].shape)
        yield wrong("out-shared", memory[: right.numel()].view(right.shape), text, **{of: shared})
        text = "out must not require grad, got a tensor that does"
        yield wrong("out-requires-grad", right.detach().clone().requires_grad_(), text)
        text = "with out, no argument may require grad, got one that does"
        needy = {argument: inputs[argument].detach().clone().requires_grad_() for argument in (of,)}
        yield wrong("input-requires-grad", right.detach().clone(), text, **needy)

    return replace(
        op,
        name=f"{op.name}_out" if "." in op.name else f"{op.name}.out",
        samples=samples,
        reference=reference,
        errors=errors,
        differentiable=(),
        error_bound=op.error_bound
        and (lambda sample, expected: op.error_bound(functional(sample), expected)),
        costly=(f"{op.costly[0]}-out", f"{op.costly[0]}-out-strided"),
        batched=False,
        unsupported=UNSUPPORTED,
    )


def functional(sample: Sample) -> Sample:
    """The same call without `out`."""
    inputs = {name: value for name, value in sample.inputs.items() if name != "out"}
    return Sample(sample.name, inputs, sample.gradients)
