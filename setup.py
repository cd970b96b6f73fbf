"""Builds posenc_ext/libposenc_ext.so (all ops, independent of Python) and the small module posenc_ext._C.

Switches, all environment variables:
  POSENC_FORCE_CUDA=0|1   0: without CUDA; 1: with CUDA, or an error; unset: with CUDA if possible
  TORCH_CUDA_ARCH_LIST    CUDA architectures, such as "8.0;9.0+PTX"
  MAX_JOBS                number of parallel compilations
  DEBUG=1                 -O0 -g
  POSENC_EXTRA_CXXFLAGS   appended to the compiler's arguments (sanitizers)
  POSENC_EXTRA_LDFLAGS    appended to the linker's arguments
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
VERSION = (ROOT / "version.txt").read_text().strip()

# Older versions fail on the license in pyproject.toml with a page of output.
if int(setuptools.__version__.split(".")[0]) < 77 and (ROOT / "pyproject.toml").exists():
    sys.exit(f"posenc_ext: setuptools {setuptools.__version__} is too old: pip install 'setuptools>=77,<82'")

try:
    import torch
except ImportError:
    sys.exit(
        "posenc_ext: building needs the torch that you will run with, and none is importable here. Do\n"
        "  pip install torch 'setuptools>=77,<82' ninja\n"
        "  pip install --no-build-isolation ."
    )


# In a virtual environment ninja is next to Python; without ninja, torch compiles one file after another.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def read_build_config() -> dict[str, list[str]]:
    """Reads the set(NAME words...) lines, which CMake also uses."""
    text = re.sub(r"#.*", "", (ROOT / "cmake" / "build_config.cmake").read_text())
    return {name: words.split() for name, words in re.findall(r"set\(\s*(\w+)\s+([^)]*)\)", text)}


CONFIG = read_build_config()


def minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


OLDEST_TORCH, *_, NEWEST_TORCH = CONFIG["POSENC_TORCH_VERSIONS"]
if minor(torch.__version__) < minor(OLDEST_TORCH):
    sys.exit(f"posenc_ext: torch {torch.__version__} is too old: pip install 'torch>={OLDEST_TORCH}'")
UNKNOWN_TORCH = ""
if minor(torch.__version__) > minor(NEWEST_TORCH):
    UNKNOWN_TORCH = f"torch {torch.__version__} is newer than {NEWEST_TORCH}, the last one tried"


def sources(name: str) -> list[str]:
    """Files that match the patterns of one list in build_config.cmake, relative to the root, sorted."""
    paths = {path for pattern in CONFIG[name] for path in ROOT.glob(pattern)}
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def unite(paths: list[str]) -> list[str]:
    """Replaces all sources that include torch by one file that includes them (see build_config.cmake)."""
    kernels = [path for path in paths if Path(path).parent.name == "kernels"]
    text = "".join(f'#include "{ROOT / path}"\n' for path in paths if path not in kernels)
    unit = ROOT / "build" / f"unit-{'cuda' if CUDA_HOME else 'cpu'}" / "glue.cpp"
    unit.parent.mkdir(parents=True, exist_ok=True)
    if not unit.exists() or unit.read_text() != text:  # a new file would be recompiled
        unit.write_text(text)
    return [str(unit.relative_to(ROOT)), *kernels]


def run_nvcc(nvcc: str, *arguments: str) -> str:
    result = subprocess.run([nvcc, *arguments], capture_output=True, text=True)
    return result.stdout + result.stderr


def find_toolkit() -> Path | None:
    """Root of a CUDA toolkit with nvcc and cuda_runtime.h."""
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if nvcc := shutil.which("nvcc"):
        # nvcc on PATH may be a wrapper script or a link: ask the real one for its location.
        dry_run = run_nvcc(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull)
        top = re.search(r"^#\$ TOP=(.*)$", dry_run, re.MULTILINE)
        candidates.append(top and top[1].strip())
    # pip's nvidia-cuda-* packages install a toolkit here, next to torch.
    cuda_major = torch.version.cuda.split(".")[0]
    candidates += [Path(torch.__file__).parents[1] / "nvidia" / f"cu{cuda_major}", "/usr/local/cuda"]
    for root in (Path(candidate).resolve() for candidate in candidates if candidate):
        if (root / "bin" / "nvcc").exists() and (root / "include" / "cuda_runtime.h").exists():
            return root
    return None


def choose_toolkit() -> tuple[Path | None, str]:
    """The CUDA toolkit to build with (None: build for the CPU only) and the reason."""
    force = os.environ.get("POSENC_FORCE_CUDA", "")
    if force not in ("", "0", "1"):
        sys.exit(f"posenc_ext: POSENC_FORCE_CUDA must be 0 or 1, got {force!r}")
    if force == "0":
        return None, "POSENC_FORCE_CUDA=0"
    if torch.version.cuda is None:
        obstacle, mend = f"torch {torch.__version__} is built without CUDA", "install a CUDA build of torch"
    elif (root := find_toolkit()) is None:
        obstacle = "no CUDA toolkit found (nvcc and cuda_runtime.h)"
        mend = f"install CUDA {torch.version.cuda} and set CUDA_HOME to it"
    else:
        release = re.search(r"release (\d+)\.(\d+)", run_nvcc(str(root / "bin" / "nvcc"), "--version"))
        if release and release[1] == torch.version.cuda.split(".")[0]:
            return root, "POSENC_FORCE_CUDA=1" if force else "torch has CUDA, and a toolkit was found"
        found = f"{release[1]}.{release[2]}" if release else "of an unknown version"
        obstacle = f"the toolkit in {root} is CUDA {found}, that of torch is CUDA {torch.version.cuda}"
        mend = f"install CUDA {torch.version.cuda} and set CUDA_HOME to it"
    if force == "1":
        sys.exit(f"posenc_ext: POSENC_FORCE_CUDA=1, but {obstacle}: {mend}")
    return None, f"{obstacle}: {mend} for a build with CUDA"


CUDA_HOME, CUDA_REASON = choose_toolkit()
CUDA_ARCHS = os.environ.get("TORCH_CUDA_ARCH_LIST") or " ".join(CONFIG["POSENC_DEFAULT_CUDA_ARCHS"])
CUDA_ARCHS = CUDA_ARCHS.replace(";", " ") if CUDA_HOME else ""
if CUDA_HOME:
    os.environ["TORCH_CUDA_ARCH_LIST"] = CUDA_ARCHS
    # torch.utils.cpp_extension reads CUDA_HOME once, when it is imported.
    os.environ["CUDA_HOME"] = str(CUDA_HOME)

from torch.utils import cpp_extension  # noqa: E402

DEBUG = os.environ.get("DEBUG", "0") not in ("", "0")
TORCH_LIBRARIES = Path(torch.__file__).parent / "lib"
CXX = shlex.split(os.environ.get("CXX", "c++"))


def cxx_flags() -> list[str]:
    flags = [*CONFIG["POSENC_CXX_FLAGS"], *(["-O0", "-g"] if DEBUG else ["-O3", "-DNDEBUG"])]
    flags += [f'-DPOSENC_VERSION="{VERSION}"', f'-DPOSENC_CUDA_ARCHS="{CUDA_ARCHS}"']
    flags += ["-DPOSENC_WITH_CUDA"] if CUDA_HOME else []
    return flags + shlex.split(os.environ.get("POSENC_EXTRA_CXXFLAGS", ""))


def torch_includes() -> list[str]:
    """As system folders, so that our warning flags do not apply to torch's headers."""
    paths = cpp_extension.include_paths("cuda" if CUDA_HOME else "cpu")
    return [word for path in paths for word in ("-isystem", path)]


def nvcc_flags() -> list[str]:
    flags = [*CONFIG["POSENC_NVCC_FLAGS"], *(["-O0", "-g"] if DEBUG else ["-O3", "-DNDEBUG"])]
    if "--compress-mode" in run_nvcc(str(CUDA_HOME / "bin" / "nvcc"), "--help"):  # CUDA 12.8 and later
        flags.append("--compress-mode=size")
    return flags


def link_arguments() -> list[str]:
    arguments = [f"-L{TORCH_LIBRARIES}", "-lc10", "-ltorch_cpu", "-ltorch"]
    # No -lcudart: as with OpenMP, the CUDA runtime is the one that torch loads.
    arguments += ["-lc10_cuda", "-ltorch_cuda"] if CUDA_HOME else []
    return arguments + shlex.split(os.environ.get("POSENC_EXTRA_LDFLAGS", ""))


HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*h"))

LIBRARY_SOURCES = sorted(
    set(sources("POSENC_SOURCES") + (sources("POSENC_CUDA_SOURCES") if CUDA_HOME else []))
    - set(sources("POSENC_PYTHON_SOURCES"))
)
LIBRARY = Extension(
    "posenc_ext.libposenc_ext",
    LIBRARY_SOURCES,
    include_dirs=[str(ROOT / "csrc")],
    extra_compile_args={"cxx": [*cxx_flags(), *torch_includes()], "nvcc": nvcc_flags() if CUDA_HOME else []},
    extra_link_args=[*link_arguments(), "-Wl,-soname,libposenc_ext.so"],
    depends=HEADERS,
    language="c++",
)
PYTHON_MODULE = Extension(
    "posenc_ext._C",
    sources("POSENC_PYTHON_SOURCES"),
    include_dirs=[str(ROOT / "csrc")],
    extra_compile_args={"cxx": [*cxx_flags(), *torch_includes()]},
    extra_link_args=["-l:libposenc_ext.so", *link_arguments(), "-Wl,-rpath,$ORIGIN"],
    depends=HEADERS,
    language="c++",
)


class BuildExtension(cpp_extension.BuildExtension):
    def finalize_options(self) -> None:
        super().finalize_options()
        # One folder of objects per torch and Python: builds for different ones do not invalidate each other.
        kind = f"{sys.implementation.cache_tag}-{'cuda' if CUDA_HOME else 'cpu'}"
        self.build_temp = str(ROOT / "build" / f"objects-torch{torch.__version__}-{kind}")

    def run(self) -> None:
        report()
        # For C++ programs (in Python torch is already loaded): torch is next to an installed posenc_ext.
        torch_folder = str(TORCH_LIBRARIES) if self.inplace else "$ORIGIN/../torch/lib"
        LIBRARY.extra_link_args.append(f"-Wl,-rpath,{torch_folder}")
        super().run()
        folders = [Path(self.build_lib) / "posenc_ext", *([ROOT / "posenc_ext"] if self.inplace else [])]
        for folder in folders:
            (folder / "_build.py").write_text(build_record())

    def build_extensions(self) -> None:
        # Without the flags that this Python was built with: the CMake build must produce the same code.
        self.compiler.set_executables(
            compiler_so=[*CXX, "-fPIC"],
            compiler_cxx=CXX,
            compiler_so_cxx=[*CXX, "-fPIC"],
            linker_so=[*CXX, "-shared", "-Wl,--as-needed"],
            linker_so_cxx=[*CXX, "-shared", "-Wl,--as-needed"],
        )
        LIBRARY.sources = unite(LIBRARY_SOURCES)
        # posenc_ext._C, which is linked afterwards, finds the library here.
        self.compiler.set_library_dirs([str(Path(self.get_ext_fullpath(LIBRARY.name)).parent)])
        try:
            super().build_extensions()
        except Exception:
            if not UNKNOWN_TORCH:
                raise
            sys.exit(
                f"posenc_ext: {UNKNOWN_TORCH}, and does not compile: csrc/torch_compat.h lacks what differs"
            )

    def get_ext_filename(self, fullname: str) -> str:
        # The library is not a Python module: its file name does not depend on the version of Python.
        if fullname.rpartition(".")[2] == "libposenc_ext":
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)

    def get_libraries(self, ext: Extension) -> list[str]:
        return ext.libraries  # without libpython, which a Python built with --enable-shared would add


def build_record() -> str:
    facts = {
        "VERSION": VERSION,
        "TORCH_VERSION": str(torch.__version__),
        "WITH_CUDA": CUDA_HOME is not None,
        "CUDA_VERSION": torch.version.cuda if CUDA_HOME else None,
        "CUDA_ARCHS": CUDA_ARCHS,
    }
    lines = [f"{name} = {value!r}" for name, value in facts.items()]
    return "\n".join(["# Written by setup.py: what the library next to this file was built for.", *lines, ""])


def report() -> None:
    rows = {
        "torch": torch.__version__,
        "kernels": f"CPU and CUDA ({CUDA_REASON})" if CUDA_HOME else f"CPU only ({CUDA_REASON})",
        "toolkit": CUDA_HOME,
        "archs": CUDA_ARCHS,
        "compiler": shlex.join(CXX),
        "flags": shlex.join(cxx_flags()),
        "nvcc flags": shlex.join(LIBRARY.extra_compile_args["nvcc"]),
        "jobs": os.environ.get("MAX_JOBS", f"ninja's choice for {os.cpu_count()} cores"),
    }
    if UNKNOWN_TORCH:
        print(f"posenc_ext: {UNKNOWN_TORCH}: it may lack what differs (csrc/torch_compat.h)")
    print(f"posenc_ext {VERSION}: building for")
    for name, value in rows.items():
        if value:
            print(f"  {name:<11}{value}", flush=True)


# A wheel is for one minor version of torch, which its version names; an sdist is for all that are supported.
TORCH_MINOR = "{}.{}".format(*minor(torch.__version__))
KIND = f"cu{torch.version.cuda.replace('.', '')}" if CUDA_HOME else "cpu"
SDIST = "sdist" in sys.argv

setup(
    version=VERSION if SDIST else f"{VERSION}+torch{TORCH_MINOR}.{KIND}",
    ext_modules=[LIBRARY, PYTHON_MODULE],
    cmdclass={"build_ext": BuildExtension},
    install_requires=[f"torch>={OLDEST_TORCH}" if SDIST else f"torch=={TORCH_MINOR}.*"],
)
