"""The CUDA kernels, run on the CPU by tests/cuda_emulation/emulation.h under sanitizers.

That proves indexing, synchronisation and logic. It is no run on a GPU: emulation.h states the limits.
"""

import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import markdown_block
import native
import pytest

KERNELS = ["sinusoidal", "relative_bias", "gather_bias", "alibi_bias", "position_embedding"]
DTYPES = ["float64", "float32", "float16", "bfloat16"]
# Of the machine, planted while the kernels run: each of them has to be noticed by the tests of each family.
FAULTS = ["no-barrier", "lost-block", "dead-shuffle", "off-by-one", "misaligned-vector", "cut-index"]
UNUSED = [("position_embedding", "dead-shuffle")]  # by those kernels
# What is said of each: wrong results, or lanes that have parted and wait for each other.
REPORTS = dict.fromkeys(FAULTS, ("FAILED", "threads wait for each other forever"))
REPORTS["misaligned-vector"] = ("misaligned address",)
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


def build(name: str, races: bool = False) -> Path:
    # Unoptimised: compiling takes longer than running.
    flags = [*BASE, "-Itests/cuda_emulation", "-isystem", f"{native.toolkit()}/include"]
    if name == "conversions":
        return native.build(name, ["tests/cuda_emulation/conversions.cpp"], [*flags, "-O1"])
    sources = [f"tests/cuda_emulation/{name}.cpp"]
    if name in ("sinusoidal", "position_embedding"):  # compared with the CPU kernels
        sources.append(str(native.cpu_kernels()))
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
    native.cpu_kernels()
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
    native.cpu_kernels()  # which two of them need, here rather than in two threads at once
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
    assert done.returncode != 0, done.stdout
    assert any(text in done.stdout for text in REPORTS[fault]), done.stdout


@pytest.mark.parametrize("name", KERNELS)
def test_each_missing_barrier_is_noticed(programs, race_programs, name):
    """One at a time: by wrong results, or as a data race."""
    for site in barriers(name):
        found = missing_barrier(programs[name], site) or missing_barrier(race_programs[name], site)
        assert found, f"{name}: nothing shows that the barrier at {site} is missing"


def test_every_kernel_and_every_instantiation_is_run():
    """A kernel without an emulated case, or without one of a dtype, has proved nothing."""
    if native.toolkit() is None or shutil.which("nm") is None:
        pytest.skip("no CUDA toolkit, or no nm to read the names of kernels")
    run = {kernel for name in KERNELS for kernel, _ in launches(name)}
    compiled = {kernel for name in KERNELS for kernel in symbols(build(name)).values()}
    assert compiled - run == set()
    assert set(kernels_in_sources()) - {family(kernel) for kernel in run} == set()
    for kernel in kernels_in_sources():
        lacking = [dtype for dtype in DTYPES if cases_of(kernel)[dtype] == 0]
        assert not lacking, f"{kernel}: no case of {lacking}"


@pytest.mark.parametrize(("bug", "report"), BUGS.items())
def test_planted_bugs_are_caught(programs, bug, report):
    done = native.run(programs["planted"], bug)
    assert done.returncode != 0
    assert report in done.stdout


def test_without_a_bug_the_planted_kernel_passes(programs):
    done = native.run(programs["planted"], "none")
    assert done.returncode == 0, done.stdout


def kernels_in_sources() -> dict[str, str]:
    """The name of every kernel in csrc/cuda/kernels, and its file."""
    found = {}
    for path in sorted(native.ROOT.glob("csrc/cuda/kernels/*.cu*")):
        for name in re.findall(r"__global__.*?(\w+_kernel)\(", path.read_text(), re.S):
            found[name] = path.stem
    return found


def symbols(program: Path) -> dict[int, str]:
    """The kernels compiled into a program by their address less that of check::read_arguments."""
    found, base = {}, 0
    for line in native.run("nm", "-C", "--defined-only", program).stdout.splitlines():
        address, name = line[:16], line[19:]
        if name == "check::read_arguments(int, char**)":
            base = int(address, 16)
        name = re.sub(r"^void |\(anonymous namespace\)::|posenc_ext::\w+::", "", name)
        if (kernel := re.match(r"(\w+_kernel(?:<.*>)?)\(", name)) and "{lambda" not in name:
            found[int(address, 16)] = kernel[1]
    return {address - base: kernel for address, kernel in found.items()}


@cache
def launches(name: str) -> Counter[tuple[str, str]]:
    """How many cases a family's program has of each kernel and dtype."""
    program = build(name)
    named = symbols(program)
    found: Counter[tuple[str, str]] = Counter()
    for line in said(name):
        if line.startswith("kernel "):
            _, address, cases, dtypes = line.split(maxsplit=3)
            for dtype in dtypes.split(", "):
                found[named[int(address)], dtype] += int(cases)
    return found


@cache
def said(name: str) -> list[str]:
    done = native.run(build(name))
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def barriers(name: str) -> list[str]:
    return [line.split()[1] for line in said(name) if line.startswith("barrier ")]


def family(kernel: str) -> str:
    return kernel.partition("<")[0]


@cache
def cases_of(kernel: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for name in KERNELS:
        for (launched, dtype), cases in launches(name).items():
            if family(launched) == kernel:
                found[dtype] += cases
    return found


def missing_barrier(program: Path, site: str) -> bool:
    """Whether it is noticed: by wrong results, by lanes that have parted, or as a data race."""
    return native.run(program, f"--plant=no-barrier:{site}").returncode != 0


def report() -> str:
    """What was run and what was planted, for csrc/cuda/README.md."""
    lines = [f"| kernel | {' | '.join(DTYPES)} |", "|---" * 5 + "|"]
    for kernel in kernels_in_sources():
        lines.append(f"| `{kernel}` | {' | '.join(str(cases_of(kernel)[dtype]) for dtype in DTYPES)} |")
    lines += [
        "",
        "| kernels of | cases | blocks | broken machines noticed | barriers left out, one at a time |",
    ]
    lines.append("|---" * 5 + "|")
    for name in KERNELS:
        cases, blocks, failures = (part.split()[0] for part in said(name)[-1].split(", "))
        assert failures == "0", said(name)[-1]
        faults = [fault for fault in FAULTS if (name, fault) not in UNUSED]
        assert all(native.run(build(name), f"--plant={fault}").returncode != 0 for fault in faults)
        sites = barriers(name)
        seen = [missing_barrier(build(name), site) for site in sites]
        raced = [missing_barrier(build(name, True), site) for site, wrong in zip(sites, seen) if not wrong]
        assert all(raced), f"{name}: {sites}, {seen}"
        missed = f"{len(sites)}: {sum(seen)} by results, {len(raced)} as a data race" if sites else "–"
        lines.append(f"| {name} | {cases} | {blocks} | {', '.join(faults)} | {missed} |")
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
