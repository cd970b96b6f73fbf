"""The table in docs/ops.md of what is tested for each op: python tools/op_table.py [--write]

A mark stands for a test of that op: the column's test walks the table of ops.
"""

import importlib
import sys
from pathlib import Path

import markdown_block
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from op_db import OPS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ops.md"
COMMAND = "python tools/op_table.py --write"

# column: the test that proves a mark
COLUMNS = {
    "CPU": "test_forward.py::test_values_are_those_of_the_reference",
    "CUDA compiled": "test_schemas.py::test_kernel_is_registered_for_cuda",
    "backward": "test_autograd.py::test_gradcheck",
    "double backward": "test_autograd.py::test_gradgradcheck",
    "forward mode": "test_autograd.py::test_forward_mode_keeps_dtype",
    "script": "test_script.py::test_script",
    "compile": "test_compile.py::test_graph_capture",
    "export": "test_export.py::test_every_op",
    "autocast": "test_modes.py::test_autocast_changes_nothing",
}


def walked(test: str) -> set[str]:
    """The ops that a test is parametrised over."""
    module, name = test.split(".py::")
    marks = getattr(importlib.import_module(module), name).pytestmark
    values = [value for mark in marks if mark.name == "parametrize" for value in mark.args[1]]
    ops = [value.values[0] if isinstance(value, type(pytest.param())) else value for value in values]
    return {op.name for op in ops}


def markdown() -> str:
    """The table, its notes, and the test behind each column."""
    found, notes = {column: walked(test) for column, test in COLUMNS.items()}, []

    def cell(op, column):
        if op.name in found[column]:
            return "✓"
        if "backward" in column or column == "forward mode":
            return "–"  # nothing to differentiate
        reason = op.unsupported[column]
        if reason not in notes:
            notes.append(reason)
        return f"– ({notes.index(reason) + 1})"

    lines = [f"| op | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for op in OPS:
        if not op.packet.startswith("_"):
            lines.append(f"| `{op.name}` | {' | '.join(cell(op, column) for column in COLUMNS)} |")
    lines += ["", "–: nothing to differentiate, or"]
    lines[-1] += "; ".join(f" ({i}) {reason}" for i, reason in enumerate(notes, 1)) + "."
    tests = (f"{column}: `{test}`" for column, test in COLUMNS.items())
    return "\n".join([*lines, "", "A mark is a test under `tests/`: " + "; ".join(tests) + ".", ""])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        markdown_block.write(PAGE, COMMAND, markdown())
    else:
        print(markdown())
