"""A GPU for minutes: builds for it alone, then runs gpu_test.py and run.py on it. make gpu-day

Builds for the torch of the Python that runs it; needs no network and no pytest. The most telling steps come
first, and every line is in a file of build/gpu-day, or of $OUT, at once: a run that is cut leaves what it
found. A step that takes longer than its share is cut, and the next one begins. --device cpu tries the script.
"""

import argparse
import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# The build has its own folder: the checkout may hold one for another torch.
TREE = ROOT / "build" / "gpu-day" / "tree"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# The caching allocator would hide accesses beyond a tensor.
SANITIZER = "env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9 --tool"
# The name of the log, the most seconds, and what is run; Python scripts also get --device.
STEPS = [
    ("build", 1e6, "python setup.py build_ext --inplace"),
    ("test", 100, "python bench/gpu_test.py --only values masks repeatability graphs"),
    ("bench", 60, "python bench/run.py --seconds 0.3 --json {out}/bench.json"),
    ("test", 90, "python bench/gpu_test.py --only large streams gradients devices"),
    ("bench", 120, "python bench/run.py --seconds 0.3 --compile --json {out}/bench-with-compile.json"),
    ("suite", 200, "env PYTHONSAFEPATH=1 python -m pytest -q -k 'cuda and not test_cuda_' tests"),
    *(("test", 60, f"{SANITIZER} {tool} python bench/gpu_test.py --only few_values") for tool in TOOLS),
]
DRY_STEPS = [
    STEPS[0],
    ("test", 100, "python bench/gpu_test.py --only few_values masks graphs"),
    ("bench", 60, "python bench/run.py --only 7x7 --seconds 0 --json {out}/bench.json"),
]


def copy_sources() -> None:
    """What the build reads. Without pyproject.toml, whose license setuptools before 77 rejects."""
    for folder in ("csrc", "cmake", "posenc_ext"):
        unwanted = shutil.ignore_patterns("*.so", "_build.py", "__pycache__")
        shutil.copytree(ROOT / folder, TREE / folder, ignore=unwanted, dirs_exist_ok=True)
    for name in ("setup.py", "version.txt"):
        shutil.copy2(ROOT / name, TREE / name)


def run(command: list[str], folder: Path, log: Path, seconds: float, environment: dict[str, str]) -> str:
    """Runs it, its output going to the log; says how it ended."""
    with log.open("a") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what it has started ends with it
        )
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"cut after {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "done" if status == 0 else f"FAILED, exit {status}"


def missing(words: list[str], path: str) -> str | None:
    """What a step needs and is not installed."""
    if "compute-sanitizer" in words and not shutil.which("compute-sanitizer", path=path):
        return "compute-sanitizer"
    return "pytest" if "pytest" in words and not importlib.util.find_spec("pytest") else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try this script without a GPU")
    parser.add_argument("--seconds", type=float, default=480, help="all that it may take")
    parser.add_argument("--no-build", action="store_true", help="for the posenc_ext that Python finds")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))  # so that `finally` ends the step
    on_cuda = options.device != "cpu"
    if on_cuda and not torch.cuda.is_available():
        print(f"gpu-day: no GPU (torch {torch.__version__}): nothing was run; --device cpu tries the script")
        return 1
    out = Path(os.environ.get("OUT") or ROOT / "build" / "gpu-day").resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("*.txt"), *out.glob("bench*.json")]:
        old.unlink()

    def note(text: str) -> None:
        with (out / "summary.txt").open("a") as file:
            print(text, file=file)
        print(f"gpu-day: {text}", flush=True)

    where, archs = "CPU, a dry run: says nothing of CUDA", ""
    if on_cuda:
        archs = ".".join(str(number) for number in torch.cuda.get_device_capability())
        where = f"{torch.cuda.get_device_name()}, compute capability {archs}"
    python = f"Python {sys.version.split()[0]}"
    note(f"{where}; torch {torch.__version__}, {python}, {os.cpu_count()} cores; to {out}")
    environment = {"MAX_JOBS": str(os.cpu_count()), **os.environ, "PYTHONUNBUFFERED": "1"}
    environment |= {"POSENC_FORCE_CUDA": "1" if on_cuda else "0", "TORCH_CUDA_ARCH_LIST": archs}
    environment["PATH"] += f"{os.pathsep}/usr/local/cuda/bin"
    failed = False
    if not options.no_build:
        copy_sources()
        environment["PYTHONPATH"] = str(TREE)
    for name, most, step in (STEPS if on_cuda else DRY_STEPS)[options.no_build :]:
        words = shlex.split(step.format(out=out))
        left = options.seconds - (time.monotonic() - begin)
        if (reason := missing(words, environment["PATH"])) or left < 1:
            note(f"{step}: not run, {f'no {reason}' if reason else 'no time is left'}")
            continue
        command = [sys.executable if word == "python" else word for word in words]
        if any(word.startswith("bench/") for word in words):
            command += ["--device", options.device]
        start = time.monotonic()
        folder = TREE if name == "build" else ROOT
        said = run(command, folder, out / f"{name}.txt", min(most, left), environment)
        note(f"{step}: {said}, {time.monotonic() - start:.0f} s of {time.monotonic() - begin:.0f} s")
        failed = failed or said != "done"
        if failed and name == "build":
            break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
