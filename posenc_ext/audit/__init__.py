"""Lists what is wrong with the position encodings and relative-position biases of a model.

``python -m posenc_ext.audit timm/swin_tiny_patch4_window7_224`` audits a model by name, with random weights.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from .. import integrations
from .._progress import progress
from . import _biases
from ._sinusoids import Finding, check_coordinates, check_frequencies, check_table, name_of

__all__ = ["Audit", "Row", "audit"]

_UNREGISTERED = Finding(
    "a plain attribute, which model.to(device) does not move", "warning", "register_buffer"
)
_SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Row:
    """One finding of :func:`audit`.

    Attributes:
        module: path of the module in the model, "" for the model itself.
        class_name: its class, with the library.
        what: the parameter, buffer or attribute, with shape and dtype.
        finding: what is wrong, in one line.
        severity: "error": a result or gradient is wrong. "warning": it is less precise than the formula, or
            differs between runs. "info": it costs memory, or a rounding.
        fix: what to use instead.
    """

    module: str
    class_name: str
    what: str
    finding: str
    severity: str
    fix: str


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` found; ``print`` shows it with equal rows of several modules joined.

    Attributes:
        model: class of the model.
        rows: the findings, errors first, then in the order of ``named_modules()``.
        checked: how many of each kind of tensor were checked.
        unknown: tensors that look like position encodings, but could not be checked, each with the reason.
    """

    model: str
    rows: list[Row] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The same as a JSON object with the keys model, rows, checked and unknown."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        counts = {severity: sum(row.severity == severity for row in self.rows) for severity in _SEVERITIES}
        found = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count)
        checked = ", ".join(f"{count} {kind}" for kind, count in self.checked.items() if count)
        lines = [f"{self.model}: {found or 'nothing wrong'} (checked: {checked or 'no position encodings'})"]
        groups: dict[tuple, list[str]] = {}
        for row in self.rows:
            groups.setdefault((row.severity, row.class_name, row.what, row.finding, row.fix), []).append(
                row.module
            )
        for (severity, class_name, what, finding, fix), modules in groups.items():
            more = f" and {len(modules) - 1} more" if len(modules) > 1 else ""
            lines += ["", f"{severity:<8} {modules[0] or '(model)'}{more}: {class_name}", f"         {what}"]
            lines += [f"         {finding}", f"         use {fix}"]
        lines += [f"not checked: {reason}" for reason in self.unknown]
        return "\n".join(lines)


# Modules without a table, which compute sinusoids when called: a call whose result is checked like a table.
_CALLS: dict[tuple[str, str], tuple[str, Callable[[nn.Module], Tensor]]] = {
    ("diffusers", "Timesteps"): (
        "forward(0, ..., 999)",
        lambda module: type(module).forward(module, torch.arange(1000)),
    ),
}

_POSITIONS = re.compile(r"(^|_)(pe|pos|pos_\w+|position\w*|inv_freq|sinusoid\w*)$")


def _label(module: nn.Module) -> str:
    library = type(module).__module__.partition(".")[0]
    return f"{library}.{type(module).__name__}" if library != "__main__" else type(module).__name__


def _describe(name: str, tensor: Tensor) -> str:
    return f"{name} {list(tensor.shape)} {name_of(tensor.dtype)}"


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """The constant tensors of a module itself, and whether they are registered."""
    frozen = {name: p for name, p in module.named_parameters(recurse=False) if not p.requires_grad}
    for name, tensor in (dict(module.named_buffers(recurse=False)) | frozen).items():
        yield name, tensor, True
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield name, value, False


def _check_positions(path: str, module: nn.Module, found: Audit) -> Iterator[tuple[str, Finding]]:
    """Findings on sinusoidal tables, frequencies and coordinates."""
    called, call = _CALLS.get(tuple(_label(module).split(".")), ("", None))
    tensors = [*_tensors(module)] + ([(called, call(module), True)] if call else [])
    for name, tensor, registered in tensors:
        place = f"{path}.{name}" if path else name
        is_position = _POSITIONS.search(name if name != "weight" else path) is not None
        if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            if is_position:
                kind = "on the meta device" if tensor.is_meta else f"a {type(tensor).__name__}"
                found.unknown.append(f"{place} is {kind}")
            continue
        what = name if name == called else _describe(name, tensor)
        try:
            kinds = {
                "sinusoidal tables": check_table(tensor),
                "vectors of frequencies": check_frequencies(tensor),
                "tables of coordinates": check_coordinates(tensor),
            }
        except LookupError as error:
            found.unknown.append(f"{place} {error}")
            continue
        for kind, findings in kinds.items():
            if findings is not None:
                found.checked[kind] = found.checked.get(kind, 0) + 1
                yield from ((what, finding) for finding in findings)
                if not registered:
                    yield what, _UNREGISTERED
        if (
            is_position
            and tensor.is_floating_point()
            and tensor.dim() > 1
            and tensor.numel() > 16
            and not tensor.any()
        ):
            yield (
                what,
                Finding("all zeros, and not trained: it was not filled", "error", "an initialized table"),
            )


def _check_biases(module: nn.Module, found: Audit) -> Iterator[tuple[str, Finding]]:
    """Findings on bias tables, their gradients and their index buffers."""
    tables, indices = [*_biases.tables(module)], [*_biases.indices(module)]
    found.checked["indices"] = found.checked.get("indices", 0) + len(indices)
    found.checked["bias tables"] = found.checked.get("bias tables", 0) + len(tables)
    fix = "posenc_ext.gather_bias"
    for name, index in indices:
        if not index.is_meta:
            result = _biases.check_index(index, tables[0] if tables else None)
            fix = result.fix
            yield _describe(name, index), result
    if not tables and type(module).__name__ not in _biases.ALIBI:
        return
    cut = _biases.cut(type(module))
    for table in tables:
        what = _describe(table.name, table.parameter)
        if table.name.partition(".")[0] in cut:
            reason = "read under torch.no_grad() or detached, so that it gets no gradient"
            yield what, Finding(reason, "error", table.fix or fix)
        elif not table.parameter.requires_grad:
            if any(parameter.requires_grad for parameter in module.parameters()):
                reason = "requires_grad=False, while other parameters of the module are trained"
                yield what, Finding(reason, "warning", "requires_grad_()")
        elif not table.parameter.is_meta:
            result = _biases.check_gradient(table, indices[0][1] if indices else None, table.fix or fix)
            if result:
                yield what, result
    if alibi := _biases.check_alibi(module):
        yield "the bias of ALiBi", alibi


def _accelerated(model: nn.Module) -> Callable[[nn.Module], bool]:
    """Tells of a module whether accelerate would replace it."""
    integrations._load(model)

    def test(module: nn.Module) -> bool:
        known = integrations._replacements.get(type(module))
        return known is not None and not integrations._obstacle(module, type(module), known)

    return test


def audit(model: nn.Module) -> Audit:
    """Lists what is wrong with the position encodings and relative-position biases of a model.

    Nothing is changed: no parameter, buffer, mode or state of a random number generator. Modules of
    posenc_ext, including those that :func:`posenc_ext.accelerate` has replaced, are not examined.

    - Sinusoidal tables (buffers, frozen parameters, plain attributes) are recognized by their values: every
      layout of :func:`posenc_ext.sinusoidal_table`, and the grids of MAE, DiT, diffusers, timm, MoCo v3 and
      MONAI. They are compared with the exact values in float64. The size of the errors tells their cause:
      rounding by ``.half()`` or ``.bfloat16()`` (even if converted back), or angles computed in float32 or in
      half precision.
    - Frequencies (also those of rotary embeddings) and log-spaced coordinates: whether they were rounded to
      half precision.
    - Index buffers of relative-position bias tables: their bytes, whether an op of posenc_ext makes them
      unnecessary, and whether they are filled and correct.
    - Bias tables: whether they get a gradient (``requires_grad``; ``torch.no_grad()`` in the source of the
      class), and whether torch sums it in half precision (the error is measured on the CPU, for random terms)
      or in no fixed order.

    A bias table is recognized by its name, as in torchvision, timm, transformers and MONAI
    (``relative_position_bias_table``, ``attention_biases``, ``relative_attention_bias``, ...).

    Args:
        model: any module, on any device. Tensors on the meta device are listed as not checked.

    Returns:
        An :class:`Audit`, to be printed.

    >>> print(audit(nn.Linear(2, 2)))
    torch.Linear: nothing wrong (checked: no position encodings)
    >>> table = torch.arange(64.0).view(64, 1) * 10000 ** (-torch.arange(0, 8, 2) / 8)
    >>> model = nn.Module()
    >>> model.register_buffer("pe", torch.cat([table.sin(), table.cos()], 1).bfloat16())
    >>> audit(model).rows[0].finding
    'largest error 2.0e-03 (position 14), 0.5 ulp of bfloat16 (position 51): rounded to bfloat16'
    """
    found = Audit(_label(model))
    is_known = _accelerated(model)
    with torch.no_grad():
        for path, module in progress(list(model.named_modules()), "audit"):
            if type(module).__module__.startswith("posenc_ext."):
                continue
            known = is_known(module)
            for what, result in (*_check_positions(path, module, found), *_check_biases(module, found)):
                fix = f"posenc_ext.accelerate(model), or {result.fix}" if known else result.fix
                found.rows.append(Row(path, _label(module), what, result.finding, result.severity, fix))
    found.rows.sort(key=lambda row: _SEVERITIES.index(row.severity))
    return found
