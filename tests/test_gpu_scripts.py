"""bench/gpu_test.py and gpu_bench.py, which wait for a GPU: their own logic, on CPU tensors."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

import posenc_ext

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import gpu_bench
import gpu_day
import gpu_test

NEED_CUDA = {"streams", "devices", "graphs", "sanitizers", "suite"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", [gpu_test, gpu_bench])
def test_without_a_gpu_one_line_says_so(script, capsys):
    assert script.main([]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "nothing was run" in said


def test_dry_run_makes_every_check_that_needs_no_gpu(capsys):
    assert gpu_test.main(["--device", "cpu"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:-1]]
    verdicts = {name: verdict.partition(",")[0].partition(":")[0] for name, verdict in lines}
    expected = {name: "not run" if name in NEED_CUDA else "passed" for name in gpu_test.CHECKS}
    assert verdicts == expected


def test_wrong_values_are_named(monkeypatch, capsys):
    (op,) = (op for op in gpu_test.OPS if op.name == "alibi_bias")
    monkeypatch.setattr(gpu_test, "OPS", [op])
    monkeypatch.setattr(
        type(op), "__call__", lambda self, sample, **replaced: op.reference(**sample.inputs) * 2
    )
    assert gpu_test.main(["--device", "cpu", "--only", "values"]) == 1
    assert "alibi_bias float32 cross" in capsys.readouterr().out


def test_results_that_change_are_named(monkeypatch, capsys):
    calls = iter(range(10**6))
    (op,) = (op for op in gpu_test.OPS if op.name == "alibi_bias")
    monkeypatch.setattr(gpu_test, "OPS", [op])
    monkeypatch.setattr(
        type(op), "__call__", lambda self, sample, **replaced: torch.full((3,), float(next(calls)))
    )
    assert gpu_test.main(["--device", "cpu", "--only", "repeatability"]) == 1
    assert "other bits" in capsys.readouterr().out


def test_masks_that_do_not_follow_the_seed_are_named(monkeypatch, capsys):
    """One that is drawn elsewhere, and one that is always the same."""
    generator = torch.Generator().manual_seed(1)
    for name, mask in {
        "another mask": lambda x: (torch.rand(x.shape, generator=generator) < 0.5).float(),
        "the same mask": lambda x: (torch.arange(x.numel()) % 2).float().view(x.shape),
    }.items():
        monkeypatch.setattr(posenc_ext, "add_sinusoidal", lambda x, mask=mask, **options: x * mask(x))
        assert gpu_test.main(["--device", "cpu", "--only", "masks"]) == 1
        assert f"add_sinusoidal: {name}" in capsys.readouterr().out


def test_every_op_and_every_adjoint_is_timed():
    """In the benchmark, and so in the roofline page, which takes its cases."""
    schemas = (Path(__file__).parent / "schemas.txt").read_text()
    packets = set(re.findall(r"^posenc_ext::([a-z]\w*)", schemas, re.M))
    names = [case.name for case in gpu_bench.cases("cpu", torch.float32, small=True)]
    missing = {op for op in packets if not any(re.match(rf"{op}\b", name) for name in names)}
    assert missing == set()
    no_gradient = {"sinusoidal_table", "alibi_slopes"}
    backwards = {re.match(r"\w+", name)[0] for name in names if name.endswith("backward")}
    assert backwards == packets - no_gradient


def test_a_wrong_end_of_a_large_result_is_named(monkeypatch, capsys):
    right = posenc_ext.alibi_bias

    def wrong(slopes, q_len, k_len, q_offset=0):
        result = right(slopes, q_len, k_len, q_offset=q_offset)
        result[..., -1, -1] += float(q_len > 100)
        return result

    monkeypatch.setattr(posenc_ext, "alibi_bias", wrong)
    assert gpu_test.main(["--device", "cpu", "--only", "large"]) == 1
    said = capsys.readouterr().out
    assert "alibi_bias: the end of" in said
    assert "t5_bias" not in said


def test_benchmark_runs_every_case(tmp_path, capsys):
    out = tmp_path / "cpu.json"
    assert gpu_bench.main(["--device", "cpu", "--repeats", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert "dry run" in found["device"]
    for result in found["results"]:
        dtype = getattr(torch, result["dtype"])
        cases = gpu_bench.cases("cpu", dtype, small=True)
        rows = {(row["case"], row["contender"]): row for row in result["rows"]}
        assert len(rows) == len(result["rows"])
        for case in cases:
            assert {(case.name, "eager"), (case.name, "posenc_ext")} <= set(rows)
            assert ((case.name, "flex_attention lookup") in rows) == (case.flex is not None)
            row = rows[case.name, "posenc_ext"]
            assert row["gb_per_s"] == pytest.approx(case.moved * 1e-9 / (row["us"] * 1e-6))
            assert row["of_copy"] == pytest.approx(row["gb_per_s"] / result["copy_gb_per_s"])


def test_contenders_compute_the_same():
    """What is timed against each other gives the same values, to the accuracy of the eager form."""
    for case in gpu_bench.cases("cpu", torch.float32, small=True):
        if "dropout" in case.name:
            continue
        eager, ours = case.eager(), case.ours()
        for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (eager, ours))):
            torch.testing.assert_close(
                a, b, rtol=1e-4, atol=1e-4, msg=lambda text, case=case: f"{case.name}: {text}"
            )
        if case.flex:
            lookup, attend = case.flex
            torch.testing.assert_close(lookup(), attend(case.ours)(), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_day_without_a_gpu_is_no_success(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    assert gpu_day.main([]) == 1
    assert "no GPU" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_is_cut_leaves_what_it_found_and_the_next_one_runs(monkeypatch, tmp_path):
    slow, quick = tmp_path / "slow.py", tmp_path / "quick.py"
    slow.write_text("import time\nprint('found', flush=True)\ntime.sleep(100)\nprint('too late')")
    quick.write_text("import sys\nprint(*sys.argv[1:])\nsys.exit(3)")
    monkeypatch.setattr(gpu_day, "copy_sources", lambda: None)
    steps = [
        ("test", 2, [str(slow)]),
        ("bench", 50, [str(quick), "--out", "{out}"]),
        ("test", 50, [str(slow)]),
    ]
    monkeypatch.setattr(gpu_day, "STEPS", steps)
    out = tmp_path / "out"
    monkeypatch.setenv("OUT", str(out))
    assert gpu_day.main(["--device", "cpu", "--seconds", "6"]) == 1
    assert (out / "test.txt").read_text() == "found\nfound\n"
    assert (out / "bench.txt").read_text() == f"--out {out} --device cpu\n"
    said = (out / "summary.txt").read_text().splitlines()[1:]
    assert [line.split(": ")[1].partition(",")[0] for line in said[:2]] == ["cut after 2 s", "FAILED"]
    assert "exit 3" in said[1]
    assert "cut after" in said[2]
