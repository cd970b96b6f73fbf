"""The CUDA kernels, run on the CPU by tests/cuda_emulation/emulation.h under sanitizers.

That proves indexing, synchronisation and logic. It is no run on a GPU: emulation.h states the limits.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import native
import pytest

KERNELS = ["sinusoidal", "relative_bias", "gather_bias", "alibi_bias", "position_embedding"]
FAULTS = ["no-barrier", "lost-block", "dead-shuffle"]
UNUSED = [("alibi_bias", "no-barrier"), ("position_embedding", "dead-shuffle")]  # by those kernels
BASE = ["-std=c++20", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Icsrc"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def cpu_kernels() -> Path:
    return native.build("baseline.o", ["csrc/cpu/kernels/level_baseline.cpp"], [*BASE, "-O2", "-c"])


def build(name: str) -> Path:
    # Unoptimised: compiling takes longer than running.
    flags = [*BASE, "-Itests/cuda_emulation", "-isystem", f"{native.toolkit()}/include"]
    if name == "conversions":
        return native.build(name, ["tests/cuda_emulation/conversions.cpp"], [*flags, "-O1"])
    sources = [f"tests/cuda_emulation/{name}.cpp"]
    if name in ("sinusoidal", "position_embedding"):  # compared with the CPU kernels
        sources.append(str(cpu_kernels()))
    return native.build(name, sources, [*flags, "-O0", "-g1", *SANITIZERS])


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    if native.toolkit() is None:
        pytest.skip("no CUDA toolkit: its headers (cuda_runtime.h) are needed to compile kernels for the CPU")
    native.BUILD.mkdir(parents=True, exist_ok=True)
    probe = native.BUILD / "probe.cpp"
    probe.write_text("int main() {}\n")
    if native.run(*native.CXX, *SANITIZERS, probe, "-o", native.BUILD / "probe").returncode != 0:
        pytest.skip("the C++ compiler has no AddressSanitizer and UndefinedBehaviorSanitizer")
    names = [*KERNELS, "planted", "conversions"]
    cpu_kernels()  # which two of them need, here rather than in two threads at once
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(build, names)))


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(programs, name):
    done = native.run(programs[name])
    assert done.returncode == 0, done.stdout


def test_conversions_match_those_of_the_cuda_headers(programs):
    done = native.run(programs["conversions"])
    assert done.returncode == 0, done.stdout


# Tests that cannot fail prove nothing: each of these has to.
@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, fault) for name in KERNELS for fault in FAULTS if (name, fault) not in UNUSED],
)
def test_kernels_on_a_broken_machine_fail(programs, name, fault):
    done = native.run(programs[name], f"--plant={fault}")
    # Wrong results, or lanes that have parted and wait for each other.
    assert done.returncode in (1, 3), done.stdout
    assert "FAILED" in done.stdout or "threads wait for each other forever" in done.stdout


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        ("missing-barrier", "FAILED"),
        ("divergent-barrier", "threads wait for each other forever"),
        ("beyond-the-end", "heap-buffer-overflow"),
        ("beyond-shared", "out of bounds"),
        ("misaligned-vector", "misaligned address"),
    ],
)
def test_planted_bugs_are_caught(programs, bug, report):
    done = native.run(programs["planted"], bug)
    assert done.returncode != 0
    assert report in done.stdout


def test_without_a_bug_the_planted_kernel_passes(programs):
    done = native.run(programs["planted"], "none")
    assert done.returncode == 0, done.stdout
