"""What the compiled CUDA kernels say without being run: make cuda-check.

Every kernel is compiled for every arch, disassembled and checked: no stack, no spills, nothing in local
memory, no atomics, 16-byte accesses where rows are made of vectors, registers and shared memory that let half
of a multiprocessor's threads be resident. --write puts the table into csrc/cuda/README.md. Needs nvcc, and
the cuobjdump of the toolkit or of the triton package; no GPU and no torch.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import markdown_block
import native

README = native.ROOT / "csrc" / "cuda" / "README.md"
COMMAND = "make cuda-check"
FILES = sorted(str(path.relative_to(native.ROOT)) for path in native.ROOT.glob("csrc/cuda/kernels/*.cu"))
WARP = 32
ATOMICS = ("RED", "REDG", "ATOM", "ATOMG", "ATOMS", "UREDGR")  # beginnings of instructions


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one arch: CUDA C++ Programming Guide, "Compute Capabilities", technical specifications.

    Alike for all of these: 65536 registers, given to warps by 256, a quarter of them to each of 4 partitions.
    That, and the shared memory reserved per block, are from cuda_occupancy.h, which a test compares with.
    """

    threads: int
    blocks: int
    shared: int  # bytes
    reserved: int = 1024  # bytes of it per block that the system takes
    shared_unit: int = 128


ARCHS = {
    "75": Multiprocessor(1024, 16, 64 * 1024, reserved=0, shared_unit=256),
    "80": Multiprocessor(2048, 32, 164 * 1024),
    "86": Multiprocessor(1536, 16, 100 * 1024),
    "90": Multiprocessor(2048, 32, 228 * 1024),
    "100": Multiprocessor(2048, 32, 228 * 1024),
    "120": Multiprocessor(1536, 24, 100 * 1024),
}


def round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def occupancy(arch: str, registers: int, shared: int, block: int) -> float:
    """The share of a multiprocessor's threads that blocks of this kernel can fill."""
    m = ARCHS[arch]
    warps = -(-block // WARP)
    warps_by_registers = 65536 // 4 // round_up(max(registers, 1) * WARP, 256) * 4
    limits = [m.threads // WARP // warps, m.blocks, warps_by_registers // warps]
    if total := round_up(shared + m.reserved, m.shared_unit):
        limits.append(m.shared // total)
    return min(limits) * warps * WARP / m.threads


@dataclass(frozen=True)
class Rule:
    """What a kernel's machine code must have, beside what all must have."""

    loads: bool = False  # of 16 bytes
    stores: bool = False
    variants: str = ""  # only where the kernel's name has this word
    per: str = "STG"  # the elements that instructions are counted by are those stored, or loaded (LDG)
    counts: bool = False  # may add integers atomically: their sum does not depend on the order


# Kernels that move 16 bytes at a time (another kernel or branch takes all other rows).
RULES = {
    "sinusoid_rows_kernel": Rule(stores=True, variants="Vectors"),
    "add_sinusoidal_kernel": Rule(loads=True, stores=True, variants="Vectors"),
    "scale_dropout_kernel": Rule(loads=True, stores=True),
    "add_position_embedding_kernel": Rule(loads=True, stores=True),
    "sum_batch_kernel": Rule(loads=True, stores=True, per="LDG"),
    "add_positions_kernel": Rule(loads=True, stores=True),
    "sum_positions_kernel": Rule(loads=True, stores=True, per="LDG"),
    "bias_forward_kernel": Rule(stores=True),
}


@dataclass
class Instruction:
    address: int
    predicated: bool
    name: str  # such as STG.E.128
    target: int | None  # of a branch


@dataclass
class Kernel:
    name: str  # mangled
    arch: str
    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0  # bytes, what is fixed at compile time
    block: int = 0  # threads, by __launch_bounds__
    code: list[Instruction] = field(default_factory=list)

    @property
    def family(self) -> str:
        return re.search(r"\d([a-z_]+_kernel)", self.name)[1]

    @property
    def rule(self) -> Rule:
        return RULES.get(self.family, Rule())

    @property
    def has_vectors(self) -> bool:
        return (self.rule.loads or self.rule.stores) and self.rule.variants in self.name

    @property
    def occupancy(self) -> float:
        return occupancy(self.arch, self.registers, self.shared, self.block)

    def widths(self, opcode: str) -> list[int]:
        """In bits, of the loads (LDG) or stores (STG) of global memory."""
        found = set()
        for i in self.code:
            words = i.name.split(".")
            if words[0] == opcode:
                sizes = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}
                found.add(next((sizes[word] for word in words if word in sizes), 32))
        return sorted(found)

    def faults(self) -> list[str]:
        """What is wrong with the kernel, each by the name of the rule."""
        return list(self._faults())

    def _faults(self) -> Iterator[str]:
        names = [i.name for i in self.code]
        if self.stack:
            yield f"stack frame: {self.stack} bytes"
        if self.spills:
            yield f"spills: {self.spills} bytes"
        if not self.code:
            yield "not disassembled"
            return
        if local := sorted({name for name in names if name.split(".")[0] in ("LDL", "STL")}):
            yield f"local memory: {', '.join(local)}"
        atomic = sorted({name for name in names if name.split(".")[0] in ATOMICS})
        if floats := [name for name in atomic if is_float_atomic(name)]:
            yield f"float atomic: {', '.join(floats)}"
        elif atomic and not self.rule.counts:
            yield f"atomic: {', '.join(atomic)}"
        if self.has_vectors:
            if self.rule.stores and 128 not in self.widths("STG"):
                yield f"no 16-byte store: {self.widths('STG')} bits"
            if self.rule.loads and 128 not in self.widths("LDG"):
                yield f"no 16-byte load: {self.widths('LDG')} bits"
        if not self.block:
            yield "no launch bounds: the block's size is not known"
        elif self.occupancy < 0.5:
            needs = f"{self.registers} registers, {self.shared} bytes shared, {self.block} threads"
            yield f"occupancy: {self.occupancy:.0%} of sm_{self.arch} with {needs}"

    def instructions_per_element(self) -> float | None:
        """At least: those of the shortest loop through a 16-byte access, by the elements moved there."""
        size = element_size(demangled(self.name))
        if size is None or not self.has_vectors:
            return None
        by_address = {i.address: n for n, i in enumerate(self.code)}
        wanted = [n for n, i in enumerate(self.code) if i.name.startswith(self.rule.per) and ".128" in i.name]
        found = [loop for n in wanted if (loop := shortest_loop(self.code, by_address, n))]
        return min((len(loop) / (sum(n in wanted for n in loop) * 16 / size) for loop in found), default=None)


def is_float_atomic(name: str) -> bool:
    """Also compare-and-swap, by which the compiler adds floats where the machine cannot."""
    return any(re.match(r"B?F(16|32|64)|CAST?$", word) for word in name.split("."))


def element_size(demangled: str) -> int | None:
    """Bytes of the element type that a kernel is a template over."""
    sizes = {"double": 8, "unsigned long": 8, "float": 4, "unsigned int": 4, "unsigned short": 2}
    sizes |= {"Half": 2, "BFloat16": 2}
    arguments = demangled.partition("_kernel<")[2]
    found = re.search(rf"\b({'|'.join(sizes)})\b", arguments)
    return sizes[found[1]] if found else None


@cache
def demangled(name: str) -> str:
    """As C++ writes it, where binutils are at hand; without the parameters."""
    if shutil.which("c++filt") is None:
        return name
    said = native.run("c++filt", name).stdout.strip()
    said = re.sub(r"\(anonymous namespace\)::|posenc_ext::\w+::|^void ", "", said)
    return re.sub(r"\(.*", "", said)


def shortest_loop(code: list[Instruction], by_address: dict[int, int], start: int) -> list[int] | None:
    """The fewest instructions from this one back to it; a function that is called counts nothing."""
    before: dict[int, int] = {}
    front = [start]
    while front:
        following = []
        for n in front:
            for to in successors(code, by_address, n):
                if to == start:
                    loop = [n]
                    while loop[-1] != start:
                        loop.append(before[loop[-1]])
                    return loop
                if to not in before:
                    before[to] = n
                    following.append(to)
        front = following
    return None


def successors(code: list[Instruction], by_address: dict[int, int], n: int) -> list[int]:
    i = code[n]
    word = i.name.split(".")[0]
    found = []
    if word in ("BRA", "JMP") and i.target in by_address:
        found.append(by_address[i.target])
    ends = word in ("BRA", "JMP", "EXIT", "RET", "BRX", "JMX")
    if (not ends or i.predicated) and n + 1 < len(code):
        found.append(n + 1)
    return found


def compile_file(path: str, arch: str) -> list[Kernel]:
    """Every kernel of a .cu file for one arch, with its machine code where there is a disassembler."""
    config = (native.ROOT / "cmake" / "build_config.cmake").read_text()
    flags = re.search(r"set\(POSENC_NVCC_FLAGS([^)]*)", config)[1].split()
    nvcc = [str(native.toolkit() / "bin" / "nvcc"), "-cubin", f"-arch=sm_{arch}", "-O3", "-DNDEBUG"]
    name = f"{Path(path).stem}_{arch}.cubin"
    cubin = native.build(name, [path], ["-Icsrc", *flags], compiler=[*nvcc, "-Xptxas", "-v"])
    log = native.log_of(cubin).read_text()
    assert "warning" not in log, log[-6000:]
    kernels = read_log(log, arch)
    if native.cuobjdump():
        add_block_sizes(native.run(native.cuobjdump(), "--dump-elf", cubin).stdout, kernels)
        add_code(native.run(native.cuobjdump(), "--dump-sass", cubin).stdout, kernels)
    return kernels


def read_log(log: str, arch: str) -> list[Kernel]:
    """What ptxas -v says."""
    kernels = []
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            kernels.append(Kernel(found[1], arch))
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", line):
            # Of the kernel, or of a function that it calls.
            kernels[-1].stack += int(found[1])
            kernels[-1].spills += int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            kernels[-1].registers = int(found[1])
            if stack := re.search(r"(\d+) bytes cumulative stack size", line):
                kernels[-1].stack += int(stack[1])
            if shared := re.search(r"(\d+) bytes smem", line):
                kernels[-1].shared = int(shared[1])
    return kernels


def add_block_sizes(elf: str, kernels: list[Kernel]) -> None:
    by_name = {kernel.name: kernel for kernel in kernels}
    for part in re.split(r"^\.nv\.info\.", elf, flags=re.MULTILINE)[1:]:
        found = re.search(r"EIATTR_MAX_THREADS\s+Format:\s+\w+\s+Value:\s+(0x\w+) (0x\w+) (0x\w+)", part)
        kernel = by_name.get(part.split(maxsplit=1)[0])
        if found and kernel:
            kernel.block = int(found[1], 16) * int(found[2], 16) * int(found[3], 16)


def add_code(sass: str, kernels: list[Kernel]) -> None:
    by_name = {kernel.name: kernel for kernel in kernels}
    line = re.compile(r"^ +/\*([0-9a-f]{4,5})\*/ +(@!?U?P\w+ +)?([A-Z][\w.]*)([^;\n]*);", re.M)
    for part in re.split(r"^[ \t]*Function : ", sass, flags=re.M)[1:]:
        code = by_name[part.split(maxsplit=1)[0]].code
        for address, predicate, name, operands in line.findall(part):
            target = re.search(r"\b0x([0-9a-f]+)\s*$", operands)
            # A branch may have its predicate among the operands.
            predicated = bool(predicate) or bool(re.search(r"\bU?!?P\d", operands))
            code.append(Instruction(int(address, 16), predicated, name, target and int(target[1], 16)))


def known_archs() -> list[str]:
    """Those of ARCHS that this nvcc compiles for."""
    listed = native.run(native.toolkit() / "bin" / "nvcc", "--list-gpu-code").stdout.split()
    return [arch for arch in ARCHS if f"sm_{arch}" in listed]


def compile_all(archs: list[str], files: list[str] = FILES) -> list[Kernel]:
    tasks = [(file, arch) for arch in archs for file in files]
    with ThreadPoolExecutor(2) as pool:
        return [kernel for found in pool.map(lambda task: compile_file(*task), tasks) for kernel in found]


def nvcc_release() -> str:
    said = native.run(native.toolkit() / "bin" / "nvcc", "--version").stdout
    return re.search(r"release [\d.]+, V([\d.]+)", said)[1]


def markdown(kernels: list[Kernel]) -> str:
    """A line per kernel: the worst of its variants on each arch."""
    archs = [arch for arch in ARCHS if any(kernel.arch == arch for kernel in kernels)]
    head = ["kernel", "variants", "block", "shared, bytes", *(f"sm_{arch}" for arch in archs)]
    head += ["loads", "stores", "instructions per element"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for family in dict.fromkeys(kernel.family for kernel in kernels):
        own = [kernel for kernel in kernels if kernel.family == family]
        cells = [f"`{family}`", str(len({kernel.name.split(family)[1] for kernel in own}))]
        cells += [span([kernel.block for kernel in own]), span([kernel.shared for kernel in own])]
        for arch in archs:
            here = [kernel for kernel in own if kernel.arch == arch]
            worst = min(kernel.occupancy for kernel in here)
            cells.append(f"{max(kernel.registers for kernel in here)}, {worst:.0%}")
        vectors = [kernel for kernel in own if kernel.has_vectors] or own
        for opcode in ("LDG", "STG"):
            widths = sorted({width for kernel in vectors for width in kernel.widths(opcode)})
            cells.append(" ".join(f"**{width}**" if width == 128 else str(width) for width in widths) or "–")
        cells.append(per_element(own))
        lines.append(f"| {' | '.join(cells)} |")
    facts = (
        f"nvcc {nvcc_release()}, flags of cmake/build_config.cmake: {len(kernels)} kernels, faults: "
        f"{sum(len(kernel.faults()) for kernel in kernels)}. Under each arch: registers a thread, occupancy; "
        "the most and the least of the kernel's variants. Loads and stores: bits of the accesses to global "
        "memory in the vector variants (the narrow ones are of tails, positions, offsets and seeds). "
        "Instructions per element: sm_90, elements of 4 bytes, of 2; at least so many, those of the shortest "
        "loop through a 16-byte store (sum_batch_kernel: load)."
    )
    return "\n".join([*lines, "", facts, ""])


def span(values: list[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def per_element(kernels: list[Kernel]) -> str:
    cells = []
    for size in (4, 2):
        own = [
            kernel
            for kernel in kernels
            if kernel.arch == "90" and element_size(demangled(kernel.name)) == size
        ]
        costs = [cost for kernel in own if (cost := kernel.instructions_per_element()) is not None]
        cells.append(f"{min(costs):.0f}" if costs else "–")
    return "–" if cells == ["–", "–"] else ", ".join(cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"the table into {README.name}")
    parser.add_argument("--archs", nargs="+", default=list(ARCHS), choices=list(ARCHS))
    arguments = parser.parse_args()
    if native.toolkit() is None:
        print("cuda-check: no nvcc found: put one on PATH, or set CUDA_HOME", file=sys.stderr)
        return 1
    if native.cuobjdump() is None:
        print("cuda-check: no cuobjdump, in the toolkit or in the triton package", file=sys.stderr)
        return 1
    archs = [arch for arch in known_archs() if arch in arguments.archs]
    kernels = compile_all(archs)
    table = markdown(kernels)
    print(table)
    if arguments.write:
        markdown_block.write(README, COMMAND, table)
    faults = [f"sm_{k.arch} {demangled(k.name)}: {fault}" for k in kernels for fault in k.faults()]
    print("\n".join(faults) or f"no faults in {len(kernels)} kernels of {len(archs)} archs")
    return 1 if faults or archs != arguments.archs else 0


if __name__ == "__main__":
    sys.exit(main())
