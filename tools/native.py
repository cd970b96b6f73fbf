"""Building small C++ programs without torch, and finding the CUDA toolkit: for tests and tools."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "native-tests"
SOURCES = {".h", ".inc", ".cuh", ".cu", ".cpp"}
CXX = shlex.split(os.environ.get("CXX", "c++"))

# AddressSanitizer's leak check cannot run under a tracer; a preload is meant for Python, not for programs.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:history_size=0",
}


def run(*command: str | Path) -> subprocess.CompletedProcess:
    """The finished process, whatever its status; its stdout holds stderr too."""
    words = [str(word) for word in command]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(words, **output, env=ENVIRONMENT, cwd=ROOT, timeout=600)


@cache
def contents(folder: Path) -> str:
    """A hash of every source file of ours in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        if path.suffix in SOURCES:
            found.update(f"{path}\n".encode() + path.read_bytes())
    return found.hexdigest()


def build(name: str, sources: list[str], flags: list[str], compiler: Sequence[str] = CXX) -> Path:
    """What the compiler makes of these sources; made anew when a flag or the contents of csrc or of their
    folders have changed."""
    command = [*compiler, *flags, *sources]
    target = BUILD / f"{name}-{hashlib.sha256(shlex.join(command).encode()).hexdigest()[:10]}"
    folders = {
        ROOT / "csrc",
        *((ROOT / source).parent for source in sources if Path(source).suffix in SOURCES),
    }
    inputs = " ".join(contents(folder) for folder in sorted(folders))
    made_of = target.with_name(f"{target.name}.inputs")
    if not target.exists() or not made_of.exists() or made_of.read_text() != inputs:
        BUILD.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        done = run(*command, "-o", partial)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-6000:]}"
        log_of(target).write_text(done.stdout)
        partial.rename(target)
        made_of.write_text(inputs)
    return target


def cpu_kernels(level: str = "baseline", compiler: Sequence[str] = CXX, optimise: str = "-O2") -> Path:
    """The CPU kernels of one level, compiled."""
    (source,) = (str(path.relative_to(ROOT)) for path in ROOT.glob(f"csrc/cpu/**/level_{level}.cpp"))
    flags = ["-std=c++20", "-ffp-contract=off", "-Wall", "-Wextra", "-Icsrc", optimise, "-c"]
    return build(f"{level}.o", [source], flags, compiler)


def log_of(target: Path) -> Path:
    """Where the compiler's words on a target are kept."""
    return target.with_name(f"{target.name}.log")


@cache
def toolkit() -> Path | None:
    """Root of a CUDA toolkit: bin/nvcc and include/cuda_runtime.h."""
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if nvcc := shutil.which("nvcc"):
        # nvcc on PATH may be a wrapper script or a link: the real one tells where it lives.
        dry_run = run(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull).stdout
        top = re.search(r"^#\$ TOP=(.*)$", dry_run, re.MULTILINE)
        candidates.insert(0, top and top[1].strip())
    for root in (Path(candidate).resolve() for candidate in candidates if candidate):
        if (root / "bin" / "nvcc").exists() and (root / "include" / "cuda_runtime.h").exists():
            return root
    return None


@cache
def cuobjdump() -> Path | None:
    """The disassembler, of the toolkit or of the triton package that CUDA builds of torch bring."""
    folders = [root / "bin" for root in [toolkit()] if root]
    folders += [Path(path) / "triton" / "backends" / "nvidia" / "bin" for path in sys.path]
    found = shutil.which("cuobjdump", path=os.pathsep.join(str(folder) for folder in folders))
    found = found or shutil.which("cuobjdump")
    return Path(found) if found else None
