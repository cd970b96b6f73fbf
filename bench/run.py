"""Times every case of bench/cases: python bench/run.py [--quick] [--only PATTERN] [--regime D]

All contenders of a case are first compared, then timed in turn in one process, for one thread and for all:
the code people copy (eager), the best eager form, library classes where they are installed, posenc_ext,
posenc_ext out=, and what the memory itself takes for as many bytes (fill, copy, read). Medians and quartiles
go to a JSON file, of which bench/report.py makes tables and plots.

Regimes: R (default): memory of earlier results is used again, so kernels are compared, not page faults.
D: the allocator as it comes. out= and the limits always write to warm memory that is not in the caches.
"""

import argparse
import json
import os
import re
import sys
import warnings
from pathlib import Path
from time import perf_counter

import cases
import limits
import machine
import measures
import report
import settings
import timing
import torch
from case import Case, Contenders, disagreement

BENCH = Path(__file__).resolve().parent
# glibc reads these once: results of any size come from memory that was freed before, which stays mapped.
RECYCLED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 35)}
# Both in processes of their own: a process beside this one is not quite as fast as this one.
LEVELS = ["POSENC_CPU_ISA=avx512", "POSENC_CPU_ISA=avx2"]


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases, float32, shorter: under 3 minutes")
    parser.add_argument("--only", metavar="PATTERN", help="cases whose name this regular expression finds")
    parser.add_argument("--regime", choices=("R", "D"), default="R")
    parser.add_argument("--threads", metavar="N[,N]", help="default: 1 and all")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the eager form, too; slow")
    parser.add_argument(
        "--against",
        metavar="NAME=VALUE",
        action="append",
        help="posenc_ext in a process of its own with this in its environment, such as POSENC_THP=0; may be "
        f"given again (default, where the CPU level is avx512: {' and '.join(LEVELS)}; none: nothing)",
    )
    parser.add_argument(
        "--rows",
        action="store_true",
        help="the rows of README.md alone, beside torch.compile and, in an environment that has timm, "
        "transformers and diffusers, their own classes",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: see bench/README.md")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and end")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def default_output(chosen: argparse.Namespace) -> Path:
    """A partial run never replaces the results of a full one."""
    if chosen.rows:
        return BENCH / "results" / "rows.json"
    if chosen.only or chosen.threads:
        return BENCH / "results" / "partial.json"
    return BENCH / "results" / f"{chosen.regime}{'-quick' if chosen.quick else ''}.json"


def in_regime(regime: str) -> None:
    """Starts this program again with the allocator's settings of the regime, where they are others."""
    wanted = {name: RECYCLED[name] if regime == "R" else None for name in RECYCLED}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        environment = {name: value for name, value in os.environ.items() if name not in wanted}
        environment |= {name: value for name, value in wanted.items() if value is not None}
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def check(case: Case, contenders: Contenders) -> dict[str, float]:
    """How far each contender is from the first; an error where they do not compute the same."""
    found, expected = {}, None
    for name, contender in contenders.items():
        result = contender()
        expected = result if expected is None else expected
        try:
            error = disagreement(case, expected, result)
        except ValueError as problem:
            raise SystemExit(f"{case.name}: {name} computes something else: {problem}") from None
        if not error <= case.tolerance:
            raise SystemExit(f"{case.name}: {name} is off by {error:.2g}, allowed is {case.tolerance:.2g}")
        found[name] = error
    return found


class Runner:
    """Times cases and collects what the JSON file holds."""

    def __init__(
        self,
        effort: timing.Effort,
        threads: list[int],
        children: list[settings.Child] | None = None,
        with_compile: bool = False,
    ) -> None:
        self.effort, self.threads, self.with_compile = effort, threads, with_compile
        self.children = children or []

    def build(self, case: Case, dtype: torch.dtype) -> tuple[Contenders, dict[str, str]]:
        """The contenders of a case that take part, and those that do not, with the reason."""
        made = case.build(dtype)
        if not self.with_compile:
            made.pop("torch.compile", None)
        skipped = {name: made[name] for name in made if isinstance(made[name], str)}
        return {name: f for name, f in made.items() if name not in skipped}, skipped

    def run(self, case: Case) -> list[dict]:
        """A result for each number of threads."""
        ours, skipped = self.build(case, case.dtype)
        other = case.check_dtype not in (None, case.dtype)
        errors = check(case, self.build(case, case.check_dtype)[0] if other else ours)
        least = limits.contenders(case.limit, case.reads, case.writes) | limits.autograd(case.direction)
        skipped |= {name: f for name, f in least.items() if isinstance(f, str)}
        least = {name: f for name, f in least.items() if name not in skipped}
        results = []
        for threads in self.threads:
            blocks = {name: timing.local(f, threads) for name, f in {**ours, **least}.items()}
            for child in self.children if case.other_settings else []:
                blocks |= child.blocks(case, list(ours), threads)
            results.append(
                {
                    "case": case.name,
                    "title": case.title,
                    "direction": case.direction,
                    "dtype": str(case.dtype).removeprefix("torch."),
                    "family": case.family,
                    "reads": case.reads,
                    "writes": case.writes,
                    "limit": case.limit,
                    "threads": threads,
                    "tolerance": case.tolerance,
                    "errors": errors,
                    "forms": case.forms,
                    "skipped": skipped,
                    "seconds": timing.interleaved(blocks, self.effort),
                }
            )
        return results


def line(result: dict) -> str:
    """A result in one line: microseconds, and times faster than the first contender."""
    seconds = {name: each["median"] for name, each in result["seconds"].items()}
    first = next(iter(seconds.values()))
    parts = [
        f"{name} {value * 1e6:.4g}{f' ({first / value:.1f}x)' if name.startswith('posenc_ext') else ''}"
        for name, value in seconds.items()
    ]
    limit = measures.share_of_limit(result, "posenc_ext out=", "posenc_ext")
    return ", ".join(parts) + (f"; {limit:.0%} of {result['limit']}" if limit else "")


def main() -> None:
    chosen = options()
    if not chosen.serve:
        in_regime(chosen.regime)
    warnings.filterwarnings("ignore", module="torch")
    torch.manual_seed(0)
    wanted = cases.everything()
    if chosen.serve:
        settings.serve(wanted)
        return
    if chosen.only:
        wanted = [case for case in wanted if re.search(chosen.only, case.name)]
    if chosen.quick:
        wanted = [case for case in wanted if case.quick]
    if chosen.rows:
        wanted = [case for case in wanted if case.name in report.NAMES.values()]
        chosen.compile, chosen.against = True, []
    if chosen.list:
        print(*(case.name for case in wanted), sep="\n")
        return
    facts = machine.facts()
    if chosen.against is None:
        chosen.against = LEVELS if facts["cpu_level"] == "avx512" and not chosen.quick else []
    children = [settings.Child(words) for words in chosen.against if words != "none"]
    threads = [int(n) for n in chosen.threads.split(",")] if chosen.threads else [1, torch.get_num_threads()]
    effort = timing.QUICK if chosen.quick else timing.FULL
    runner = Runner(effort, sorted(set(threads)), children, chosen.compile)
    print(f"{facts['cpu']}, {facts['cores']} cores, torch {facts['torch']}, CPU level {facts['cpu_level']}")
    print(
        f"{len(wanted)} cases, regime {chosen.regime}, threads {runner.threads}; microseconds a call",
        flush=True,
    )
    begin, results = perf_counter(), []
    for done, case in enumerate(wanted, 1):
        for result in runner.run(case):
            results.append(result)
            at = f"{perf_counter() - begin:4.0f} s {done:3}/{len(wanted)}"
            print(f"{at}  {case.name}, {result['threads']} thr: {line(result)}", flush=True)
        for name, reason in results[-1]["skipped"].items():
            print(f"{'':15} left out: {name} ({reason})")
    for child in children:
        child.close()
    output = chosen.output or default_output(chosen)
    record = {
        "schema": 1,
        **facts,
        "regime": chosen.regime,
        "threads": runner.threads,
        "against": chosen.against,
        "command": " ".join(["python bench/run.py", *sys.argv[1:]]),
        "accuracy": None if chosen.only else accuracy(),
        "seconds": round(perf_counter() - begin),
        "results": results,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")
    path = os.path.relpath(output)
    print(f"{perf_counter() - begin:.0f} s; tables: python bench/report.py {path} [--targets]")


def accuracy() -> dict | str:
    """Errors of sinusoids against exact ones; or why they were not measured."""
    try:
        import sinusoid_errors
    except ImportError as error:
        return str(error)
    return sinusoid_errors.measure()


if __name__ == "__main__":
    main()
