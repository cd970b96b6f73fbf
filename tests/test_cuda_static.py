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
    if native.toolkit() is None:
        pytest.skip("no CUDA toolkit: nvcc is needed to compile the kernels")
    return cuda_static.known_archs()


@pytest.fixture(scope="session")
def compiled(archs) -> list[Kernel]:
    """Every kernel for every arch, with instructions where there is a disassembler."""
    return cuda_static.compile_all(archs)


def needs_disassembler() -> None:
    if native.cuobjdump() is None:
        pytest.skip("no cuobjdump, in the toolkit or in the triton package: cannot read the machine code")


@pytest.mark.parametrize("arch", list(ARCHS))
def test_no_spills_and_no_stack(compiled, archs, arch):
    if arch not in archs:
        pytest.skip(f"this nvcc does not know sm_{arch}")
    kernels = [kernel for kernel in compiled if kernel.arch == arch]
    assert kernels
    for kernel in kernels:
        assert (kernel.spills, kernel.stack) == (0, 0), kernel.name
        assert kernel.registers > 0, kernel.name


@pytest.mark.parametrize("arch", list(ARCHS))
def test_machine_code_has_no_faults(compiled, archs, arch):
    """16-byte accesses, nothing in local memory, no atomics, half of the threads resident."""
    needs_disassembler()
    if arch not in archs:
        pytest.skip(f"this nvcc does not know sm_{arch}")
    kernels = [kernel for kernel in compiled if kernel.arch == arch]
    faults = [
        f"{cuda_static.demangled(kernel.name)}: {fault}" for kernel in kernels for fault in kernel.faults()
    ]
    assert not faults, "\n".join(faults)
    assert all(len(kernel.code) > 50 for kernel in kernels)


def test_rules_name_kernels(compiled):
    """A rule for a kernel that is gone would hold for nothing."""
    families = {kernel.family for kernel in compiled}
    assert set(cuda_static.RULES) <= families
    vectors = {kernel.family for kernel in compiled if kernel.has_vectors}
    assert {name for name, rule in cuda_static.RULES.items() if rule.loads or rule.stores} == vectors


@pytest.mark.parametrize("arch", list(ARCHS))
def test_each_planted_fault_is_named(archs, arch, monkeypatch):
    needs_disassembler()
    if arch not in archs:
        pytest.skip(f"this nvcc does not know sm_{arch}")
    vectors = Rule(loads=True, stores=True)
    for name in ("scalar_store_kernel", "scalar_load_kernel", "faultless_kernel"):
        monkeypatch.setitem(cuda_static.RULES, name, vectors)
    kernels = cuda_static.compile_file(FAULTS, arch)
    found = {kernel.family: [fault.partition(":")[0] for fault in kernel.faults()] for kernel in kernels}
    assert found == EXPECTED
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
