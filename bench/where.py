"""Where the time of one case goes: bench/where.py NAME, with Linux perf

Runs posenc_ext's contender of the case over and over on one thread, in regime R, samples it by the clock,
and prints the shares of the libraries and of the functions that take most. NAME is one of run.py --list;
--who: another contender of it.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time

from run import RECYCLED

START, SECONDS = 4.0, 5.0  # what is before START is not sampled: imports, compilation, the first calls


def loop(name: str, who: str) -> None:
    import cases
    import torch

    [case] = [case for case in cases.everything() if case.name == name]
    torch.set_num_threads(1)
    contender = case.build(case.dtype)[who]
    begin = time.perf_counter()
    while time.perf_counter() - begin < START + SECONDS:
        for _ in range(10):
            contender()


def shares(report: str) -> list[tuple[float, str]]:
    """Percent and name of the lines of a perf report."""
    found = re.findall(r"^ *([\d.]+)% +(.*?)(?: +- +-)? *$", report, re.MULTILINE)
    return [
        (float(share), " ".join(name.replace("(anonymous namespace)::", "").replace("[.]", "").split()))
        for share, name in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("--who", default="posenc_ext")
    parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.loop:
        loop(chosen.name, chosen.who)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        record = f"perf record -e cpu-clock -F 5000 -D {START * 1000:.0f} -o {data}".split()
        again = [sys.executable, __file__, chosen.name, "--who", chosen.who, "--loop"]
        subprocess.run([*record, *again], check=True, capture_output=True, env={**os.environ, **RECYCLED})
        for sort, least in (("dso", 0.5), ("dso,symbol", 2.0)):
            report = f"perf report -i {data} --no-children --stdio --sort {sort}".split()
            text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
            print(
                *(f"{share:5.1f} %  {name}" for share, name in shares(text) if share >= least), "", sep="\n"
            )


if __name__ == "__main__":
    main()
