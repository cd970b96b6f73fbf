"""The table module x machinery. python tools/machinery_table.py --write renews docs/machinery.md."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import machinery_children
import machinery_distributed
import machinery_graph
import machinery_modes
import machinery_state
from machinery import MACHINERIES, ROWS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "machinery.md"
GROUPS = (
    machinery_state.INIT,
    machinery_state.STATE,
    machinery_distributed.GROUP,
    machinery_children.OFFLOADING,
    machinery_children.PARAMETERS,
    machinery_children.DROPOUT,
    machinery_graph.GRAPHS,
    machinery_modes.DTYPES,
    machinery_modes.DIFFERENTIATION,
)
HEAD = """\
# Every module with every training feature

✓: `tests/test_machinery.py` compares values, and gradients if there are any, with those of the plain module,
and fails if they differ. A letter: not applicable, for the reason at the end of the page. Update this page
with `python tools/machinery_table.py --write`. The columns are:

"""


def page() -> str:
    """The text of docs/machinery.md."""
    columns = sorted(MACHINERIES, key=lambda m: GROUPS.index(m.group))
    reasons = list(dict.fromkeys(r for m in columns for row in ROWS if (r := m.reason(row))))
    letters = {reason: chr(ord("a") + i) for i, reason in enumerate(reasons)}
    lines = [f"{i}. {row.name}" for i, row in enumerate(ROWS, 1)]
    for group in GROUPS:
        numbers = "|".join(str(i) for i in range(1, len(ROWS) + 1))
        lines += ["", f"| {group} |{numbers}|", "|---" * (len(ROWS) + 1) + "|"]
        for column in columns:
            if column.group == group:
                marks = [letters[r] if (r := column.reason(row)) else "✓" for row in ROWS]
                lines.append(f"| {column.name} |{'|'.join(marks)}|")
    lines += ["", *(f"- {letter}: {reason}" for reason, letter in letters.items()), ""]
    return HEAD + "\n".join(lines)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page())
    else:
        print(page(), end="")
