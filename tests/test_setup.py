"""Building works, or ends in one line that names the mend."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
[NEWEST] = re.findall(
    r"POSENC_TORCH_VERSIONS .* ([\d.]+)\)", (ROOT / "cmake" / "build_config.cmake").read_text()
)
NO_COMPILER = """
from torch.utils import cpp_extension
def build_extensions(self):
    raise RuntimeError("Error compiling objects for extension")
cpp_extension.BuildExtension.build_extensions = build_extensions
"""


def build(before: str) -> subprocess.CompletedProcess:
    """Runs setup.py after some code has changed what it finds."""
    code = f"import runpy, sys, setuptools\n{before}\nsys.argv = ['setup.py', 'build_ext']"
    return subprocess.run(
        [sys.executable, "-c", f"{code}\nrunpy.run_path('setup.py')"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "POSENC_FORCE_CUDA": "0"},
    )


@pytest.mark.parametrize(
    ("before", "line"),
    [
        (
            "setuptools.__version__ = '65.5.0'",
            "setuptools 65.5.0 is too old: pip install 'setuptools>=77,<82'",
        ),
        ("import torch; torch.__version__ = '2.9.1'", "torch 2.9.1 is too old: pip install 'torch>=2.10'"),
    ],
)
def test_what_is_too_old_is_said(before, line):
    done = build(before)
    assert done.returncode == 1
    assert done.stderr == f"posenc_ext: {line}\n"


def test_a_newer_torch_is_tried_and_said():
    done = build(f"import torch; torch.__version__ = '99.1.0'{NO_COMPILER}")
    notice = f"posenc_ext: torch 99.1.0 is newer than {NEWEST}, the last one tried"
    assert [line for line in done.stdout.splitlines() if line.startswith(notice)]
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{notice}, and does not compile: ")


def test_errors_with_a_known_torch_are_the_compilers():
    done = build(NO_COMPILER)
    assert done.stderr.splitlines()[-1] == "RuntimeError: Error compiling objects for extension"
