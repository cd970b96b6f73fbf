"""The benchmarks' own logic: what is compared, recorded and reported. No test looks at a time."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import posenc_ext

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.append(str(BENCH))

import case as bench_case  # noqa: E402
import cases  # noqa: E402
import choices  # noqa: E402
import limits  # noqa: E402
import measures  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import settings  # noqa: E402
import targets  # noqa: E402
import timing  # noqa: E402
import where  # noqa: E402

EFFORT = timing.Effort(seconds=0.0, min_rounds=3, max_rounds=3, block=1e-6)
ALL = {case.name: case for case in cases.everything()}
TINY = "call overhead, add_position_embedding, 64 elements, no grad, float32"


def fake(second=lambda x: 2 * x, **changes) -> bench_case.Case:
    """Two contenders that double four numbers, one that is not here."""
    x = torch.ones(4)

    def build(dtype):
        first = bench_case.bind(lambda x: x + x, [x.to(dtype)])
        return {"eager": first, "posenc_ext": lambda: second(x.to(dtype)), "posenc_ext out=": "no double.out"}

    options = {"title": "double", "direction": "forward", "dtype": torch.float32, "family": "double"}
    moved = {"reads": 16384, "writes": 16384, "limit": "copy"}
    return bench_case.Case(**{**options, **moved, "build": build, **changes})


def record(results, **changes) -> dict:
    """A JSON record with these results."""
    facts = {"schema": 1, "date": "2026-01-02 03:04 UTC", "cpu": "a CPU", "cores": 2, "caches": {"L1": 32768}}
    facts |= {
        "torch": "2.13.0",
        "posenc_ext": "1.2.3",
        "cpu_level": "avx512",
        "regime": "R",
        "threads": [1, 2],
    }
    facts |= {"command": "python bench/run.py", "accuracy": None, "seconds": 1, "results": results}
    return {**facts, **changes}


def result(case: str, threads: int, seconds: dict[str, float], **changes) -> dict:
    title, direction, dtype = case.rsplit(", ", 2)
    named = {"case": case, "title": title, "direction": direction, "dtype": dtype, "threads": threads}
    moved = {"family": "double", "reads": 0, "writes": 1 << 23, "limit": "fill"}
    times = {name: {"median": t, "q1": t, "q3": t, "rounds": 3} for name, t in seconds.items()}
    return {**named, **moved, "tolerance": 0.0, "skipped": {}, "seconds": times, **changes}


# ---- the runner


def test_contenders_are_timed_and_those_that_are_missing_are_named():
    results = run.Runner(EFFORT, [1, 2]).run(fake())
    assert [r["threads"] for r in results] == [1, 2]
    for found in results:
        assert list(found["seconds"]) == ["eager", "posenc_ext", *limits.KINDS["copy"]]
        assert found["skipped"] == {"posenc_ext out=": "no double.out"}
        for each in found["seconds"].values():
            assert 0 < each["q1"] <= each["median"] <= each["q3"]
            assert each["rounds"] == 3
        assert found["errors"] == {"eager": 0.0, "posenc_ext": 0.0}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda x: 2.5 * x, "double, forward, float32: posenc_ext is off by 0.25, allowed is 0"),
        (lambda x: x * float("nan"), "posenc_ext is off by nan"),
        (lambda x: 2 * x[:3], r"posenc_ext computes something else: \[3\] torch.float32 in place of \[4\]"),
        (lambda x: (2 * x).double(), "computes something else: .*float64 in place of"),
    ],
)
def test_contenders_that_disagree_are_not_timed(second, message):
    with pytest.raises(SystemExit, match=message):
        run.Runner(EFFORT, [1]).run(fake(second))


def test_sums_too_coarse_to_compare_are_compared_in_another_dtype():
    def coarse(x):
        return 2 * x if x.dtype == torch.float32 else 3 * x

    half = {"dtype": torch.bfloat16, "limit": None}
    with pytest.raises(SystemExit, match=r"is off by 0\.5"):
        run.Runner(EFFORT, [1]).run(fake(coarse, **half))
    run.Runner(EFFORT, [1]).run(fake(coarse, **half, check_dtype=torch.float32))


def test_dropout_is_compared_where_both_keep_an_element():
    torch.manual_seed(0)
    case, x = fake(dropout_p=0.1), torch.rand(100_000) + 0.5
    once, again = (torch.dropout(x, 0.1, True) for _ in range(2))
    assert not torch.equal(once, again)
    assert bench_case.disagreement(case, once, again) < 1e-6
    assert bench_case.disagreement(case, once, 1.01 * again) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ValueError, match=r"dropped in place of 0\.1"):
        bench_case.disagreement(case, once, torch.dropout(x, 0.2, True))


def test_rotating_buffers_exceed_the_last_cache_and_hold_the_same():
    large = bench_case.Rotating(lambda: torch.rand(1 << 20))
    assert sum(t.nbytes for t in large.tensors) > run.machine.last_cache()
    assert len({t.data_ptr() for t in large.tensors}) == len(large.tensors)
    assert all(torch.equal(large.tensors[0], t) for t in large.tensors)
    first = [large.next().data_ptr() for _ in large.tensors]
    assert first == [t.data_ptr() for t in large.tensors]
    assert len(bench_case.Rotating(lambda: torch.rand(100)).tensors) == 1


def test_all_that_write_as_much_write_to_the_same_memory():
    kept = bench_case.Results((2, 3), torch.float32), bench_case.Results([12], torch.float16)
    assert kept[0].next().data_ptr() == kept[1].next().data_ptr()
    assert bench_case.Results([4], torch.float32).next().data_ptr() != kept[0].next().data_ptr()
    del kept
    assert 24 not in bench_case.Results._memory


def test_gradients_of_every_direction_are_those_of_autograd():
    x, upstream = torch.rand(8), torch.rand(8)
    for direction in ("forward", "backward", "both"):
        made = bench_case.contenders(
            direction, {"eager": torch.square}, [x.clone()], lambda: upstream.clone()
        )
        for _ in range(2):  # the second time without a forward
            [got] = bench_case.tensors(made["eager"]())
            torch.testing.assert_close(got, x.square() if direction == "forward" else 2 * x * upstream)


def test_limits_move_the_bytes_they_say():
    library = limits.library()
    if isinstance(library, str):
        pytest.skip(library)
    source, target = torch.arange(1 << 18, dtype=torch.int32), torch.zeros(1 << 18, dtype=torch.int32)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        library.nt_copy(target.data_ptr(), source.data_ptr(), source.nbytes)
        assert torch.equal(target, source)
        filled = target.zero_().view(torch.float32)
        library.nt_fill(filled.data_ptr(), filled.nbytes)
        assert (filled == 1).all()
        # xor of each thread's part: a bit of one line shows in the sum
        before = library.read(source.data_ptr(), source.nbytes)
        source[-16] ^= 1 << 20
        assert library.read(source.data_ptr(), source.nbytes) != before
        source[-16] ^= 1 << 20


def test_the_least_of_a_backward_is_that_of_autograd():
    assert limits.autograd("forward") == {}
    [(name, contender)] = limits.autograd("backward").items()
    assert name == measures.AUTOGRAD
    for _ in range(2):
        assert contender()[0].item() == 1


def test_rotating_memory_is_passed_through_before_a_block():
    calls = []
    large = bench_case.Rotating(lambda: torch.zeros(1 << 20))
    contender = bench_case.bind(lambda x: calls.append(x.data_ptr()), [large])
    timing.local(contender, 1)(2)
    places = [tensor.data_ptr() for tensor in large.tensors]
    assert calls == [places[i % len(places)] for i in range(len(calls))]
    assert len(calls) >= len(places) + 2


def test_interleaved_takes_turns():
    calls = []
    blocks = {name: (lambda number, n=name: calls.append((n, number)) or 1e-4) for name in "ab"}
    effort = timing.Effort(seconds=0.0, min_rounds=3, max_rounds=9, block=1e-3)
    found = timing.interleaved(blocks, effort)
    assert calls == [("a", 1), ("b", 1), *[("a", 10), ("b", 10)] * 3]
    assert found["a"] == {"median": 1e-4, "q1": 1e-4, "q3": 1e-4, "rounds": 3}


def environment() -> dict[str, str]:
    """Child processes find the package under test, installed or not."""
    path = [str(Path(posenc_ext.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def test_a_tiny_real_run_end_to_end(tmp_path):
    """In its regime, with a second process under another CPU level, into a file that the report reads."""
    output = tmp_path / "out.json"
    command = [sys.executable, BENCH / "run.py", "--quick", "--only", f"^{TINY}$", "--threads", "1"]
    command += ["--against", "POSENC_CPU_ISA=baseline", "--output", output]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"1/1  {TINY}, 1 thr: torch.add" in done.stdout
    found = json.loads(output.read_text())
    assert set(found) == {*record([]), "system", "python", "build", "against"}
    assert found["schema"] == 1
    assert found["regime"] == "R"
    [measured] = found["results"]
    assert set(measured) == {*result(TINY, 1, {}), "errors", "forms"}
    assert list(measured["seconds"]) == ["torch.add", "posenc_ext", "posenc_ext op"]
    assert f"| {TINY} | 1 | torch.add |" in report.full_table(found)


def test_a_second_process_has_the_other_setting(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    child = settings.Child("POSENC_CPU_ISA=baseline")
    table = ALL["table 512x512, forward, float32"]
    blocks = child.blocks(table, ["eager", "posenc_ext"], 1)
    assert list(blocks) == ["posenc_ext [POSENC_CPU_ISA=baseline]"]
    assert blocks["posenc_ext [POSENC_CPU_ISA=baseline]"](2) > 0
    child.close()
    assert child.process.returncode == 0


def test_a_second_process_that_has_ended_is_an_error():
    child = settings.Child("NO_SUCH=1")
    child.process.kill()
    child.process.wait()
    with pytest.raises(RuntimeError, match="the process with NO_SUCH=1 has ended"):
        child.ask("anything")


def test_a_partial_run_does_not_replace_a_full_one():
    names = {
        words: run.default_output(run.options(words.split())).name for words in ("", "--quick", "--only x")
    }
    assert names == {"": "R.json", "--quick": "R-quick.json", "--only x": "partial.json"}
    assert run.default_output(run.options(["--regime", "D"])).name == "D.json"


# ---- the cases


def test_every_case_has_a_name_of_its_own():
    assert len(ALL) == len(cases.everything())
    assert 20 <= sum(case.quick for case in ALL.values()) <= 40


def test_every_case_says_what_it_moves():
    for case in ALL.values():
        moved = {"fill": case.writes, "read": case.reads, "copy": min(case.reads, case.writes)}
        assert case.limit is None or moved[case.limit] > 0, case.name


@pytest.mark.parametrize("family", cases.FAMILIES, ids=lambda family: family.__name__)
def test_contenders_of_the_smallest_case_of_each_direction_agree(family):
    """All cases are compared before they are timed; here the small ones, in both dtypes."""
    smallest = {}
    for case in family.cases():
        key = (case.direction, case.dtype, case.dropout_p)
        size = case.reads + case.writes
        if size < 4 << 20 and (key not in smallest or size < smallest[key].reads + smallest[key].writes):
            smallest[key] = case
    assert smallest
    runner = run.Runner(EFFORT, [1])
    for case in smallest.values():
        made, _ = runner.build(case, case.check_dtype or case.dtype)
        assert "posenc_ext" in made
        run.check(case, made)


def test_overloads_that_exist_take_part():
    made = ALL["table 512x512, forward, float32"].build(torch.float32)
    assert callable(made["posenc_ext out="])
    made = bench_case.into("sinusoidal_table", None, [], (2, 2), torch.float32, overload="no_such")
    assert made == {"posenc_ext out=": "no sinusoidal_table.no_such"}


# ---- targets and reports


def test_every_target_is_of_a_case():
    for target in targets.TARGETS:
        assert target.case in ALL
        assert target.work in targets.WORK
    assert {t.work for t in targets.TARGETS} | {
        "call overhead",
        "exactness",
        "never slower",
        "AVX2",
    } == set(targets.WORK)


def test_the_command_of_each_target_measures_its_case():
    special = [v.target for v in targets.verdicts(record([])) if v.target.case]
    for target in [*targets.TARGETS, *special]:
        assert target.case in ALL
        assert re.search(targets.WORK[target.work], target.case), target


def test_every_row_of_the_readme_is_a_case():
    for title, direction in report.ROWS:
        assert f"{title}, {direction}, float32" in ALL


def test_verdicts():
    """Met, missed by how much, or not measured."""
    name = "table 512x512, forward, float32"
    times = {"eager": 21e-6, "posenc_ext": 2e-6}
    slow = {"eager": 16e-6, "posenc_ext": 2e-6}
    found = record([result(name, 1, times), result(name, 2, slow)])
    verdicts = {v.threads: v for v in targets.verdicts(found) if v.target.case == name}
    assert [v.met for v in verdicts.values()] == [True, False]
    assert verdicts["1"].measured == pytest.approx(10.5)
    table = report.target_table(found)
    assert f"| {name} | 1 | times faster than eager | >= 10x | 10x |  | met |" in table
    assert f"| {name} | all | times faster than eager | >= 10x | 8x |  | **missed by 20%** |" in table
    assert "| not measured |  | – |" in table


def test_a_verdict_says_what_no_kernel_can_undercut():
    name = "window 7x7, 3 heads, backward, float32"
    times = {"eager": 20e-6, "posenc_ext": 8e-6, "read": 1e-6, "autograd alone": 5e-6}
    memory, both = ({k: t for k, t in times.items() if k != gone} for gone in ("autograd alone", "none"))
    found = record([result(name, 1, memory, limit="read"), result(name, 2, both, limit="read")])
    most = {v.threads: v.at_limit for v in targets.verdicts(found) if v.target.case == name}
    assert most == pytest.approx({"1": 20.0, "all": 4.0})
    assert f"| {name} | all | times faster than eager | >= 3.5x | 2.5x | 4x |" in report.target_table(found)


def test_bounds_of_all_cases_are_told_by_what_misses_them():
    times = {"a": 1.5, "b": 1.2, "c": 0.9, "d": 1.1}
    results = [
        result(f"{name}, forward, float32", 1, {"best eager": t, "posenc_ext": 1.0})
        for name, t in times.items()
    ]
    rows = [line for line in report.target_table(record(results)).splitlines() if "than best eager" in line]
    assert [row for row in rows if "not measured" not in row] == [
        "| c, forward, float32 | 1 | times faster than best eager | >= 1x | 0.9x |  | **missed by 10%** |",
        "| d, forward, float32 | 1 | times faster than best eager | >= 1x | 1.1x |  | met, as by 2 others |",
    ]


def test_verdicts_of_several_results():
    overhead = "call overhead, add_position_embedding, 64 elements, {}, float32"
    modes = {"no grad": (1.0, 2.0), "grad forward": (1.5, 2.75), "forward+backward": (20.0, 19.0)}
    results = [
        result(overhead.format(m), 1, {"torch.add": a * 1e-6, "posenc_ext op": b * 1e-6}, limit=None)
        for m, (a, b) in modes.items()
    ]
    both = {f"posenc_ext [POSENC_CPU_ISA={level}]": t for level, t in (("avx512", 8e-6), ("avx2", 1e-5))}
    both |= {"posenc_ext": 8e-6, "fill": 6e-6, "nt fill": 4e-6}
    results.append(result("double, forward, float32", 1, both))
    accuracy = {"samples": 1000, "table_misrounded": 1, "table_largest_ulp": 0.5005}
    found = record(results, accuracy=accuracy)
    special = [v for v in targets.verdicts(found) if v.measured is not None]
    assert [v.measured for v in special] == pytest.approx([2.0, 0.75, 0.95, 0.999, 0.5005, 0.8])
    assert [v.met for v in special] == [True, False, True, False, True, False]
    assert measures.share_of_limit(results[-1], "posenc_ext out=", "posenc_ext") == pytest.approx(0.5)
    assert report.amount(0.999, "%") == "100%"
    assert report.amount(0.99999, "%") == "99.99900%"


def small_record() -> dict:
    """Three cases and the errors at a few positions."""
    results = []
    for threads in (1, 2):
        for name in ("window 7x7, 12 heads", "window 32x32, 16 heads"):
            times = {"eager": 9e-3, "best eager": 3e-3, "posenc_ext": 1e-3, "fill": 9e-4, "nt fill": 8e-4}
            each = result(f"{name}, forward, float32", threads, times, family="window, forward")
            results.append(each)
    curves = {"positions": [1, 1024], "errors": {"plain": [6e-8, 6e-5], "posenc_ext": [3e-8, 3e-8]}}
    rounding = {"samples": 10, "misrounded": 0, "table_misrounded": 0, "table_largest_ulp": 0.5}
    return record(results, accuracy={**curves, **rounding})


def test_report_tables():
    table = report.short_table(small_record())
    row = "| window 7x7, 12 heads, forward | 1 ms / 1 ms | 9x / 9x | 3x / 3x | 80% / 80% |"
    assert row in table.splitlines()
    assert report.setting(small_record()).startswith(
        "a CPU, 2 cores (L1 32 KiB), CPU level avx512; torch 2.13.0"
    )
    assert [report.time(t) for t in (None, 1.5e-6, 2e-3, 1.2)] == ["–", "1.5 us", "2 ms", "1200 ms"]


def test_shares_of_a_profile():
    text = """# Overhead  Shared Object  Symbol
    39.59%  libposenc_ext.so  [.] posenc_ext::cpu::(anonymous namespace)::sum<float>  -      -
     2.79%  libpython3.so     [.] _PyEval
"""
    expected = [(39.59, "libposenc_ext.so posenc_ext::cpu::sum<float>"), (2.79, "libpython3.so _PyEval")]
    assert where.shares(text) == expected


def test_rows_beside_libraries():
    times = {"eager": 9e-3, "timm": 8e-3, "torch.compile": 5e-3, "posenc_ext": 1e-3}
    results = [result("window 7x7, 12 heads, forward, float32", n, times) for n in (1, 2)]
    row = report.others_table(record(results)).splitlines()[-1]
    cells = ["9 ms / 9 ms", "– / –", "5 ms / 5 ms", "timm 8 ms / 8 ms", "1 ms / 1 ms"]
    assert row == f"| window 7x7, 12 heads, forward | {' | '.join(cells)} |"


def test_write_renews_the_marked_parts_alone(tmp_path):
    pytest.importorskip("matplotlib", reason="the plots need matplotlib (requirements/bench.txt)")
    bench, readme = tmp_path / "bench", tmp_path / "README.md"
    bench.mkdir()
    for path in (readme, bench / "README.md"):
        path.write_text(f"head\n{report.BEGIN}old\n{report.END}tail\n")
    report.write(small_record(), readme, bench)
    for path in (readme, bench / "README.md"):
        text = path.read_text()
        assert text.startswith(f"head\n{report.BEGIN}")
        assert text.endswith(f"{report.END}tail\n")
        assert "old" not in text
        pictures = re.findall(r"\]\((\S+\.svg)\)", text)
        assert pictures
        for picture in pictures:
            assert "<svg" in (path.parent / picture).read_text()
    assert "| window 32x32, 16 heads, forward |" in readme.read_text()
    drawn = {path.name: path.read_text() for path in (bench / "plots").iterdir()}
    report.write(small_record(), readme, bench)
    assert {path.name: path.read_text() for path in (bench / "plots").iterdir()} == drawn  # the same bytes


def test_gains_of_choices_are_tabled():
    """How many times faster the choice is than its opposite, for each of our contenders that has both."""
    times = {"eager": 9e-3, "posenc_ext": 2e-3}
    times |= {"posenc_ext [POSENC_NT=auto]": 1e-3, "posenc_ext [POSENC_NT=0]": 3e-3}
    times |= {"posenc_ext out= [POSENC_NT=auto]": 1e-3}
    table = report.choices_table({"nt": record([result("T5 8x8, forward, float32", 2, times)])})
    assert [line for line in table.splitlines() if "T5" in line] == ["| T5 8x8 | 2 | new result | 3.00x |"]


@pytest.mark.parametrize("name", choices.CHOICES)
def test_choices_find_their_cases(name):
    assert sum(bool(re.search(choices.CHOICES[name].cases, case)) for case in ALL) >= 10


def test_the_committed_files_have_the_marks():
    for path in (report.README, BENCH / "README.md"):
        text = path.read_text()
        assert report.BEGIN in text
        assert report.END in text.partition(report.BEGIN)[2]


def test_sampled_sinusoids_are_rounded_correctly():
    found = importlib.import_module("sinusoid_errors").measure(samples=1000)
    assert found["misrounded"] == found["table_misrounded"] == 0
    assert max(found["errors"]["posenc_ext"]) <= 2**-25  # half an ulp below 1
    assert found["errors"]["plain"][-1] > 0.1
