"""What a table of ops is made of: samples, errors and ops, and the tensors that samples are made of."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import posenc_ext
from posenc_ext import reference

FLOATING = "must be float64, float32, float16 or bfloat16"  # the rule of every floating dtype
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

# Errors of the float64 oracle: of an angle relative to it, and of a result relative to its largest term.
ANGLE_ERROR = 2.0**-49
FLOAT64_ERROR = 2.0**-51


def sum_error(dtype: torch.dtype) -> float:
    """Of x * scale + addend, with or without dropout, relative to its terms: core/sums.h."""
    return 2.0**-22 if dtype in (torch.float16, torch.bfloat16) else FLOAT64_ERROR


@dataclass(frozen=True)
class Sample:
    """One call of an op: every argument by name, in the order of the schema."""

    name: str
    inputs: dict[str, Any]
    gradients: bool = True  # small enough for gradcheck

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; those of a list are "argument.0", "argument.1", ..."""
        found = {}
        for name, value in self.inputs.items():
            parts = enumerate(value) if isinstance(value, list) else ()
            found |= {name: value} | {f"{name}.{i}": part for i, part in parts}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def replace(self, **inputs) -> "Sample":
        """With other arguments, or other tensors of a list."""
        changed = {
            name: list(value) if isinstance(value, list) else value for name, value in self.inputs.items()
        }
        for name, value in inputs.items():
            argument, _, i = name.partition(".")
            if i:
                changed[argument][int(i)] = value
            else:
                changed[argument] = value
        return Sample(self.name, changed, self.gradients)


@dataclass(frozen=True)
class Error:
    """A call that must fail with exactly this text."""

    name: str
    inputs: dict[str, Any]
    text: str


@dataclass(frozen=True)
class Op:
    """One overload of one op and what the tests may expect of it."""

    name: str  # in torch.ops.posenc_ext, with the overload
    samples: Callable[[str, torch.dtype], Iterator[Sample]]
    reference: Callable[..., Tensor]
    errors: Callable[[str], Iterator[Error]]
    differentiable: tuple[str, ...] = ()
    error_bound: Callable[[Sample, Tensor], Tensor] | None = None  # of the oracle; None: equal bit for bit
    costly: tuple[str, ...] = ()  # the samples that slow tests (opcheck, compile, script) take
    batched: bool = False  # has a rule for vmap; others loop, with a warning
    one_by_one: bool = False  # one argument's gradient is computed by another kernel than those of several
    products: bool = False  # matrix products of torch, whose bits depend on layouts and addresses
    unsupported: Mapping[str, str] = field(default_factory=dict)  # property -> reason

    @property
    def overload(self):
        return getattr(getattr(torch.ops.posenc_ext, self.packet), self.name.partition(".")[2] or "default")

    @property
    def packet(self) -> str:
        return self.name.partition(".")[0]

    @property
    def writes_out(self) -> bool:
        return self.name.partition(".")[2].endswith("out")

    @property
    def in_place(self) -> bool:
        """Whether the first argument is overwritten by the result."""
        return self.packet.endswith("_")

    @property
    def wrapper(self) -> Callable | None:
        """The public Python function of this op, if it is a public one."""
        public = not self.packet.startswith("_") and not self.writes_out and not self.in_place
        return getattr(posenc_ext, self.packet) if public else None

    def __call__(self, sample: Sample, **replaced) -> Tensor:
        return self.apply(self.overload, sample.replace(**replaced).inputs)

    def apply(self, function: Callable, inputs: dict[str, Any]) -> Tensor:
        """Calls a function with the arguments of this op; one that is overwritten is a copy."""
        return packed(function(**self.separate(inputs)))

    def separate(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The arguments, with a copy of one that is overwritten."""
        return {**inputs, "scores": inputs["scores"].clone()} if self.in_place else inputs

    def gradients(self, sample: Sample) -> tuple[str, ...]:
        """The names of the sample's tensors that are differentiable arguments, or stand in such a list."""
        return tuple(
            name
            for name, tensor in sample.tensors().items()
            if name.partition(".")[0] in self.differentiable and tensor.dtype is not torch.bool
        )

    def supports(self, *properties: str) -> bool:
        return not any(name in self.unsupported for name in properties)


def packed(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A tensor, or several as one, of their common dtype: no bit is lost."""
    return result if isinstance(result, Tensor) else torch.cat([tensor.flatten() for tensor in result])


def values(shape, device, dtype, seed=0) -> Tensor:
    """Fixed normal numbers of this shape, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype).to(device)


def layouts(base: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Tensors of one shape in every memory layout; all but the expanded ones hold the values of `base`."""
    yield "contiguous", base.contiguous()
    shifted = base.new_zeros(base.numel() + 1)[1:].view(base.shape)  # not on a 16-byte boundary
    yield "offset", shifted.copy_(base)
    if base.dim() == 0:
        return
    yield (
        "transposed",
        base.permute(*reversed(range(base.dim()))).contiguous().permute(*reversed(range(base.dim()))),
    )
    spread = base.new_full(
        [2 * size + 1 for size in base.shape], float("nan") if base.is_floating_point() else 77
    )
    window = spread[tuple(slice(1, 2 * size + 1, 2) for size in base.shape)]
    yield "strided", window.copy_(base)
    for axis in range(base.dim()):
        if base.shape[axis] > 1:
            yield f"expanded{axis}", base.narrow(axis, 0, 1).expand(base.shape)


def drawn(seed: int | None, device) -> Tensor | None:
    """The tensor of a seed."""
    return None if seed is None else torch.tensor([seed], device=device)


def adjoint(function: Callable[[Tensor], Tensor], shape, grad: Tensor) -> Tensor:
    """The adjoint of a linear function of a tensor of this shape, by PyTorch's autograd in float64."""
    leaf = torch.zeros(tuple(shape), dtype=torch.float64, device=grad.device, requires_grad=True)
    with torch.enable_grad():
        (result,) = torch.autograd.grad(function(leaf), leaf, grad.detach().to(torch.float64))
    return reference.round_once(result, grad.dtype)


def sum_bound(backward: Callable[..., Tensor], sample: "Sample", unit: float | None = None) -> Tensor:
    """The error of an adjoint's sums: a unit (float32's; float64's for float64) per term of a row."""
    grad = sample.inputs["grad"]
    inputs = {**sample.inputs, "grad": grad.to(torch.float64).abs()}
    size = backward(**inputs).abs()
    terms = backward(**{**inputs, "grad": (grad == grad).to(torch.float64)}).abs()
    if unit is None:
        unit = 2.0**-53 if grad.dtype is torch.float64 else 2.0**-24
    return size * terms * unit


def round_bound(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Half an ulp of `dtype` at float64 `value`: the error of one rounding."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(value.abs().clamp(min=info.smallest_normal)).exponent
    return torch.ldexp(torch.full_like(value, info.eps / 4), exponent)
