"""Imports one of our modules right after another, slow-to-import module, whenever that is imported."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def _import_ours(awaited: str, ours: str) -> None:
    try:
        importlib.import_module(ours)
    except Exception as error:  # the import of `awaited` must succeed in any case
        warnings.warn(f"{ours} does not know this {awaited}, and is not used: {error!r}", stacklevel=2)


class _Hook(MetaPathFinder):
    def __init__(self, awaited: str, ours: str) -> None:
        self.awaited, self.ours = awaited, ours

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.awaited or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_both(module: ModuleType) -> None:
            execute(module)
            _import_ours(self.awaited, self.ours)

        spec.loader.exec_module = execute_both  # type: ignore[method-assign]
        return spec


def import_after(awaited: str, ours: str) -> None:
    """Imports the module `ours` right after `awaited`, or now if `awaited` has already been imported."""
    if awaited in sys.modules:
        _import_ours(awaited, ours)
    else:
        sys.meta_path.insert(0, _Hook(awaited, ours))
