"""The CUDA kernels, run on the CPU by tests/cuda_emulation/emulation.h under sanitizers.

That proves indexing, synchronisation and logic. It is no run on a GPU: emulation.h states the limits.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import native
import pytest
from cuda_emulation import (
    BUGS,
    DTYPES,
    FAULTS,
    KERNELS,
    RACE_BUGS,
    RACES,
    REPORTS,
    SANITIZERS,
    UNUSED,
    barriers,
    build,
    cases_of,
    cpu_kernels,
    family,
    kernels_in_sources,
    launches,
    missing_barrier,
    said,
    symbols,
)
from support import check_each, each


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


@each(("bug", "report"), RACE_BUGS.items())
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
    cpu_kernels()  # here rather than in two threads at once
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(build, names)))


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(programs, name):
    assert said(name)[-1].endswith(" 0 failures")


def test_conversions_match_those_of_the_cuda_headers(programs):
    done = native.run(programs["conversions"])
    assert done.returncode == 0, done.stdout


# Tests that cannot fail prove nothing: each of these has to.
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_on_a_broken_machine_fail(programs, name):
    def noticed(fault):
        done = native.run(programs[name], f"--plant={fault}")
        assert done.returncode != 0
        assert any(text in done.stdout for text in REPORTS[fault]), done.stdout

    check_each(noticed, ((fault, {"fault": fault}) for fault in FAULTS if (name, fault) not in UNUSED))


@pytest.mark.parametrize("name", KERNELS)
def test_each_missing_barrier_is_noticed(programs, race_programs, name):
    """One at a time: as a data race, which shows sooner, or by wrong results."""
    programs_of = (race_programs[name], programs[name])
    missed = [site for site in barriers(name) if not any(missing_barrier(p, site) for p in programs_of)]
    assert missed == []


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


@each(("bug", "report"), BUGS.items())
def test_planted_bugs_are_caught(programs, bug, report):
    done = native.run(programs["planted"], bug)
    assert done.returncode != 0
    assert report in done.stdout


def test_without_a_bug_the_planted_kernel_passes(programs):
    done = native.run(programs["planted"], "none")
    assert done.returncode == 0, done.stdout
