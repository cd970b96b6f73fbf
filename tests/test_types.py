"""Type checkers and editors know the functions of posenc_ext, and torch.ops.posenc_ext as torch_ops."""

import doctest
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_ops_stub

import posenc_ext
from posenc_ext import torch_ops

RIGHT = """
import torch
import posenc_ext
from posenc_ext import torch_ops

x = torch.zeros(169, 3)
x = posenc_ext.window_bias(x, [7, 7], prefix_tokens=0)
x = torch_ops.window_bias(x, [7, 7], query_size=None)
x = torch_ops.window_bias.out(x, (7, 7), out=x)
x = torch_ops.window_bias_softmax_(x, x, [7, 7])
x = torch_ops.add_sinusoidal(x, start=3)
x = torch_ops.add_sinusoidal.positions(x, positions=x)
posenc_ext.__version__.upper()
"""
WRONG = [
    'posenc_ext.window_bias(x, [7, 7], prefix="no")',
    "posenc_ext.window_bias(x)",
    'torch_ops.window_bias(x, "7")',
    "torch_ops.window_bias(x, [7, 7], no_such=3)",
    "torch_ops.window_bias.out(x, [7, 7])",
    'torch_ops.add_sinusoidal(x, start="x")',
    "torch_ops.no_such_op(x)",
]


def test_stub_is_the_generated_one():
    """After a change of schema: python tools/torch_ops_stub.py --write"""
    assert torch_ops_stub.STUB.read_text() == torch_ops_stub.stub()


def test_torch_ops_are_those_of_torch():
    assert torch_ops.window_bias is torch.ops.posenc_ext.window_bias
    assert "window_bias" in dir(torch_ops)
    assert doctest.testmod(torch_ops, extraglobs={"torch": torch}) == (0, 2)
    with pytest.raises(AttributeError, match="no_such_op"):
        torch_ops.no_such_op  # noqa: B018


def test_mypy_accepts_right_calls_and_names_wrong_ones(tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: pip install mypy")
    path = tmp_path / "calls.py"
    path.write_text(RIGHT + "\n".join(WRONG))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", path],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(posenc_ext.__file__).parents[1])},
    )
    first = RIGHT.count("\n") + 1
    lines = {int(number) for number in re.findall(r"calls\.py:(\d+): error", done.stdout)}
    assert lines == set(range(first, first + len(WRONG))), done.stdout + done.stderr
