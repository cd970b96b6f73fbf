"""Other compilers and machines than g++ on x86-64. make clang-check, make aarch64-check

clang: every source compiles without a warning; with --bits the kernels of every CPU level give g++'s bits.
aarch64: under qemu, kernels give the bits of x86-64 and the tests of csrc/core pass; the rest compiles.
Where a program is missing, one line names it and the exit status is 77: nothing was checked.
"""

import argparse
import os
import re
import shlex
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import native
import torch
from torch.utils import cpp_extension

NOT_RUN = 77
LEVELS = ["baseline", "avx2", "avx512"]
CLANG = shlex.split(os.environ.get("CLANGXX", "clang++"))
CROSS = ["aarch64-linux-gnu-g++"]
# Where Debian's cross compiler keeps the C library that its programs run with.
SYSROOT = os.environ.get("QEMU_LD_PREFIX", "/usr/aarch64-linux-gnu")
CONFIG = dict(
    re.findall(r"set\(\s*(\w+)\s+([^)]*)\)", (native.ROOT / "cmake" / "build_config.cmake").read_text())
)
FLAGS = [*CONFIG["POSENC_CXX_FLAGS"].split(), "-Werror", "-Icsrc"]
# Programs of tests/cpp that need no torch, and what they print at the end.
PROGRAMS = {
    "fast_divide": "quotients",
    "float_pair": "largest error",
    "schemes": " 0 failures",
    "phase": "passed",
}


def not_run(check: str, missing: list[str], packages: str) -> int:
    print(f"{check}: NOT RUN: no {', no '.join(missing)} (Debian, Ubuntu: apt install {packages})")
    return NOT_RUN


def sources(name: str) -> list[str]:
    paths = {path for pattern in CONFIG[name].split() for path in native.ROOT.glob(pattern)}
    return sorted(str(path.relative_to(native.ROOT)) for path in paths if path.suffix == ".cpp")


def torch_flags() -> list[str]:
    cuda = torch.version.cuda is not None and native.toolkit() is not None
    paths = [*cpp_extension.include_paths("cpu"), *([f"{native.toolkit()}/include"] if cuda else [])]
    names = ['-DPOSENC_VERSION=""', '-DPOSENC_CUDA_ARCHS=""', *(["-DPOSENC_WITH_CUDA"] if cuda else [])]
    return [*names, *(word for path in paths for word in ("-isystem", path))]


def glue() -> str:
    """One unit of all that includes torch, as setup.py makes it."""
    paths = sources("POSENC_SOURCES") + (
        sources("POSENC_CUDA_SOURCES") if "-DPOSENC_WITH_CUDA" in torch_flags() else []
    )
    paths = [
        path for path in paths if path not in sources("POSENC_PYTHON_SOURCES") and "/kernels/" not in path
    ]
    native.BUILD.mkdir(parents=True, exist_ok=True)
    unit = native.BUILD / "glue.cpp"
    unit.write_text("".join(f'#include "{native.ROOT / path}"\n' for path in paths))
    return str(unit)


def faults_of_syntax(compiler: list[str], files: list[str], flags: list[str]) -> list[str]:
    """What the compiler says of each, if anything."""

    def check(path: str) -> str:
        done = native.run(*compiler, *FLAGS, *flags, "-fsyntax-only", path)
        return f"{path}:\n{done.stdout[-4000:]}" if done.returncode else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [said for said in pool.map(check, files) if said]


def hashes(compiler: list[str], level: str, emulator: tuple[str, ...] = ()) -> list[str] | None:
    """What tests/cpp/cpu_kernels.cpp prints; None where the machine has no such level."""
    levels = LEVELS if not emulator else LEVELS[:1]
    kernels = [str(native.cpu_kernels(name, compiler)) for name in levels]
    others = [path for path in sources("POSENC_SOURCES") if "/cpu/kernels/" in path and "/level_" not in path]
    files = ["tests/cpp/cpu_kernels.cpp", *others, *kernels]
    program = native.build("cpu_kernels", files, [*FLAGS, "-O1"], compiler)
    done = native.run("env", f"POSENC_CPU_ISA={level}", *emulator, program)
    if "POSENC_CPU_ISA must be" in done.stdout:
        return None
    assert done.returncode == 0, done.stdout[-4000:]
    assert "FAILED" not in done.stdout, done.stdout[-4000:]
    return done.stdout.splitlines()


def differences(check: str, expected: list[str], actual: list[str]) -> list[str]:
    if len(expected) != len(actual):
        return [f"{check}: {len(actual)} results, not {len(expected)}"]
    return [
        f"{check}: {line}, not {right.split()[-1]}" for right, line in zip(expected, actual) if right != line
    ]


def clang(bits: bool) -> list[str]:
    quadmath = native.run(
        *native.CXX, "-print-file-name=include"
    ).stdout.strip()  # where g++ keeps quadmath.h
    kernels = [path for path in sources("POSENC_SOURCES") if "/kernels/" in path]
    tests = [str(path.relative_to(native.ROOT)) for path in native.ROOT.glob("tests/cpp/*.cpp")]
    files = [glue(), *sources("POSENC_PYTHON_SOURCES"), *kernels, *sorted(tests)]
    python = ["-isystem", sysconfig.get_path("include")]
    faults = faults_of_syntax(CLANG, files, [*torch_flags(), *python, "-idirafter", quadmath])
    print(
        f"clang: {len(files)} units compile to syntax"
        if not faults
        else f"clang: {len(faults)} units do not compile"
    )
    if faults or not bits:
        return faults
    expected = hashes(native.CXX, "baseline")
    for level in LEVELS:
        if (actual := hashes(CLANG, level)) is None:
            print(f"clang: {level}: not run, this machine does not have it")
            continue
        found = differences(f"clang, {level}", expected, actual)
        print(f"clang: {level}: {len(actual) - len(found)} of {len(expected)} results have g++'s bits")
        faults += found
    return faults


def aarch64(emulator: str) -> list[str]:
    qemu = (emulator, "-L", SYSROOT)
    with ThreadPoolExecutor(2) as pool:
        here, there = pool.map(hashes, (native.CXX, CROSS), ("baseline", "baseline"), ((), qemu))
    faults = differences("aarch64", here, there)
    print(
        f"aarch64: {len(there) - len(faults)} of {len(here)} results of the kernels have the bits of x86-64"
    )
    for name, end in PROGRAMS.items():
        program = native.build(name, [f"tests/cpp/{name}.cpp"], ["-std=gnu++20", *FLAGS[1:], "-O2"], CROSS)
        share = ["100"] if name == "phase" else []
        done = native.run(*qemu, program, *share)
        fine = done.returncode == 0 and end in done.stdout and "FAILED" not in done.stdout
        print(f"aarch64: {name}: {'passed' if fine else 'FAILED'}")
        faults += [] if fine else [f"{name}: exit {done.returncode}\n{done.stdout[-2000:]}"]
    said = faults_of_syntax(CROSS, [glue()], [flag for flag in torch_flags() if "CUDA" not in flag])
    print(
        "aarch64: what includes torch does not compile"
        if said
        else "aarch64: what includes torch compiles, to syntax"
    )
    return faults + said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=["clang", "aarch64"])
    parser.add_argument(
        "--bits", action="store_true", help="clang: compile the kernels, and compare their results"
    )
    options = parser.parse_args()
    if options.check == "clang":
        if shutil.which(CLANG[0]) is None:
            return not_run("clang-check", [CLANG[0]], "clang; or give make CLANGXX=<path>")
        faults = clang(options.bits)
    else:
        emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
        missing = [] if shutil.which(CROSS[0]) else CROSS
        missing = missing + ([] if emulator else ["qemu-aarch64"])
        if missing:
            return not_run("aarch64-check", missing, "g++-aarch64-linux-gnu qemu-user")
        faults = aarch64(emulator)
    print("\n".join(faults[:20]), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
