"""What the CUDA kernels do on the CPU, under sanitizers: python tools/cuda_emulation.py

Builds the programs of tests/cuda_emulation, runs them, plants faults, and writes what was run and what was
noticed into csrc/cuda/README.md. tests/test_cuda_emulation.py asserts the same.
"""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import markdown_block
import native

PROGRAMS = {path.stem for path in (native.ROOT / "tests" / "cuda_emulation").glob("*.cpp")}
KERNELS = sorted(PROGRAMS - {"planted", "conversions"})
DTYPES = ["float64", "float32", "float16", "bfloat16"]
# Of the machine, planted while the kernels run: each of them has to be noticed by the tests of each family.
FAULTS = ["no-barrier", "lost-block", "dead-shuffle", "off-by-one", "misaligned-vector", "cut-index"]
UNUSED = [("position_embedding", "dead-shuffle"), ("bias_softmax", "misaligned-vector")]  # by those kernels
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


def cpu_kernels() -> Path:
    """What three families are compared with."""
    return native.cpu_kernels(optimise="-Og")


def build(name: str, races: bool = False) -> Path:
    # -Og takes an eighth longer to compile than -O0, and two fifths less to run; -O1 compiles twice as long.
    flags = [*BASE, "-Itests/cuda_emulation", "-isystem", f"{native.toolkit()}/include"]
    if name == "conversions":
        return native.build(name, ["tests/cuda_emulation/conversions.cpp"], [*flags, "-O1"])
    sources = [f"tests/cuda_emulation/{name}.cpp"]
    if name in ("sinusoidal", "position_embedding", "bias_softmax"):  # compared with the CPU kernels
        sources.append(str(cpu_kernels()))
    if races:
        return native.build(f"{name}-races", sources, [*flags, "-Og", "-g1", *RACES])
    return native.build(name, sources, [*flags, "-Og", "-g1", *SANITIZERS])


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


def barriers_met(name: str) -> set[str]:
    return {line.split()[1] for line in said(name) if line.startswith("barrier ")}


def barriers(name: str) -> list[str]:
    """Those that a family's program has to miss: not those of another family's file, whose program does."""

    def is_missed_elsewhere(site: str) -> bool:
        owner = site.partition(".")[0]
        return owner != name and owner in KERNELS and site in barriers_met(owner)

    return sorted(site for site in barriers_met(name) if not is_missed_elsewhere(site))


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
    markdown_block.write(readme, "python tools/cuda_emulation.py", report())
