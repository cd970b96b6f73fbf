"""The compiled CUDA kernels, without running them: no spills, no atomics, 16-byte accesses, few registers."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import native
import pytest

ARCHS = ["75", "80", "86", "90", "100", "120"]
FILES = sorted(path.stem for path in (native.ROOT / "csrc" / "cuda" / "kernels").glob("*.cu"))

# Registers per thread at most. 128 lets two blocks of 256 threads share a multiprocessor, 80 three, 64 four.
MAX_REGISTERS = {
    "sinusoid_rows_kernel": 128,
    "add_sinusoidal_kernel": 128,
    "sinusoid_backward_kernel": 80,
    "scale_dropout_kernel": 64,
    "scale_dropout_strided_kernel": 64,
    "add_position_embedding_kernel": 64,
    "add_position_embedding_strided_kernel": 64,
    "add_position_embedding_transposed_kernel": 64,
    "sum_batch_kernel": 64,
    "sum_batch_strided_kernel": 64,
    "bias_forward_kernel": 64,
    "bias_backward_kernel": 128,
    "bias_reduce_kernel": 64,
    "gather_forward_kernel": 64,
    "gather_backward_kernel": 128,
    "gather_reduce_kernel": 64,
    "alibi_forward_kernel": 64,
    "alibi_backward_kernel": 64,
    "alibi_reduce_kernel": 64,
    "alibi_slopes_kernel": 64,
}

READ_VECTORS = {
    "add_sinusoidal_kernel",
    "scale_dropout_kernel",
    "add_position_embedding_kernel",
    "sum_batch_kernel",
}


@dataclass
class Kernel:
    name: str  # mangled
    registers: int = 0
    stack: int = 0
    spills: int = 0
    instructions: list[str] = field(default_factory=list)

    @property
    def family(self) -> str:
        return re.search(r"\d([a-z_]+_kernel)", self.name)[1]

    @property
    def has_vectors(self) -> bool:
        """Kernels for rows made of 16-byte vectors; each has a counterpart for all other rows."""
        return "Vectors" in self.name or self.family in (
            "scale_dropout_kernel",
            "add_position_embedding_kernel",
            "sum_batch_kernel",
            "bias_forward_kernel",
            "gather_forward_kernel",
            "alibi_forward_kernel",
        )


def compile_kernels(file: str, arch: str) -> tuple[Path, list[Kernel]]:
    """The cubin of one file for one arch, and what ptxas says of each kernel."""
    config = (native.ROOT / "cmake" / "build_config.cmake").read_text()
    flags = re.search(r"POSENC_NVCC_FLAGS([^)]*)", config)[1].split()
    nvcc = [str(native.toolkit() / "bin" / "nvcc"), "-cubin", f"-arch=sm_{arch}", "-O3", "-DNDEBUG"]
    nvcc += ["-Xptxas", "-v"]
    cubin = native.build(
        f"{file}_{arch}.cubin", [f"csrc/cuda/kernels/{file}.cu"], ["-Icsrc", *flags], compiler=nvcc
    )
    log = native.log_of(cubin).read_text()
    assert "warning" not in log, log[-6000:]
    kernels = []
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            kernels.append(Kernel(found[1]))
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", line):
            # Of the kernel, or of a function that it calls.
            kernels[-1].stack += int(found[1])
            kernels[-1].spills += int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            kernels[-1].registers = int(found[1])
            if stack := re.search(r"(\d+) bytes cumulative stack size", line):
                kernels[-1].stack += int(stack[1])
    return cubin, kernels


def disassemble(cubin: Path, kernels: list[Kernel]) -> None:
    """Adds the machine instructions, such as STG.E.128, to each kernel."""
    text = native.run(native.cuobjdump(), "--dump-sass", cubin).stdout
    by_name = {kernel.name: kernel for kernel in kernels}
    for part in re.split(r"^\s*Function : ", text, flags=re.MULTILINE)[1:]:
        name = part.split(maxsplit=1)[0]
        lines = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", part, re.MULTILINE)
        by_name[name].instructions = lines


@pytest.fixture(scope="session")
def compiled() -> dict[tuple[str, str], list[Kernel]]:
    """By file and arch: every kernel, with instructions where there is a disassembler."""
    if native.toolkit() is None:
        pytest.skip("no CUDA toolkit: nvcc is needed to compile the kernels")
    known = native.run(native.toolkit() / "bin" / "nvcc", "--list-gpu-code").stdout.split()
    wanted = [(file, arch) for arch in ARCHS if f"sm_{arch}" in known for file in FILES]

    def one(file_and_arch):
        cubin, kernels = compile_kernels(*file_and_arch)
        if native.cuobjdump():
            disassemble(cubin, kernels)
        return kernels

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(one, wanted)))


def kernels_of(compiled, arch: str) -> list[Kernel]:
    kernels = [kernel for (_, a), found in compiled.items() if a == arch for kernel in found]
    if not kernels:
        pytest.skip(f"this nvcc does not know sm_{arch}")
    return kernels


@pytest.mark.parametrize("arch", ARCHS)
def test_no_spills_no_stack_few_registers(compiled, arch):
    kernels = kernels_of(compiled, arch)
    assert {kernel.family for kernel in kernels} == set(MAX_REGISTERS)
    for kernel in kernels:
        assert kernel.spills == 0, kernel.name
        assert kernel.stack == 0, kernel.name
        assert 0 < kernel.registers <= MAX_REGISTERS[kernel.family], f"{kernel.name}: {kernel.registers}"


@pytest.mark.parametrize("arch", ARCHS)
def test_vectors_are_16_bytes_and_nothing_is_atomic(compiled, arch):
    kernels = kernels_of(compiled, arch)
    if native.cuobjdump() is None:
        pytest.skip("no cuobjdump, in the toolkit or in the triton package: cannot read the machine code")
    for kernel in kernels:
        code = kernel.instructions
        assert len(code) > 50, f"{kernel.name}: not disassembled"
        # No results that depend on the order of threads; and nothing in local memory.
        assert not [i for i in code if i.split(".")[0] in ("RED", "ATOM", "ATOMG", "ATOMS", "LDL", "STL")], (
            kernel.name
        )
        if not kernel.has_vectors:
            continue
        assert [i for i in code if re.fullmatch(r"STG\.E\..*128.*", i)], kernel.name
        if kernel.family in READ_VECTORS:
            assert [i for i in code if re.fullmatch(r"LDG\.E\..*128.*", i)], kernel.name
