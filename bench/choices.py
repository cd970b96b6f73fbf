"""What three choices of the CPU kernels gain: python bench/choices.py [NAME ...]

Large results are written past the caches (POSENC_NT), fresh ones are to come in huge pages (POSENC_THP), and
a thread is woken for 256 KiB of work, not for less (POSENC_GRAIN_KIB). Each choice is timed against its
opposite, by two processes that take turns, and tabled by report.py --choices.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).resolve().parent / "results"
LARGE = (
    "^(table (5000x512|131072x128)|add 512x32x512 .*p=0(.1)?|ViT add, B=64.*|window 32x32.*|expand.*|"
    "T5 2048.*|any index 2x512.*|ALiBi 2048.*), forward, float32"
)
# One to a few times the work that wakes a thread, and less.
MIDDLING = (
    "^(table (128x64|512x512)|add 128x8x512 .*|ViT add, B=[18],.*|window (7x7, (12|24)|12x12|16x16).*|"
    "T5 (128|512|decode).*|ALiBi (128|512).*), forward, float32"
)


@dataclass(frozen=True)
class Choice:
    title: str
    chosen: str
    other: str
    regime: str
    cases: str
    by_one: bool = True  # timed on one thread, too


CHOICES = {
    "nt": Choice("stores past the caches", "POSENC_NT=auto", "POSENC_NT=0", "R", LARGE),
    "thp": Choice("huge pages for fresh results", "POSENC_THP=1", "POSENC_THP=0", "D", LARGE),
    "wake": Choice(
        "no thread for less than 256 KiB",
        "POSENC_GRAIN_KIB=256",
        "POSENC_GRAIN_KIB=1",
        "R",
        MIDDLING,
        by_one=False,
    ),
    "alone": Choice(
        "a thread for each 256 KiB",
        "POSENC_GRAIN_KIB=256",
        "POSENC_GRAIN_KIB=1000000",
        "R",
        MIDDLING,
        by_one=False,
    ),
}


def path(name: str, folder: Path = RESULTS) -> Path:
    return folder / f"choice-{name}.json"


def measure(name: str) -> None:
    choice = CHOICES[name]
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--only", choice.cases]
    command += ["--regime", choice.regime, "--output", str(path(name))]
    if not choice.by_one:
        command += ["--threads", str(torch.get_num_threads())]
    subprocess.run([*command, "--against", choice.chosen, "--against", choice.other], check=True)
    record = json.loads(path(name).read_text())
    record["command"] = f"python bench/choices.py {name}"
    path(name).write_text(json.dumps(record, indent=1) + "\n")


def kept(folder: Path = RESULTS) -> dict[str, dict]:
    """What was measured and kept."""
    paths = {name: path(name, folder) for name in CHOICES}
    return {name: json.loads(found.read_text()) for name, found in paths.items() if found.exists()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", default=list(CHOICES), help=f"of {', '.join(CHOICES)}; default: all"
    )
    for name in parser.parse_args().names:
        measure(name)
    print("tables: python bench/report.py --choices")


if __name__ == "__main__":
    main()
