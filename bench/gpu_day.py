"""The day there is a GPU, in 8 minutes: build for it alone, gpu_test.py, gpu_bench.py. make gpu-day

Runs with the Python that calls it, whose torch it builds for, and fetches nothing. What tells most comes
first, and every line is in a file of build/gpu-day, or of $OUT, as soon as it is known: whatever cuts the
run leaves what was found until then. A step that outlasts its share is ended, and the next one begins.
--device cpu tries it without a GPU.
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The build stands apart: the checkout may hold one for another torch.
TREE = ROOT / "build" / "gpu-day" / "tree"
# The file that takes the output, the most seconds, and the words after Python.
STEPS = [
    ("build", float("inf"), ["setup.py", "build_ext", "--inplace"]),
    ("test", 100, ["bench/gpu_test.py", "--only", "values", "masks", "repeatability", "graphs"]),
    ("bench", 90, ["bench/gpu_bench.py", "--no-compile", "--out", "{out}/bench.json"]),
    (
        "test",
        90,
        ["bench/gpu_test.py", "--only", "large", "streams", "gradients", "devices", "opcheck", "compiled"],
    ),
    ("bench", 150, ["bench/gpu_bench.py", "--out", "{out}/bench-with-compile.json"]),
    ("test", 300, ["bench/gpu_test.py", "--only", "suite", "sanitizers"]),
]


def copy_sources() -> None:
    """What the build reads. Without pyproject.toml, at whose license setuptools before 77 stops."""
    for folder in ("csrc", "cmake", "posenc_ext"):
        unwanted = shutil.ignore_patterns("*.so", "_build.py", "__pycache__")
        shutil.copytree(ROOT / folder, TREE / folder, ignore=unwanted, dirs_exist_ok=True)
    for name in ("setup.py", "version.txt"):
        shutil.copy2(ROOT / name, TREE / name)


def run(command: list[str], folder: Path, log: Path, seconds: float, environment: dict[str, str]) -> str:
    """Runs it, its output going to the terminal and to the log as it comes; says how it ended."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # what it has started ends with it
    )

    def end(*_) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def stop(number: int, _) -> None:
        end()
        sys.exit(128 + number)

    previous = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    cut = threading.Timer(seconds, end)
    cut.start()
    with log.open("a") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            print(line, end="", flush=True)
    status = process.wait()
    end()
    late = not cut.is_alive()
    cut.cancel()
    for number, handler in previous.items():
        signal.signal(number, handler)
    return f"cut after {seconds:.0f} s" if late else "done" if status == 0 else f"FAILED, exit {status}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try this script without a GPU")
    parser.add_argument("--seconds", type=float, default=480, help="all that it may take")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    out = Path(os.environ.get("OUT") or ROOT / "build" / "gpu-day").resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("*.txt"), *out.glob("bench*.json")]:
        old.unlink()

    def note(text: str) -> None:
        with (out / "summary.txt").open("a") as file:
            print(text, file=file)
        print(f"gpu-day: {text}", flush=True)

    import torch

    on_cuda = options.device != "cpu"
    if on_cuda and not torch.cuda.is_available():
        print(f"gpu-day: no GPU (torch {torch.__version__}): nothing was run; --device cpu tries the script")
        return 1
    where, archs = "CPU, a dry run: says nothing of CUDA", ""
    if on_cuda:
        archs = ".".join(str(number) for number in torch.cuda.get_device_capability(options.device))
        where = f"{torch.cuda.get_device_name(options.device)}, compute capability {archs}"
    python = sys.version.split()[0]
    note(f"{where}; torch {torch.__version__}, Python {python}, {os.cpu_count()} cores; to {out}")

    copy_sources()
    environment = os.environ | {
        "PYTHONPATH": str(TREE),
        "PYTHONUNBUFFERED": "1",
        "MAX_JOBS": os.environ.get("MAX_JOBS", str(os.cpu_count())),
        "POSENC_FORCE_CUDA": "1" if on_cuda else "0",
        "TORCH_CUDA_ARCH_LIST": archs,
    }
    failed = False
    for name, most, words in STEPS:
        left = options.seconds - (time.monotonic() - begin)
        step = " ".join(
            words[:1] + [word for word in words[1:] if not word.startswith("-") and "{" not in word]
        )
        if left < 1:
            note(f"{step}: not run, no time is left")
            continue
        if not importlib.util.find_spec("pytest"):
            words = [word for word in words if word != "suite"]
        if name != "build":
            words = [str(ROOT / words[0]), *words[1:], "--device", options.device]
        command = [sys.executable, *(word.format(out=out) for word in words)]
        start = time.monotonic()
        said = run(
            command, TREE if name == "build" else ROOT, out / f"{name}.txt", min(most, left), environment
        )
        note(f"{step}: {said}, {time.monotonic() - start:.0f} s of {time.monotonic() - begin:.0f} s")
        failed = failed or said != "done"
        if failed and name == "build":
            break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
