"""Replaces the position code of models of other libraries by that of posenc_ext, in place, and back.

To replace a module, a subclass that overrides one or two methods is assigned to its ``__class__``.
Parameters, buffers, hooks, names and ``state_dict`` keys are not touched, and no state is added:
:func:`restore` assigns the original class again. The subclasses of a library are in the file of its name in
this folder, which is imported only if the model has a module of that library.

To add a class: define a subclass at the top level of that file (where pickle finds it; its name must be
unique there, but is shown as that of the original), without ``__init__``, decorated with :func:`replaces`,
and scriptable if the original is; or name it in :func:`keeps` with the reason why it is not replaced. Leave
fingerprints empty at first: the report gives those that it finds.
"""

import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Optional, TypeVar

from torch import nn

__all__ = ["Report", "accelerate", "restore"]

LIBRARIES = ("monai", "timm", "torchvision")

Class = TypeVar("Class", bound=type[nn.Module])


class Row(NamedTuple):
    """What became of a module: either ``replaced_by`` or ``skipped_because`` is empty."""

    name: str
    class_name: str
    replaced_by: str
    skipped_because: str


@dataclass(frozen=True)
class Report:
    """What :func:`accelerate` did: ``print`` shows a table with a line per module, and the counts.

    Attributes:
        rows: name, class_name ("torchvision.ShiftedWindowAttention"), replaced_by and skipped_because of
            every module whose class is known or derived from a known class, in the order of
            ``named_modules()``.
        replaced, skipped: those of the rows that were, or were not, replaced.
    """

    rows: tuple[Row, ...]

    @property
    def replaced(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.replaced_by)

    @property
    def skipped(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.replaced_by)

    def __str__(self) -> str:
        counts = f"{len(self.replaced)} modules replaced, {len(self.skipped)} skipped"
        if not self.rows:
            return counts
        lines = [("module", "class", "replaced by", "skipped because")]
        lines += [Row(row.name or "(the model)", *row[1:]) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*lines)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([*table, counts])


@dataclass(frozen=True)
class _Replacement:
    ours: Optional[type[nn.Module]]  # None: the class is kept
    uses: str
    version: str
    sources: Mapping[str, str]
    unless: Callable[[nn.Module], str]


_replacements: dict[type, _Replacement] = {}  # by the original class
_originals: dict[type, type[nn.Module]] = {}  # by our class


def replaces(
    original: type[nn.Module],
    uses: str,
    *,
    version: str,
    sources: Mapping[str, str],
    unless: Callable[[nn.Module], str] = lambda module: "",
) -> Callable[[Class], Class]:
    """Registers the decorated subclass of ``original`` as its replacement.

    Args:
        original: the class that is replaced; a subclass of it is not.
        uses: what the report says: the ops, and what changes for the better where that is not obvious.
        version: the library and the versions in which ``sources`` were read: "torchvision 0.29".
        sources: the code that the subclass replaces or relies on: names of methods of ``original`` or of
            functions of its file, each with its fingerprint (several, separated by spaces, for versions whose
            sources differ). Where another one is found, modules are skipped, and the reason gives it.
        unless: returns why a module of that class is not replaced, or "".
    """

    def register(ours: Class) -> Class:
        ours.__name__ = original.__name__  # what repr(model) shows; pickle uses __qualname__
        _replacements[original] = _Replacement(ours, uses, version, sources, unless)
        _originals[ours] = original
        return ours

    return register


def keeps(original: type[nn.Module], because: str) -> None:
    """Registers a class whose modules are never replaced, with the reason that the report gives."""
    _replacements[original] = _Replacement(None, "", "", {}, lambda module: because)


@functools.cache
def _fingerprint(function: Callable) -> str:
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]


def _unknown_source(original: type, known: _Replacement) -> str:
    """Why the code of a class is not the known one, or ""."""
    for name, fingerprints in known.sources.items():
        method = getattr(original, name, None)
        function = method or getattr(sys.modules[original.__module__], name, None)
        full_name = f"{original.__name__}.{name}" if method else name
        try:
            found = _fingerprint(function)
        except (OSError, TypeError):
            return f"no source of {full_name} was found"
        if found not in fingerprints.split():
            return f"source of {full_name} differs from that of {known.version} (fingerprint {found})"
    return ""


def _obstacle(module: nn.Module, original: type, known: _Replacement) -> str:
    """Why a module whose class is, or is derived from, a known one is not replaced, or ""."""
    if known.ours is None:
        return known.unless(module)
    if type(module) is not original:
        reason = f"{type(module).__name__} is a subclass of {original.__name__}"
        return f"{reason}: call accelerate before what wraps modules, such as fully_shard or parametrize"
    for name in vars(known.ours):
        if name in vars(module):
            return f"{name} is set on the module itself"
    return _unknown_source(original, known) or known.unless(module)


def _load(model: nn.Module) -> dict[str, str]:
    """Imports our files for the libraries that the model is built of; returns those that failed, and why."""
    bases = {base for module in model.modules() for base in type(module).__mro__}
    failed = {}
    for library in sorted({base.__module__.partition(".")[0] for base in bases} & set(LIBRARIES)):
        try:
            importlib.import_module(f"{__name__}.{library}")
        except Exception as error:  # a version in which a class is missing or moved
            failed[library] = f"posenc_ext does not know this version of {library}: {error!r}"
    return failed


def _base(kind: type) -> Optional[type]:
    """The first of a class and its bases that is ours or known to us."""
    return next((base for base in kind.__mro__ if base in _originals or base in _replacements), None)


def accelerate(model: nn.Module, *, only: Optional[Collection[str]] = None, strict: bool = False) -> Report:
    """Replaces the position code of a model by that of posenc_ext, in place.

    Every module whose class is known exactly (of torchvision, timm and MONAI: docs/adopt.md lists them) gets
    a subclass of it that calls ops of posenc_ext. Parameters, buffers, names, ``state_dict`` keys, hooks and
    ``isinstance`` stay as they were. Index buffers are kept for checkpoints, but not read. A second call
    changes nothing and returns an equal report. Call it before ``torch.compile``, ``torch.jit.script``,
    ``fully_shard``, ``DistributedDataParallel`` and parametrizations.

    Modules are left alone, and the report says why, if their class is a subclass of a known one; if the
    library's source is not the one that the replacement was written for; or if nothing in posenc_ext computes
    what they compute.

    Args:
        model: any module.
        only: names of libraries ("timm") or of classes ("ShiftedWindowAttention") to replace; a string is one
            name. Default: all.
        strict: whether it is an error if nothing was replaced, or nothing for a name in only.

    Returns:
        A :class:`Report`, to be printed.

    Raises:
        ValueError: with strict=True; the message has the report. The model is then unchanged.

    Outputs are bit-equal or within the bound that docs/adopt.md states for a class. A pickle of the model
    needs posenc_ext to be loaded again; a ``state_dict`` does not.

    >>> model = nn.Linear(2, 2)
    >>> print(accelerate(model))
    0 modules replaced, 0 skipped
    """
    names = [only] if isinstance(only, str) else only
    rows, swaps, found = [], [], set()
    for library, reason in _load(model).items():
        rows.append(Row("", library, "", reason))
    for name, module in model.named_modules():
        base = _base(type(module))
        original = _originals.get(base, base)
        if original is None:
            continue
        label = f"{original.__module__.partition('.')[0]}.{original.__name__}"
        matches = {*label.split("."), label}
        if names is not None and not matches.intersection(names):
            continue
        known = _replacements[original]
        reason = "" if base in _originals else _obstacle(module, original, known)
        rows.append(Row(name, label, "" if reason else known.uses, reason))
        if not reason:
            found |= matches
            if base is original:
                swaps.append((module, known.ours))
    report = Report(tuple(rows))
    missing = [repr(name) for name in names or () if name not in found]
    if strict and (missing or not report.replaced):
        what = ", ".join(missing) or "any known class"
        raise ValueError(f"posenc_ext.accelerate: strict=True, but nothing was replaced for {what}\n{report}")
    for module, ours in swaps:
        module.__class__ = ours
    return report


def restore(model: nn.Module) -> None:
    """Undoes :func:`accelerate`: gives every replaced module its original class again, in place.

    Raises:
        ValueError: a replaced module has been wrapped in another class since, as by ``fully_shard``. The
            model is then unchanged.

    >>> restore(nn.Linear(2, 2))
    """
    swaps = []
    for name, module in model.named_modules():
        base = _base(type(module))
        if base not in _originals:
            continue
        if type(module) is not base:
            rule = "modules must not have been wrapped after accelerate"
            raise ValueError(f"posenc_ext.restore: {rule}, got {type(module).__name__} for {name!r}")
        swaps.append((module, _originals[base]))
    for module, original in swaps:
        module.__class__ = original
