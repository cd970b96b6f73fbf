"""Importing posenc_ext works, or fails with one line: built for, you have, and the command that mends it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import posenc_ext

INSTALLED = Path(posenc_ext.__file__).parent


@pytest.fixture
def package(tmp_path):
    """A copy of the package whose files a test may spoil."""
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(INSTALLED, tmp_path / "posenc_ext", ignore=ignore))


def run_python(package, code):
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    # Without the finder of an editable installation, which would fill in what the copy lacks.
    no_finder = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in f.__module__]"
    command = [sys.executable, "-c", f"{no_finder}\n{code}"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=package.parent, env=environment
    )


def failure(package, before="") -> str:
    """The one line that importing the package fails with."""
    done = run_python(package, f"{before}\nimport posenc_ext")
    assert done.returncode == 1, done.stdout + done.stderr
    *traceback, line = done.stderr.splitlines()
    assert line.startswith("ImportError: posenc_ext")
    assert not [text for text in traceback if "Error" in text and not text.startswith(" ")], done.stderr
    return line


def change_record(package, **facts):
    path = package / "_build.py"
    path.write_text(path.read_text() + "".join(f"{name} = {value!r}\n" for name, value in facts.items()))


def fake_torch(version=torch.__version__) -> str:
    """Code that puts a stand-in without CUDA in torch's place: importing torch takes seconds."""
    return (
        "import sys, types; torch = sys.modules['torch'] = types.ModuleType('torch')\n"
        f"torch.__version__ = {str(version)!r}; torch.version = types.SimpleNamespace(cuda=None)"
    )


def test_other_torch(package):
    line = failure(package, before=fake_torch("1.5.1"))
    assert f"was built for torch {torch.__version__}, you have torch 1.5.1: " in line
    minor = ".".join(torch.__version__.split(".")[:2])
    assert f"pip install 'torch=={minor}.*', or rebuild with pip install --no-build-isolation" in line
    assert f": install the wheel posenc_ext-{posenc_ext.__version__}+torch1.5.cpu, or " in line


def test_no_torch(package):
    change_record(package, TORCH_VERSION="1.5.1")
    line = failure(package, before="import sys; sys.modules['torch'] = None")
    assert line.endswith("was built for torch 1.5.1, you have no torch: pip install 'torch==1.5.*'")


def test_built_with_cuda_for_a_torch_without(package):
    change_record(package, WITH_CUDA=True, CUDA_VERSION="13.0")
    line = failure(package, before=fake_torch())
    assert f"with CUDA 13.0, you have torch {torch.__version__} without CUDA" in line
    assert "install a CUDA build of torch" in line


def test_not_built(package):
    (package / "_build.py").unlink()
    line = failure(package)
    assert f"{package} holds sources that were not built" in line
    assert f"pip install --no-build-isolation -e {package.parent}" in line


def test_library_missing(package):
    change_record(package, WITH_CUDA=False)
    (package / "libposenc_ext.so").unlink()
    line = failure(package, before=fake_torch())
    assert f"was built for torch {torch.__version__}, but {package}/libposenc_ext.so is missing" in line
    assert "rebuild with pip install --no-build-isolation" in line


def test_library_damaged(package):
    (package / "libposenc_ext.so").write_bytes(b"not a library\n" * 100)
    line = failure(package)
    assert f"you have torch {torch.__version__}, and it does not load (" in line
    assert "rebuild with pip install --no-build-isolation" in line


def test_python_module_missing(package):
    for path in package.glob("_C.*"):
        path.unlink()
    assert "and it does not load (cannot import name '_C'" in failure(package)


def test_info_of_a_package_that_cannot_be_imported(package):
    (package / "_build.py").unlink()
    # -S: without the finder of an editable installation, which would fill in what the copy lacks.
    command = [sys.executable, "-S", "-m", "posenc_ext.info"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=package.parent)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"ImportError: posenc_ext: {package} holds sources that were not built" in line


def test_info(package):
    code = "import runpy; runpy.run_module('posenc_ext.info', run_name='__main__')"
    done = run_python(package, code)
    assert done.returncode == 0, done.stderr
    for name, value in {
        "posenc_ext": re.escape(posenc_ext.__version__),
        "running torch": re.escape(torch.__version__),
        "threads": r"\d+",
        "CPU level": "(baseline|avx2|avx512)",
        "folder": re.escape(str(package)),
        "window_bias": "CPU.* Meta Autograd +cpu PASS.*",
    }.items():
        assert re.search(rf"^{name} +{value}$", done.stdout, re.MULTILINE), done.stdout
