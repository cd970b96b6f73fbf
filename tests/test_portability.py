"""tools/portability.py, which compiles with clang++ and for aarch64: its own logic; nothing escapes it."""

import re
import sys

import native
import portability


def test_what_is_not_installed_is_said_and_is_no_success(monkeypatch, capsys):
    monkeypatch.setattr(portability, "CLANG", ["no-such-clang"])
    monkeypatch.setattr(portability, "CROSS", ["no-such-compiler"])
    for check, name in (("clang", "no-such-clang"), ("aarch64", "no-such-compiler")):
        monkeypatch.setattr(sys, "argv", ["portability.py", check])
        assert portability.main() == portability.NOT_RUN
        said = capsys.readouterr().out
        assert said.startswith(f"{check}-check: NOT RUN: no {name}")
        assert said.count("\n") == 1


def test_what_does_not_compile_is_named(tmp_path):
    for name, text in (("fine", "int main() {}"), ("warned", "int f(int x) {}")):
        (tmp_path / f"{name}.cpp").write_text(text)
    files = [str(tmp_path / f"{name}.cpp") for name in ("fine", "warned")]
    (fault,) = portability.faults_of_syntax(native.CXX, files, [])
    assert fault.startswith(files[1])
    assert "[-Werror=" in fault


def test_other_bits_and_lost_results_are_named():
    right = ["alibi float32 0a", "gather float16 0b"]
    assert portability.differences("here", right, list(right)) == []
    assert portability.differences("here", right, [right[0], "gather float16 0c"]) == [
        "here: gather float16 0c, not 0b"
    ]
    assert portability.differences("here", right, right[:1]) == ["here: 1 results, not 2"]


def test_every_cpu_kernel_is_among_those_compared():
    table = (
        (native.ROOT / "csrc/cpu/kernels/kernels.h").read_text().split("struct Kernels {")[1].split("};")[0]
    )
    table = re.sub(r"//.*", "", table)
    declared = {first or second for first, second in re.findall(r"\(\*(\w+)\)|(\w+);", table)}
    program = (native.ROOT / "tests/cpp/cpu_kernels.cpp").read_text()
    assert {"alibi_forward", "bias"} <= declared
    assert declared == set(re.findall(r"kernels\(\)\.(\w+)", program))


def test_threads_are_asked_for_in_one_place():
    """at::parallel_for is OpenMP's by a pragma, which a build without -fopenmp ignores: one thread."""
    for path in (native.ROOT / "csrc").rglob("*.*"):
        text = re.sub(r"//.*", "", path.read_text())
        assert "at::parallel_for" not in text, (
            f"{path}: use parallel_for or parallel_ranges of cpu/parallel.h"
        )
