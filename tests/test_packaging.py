"""Facts about the built files and about the repository."""

import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
import torch

import posenc_ext

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(posenc_ext.__file__).parent
LIBRARY = PACKAGE / "libposenc_ext.so"
[PYTHON_MODULE] = PACKAGE.glob("_C.*")


def output(*command) -> list[str]:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def needed(path) -> set[str]:
    """Names of the libraries that a library asks for, without version."""
    lines = "\n".join(output("readelf", "--dynamic", "--wide", path))
    return set(re.findall(r"\(NEEDED\).*\[([^]]+?\.so)[^]]*\]", lines))


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in output("git", "-C", ROOT, "ls-files")]
    assert ROOT / "setup.py" in paths
    return [path for path in paths if path.exists()]


def with_included(path: Path, found: set[Path]) -> set[Path]:
    """The file and every file of csrc that it includes, directly or not."""
    found.add(path)
    for name in re.findall(r'#include "([^"]+)"', path.read_text()):
        for included in (ROOT / "csrc" / name, path.parent / name):
            if included.exists() and included not in found:
                with_included(included, found)
    return found


def test_the_library_needs_torch_and_the_system_only():
    allowed = {"libstdc++.so", "libgcc_s.so", "libc.so", "libm.so", "ld-linux-x86-64.so"}
    allowed |= {"libtorch_cpu.so", "libtorch.so", "libc10.so"}
    if posenc_ext._build.WITH_CUDA:
        allowed |= {"libtorch_cuda.so", "libc10_cuda.so"}
    # So no libpython, no libtorch_python, and no run-time of OpenMP or CUDA beside the one of torch.
    assert needed(LIBRARY) <= allowed
    assert "libtorch_cpu.so" in needed(LIBRARY)


def test_the_library_has_no_python_symbol():
    symbols = [line.split()[-1] for line in output("nm", "--dynamic", "--undefined-only", LIBRARY)]
    assert any("TORCH" in name or "c10" in name for name in symbols)
    assert [name for name in symbols if re.match(r"_?Py[A-Z_]|THP", name)] == []


def test_the_python_module_finds_the_library_beside_it():
    assert "libposenc_ext.so" in needed(PYTHON_MODULE)
    dynamic = "\n".join(output("readelf", "--dynamic", "--wide", PYTHON_MODULE))
    assert re.search(r"R(UN)?PATH.*\[\$ORIGIN\]", dynamic)
    assert PYTHON_MODULE.name == f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"  # a build per Python


def test_only_the_interface_is_exported():
    symbols = "\n".join(output("nm", "--dynamic", "--defined-only", "--demangle", LIBRARY))
    exported = set(re.findall(r"^\w+ [A-Za-z] posenc_ext::([\w:]+)", symbols, re.MULTILINE))
    header = (ROOT / "csrc" / "posenc_ext.h").read_text()
    declared = set(re.findall(r"^POSENC_API [^(;]*?(\w+)\(", header, re.MULTILINE))
    assert {"version", "window_bias"} <= declared
    assert exported == declared


def test_no_function_is_shared_between_cpu_levels():
    """The linker keeps one copy of a weak function: a CPU without its instructions could get it."""
    lines = output("nm", "--demangle", LIBRARY)
    if not lines:
        pytest.skip("the library is stripped, as in the wheels of make wheels")
    assert any("posenc_ext::cpu" in line for line in lines)  # not stripped: the next line means something
    assert [line for line in lines if re.search(r" [WVu] posenc_ext::core::", line)] == []

    kind = f"{sys.implementation.cache_tag}-{'cuda' if posenc_ext._build.WITH_CUDA else 'cpu'}"
    objects = ROOT / "build" / f"objects-torch{torch.__version__}-{kind}" / "csrc" / "cpu" / "kernels"
    if not objects.exists():
        pytest.skip("the library was not built in this checkout")
    levels = sorted(objects.glob("level_*.o"))
    assert len(levels) == 3
    weak = [line for level in levels for line in output("nm", level) if re.search(r" [WVu] ", line)]
    # Data, no code: the address of the C++ run-time's handler of exceptions.
    assert [line for line in weak if not line.endswith(" V DW.ref.__gxx_personality_v0")] == []


def test_kernels_know_no_torch():
    csrc = ROOT / "csrc"
    folders = [csrc / "core", csrc / "cpu" / "kernels", csrc / "cuda" / "kernels"]
    starts = [path for folder in folders for path in folder.iterdir()]
    assert {".h", ".cpp", ".cu", ".cuh"} <= {path.suffix for path in starts}
    read = set()
    for path in starts:
        with_included(path, read)
    pattern = re.compile(r'#include [<"](torch|ATen|c10|Python)[/.].*')
    assert {path.name: match[0] for path in read if (match := pattern.search(path.read_text()))} == {}


def test_version_stands_in_one_file():
    version = (ROOT / "version.txt").read_text().strip()
    assert posenc_ext.__version__ == version
    assert version in posenc_ext._C.build_info()
    pattern = re.compile(rf"(?<![\w.]){re.escape(version)}(?![\w.])")
    holders = [path for path in tracked_files() if pattern.search(path.read_text(errors="replace"))]
    names = {path.name for path in holders if path.parent.name != "results"}
    # Records of what was, or was measured, name the version that it was.
    assert names - {"CHANGELOG.md", "END_TO_END.md"} == {"version.txt"}


def test_no_path_of_a_machine_in_the_repository():
    pattern = re.compile(rf"/(root|home|Users|work)/\w|{re.escape(str(ROOT))}\b")
    texts = {path.name: path.read_text(errors="replace") for path in tracked_files()}
    assert {name: match[0] for name, text in texts.items() if (match := pattern.search(text))} == {}


def test_the_wheel_asks_for_the_torch_it_was_built_for():
    try:
        requirements = metadata.requires("posenc_ext")
    except metadata.PackageNotFoundError:
        pytest.skip("imported from a source folder, not installed by pip")
    minor = ".".join(torch.__version__.split(".")[:2])
    assert [each for each in requirements if "extra ==" not in each] == [f"torch=={minor}.*"]


def test_the_version_of_a_wheel_names_its_torch():
    try:
        version = metadata.version("posenc_ext")
    except metadata.PackageNotFoundError:
        pytest.skip("imported from a source folder, not installed by pip")
    minor = ".".join(torch.__version__.split(".")[:2])
    kind = f"cu{torch.version.cuda.replace('.', '')}" if posenc_ext._build.WITH_CUDA else "cpu"
    assert version == f"{posenc_ext.__version__}+torch{minor}.{kind}"


def test_workflows_use_actions_by_commit_and_the_supported_versions_of_torch():
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    texts = {path.name: path.read_text() for path in workflows}
    assert texts.keys() == {"ci.yml", "wheels.yml"}
    for name, text in texts.items():
        used = re.findall(r"uses: (.*)", text)
        assert used, name
        assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", line)] == []
    config = (ROOT / "cmake" / "build_config.cmake").read_text()
    supported = re.search(r"POSENC_TORCH_VERSIONS ([\d. ]+)\)", config)[1].split()
    matrix = re.search(r"torch: \[(.*)\]", texts["ci.yml"])[1]
    assert re.findall(r"[\d.]+", matrix) == supported
    cpu, *cuda = (
        line.split() for line in re.findall(r"^ +torch: ([\d. \"]+)$", texts["wheels.yml"], re.MULTILINE)
    )
    assert cpu == supported
    assert [version.strip('"') for line in cuda for version in line] == supported
