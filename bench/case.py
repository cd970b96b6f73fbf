"""What a benchmark case is, and how contenders are made; the files of cases/ list the cases."""

import functools
import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import machine
import torch

Contender = Callable[[], object]
Form = Callable[..., torch.Tensor]  # from the case's arguments to its result
# A contender that cannot take part here is the text that says why.
Contenders = dict[str, Contender | str]


@dataclass(frozen=True)
class Case:
    """One piece of work that several contenders do, in the dtype it is built for."""

    title: str  # "window 7x7, 12 heads"
    direction: str  # forward, backward, both, or a name of its own
    dtype: torch.dtype
    family: str  # one panel of the plot of times
    build: Callable[[torch.dtype], Contenders]
    reads: int = 0  # bytes that have to be read and written, whoever does it
    writes: int = 0
    limit: str | None = None  # fill, copy or read: what the memory does with as many bytes
    tolerance: float = 0.0  # of `distance` from the first contender
    dropout_p: float = 0.0  # masks differ, so that only elements kept by both are compared
    check_dtype: torch.dtype | None = None  # where the dtype's own sums are too coarse to compare
    quick: bool = False  # part of --quick
    other_settings: bool = True  # --against adds posenc_ext under other environment variables
    forms: dict[str, str] = field(default_factory=dict)  # the code of a contender, in words

    @property
    def name(self) -> str:
        return f"{self.title}, {self.direction}, {str(self.dtype).removeprefix('torch.')}"


class Rotating:
    """A tensor that stands somewhere else in each call, so that it is in no cache; one under 4 MiB
    stays. The memory is warm: it has been written."""

    def __init__(self, make: Callable[[], torch.Tensor]) -> None:
        first = make()
        count = 1 if first.nbytes < 4 << 20 else max(1, math.ceil(1.5 * machine.last_cache() / first.nbytes))
        self.tensors = [first, *(first.clone() for _ in range(count - 1))]
        self._cycle: Iterator[torch.Tensor] = itertools.cycle(self.tensors)

    def next(self) -> torch.Tensor:
        return next(self._cycle)


class Results(Rotating):
    """Memory to write to. All that write as much in a case take the same: pages are not equally fast."""

    _memory: ClassVar[weakref.WeakValueDictionary[int, Rotating]] = weakref.WeakValueDictionary()

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        size = math.prod(shape) * dtype.itemsize
        self.memory = self._memory.get(size) or Rotating(lambda: torch.zeros(size, dtype=torch.uint8))
        self._memory[size] = self.memory
        self.tensors = [tensor.view(dtype).view(*shape) for tensor in self.memory.tensors]
        self._cycle = itertools.cycle(self.tensors)


def bind(form: Form, arguments: Sequence[object]) -> Contender:
    """The form as a function of nothing."""
    lap = max((len(a.tensors) for a in arguments if isinstance(a, Rotating)), default=1)
    if lap == 1:
        return functools.partial(form, *(a.next() if isinstance(a, Rotating) else a for a in arguments))

    def call() -> object:
        return form(*(a.next() if isinstance(a, Rotating) else a for a in arguments))

    call.lap = lap
    return call


class Backward:
    """The gradient through torch.autograd.grad of a result that is made once, at the first call."""

    def __init__(self, forward: Contender, leaves: Sequence[torch.Tensor], upstream: Rotating) -> None:
        self.forward, self.leaves, self.upstream = forward, leaves, upstream
        self.result, self.lap = None, len(upstream.tensors)

    def __call__(self) -> object:
        if self.result is None:
            self.result = self.forward()
        return torch.autograd.grad(self.result, self.leaves, self.upstream.next(), retain_graph=True)


class Compiled:
    """torch.compile of a form, at the first call."""

    def __init__(self, form: Form) -> None:
        self.form, self.compiled = form, None

    def __call__(self, *arguments: object) -> object:
        if self.compiled is None:
            self.compiled = torch.compile(self.form, dynamic=False)
        return self.compiled(*arguments)


def contenders(
    direction: str,
    forms: dict[str, Form],
    arguments: Sequence[object],
    upstream: Callable[[], torch.Tensor] | None = None,
    compiled: str | None = "eager",
) -> Contenders:
    """A contender for each form; for gradients every tensor among the arguments is a leaf and stays the same.

    `compiled` names the form that torch.compile is given, for --compile.
    """
    if compiled:
        forms = {**forms, "torch.compile": Compiled(forms[compiled])}
    if direction == "forward":
        return {name: bind(form, arguments) for name, form in forms.items()}
    arguments = [a.tensors[0] if isinstance(a, Rotating) else a for a in arguments]
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()]
    for leaf in leaves:
        leaf.requires_grad_()
    rotating, result = Rotating(upstream), {}
    for name, form in forms.items():
        forward = bind(form, arguments)
        if direction == "backward":
            result[name] = Backward(forward, leaves, rotating)
        else:
            result[name] = lambda f=forward: torch.autograd.grad(f(), leaves, rotating.next())
    return result


def into(
    op: str,
    call: Callable[..., torch.Tensor],
    arguments: Sequence[object],
    shape,
    dtype,
    overload: str = "out",
) -> Contenders:
    """posenc_ext writing into rotating buffers: call(overload, *arguments, out)."""
    packet = getattr(torch.ops.posenc_ext, op)
    if not hasattr(packet, overload):
        return {"posenc_ext out=": f"no {op}.{overload}"}
    outs = Results(shape, dtype)
    return {"posenc_ext out=": bind(functools.partial(call, getattr(packet, overload)), [*arguments, outs])}


def tensors(result: object) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def distance(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    if torch.equal(expected, actual):
        return 0.0
    expected, actual = expected.detach().double(), actual.detach().double()
    return float((expected - actual).abs().max() / expected.abs().max().clamp(min=1e-30))


def disagreement(case: Case, expected: object, actual: object) -> float:
    """`distance` of results; ValueError where they are different things."""
    worst = 0.0
    for a, b in zip(tensors(expected), tensors(actual), strict=True):
        if a.dtype != b.dtype or a.squeeze().shape != b.squeeze().shape:
            raise ValueError(f"{list(b.shape)} {b.dtype} in place of {list(a.shape)} {a.dtype}")
        a, b = a.squeeze(), b.squeeze()
        if case.dropout_p:
            for share in ((a == 0).double().mean(), (b == 0).double().mean()):
                if abs(share - case.dropout_p) > 0.01:
                    raise ValueError(f"{share:.3f} of the elements dropped in place of {case.dropout_p}")
            kept = (a != 0) & (b != 0)
            a, b = torch.where(kept, a, 0), torch.where(kept, b, 0)
        error = distance(a, b)
        worst = worst if error <= worst else error  # a NaN stays
    return worst
