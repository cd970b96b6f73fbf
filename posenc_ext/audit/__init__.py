"""Lists what is wrong with the position encodings and relative-position biases of a model.

``python -m posenc_ext.audit timm/swin_tiny_patch4_window7_224`` audits a model by name, with random weights.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from .. import integrations
from .._progress import progress
from . import _biases
from ._sinusoids import Finding, check_coordinates, check_frequencies, check_table

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
    rows: tuple[Row, ...]
    checked: dict[str, int]
    unknown: tuple[str, ...]

    def to_json(self) -> str:
        """The same as a JSON object with the keys model, rows, checked and unknown."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        counts = {severity: sum(row.severity == severity for row in self.rows) for severity in _SEVERITIES}
        plural = {"error": "errors", "warning": "warnings"}
        found = ", ".join(f"{n} {plural.get(s, s) if n > 1 else s}" for s, n in counts.items() if n)
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


# Modules without a table, which compute sinusoids when called: a call, its result and what to use instead.
_CALLS = {
    "diffusers.Timesteps": lambda module: (
        "forward(0, ..., 999)",
        type(module).forward(module, torch.arange(1000)),
        "posenc_ext.nn.TimestepEmbedding",
    ),
}
_POSITION_NAME = re.compile(r"(^|[_.])(pe|pos|pos_\w+|position\w*|inv_freq|sinusoid\w*)$")
_CHECKS = {
    "sinusoidal tables": check_table,
    "vectors of frequencies": check_frequencies,
    "tables of coordinates": check_coordinates,
}


class _Audited:
    """What :func:`audit` has found so far."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.checked: Counter[str] = Counter()
        self.unknown: list[str] = []


def _label(module: nn.Module) -> str:
    library = type(module).__module__.partition(".")[0]
    return f"{library}.{type(module).__name__}" if library != "__main__" else type(module).__name__


def _check_positions(path: str, module: nn.Module, audited: _Audited) -> Iterator[tuple[str, Finding]]:
    """Findings on the constant tensors of a module itself: sinusoidal tables, frequencies, coordinates."""
    tensors = dict(module.named_buffers(recurse=False))
    tensors |= {name: p for name, p in module.named_parameters(recurse=False) if not p.requires_grad}
    attributes = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
    for name, tensor in (tensors | attributes).items():
        place = f"{path}.{name}" if path else name
        is_position = _POSITION_NAME.search(place.removesuffix(".weight")) is not None
        if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            if is_position:
                audited.unknown.append(f"{place}: a {tensor.device.type} {type(tensor).__name__}")
            continue
        what = _biases.describe(name, tensor)
        if is_position and tensor.is_floating_point() and tensor.numel() > 16 and not tensor.any():
            audited.checked["constant tables"] += 1
            finding, fix = "all zeros, and not trained: it was not filled", "posenc_ext.sinusoidal_grid"
            yield what, Finding(finding, "error", f"{fix} or another initialization")
            continue
        for kind, check in _CHECKS.items():
            try:
                findings = check(tensor)
            except LookupError as error:
                audited.unknown.append(f"{place}: {error}")
                break
            if findings is not None:
                audited.checked[kind] += 1
                yield from ((what, finding) for finding in findings)
                if name in attributes:
                    yield what, _UNREGISTERED
    if call := _CALLS.get(_label(module)):
        what, result, fix = call(module)
        audited.checked["computed sinusoids"] += 1
        yield from ((what, finding._replace(fix=fix)) for finding in check_table(result) or ())


def _check_biases(module: nn.Module, audited: _Audited) -> Iterator[tuple[str, Finding]]:
    """Findings on the bias tables of a module itself, on their gradients and their index buffers."""
    tables = list(_biases.tables(module))
    indices = {name: index for name, index in _biases.indices(module) if not index.is_meta}
    audited.checked["bias tables"] += len(tables)
    audited.checked["indices"] += len(indices)
    fix = "posenc_ext.gather_bias"
    for name, index in indices.items():
        finding = _biases.check_index(index, tables[0] if tables else None)
        fix = finding.fix
        yield _biases.describe(name, index), finding
    for table in tables:
        fix = table.fix or fix
        if table.name in _biases.cut(type(module)):
            finding = "read under torch.no_grad() or detached, so that it gets no gradient"
            yield table.what, Finding(finding, "error", fix)
        elif not table.parameter.requires_grad:
            if any(parameter.requires_grad for parameter in module.parameters()):
                finding = "requires_grad=False, while other parameters of the module are trained"
                yield table.what, Finding(finding, "warning", "requires_grad_()")
        elif finding := _biases.check_gradient(table, next(iter(indices.values()), None), fix):
            yield table.what, finding
    if _label(module) in _biases.ALIBI:
        audited.checked["ALiBi"] += 1
        if finding := _biases.check_alibi(module):
            yield "the bias of ALiBi", finding


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
    >>> model = nn.Module()
    >>> model.register_buffer("pe", torch.zeros(8, 64))
    >>> audit(model).rows[0].finding
    'all zeros, and not trained: it was not filled'
    """
    audited = _Audited()
    is_known = _accelerated(model)
    with torch.no_grad():
        for path, module in progress(list(model.named_modules()), "audit"):
            if type(module).__module__.startswith("posenc_ext."):
                continue
            checks = (_check_positions(path, module, audited), _check_biases(module, audited))
            for what, (finding, severity, fix) in itertools.chain(*checks):
                if is_known(module):
                    fix = f"posenc_ext.accelerate(model), or {fix}"
                audited.rows.append(Row(path, _label(module), what, finding, severity, fix))
    rows = sorted(audited.rows, key=lambda row: _SEVERITIES.index(row.severity))
    return Audit(_label(model), tuple(rows), dict(audited.checked), tuple(audited.unknown))
