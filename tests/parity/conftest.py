"""Comparisons with the libraries whose modules are replaced: recorded, and listed at the end of the run."""

import os
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

README = Path(__file__).with_name("README.md")
RECORDS = defaultdict(lambda: {"cases": 0, "forward": 0.0, "gradient": None, "allowed": 0.0})


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
    assert ours.dtype == theirs.dtype, f"{ours.dtype} and {theirs.dtype}"
    if ours.numel() == 0:
        return 0.0
    return (ours.detach().double() - theirs.detach().double()).abs().max().item()


@pytest.fixture
def compare():
    """compare("timm", "RelPosBias", ours, theirs): equal to within `atol`, 0 unless a reason is given.

    `what` is "forward" or "gradient". Every comparison is a case of its library and class in the table that
    the run ends with.
    """

    def check(library, name, ours, theirs, atol=0.0, what="forward"):
        difference = _difference(ours, theirs)
        record = RECORDS[library, name]
        record["cases"] += 1
        record[what] = max(record[what] or 0.0, difference)
        record["allowed"] = max(record["allowed"], atol)
        assert difference <= atol, f"{library} {name}: {what} differs by {difference}, allowed {atol}"

    return check


def table() -> list[str]:
    lines = ["| library | class or function | comparisons | forward | gradient |", "|---|---|---|---|---|"]
    for (library, name), record in sorted(RECORDS.items()):
        gradient = "-" if record["gradient"] is None else f"{record['gradient']:.1e}"
        cells = (f"{library} {version(library)}", name, record["cases"], f"{record['forward']:.1e}", gradient)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def pytest_terminal_summary(terminalreporter):
    if not RECORDS:
        return
    terminalreporter.write_sep("=", "largest differences from the libraries")
    for line in table():
        terminalreporter.write_line(line)
    if os.environ.get("POSENC_PARITY_TABLE") == "write":
        README.write_text(README.read_text().partition("| library ")[0] + "\n".join(table()) + "\n")
