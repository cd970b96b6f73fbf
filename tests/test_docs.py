"""The pages for maintainers name only files, tests, make targets and identifiers that exist."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PATH = r"(?:\.ci|bench|cmake|csrc|docs|examples|posenc_ext|requirements|tests|tools)/(?:[\w./*-]|<\w+>)*"
# What other projects define, and names that stand for any op.
FOREIGN = (
    *("at::parallel_for", "at::randint", "at::vec", "autograd::Function", "torch::autograd::Function"),
    *("torch::autograd::Node", "DispatchStub", "HWY_DYNAMIC_DISPATCH", "MulAdd", "STABLE_TORCH_LIBRARY"),
    *("THP_MEM_ALLOC_ENABLE", "CUDA_LAUNCH_BLOCKING", "TORCH_LOGS", "perf", "k_sin.c", "k_cos.c", "fl32(x)"),
    *("__builtin_convertvector", "_x_backward", "_A_backward", "POSENC_", "Unreleased"),
)


@cache
def sources() -> dict[str, str]:
    """The text of every file but the pages, tracked or about to be."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    command = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    paths = [ROOT / name for name in names if not name.endswith((".md", ".json", ".svg", "test_docs.py"))]
    return {str(path.relative_to(ROOT)): path.read_text(errors="replace") for path in paths if path.exists()}


@cache
def words() -> frozenset[str]:
    return frozenset(re.findall(r"[A-Za-z_]\w*", "\n".join(sources().values())))


def is_file(name: str) -> bool:
    """Whether there is such a path; * and <placeholder> stand for any name."""
    return any(ROOT.glob(re.sub(r"<\w+>", "*", name).rstrip("./")))


def is_target(name: str) -> bool:
    return (
        re.search(rf"^{re.sub(r'-[0-9.]+$', '-%', name)}:", sources()["Makefile"], re.MULTILINE) is not None
    )


def missing(page: Path) -> list[str]:
    """What a page names that is not there."""
    text = page.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose) if "://" not in target]
    found = [f"link {target}" for target in links if not (page.parent / target).exists()]
    for name, test in re.findall(rf"(?<![\w/.])({PATH})(?:::(\w+))?", text):
        if not is_file(name):
            found.append(f"file {name}")
        elif test and f"def {test}(" not in sources()[name]:
            found.append(f"test {name}::{test}")
    for span in re.findall(r"`([^`\n]+)`", prose):
        target = re.match(r"make ([a-z][\w.-]*)", span)
        if target and not is_target(target[1]):
            found.append(f"make target {target[1]}")
        named = re.fullmatch(r"((?:\w+(?:::|\.))*\w+)(?:\(.*\)|=.*)?", span)
        if named and not {span, named[1]} & set(FOREIGN) and not span.startswith("torch."):
            last = re.split(r"::|\.", named[1])[-1]
            if re.match(r"[A-Za-z_]", last) and last not in words() and not is_file(span):
                found.append(f"name {span}")
    return sorted(set(found))


def test_pages_name_only_what_exists():
    assert {page.name: found for page in PAGES if (found := missing(page))} == {}


def test_what_does_not_exist_is_found(tmp_path):
    page = tmp_path / "page.md"
    there = ["csrc/library.cpp", "csrc/ops/<family>.cpp", "window_bias", "WindowScheme", "make test"]
    absent = ["csrc/no_such_file.h", "tests/conftest.py::test_no_such", "no_such_name()", "make no-such"]
    page.write_text("[link](no_such_page.md)\n" + "\n".join(f"`{span}`" for span in there + absent))
    assert missing(page) == [
        "file csrc/no_such_file.h",
        "link no_such_page.md",
        "make target no-such",
        "name no_such_name()",
        "test tests/conftest.py::test_no_such",
    ]
