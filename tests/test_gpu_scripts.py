"""bench/gpu_test.py, gpu_day.py and run.py --device cuda, which need a GPU: their own logic, on the CPU."""

import re
import sys
from pathlib import Path

import pytest
import torch

import posenc_ext

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
import gpu_day
import gpu_test
import roofline
import run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("main", [gpu_test.main, lambda _: run.main(["--device", "cuda"])])
def test_without_a_gpu_one_line_says_so(main, capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "nothing was run" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_day_without_a_gpu_is_no_success(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    assert gpu_day.main([]) == 1
    assert "no GPU" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_day_on_the_cpu_runs_every_step(monkeypatch, tmp_path):
    """With the posenc_ext under test; the build is setup.py's."""
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(posenc_ext.__file__).resolve().parents[1]))
    summary = tmp_path / "summary.txt"
    assert gpu_day.main(["--device", "cpu", "--no-build"]) == 0, summary.read_text()
    lines = summary.read_text().splitlines()[1:]
    assert len(lines) == len(gpu_day.DRY_STEPS) - 1
    assert all(": done" in line for line in lines)
    said = (tmp_path / "test.txt").read_text()
    assert re.search(r"few_values +passed", said)
    assert re.search(r"graphs +not run", said)
    assert (tmp_path / "bench.json").exists()


def test_a_step_that_is_cut_leaves_what_it_found_and_the_next_one_runs(monkeypatch, tmp_path):
    slow, quick = tmp_path / "slow.py", tmp_path / "quick.py"
    slow.write_text("import time\nprint('found', flush=True)\ntime.sleep(100)\nprint('too late')")
    quick.write_text("import sys\nprint(*sys.argv[1:])\nsys.exit(3)")
    steps = [("build", 0, ""), ("test", 2, f"python {slow}"), ("bench", 50, f"python {quick} {{out}}")]
    monkeypatch.setattr(gpu_day, "DRY_STEPS", steps)
    out = tmp_path / "out"
    monkeypatch.setenv("OUT", str(out))
    assert gpu_day.main(["--device", "cpu", "--no-build"]) == 1
    assert (out / "test.txt").read_text() == "found\n"
    assert (out / "bench.txt").read_text() == f"{out}\n"
    said = (out / "summary.txt").read_text().splitlines()[1:]
    assert "cut after 2 s" in said[0]
    assert "FAILED, exit 3" in said[1]


def test_planted_faults_are_named(monkeypatch, capsys):
    """Wrong values, bits that change, a mask that ignores the seed, one that never changes, a wrong end."""
    (alibi,) = (op for op in gpu_test.OPS if op.name == "alibi_bias")
    calls, generator = iter(range(10**6)), torch.Generator().manual_seed(1)
    right = posenc_ext.alibi_bias

    def wrong_end(slopes, q_len, k_len, q_offset=0):
        result = right(slopes, q_len, k_len, q_offset=q_offset)
        result[..., -1, -1] += float(q_len > 100)
        return result

    def drop(mask):
        return lambda x, **options: x * mask(x).float()

    def fails(check: str, words: str, target, name: str, fault) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(target, name, fault)
            assert gpu_test.main(["--device", "cpu", "--only", check]) == 1
        assert words in capsys.readouterr().out

    random = drop(lambda x: torch.rand(x.shape, generator=generator) < 0.5)
    same = drop(lambda x: (torch.arange(x.numel()) % 2).view(x.shape))
    fails("masks", "add_sinusoidal: another mask", posenc_ext, "add_sinusoidal", random)
    fails("masks", "add_sinusoidal: the same mask", posenc_ext, "add_sinusoidal", same)
    fails("large", "alibi_bias: the end of", posenc_ext, "alibi_bias", wrong_end)
    monkeypatch.setattr(gpu_test, "OPS", [alibi])
    doubled = lambda self, sample, **replaced: self.reference(**sample.inputs) * 2  # noqa: E731
    fails("few_values", "alibi_bias float32", type(alibi), "__call__", doubled)
    counted = lambda self, sample, **replaced: torch.full((3,), float(next(calls)))  # noqa: E731
    fails("repeatability", "other bits", type(alibi), "__call__", counted)


def test_the_prediction_counts_launches_and_bytes():
    """Of the eager window: a gather, and a copy into another order."""
    row = roofline.markdown("window 7x7, 12 heads, forward").splitlines()[2]
    assert row.startswith("| window 7x7, 12 heads, forward | 2 | 0.5 | 4 | 1 | 0.1 | 2 |")
