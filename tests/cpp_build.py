"""Building C++ programs without Python, with the CMake package that is installed from this checkout."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from posenc_ext import _build

ROOT = Path(__file__).resolve().parents[1]
# Kept between runs: only what changed is compiled again.
BUILD = ROOT / "build" / f"cmake-torch{torch.__version__}-{'cuda' if _build.WITH_CUDA else 'cpu'}"


def run(*command) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@cache
def configure_arguments() -> list[str]:
    # Unoptimised code has the same bits, and compiles in half the time.
    arguments = [
        "-DCMAKE_BUILD_TYPE=None",
        "-DCMAKE_CXX_FLAGS=-O0",
        *(["-GNinja"] if shutil.which("ninja") else []),
    ]
    if torch.version.cuda is None:
        return arguments
    search = os.pathsep.join([os.path.join(os.environ.get("CUDA_HOME", ""), "bin"), os.environ["PATH"]])
    nvcc = shutil.which("nvcc", path=search)
    if nvcc is None:
        pytest.skip("find_package(Torch) of a torch with CUDA needs the CUDA toolkit, and there is no nvcc")
    # nvcc on PATH may be a wrapper script: the real one tells where its toolkit is.
    dry_run = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True, check=True
    )
    home = Path(re.search(r"^#\$ TOP=(.*)$", dry_run.stderr, re.MULTILINE)[1]).resolve()
    return [
        *arguments,
        *(f"-DCUDA_TOOLKIT_ROOT_DIR={home}", f"-DCUDAToolkit_ROOT={home}"),
        *(f"-DCMAKE_CUDA_COMPILER={home}/bin/nvcc", "-DTORCH_CUDA_ARCH_LIST=9.0"),
    ]


def cmake(*arguments) -> None:
    found = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, "no cmake: pip install cmake"
    run(found, *arguments)


def build(source: Path, folder: Path, *arguments: str) -> None:
    cmake("-S", source, "-B", folder, *configure_arguments(), *arguments)
    cmake("--build", folder, "--parallel", "2")


@cache
def installed_package() -> Path:
    """Where the library of this checkout is installed, with its CMake package."""
    prefix = BUILD / "prefix"
    with_cuda = "ON" if _build.WITH_CUDA else "OFF"
    torch_prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    build(ROOT, BUILD / "library", torch_prefix, f"-DPOSENC_WITH_CUDA={with_cuda}")
    cmake("--install", BUILD / "library", "--prefix", prefix)
    return prefix


def build_with_package(source: str, *arguments: str) -> Path:
    """Builds a project of this checkout that finds the package; returns the folder of its programs."""
    folder = BUILD / source.replace("/", "-")
    prefixes = f"-DCMAKE_PREFIX_PATH={installed_package()};{torch.utils.cmake_prefix_path}"
    build(ROOT / source, folder, prefixes, *arguments)
    return folder


def loaded_libraries(program: Path) -> dict[str, Path]:
    """The files of the shared libraries that a program needs."""
    lines = [line.split() for line in run("ldd", program).splitlines()]
    return {words[0]: Path(words[2]).resolve() for words in lines if "=>" in words}
