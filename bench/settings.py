"""posenc_ext under other environment variables, which it reads once: a child process times blocks on request,
in turn with the blocks of this process."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import timing
from case import Case

OURS = ("posenc_ext", "posenc_ext out=")


def let_workers_sleep(threads: int) -> None:
    """OpenMP's threads spin for some ms after their work: beside them another process would have no core."""
    if threads > 1:
        time.sleep(0.01)


class Child:
    """A process with the settings "NAME=VALUE ...", that runs run.py --serve."""

    def __init__(self, settings: str) -> None:
        self.settings = settings
        values = dict(word.split("=", 1) for word in settings.split())
        command = [sys.executable, str(Path(__file__).with_name("run.py")), "--serve"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env={**os.environ, **values}, stdin=pipe, stdout=pipe, text=True
        )

    def ask(self, *words: object) -> str:
        try:
            self.process.stdin.write("\t".join(map(str, words)) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the process with {self.settings} has ended: its message is above")
        return answer

    def blocks(self, case: Case, names: list[str], threads: int) -> dict[str, timing.Block]:
        """The contenders `names` of a case, in the child."""

        def block(name: str, number: int) -> float:
            let_workers_sleep(threads)
            seconds = float(self.ask(case.name, name, threads, number))
            let_workers_sleep(threads)
            return seconds

        return {f"{name} [{self.settings}]": partial(block, name) for name in names if name in OURS}

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(cases: list[Case]) -> None:
    """What the child does: a line of case, contender, threads and number in, seconds a call out."""
    by_name = {case.name: case for case in cases}
    answers, sys.stdout = sys.stdout, sys.stderr
    name, built, timers = None, {}, {}
    for line in sys.stdin:
        wanted, contender, threads, number = line.rstrip("\n").split("\t")
        if wanted != name:
            name, built, timers = wanted, {}, {}
            built = by_name[name].build(by_name[name].dtype)
        key = (contender, threads)
        if key not in timers:
            timers[key] = timing.local(built[contender], int(threads))
        print(timers[key](int(number)), file=answers, flush=True)
