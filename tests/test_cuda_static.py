"""The compiled CUDA kernels, without running them: what tools/cuda_static.py finds in their machine code."""

import cuda_static
import markdown_block
import native
import pytest
from cuda_static import ARCHS, Kernel, Rule

FAULTS = "tests/cuda_static_faults.cu"
# A kernel of that file: the fault that has to be named.
EXPECTED = {
    "stack_kernel": ["stack frame", "local memory"],
    "spilling_kernel": ["stack frame", "spills", "local memory"],
    "greedy_kernel": ["occupancy"],
    "float_atomic_kernel": ["float atomic"],
    "shared_float_atomic_kernel": ["float atomic"],
    "counting_kernel": ["atomic"],
    "scalar_store_kernel": ["no 16-byte store"],
    "scalar_load_kernel": ["no 16-byte load"],
    "wide_shared_kernel": ["occupancy"],
    "unbounded_kernel": ["no launch bounds"],
    "faultless_kernel": [],
}


@pytest.fixture(scope="session")
def archs() -> list[str]:
    """Without a disassembler one alone: what is left to check are registers and spills."""
    if native.toolkit() is None:
        pytest.skip("no CUDA toolkit: nvcc is needed to compile the kernels")
    known = cuda_static.known_archs()
    return known if native.cuobjdump() else [arch for arch in known if arch == "90"]


@pytest.fixture(scope="session")
def compiled(archs) -> list[Kernel]:
    """Every kernel for every arch, with instructions where there is a disassembler."""
    return cuda_static.compile_all(archs)


def needs_disassembler() -> None:
    if native.cuobjdump() is None:
        pytest.skip("no cuobjdump, in the toolkit or in the triton package: cannot read the machine code")


def test_no_spills_and_no_stack(compiled, archs):
    assert {kernel.arch for kernel in compiled} == set(archs)
    wrong = [f"sm_{k.arch} {k.name}" for k in compiled if k.spills or k.stack or not k.registers]
    assert not wrong, "\n".join(wrong)


def test_machine_code_has_no_faults(compiled, archs):
    """16-byte accesses, nothing in local memory, no atomics, half of the threads resident."""
    needs_disassembler()
    faults = [
        f"sm_{kernel.arch} {cuda_static.demangled(kernel.name)}: {fault}"
        for kernel in compiled
        for fault in kernel.faults()
    ]
    assert not faults, "\n".join(faults)
    assert all(len(kernel.code) > 50 for kernel in compiled)
    if archs != list(ARCHS):
        pytest.skip(f"no fault for sm_{', sm_'.join(archs)}: this nvcc knows no other of {list(ARCHS)}")


def test_rules_name_kernels(compiled):
    """A rule for a kernel that is gone would hold for nothing."""
    families = {kernel.family for kernel in compiled}
    assert set(cuda_static.RULES) <= families
    vectors = {kernel.family for kernel in compiled if kernel.has_vectors}
    assert {name for name, rule in cuda_static.RULES.items() if rule.loads or rule.stores} == vectors


def test_each_planted_fault_is_named(archs, monkeypatch):
    needs_disassembler()
    vectors = Rule(loads=True, stores=True)
    for name in ("scalar_store_kernel", "scalar_load_kernel", "faultless_kernel"):
        monkeypatch.setitem(cuda_static.RULES, name, vectors)
    for arch in archs:
        kernels = cuda_static.compile_file(FAULTS, arch)
        found = {kernel.family: [fault.partition(":")[0] for fault in kernel.faults()] for kernel in kernels}
        assert found == EXPECTED, f"sm_{arch}"
        for kernel in kernels:  # for -s
            print(f"sm_{arch} {kernel.family}: {'; '.join(kernel.faults()) or 'no fault'}")


def test_occupancy_is_that_of_the_toolkit(archs):
    """cuda_occupancy.h, which the toolkit's own calculator is made of, for every arch and many kernels."""
    include = ["-isystem", f"{native.toolkit()}/include"]
    program = native.build("occupancy", ["tests/cuda_occupancy.cpp"], ["-std=c++20", "-O1", *include])
    lines = native.run(program).stdout.split("\n")
    numbers = [[int(word) for word in line.split()] for line in lines if line]
    assert len(numbers) > 1000 * len(ARCHS)
    for arch, threads, registers, shared, block, blocks in numbers:
        assert ARCHS[str(arch)].threads == threads
        mine = cuda_static.occupancy(str(arch), registers, shared, block)
        assert mine == blocks * -(-block // 32) * 32 / threads, (arch, registers, shared, block)


def test_readme_has_the_table_of_these_kernels(compiled, archs):
    needs_disassembler()
    _, table, _ = markdown_block.parts(cuda_static.README, cuda_static.COMMAND)
    if archs == list(ARCHS) and f"nvcc {cuda_static.nvcc_release()}," in table:
        assert table == cuda_static.markdown(compiled), f"out of date: {cuda_static.COMMAND}"
        return
    families = {f"`{kernel.family}`" for kernel in compiled}  # registers are another nvcc's
    rows = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| `")}
    assert rows == families, f"out of date: {cuda_static.COMMAND}"
