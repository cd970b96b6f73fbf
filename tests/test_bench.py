"""The benchmarks' own logic: what is compared, checked and reported. No test looks at a time."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import posenc_ext

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.append(str(BENCH))

import attention  # noqa: E402
import cases  # noqa: E402
import memory  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402

# The forms of every case, at sizes that take no time.
SMALL = {
    "table": partial(cases.table, 20, 16),
    "timesteps": partial(cases.timesteps, 9, 8),
    "add": partial(cases.add, 4, 3, 16, 0.0),
    "ViT": None,
    "window": partial(cases.window, 3, 2, 3),
    "expand": partial(cases.window, 3, 2, 6),
    "T5 2048": partial(cases.t5, 24, 24, 2),
    "T5 decode": partial(cases.t5, 1, 24, 2),
    "any index": partial(cases.gather, 2, 9, 3),
    "ALiBi": partial(cases.alibi, 9, 3),
    "call": None,
}


def tiny(name: str, second=lambda x: 2 * x, **changes) -> cases.Case:
    """Two contenders that double four numbers."""
    forms = {"eager": lambda x: x + x, "best eager": lambda x: x + x, "posenc_ext": second}
    made = {"title": name, "direction": "forward", "limit": "copy"}
    return cases.Case(**made, make=lambda dtype, device: (forms, [torch.ones(4, dtype=dtype)]), **changes)


def small(case: cases.Case) -> cases.Case:
    (make,) = (make for title, make in SMALL.items() if case.title.startswith(title))
    if case.title.startswith("ViT"):
        make = partial(cases.vit, 2, case.make.args[1])
    if case.dropout_p:  # shares of dropped elements are compared
        make = partial(cases.add, 64, 8, 64, case.dropout_p)
    return replace(case, make=make or case.make)


def test_contenders_of_every_case_agree():
    for case in map(small, cases.everything()):
        made, nbytes = cases.contenders(case)
        assert nbytes > 0, case.name
        assert {"eager", "posenc_ext"} <= set(made), case.name
        for name, contender in made.items():
            error = cases.disagreement(case, made["eager"](), contender())
            assert error <= case.tolerance, f"{case.name}, {name}: {error}"


def test_contenders_of_attention_agree():
    """Each in its own memory: those that write in place are compared at their first call."""
    sources = {
        "Swin": partial(attention.Window, 3, 2, 4, 2, 0, True),
        "BEiT": partial(attention.Window, 3, 2, 1, 2, 1, False),
        "T5": partial(attention.Diagonals, 2, 12, 3),
    }
    for case in attention.everything():
        if case.make.func is attention.t5_layers:
            make = partial(attention.t5_layers, 2, 12, 3)
        else:
            kind, differentiable = case.title.split()[1], case.make.args[1]
            make = partial(case.make.func, sources[kind], differentiable)
        made, _ = cases.contenders(replace(case, make=make))
        expected = made["eager"]()
        for name, contender in made.items():
            error = cases.disagreement(case, expected, contender())
            assert error <= case.tolerance, f"{case.name}, {name}: {error}"


@pytest.mark.parametrize(
    "second",
    [lambda x: 2.5 * x, lambda x: x * float("nan"), lambda x: 2 * x[:3], lambda x: (2 * x).double()],
    ids=["value", "NaN", "shape", "dtype"],
)
def test_contenders_that_disagree_are_not_timed(second):
    with pytest.raises(SystemExit, match="double, forward, float32: posenc_ext differs by"):
        run.measure(tiny("double", second), [1], 0.0, "cpu", False)


def test_dropout_is_compared_where_both_retain_an_element():
    torch.manual_seed(0)
    case, x = tiny("drop", dropout_p=0.1), torch.rand(100_000) + 0.5
    once, again = (torch.dropout(x, 0.1, True) for _ in range(2))
    assert not torch.equal(once, again)
    assert cases.disagreement(case, once, again) < 1e-6
    assert cases.disagreement(case, once, 1.01 * again) == pytest.approx(0.01, rel=1e-3)
    assert cases.disagreement(case, once, torch.dropout(x, 0.2, True)) == float("inf")


def test_limits_move_the_bytes_they_say():
    c = memory.library()
    if c is None:
        pytest.skip("memory.cpp does not compile here")
    source, target = torch.arange(1 << 18, dtype=torch.int32), torch.ones(1 << 18, dtype=torch.int32)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        c.nt_copy(target.data_ptr(), source.data_ptr(), source.nbytes)
        assert torch.equal(target, source)
        before = c.read_all(source.data_ptr(), source.nbytes)
        source[-16] ^= 1 << 20
        assert c.read_all(source.data_ptr(), source.nbytes) != before
        source[-16] ^= 1 << 20
        c.nt_fill(target.data_ptr(), target.nbytes)
        assert (target.view(torch.float32) == 1).all()


def test_check_fails_on_a_slow_row_and_names_it(monkeypatch, capsys):
    def slow(x):
        time.sleep(1e-3)
        return 2 * x

    arguments = ["--check", "--seconds", "0", "--threads", "1", "--regime", "D"]
    for second, status in ((slow, 1), (torch.neg, 0)):
        forms = [tiny("as fast"), tiny("slow", second, tolerance=2.0)]
        monkeypatch.setattr(run, "everything", lambda forms=forms: forms)
        monkeypatch.setattr(report, "BOUNDS", (("^slow", "best eager", 0.1),))
        assert run.main(arguments) == status
        assert ("BROKEN: slow, forward, float32, 1 threads: 0.0" in capsys.readouterr().out) == bool(status)


def test_every_bound_is_of_a_case():
    seconds = {"posenc_ext": 1.0, "eager": 0.0, "best eager": 0.0, "limit": 0.0}
    found = [{"case": case.name, "threads": 1, "seconds": seconds} for case in cases.everything()]
    for bound in report.BOUNDS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "BOUNDS", (bound,))
            assert report.broken(found), bound


def test_another_checkout_is_timed_by_a_child(tmp_path):
    (case,) = (case for case in cases.everything() if case.name == "call of 64 elements, forward, float32")
    root = Path(posenc_ext.__file__).resolve().parents[1]
    children = {"posenc_ext": run.Child(root), "other": run.Child(root)}
    (found,) = run.against(case, [1], 0.0, children)
    for child in children.values():
        child.close()
    assert 0.1 < report.ratio(found, "other") < 10
    with pytest.raises(SystemExit, match="not built"):
        run.Child(tmp_path)


def test_page_has_the_block_of_the_summary():
    record = json.loads(report.SUMMARY.read_text())
    head, block, _ = report.markdown_block.parts(report.PAGE, report.COMMAND)
    assert head.startswith("# Performance")
    assert block == report.page_block(record)
    assert block.count("\n| ") == 1 + sum(case.in_table for case in cases.everything())


def test_a_run_writes_the_files_that_the_page_shows(tmp_path):
    """In its regime, in a process of its own; only the block of the page changes."""
    pytest.importorskip("matplotlib", reason="the plots need matplotlib (requirements/bench.txt)")
    output = tmp_path / "run.json"
    command = [sys.executable, BENCH / "run.py", "--only", "^(call|window 7x7)", "--seconds", "0"]
    subprocess.run([*command, "--threads", "1", "--json", output], check=True, capture_output=True)
    record = json.loads(output.read_text())
    assert "regime R" in record["setting"]
    page = tmp_path / "performance.md"
    page.write_text(f"head\n<!-- begin: {report.COMMAND} -->\nold\n<!-- end -->\ntail\n")
    run.write(record, page, tmp_path / "summary.json")
    text = page.read_text()
    assert text.startswith("head\n")
    assert text.endswith("tail\n")
    assert "| window 7x7, 12 heads, backward |" in text
    assert json.loads((tmp_path / "summary.json").read_text()) == record
    for picture in ("ratios.svg", "errors.svg"):
        assert f"(../bench/results/{picture})" in text
        assert "<svg" in (tmp_path / picture).read_text()
