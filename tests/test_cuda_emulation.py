"""The CUDA kernels, run on the CPU by tests/cuda_emulation/emulation.h under sanitizers.

That proves indexing, synchronisation and logic. It is no run on a GPU: emulation.h states the limits.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import markdown_block
import native
import pytest

KERNELS = ["sinusoidal", "relative_bias", "gather_bias", "alibi_bias", "position_embedding"]
FAULTS = ["no-barrier", "lost-block", "dead-shuffle"]
UNUSED = [("alibi_bias", "no-barrier"), ("position_embedding", "dead-shuffle")]  # by those kernels
BASE = ["-std=c++20", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Icsrc"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
RACES = ["-fsanitize=thread"]
# A fault planted in a small kernel: what has to be said of it, and by which build.
BUGS = {
    "missing-barrier": "FAILED",
    "off-by-one": "FAILED",
    "divergent-barrier": "threads wait for each other forever",
    "beyond-the-end": "heap-buffer-overflow",
    "beyond-shared": "out of bounds",
    "misaligned-vector": "misaligned address",
    "overflowing-int": "signed integer overflow",
}
RACE_BUGS = {"missing-barrier": "data race", "two-blocks-one-element": "data race"}


def cpu_kernels() -> Path:
    return native.build("baseline.o", ["csrc/cpu/kernels/level_baseline.cpp"], [*BASE, "-O2", "-c"])


def build(name: str, races: bool = False) -> Path:
    # Unoptimised: compiling takes longer than running.
    flags = [*BASE, "-Itests/cuda_emulation", "-isystem", f"{native.toolkit()}/include"]
    if name == "conversions":
        return native.build(name, ["tests/cuda_emulation/conversions.cpp"], [*flags, "-O1"])
    sources = [f"tests/cuda_emulation/{name}.cpp"]
    if name in ("sinusoidal", "position_embedding"):  # compared with the CPU kernels
        sources.append(str(cpu_kernels()))
    if races:
        return native.build(f"{name}-races", sources, [*flags, "-O0", "-g1", *RACES])
    return native.build(name, sources, [*flags, "-O0", "-g1", *SANITIZERS])


@pytest.fixture(scope="session")
def race_programs() -> dict[str, Path]:
    """The same programs for ThreadSanitizer, to which the fibers are threads."""
    if native.toolkit() is None:
        pytest.skip("no CUDA toolkit: its headers (cuda_runtime.h) are needed to compile kernels for the CPU")
    native.BUILD.mkdir(parents=True, exist_ok=True)
    probe = native.BUILD / "race_probe.cpp"
    probe.write_text("#include <sanitizer/tsan_interface.h>\nint main() { __tsan_get_current_fiber(); }\n")
    built = native.run(*native.CXX, *RACES, probe, "-o", probe.with_suffix(""))
    if built.returncode != 0 or native.run(probe.with_suffix("")).returncode != 0:
        pytest.skip("the C++ compiler has no ThreadSanitizer with fibers, or it does not run here")
    names = [*KERNELS, "planted"]
    cpu_kernels()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda name: build(name, races=True), names)))


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_have_no_races(race_programs, name):
    """Not between the threads of a block, nor between blocks: on some of the cases, see check.h."""
    done = native.run(race_programs[name])
    assert done.returncode == 0, done.stdout[-6000:]
    assert "0 failures" in done.stdout


@pytest.mark.parametrize(("bug", "report"), RACE_BUGS.items())
def test_planted_races_are_caught(race_programs, bug, report):
    done = native.run(race_programs["planted"], bug)
    assert done.returncode != 0
    assert report in done.stdout


def test_without_a_bug_the_planted_kernel_has_no_races(race_programs):
    done = native.run(race_programs["planted"], "none")
    assert done.returncode == 0, done.stdout


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


@pytest.mark.parametrize(("bug", "report"), BUGS.items())
def test_planted_bugs_are_caught(programs, bug, report):
    done = native.run(programs["planted"], bug)
    assert done.returncode != 0
    assert report in done.stdout


def test_without_a_bug_the_planted_kernel_passes(programs):
    done = native.run(programs["planted"], "none")
    assert done.returncode == 0, done.stdout


def report() -> str:
    """What was run and what was planted, for csrc/cuda/README.md."""
    lines = ["| kernels of | cases | blocks | kernels | broken machines noticed |", "|---" * 5 + "|"]
    for name in KERNELS:
        said = native.run(build(name)).stdout.splitlines()[-1]
        cases, blocks, kernels, failures = (part.split()[0] for part in said.split(", "))
        assert failures == "0", said
        faults = [fault for fault in FAULTS if (name, fault) not in UNUSED]
        assert all(native.run(build(name), f"--plant={fault}").returncode == 1 for fault in faults)
        lines.append(f"| {name} | {cases} | {blocks} | {kernels} | {', '.join(faults)} |")
    lines += ["", "| planted in a kernel | reported as |", "|---|---|"]
    for bugs, races in ((BUGS, False), (RACE_BUGS, True)):
        for bug, text in bugs.items():
            done = native.run(build("planted", races), bug)
            assert done.returncode != 0 and text in done.stdout, bug  # noqa: PT018
            lines.append(f"| {bug} | {'a wrong result' if text == 'FAILED' else text} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    readme = native.ROOT / "csrc" / "cuda" / "README.md"
    markdown_block.write(readme, "python tests/test_cuda_emulation.py", report())
