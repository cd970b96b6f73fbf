"""The README's table of what is tested for each op: python tests/op_table.py [--write]

A mark stands where pytest collects a case of that op in the column's test; the tests walk the table of ops.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import markdown_block
from op_db import OPS

import posenc_ext

TESTS = Path(__file__).resolve().parent
README = TESTS.parent / "README.md"
COMMAND = "python tests/op_table.py --write"

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


def collected() -> dict[str, set[str]]:
    """The ops that each column's test has a case of."""
    files = sorted({str(TESTS / test.partition("::")[0]) for test in COLUMNS.values()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    path = os.pathsep.join([str(Path(posenc_ext.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    # From this folder: python -m imports from its own first, and the root may hold a build for another torch.
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=True)
    names = sorted((op.name for op in OPS), key=len, reverse=True)
    found = {column: set() for column in COLUMNS}
    for test, parameters in re.findall(r"(test_\w+\.py::\w+)\[(.*)\]", done.stdout):
        for column, wanted in COLUMNS.items():
            if test == wanted:
                found[column].add(next(name for name in names if f"{parameters}-".startswith(f"{name}-")))
    return found


def markdown() -> str:
    """The table, its notes, and the test behind each column."""
    found, notes = collected(), []

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
        markdown_block.write(README, COMMAND, markdown())
    else:
        print(markdown())
