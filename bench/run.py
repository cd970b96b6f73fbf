"""Times posenc_ext against plain PyTorch, torch.compile and the memory: python bench/run.py

The contenders of a case are compared, then timed in turn in one process, on one thread and on all: eager, the
code people copy; best eager, the fastest plain PyTorch we know, with cached tables and indices; torch.compile
of the eager form (--compile); posenc_ext; and the memory's limit, the fastest way to fill, copy or read as
many bytes.

Regime R (default): freed memory is used again, so kernels are compared and not page faults. Regime D: the
allocator's defaults.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import memory
import report
import torch
from cases import Case, contenders, disagreement, everything
from report import Result
from torch.utils.benchmark import Timer

import posenc_ext.info

# glibc reads these at the start: results of any size come from memory that was freed and is still mapped.
RECYCLED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 35)}

Block = Callable[[int], float]  # from a number of calls to the mean seconds of one


def block(contender: Callable[[], object], threads: int) -> Block:
    timer = Timer("f()", globals={"f": contender}, num_threads=threads)
    return lambda number: timer.timeit(number).mean


def interleaved(blocks: dict[str, Block], seconds: float) -> dict[str, float]:
    """The median seconds of a call: blocks of 3 ms take turns, so the machine's drift meets all alike."""
    numbers = {name: max(1, int(0.003 / run(1))) for name, run in blocks.items()}
    times: dict[str, list[float]] = {name: [] for name in blocks}
    begin = time.perf_counter()
    for done in range(41):
        if done >= 5 and time.perf_counter() - begin > seconds:
            break
        for name, run in blocks.items():
            times[name].append(run(numbers[name]))
    return {name: float(f"{statistics.median(each):.4g}") for name, each in times.items()}


class Child:
    """The posenc_ext of a checkout, in a process that times blocks on request."""

    def __init__(self, path: Path, program: str = __file__) -> None:
        environment = {**os.environ, "PYTHONPATH": str(path)}
        command = [sys.executable, program, "--serve"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        found = Path(json.loads(self.process.stdout.readline()))
        if not found.is_relative_to(path):
            raise SystemExit(f"{path} is not built: its process imports {found}")

    def block(self, case: Case, threads: int) -> Block:
        def run(number: int) -> float:
            # OpenMP threads spin for milliseconds after their work, on cores that the other process needs.
            time.sleep(0.01 if threads > 1 else 0)
            self.process.stdin.write(json.dumps([case.name, threads, number]) + "\n")
            self.process.stdin.flush()
            seconds = json.loads(self.process.stdout.readline())
            time.sleep(0.01 if threads > 1 else 0)
            return seconds

        return run

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(cases: dict[str, Case]) -> None:
    """The child's side: a line [case, threads, number] in, the seconds of a call out."""
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(posenc_ext.__file__), file=answers, flush=True)
    name, ours = None, None
    for line in sys.stdin:
        wanted, threads, number = json.loads(line)
        if wanted != name:
            name, ours = wanted, contenders(cases[wanted], only="posenc_ext")[0]["posenc_ext"]
        print(block(ours, threads)(number), file=answers, flush=True)


def against(case: Case, threads: list[int], seconds: float, children: dict[str, Child]) -> list[Result]:
    """This checkout and another, both in child processes: no other contender disturbs either."""
    results = []
    for number in threads:
        blocks = {name: child.block(case, number) for name, child in children.items()}
        results.append({"case": case.name, "threads": number, "seconds": interleaved(blocks, seconds)})
    return results


def measure(case: Case, threads: list[int], seconds: float, device: str, compiled: bool) -> list[Result]:
    """A result for each number of threads."""
    made, nbytes = contenders(case, device, compiled)
    expected = made["eager"]()
    for name, contender in made.items():
        error = disagreement(case, expected, contender())
        if not error <= case.tolerance:
            raise SystemExit(f"{case.name}: {name} differs by {error:.2g}, allowed is {case.tolerance:.2g}")
    limits = memory.contenders(case.limit, nbytes * case.passes, device) if case.limit else {}
    results = []
    for number in threads:
        blocks = {name: block(contender, number) for name, contender in (made | limits).items()}
        times = interleaved(blocks, seconds)
        ways = [times.pop(name) for name in limits]
        if ways:
            times["limit"] = min(ways)
        results.append({"case": case.name, "threads": number, "seconds": times})
    return results


def setting(regime: str, threads: list[int], device: str) -> str:
    """What was measured on, in words."""
    if device != "cpu":
        where = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        cpu, level = next(names, platform.machine()), posenc_ext.info.facts()["CPU level"]
        where = f"{cpu}, {' and '.join(map(str, threads))} threads, CPU level {level}, regime {regime}"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return f"{where}; torch {torch.__version__}; {today}"


def no_gpu() -> str | None:
    """Why nothing can run on CUDA here."""
    if not torch.cuda.is_available():
        return f"no GPU (torch {torch.__version__}): nothing was run"
    if not torch._C._dispatch_has_kernel_for_dispatch_key("posenc_ext::sinusoidal_table.out", "CUDA"):
        return "posenc_ext is built without CUDA: nothing was run"
    return None


def restart(regime: str, level: str | None) -> None:
    """Starts this program again where the environment is not that of the regime and the CPU level."""
    wanted = RECYCLED if regime == "R" else dict.fromkeys(RECYCLED)
    if level:
        wanted = wanted | {
            "POSENC_CPU_ISA": level,
            "ATEN_CPU_CAPABILITY": level.replace("baseline", "default"),
        }
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        environment = {n: v for n, v in {**os.environ, **wanted}.items() if v is not None}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def write(record: dict, page: Path = report.PAGE, summary: Path = report.SUMMARY) -> None:
    import plots  # needs matplotlib

    report.save(summary, record)
    plots.draw(record["results"], summary.parent)
    report.markdown_block.write(page, report.COMMAND, report.page_block(record))


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="PATTERN", default="", help="cases whose name the pattern matches")
    parser.add_argument("--threads", metavar="N[,N]", help="default: 1 and all")
    parser.add_argument("--regime", choices=("R", "D"), default="R")
    parser.add_argument("--level", choices=("baseline", "avx2"), help="a lower CPU level, of torch, too")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a case, at 5 rounds at least")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too: minutes of compilation")
    parser.add_argument("--against", type=Path, metavar="PATH", help="time another checkout, built in place")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bound is broken, twice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results, saved after each case")
    parser.add_argument(
        "--write", action="store_true", help="renew docs/performance.md and results, or ATTENTION.md"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(
    arguments: list[str] | None = None,
    cases: list[Case] | None = None,
    write: Callable[[dict], None] = write,
    program: str = __file__,
) -> int:
    chosen = options(arguments)
    warnings.filterwarnings("ignore", module="torch")
    torch.manual_seed(0)
    cases = everything() if cases is None else cases
    if chosen.serve:
        serve({case.name: case for case in cases})
        return 0
    if chosen.device == "cpu":
        restart(chosen.regime, chosen.level)
    elif reason := no_gpu():
        print(f"gpu-bench: {reason}")
        return 0
    every = [1] if chosen.device != "cpu" else sorted({1, torch.get_num_threads()})
    threads = [int(n) for n in chosen.threads.split(",")] if chosen.threads else every
    paths = {"posenc_ext": report.ROOT, "other": chosen.against.resolve()} if chosen.against else {}
    children = {name: Child(path, program) for name, path in paths.items()}
    record = {"setting": setting(chosen.regime, threads, chosen.device), "results": []}
    print(record["setting"], flush=True)
    if children:
        timed = partial(against, children=children)
    else:
        timed = partial(measure, device=chosen.device, compiled=chosen.compile)
    faults = []
    for case in cases:
        if not re.search(chosen.only, case.name):
            continue
        torch.compiler.reset()
        results = timed(case, threads, chosen.seconds)
        if chosen.check and report.broken(results):  # other work on the machine does not break a bound twice
            results = timed(case, threads, chosen.seconds)
            faults += report.broken(results)
        record["results"] += results
        for result in results:
            times = (f"{name} {report.duration(value)}" for name, value in result["seconds"].items())
            print(f"{result['case']}, {result['threads']} threads: {', '.join(times)}", flush=True)
        if chosen.json:
            report.save(chosen.json, record)
    for child in children.values():
        child.close()
    print(f"\none thread / all threads\n\n{report.markdown(record['results'])}")
    print(*(f"BROKEN: {fault}" for fault in faults), sep="\n")
    if chosen.write:
        write(record)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
