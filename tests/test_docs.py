"""The pages name only files, tests, make targets and identifiers that exist; their examples run."""

import doctest
import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch.utils.cpp_extension import include_paths

import posenc_ext

ROOT = Path(__file__).resolve().parents[1]
SITE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [ROOT / "CONTRIBUTING.md", *SITE, *sorted((ROOT / "docs").rglob("*.mmd"))]
PATH = r"(?:\.ci|bench|cmake|csrc|docs|examples|posenc_ext|requirements|tests|tools)/(?:[\w./*-]|<\w+>)*"
# What other projects define, and names that stand for any op.
FOREIGN = (
    *("at::parallel_for", "at::randint", "at::vec", "autograd::Function", "torch::autograd::Function"),
    *("torch::autograd::Node", "DispatchStub", "HWY_DYNAMIC_DISPATCH", "MulAdd", "STABLE_TORCH_LIBRARY"),
    *("THP_MEM_ALLOC_ENABLE", "CUDA_LAUNCH_BLOCKING", "TORCH_LOGS", "perf", "k_sin.c", "k_cos.c", "fl32(x)"),
    *("__builtin_convertvector", "_x_backward", "_A_backward", "POSENC_", "Unreleased"),
    *("score_mod", "scatter_mode", "_validate_device", "attn_implementation"),
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


class Block(NamedTuple):
    """A fenced block of a page, and the comment above it that says how it is tested, or why it is not run."""

    line: int
    comment: str
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    fenced = re.finditer(
        r"^(?:[ ]*<!-- ([^\n]*) -->\n)?([ ]*)```([^\n]*)\n(.*?)^\2```$", text, re.MULTILINE | re.DOTALL
    )
    return [
        Block(text.count("\n", 0, found.start(3)) + 1, found[1] or "", found[3], found[4])
        for found in fenced
        if not found[3].startswith("{")  # a directive of the site
    ]


def unexplained(page: Path) -> list[str]:
    """The blocks of which nobody knows whether they work."""
    found = []
    for line, comment, language, _ in blocks(page):
        if language == "text":
            continue  # output and formulas
        if language == "python" and re.fullmatch(r"(needs: [\w, ]+)?", comment):
            continue  # test_examples_of_the_pages runs it
        tests = re.findall(PATH, comment) if comment.startswith("tested: ") else []
        if not ((tests and all(map(is_file, tests))) or re.match(r"not run: \w", comment)):
            found.append(f"line {line}: {language or 'no language'} {comment}")
    return found


def test_every_block_is_run_or_says_why_not():
    assert {str(page.relative_to(ROOT)): found for page in SITE if (found := unexplained(page))} == {}


def test_a_block_that_is_not_run_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```text\n1\n```\n```python\n>>> 1\n1\n```\n<!-- needs: timm -->\n```python\n>>> 1\n```\n"
        "<!-- tested: tests/test_docs.py -->\n```cpp\n```\n<!-- not run: no network -->\n```sh\n```\n"
        "<!-- tested: tests/no_such.py -->\n```sh\n```\n<!-- needed -->\n```python\n```\n```\n1\n```\n"
    )
    assert unexplained(page) == [
        "line 19: sh tested: tests/no_such.py",
        "line 22: python needed",
        "line 24: no language ",
    ]


def run_examples(page: Path) -> doctest.TestResults:
    """In the order of the page, with the names of the blocks before."""
    runner, names = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), {"__name__": "__main__"}
    for line, comment, language, code in blocks(page):
        kind, _, needed = comment.partition(":")
        if language != "python" or kind in ("tested", "not run"):
            continue
        if not all(map(importlib.util.find_spec, re.findall(r"\w+", needed))):
            continue
        if ">>> " not in code:
            exec(compile(code, f"{page} from line {line}", "exec"), names)
            continue
        example = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line - 1)
        runner.run(example, clear_globs=False)
        names |= example.globs
    return runner.summarize(verbose=False)


def test_examples_of_the_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # they save files
    results = {str(page.relative_to(ROOT)): run_examples(page) for page in SITE}
    assert results["README.md"].attempted > 4
    assert [name for name, result in results.items() if result.failed] == []


def test_cpp_program_of_the_pages(tmp_path, monkeypatch):
    """Next to the module that the examples before it save."""
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "start.md"
    run_examples(page)
    [program] = [block.code for block in blocks(page) if block.language == "cpp"]
    Path("app.cpp").write_text(program)
    library, installed = Path(posenc_ext.__file__).parent, Path(torch.__file__).parent
    folders = [library, installed / "lib"]
    command = ["c++", "-std=c++20", "-O0", "app.cpp", "-o", "app", f"-I{ROOT / 'csrc'}"]
    command += [f"-I{folder}" for folder in include_paths()] + [f"-L{folder}" for folder in folders]
    command += [f"-Wl,-rpath,{folder}" for folder in folders]
    command += ["-Wl,--allow-shlib-undefined"]  # libraries of CUDA are elsewhere
    subprocess.run([*command, "-lposenc_ext", "-ltorch", "-ltorch_cpu", "-lc10"], check=True)
    assert subprocess.check_output(["./app"], text=True) == f"{posenc_ext.__version__}\n"


def test_every_public_name_is_in_the_reference():
    """Except for modules and __version__."""
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto(?:function|class):: (?:\w+\.)*(\w+)$", pages, re.MULTILINE))
    modules = {name for name in posenc_ext.__all__ if isinstance(getattr(posenc_ext, name), ModuleType)}
    assert {*posenc_ext.__all__, *posenc_ext.nn.__all__} - modules - {"__version__"} <= documented
