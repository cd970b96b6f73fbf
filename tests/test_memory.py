"""No memory is lost over ten thousand calls, with and without errors; large results ask for huge pages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import each

import posenc_ext

CALLS = 10_000
STATM = "/proc/self/statm"


def table(x, positions, bias, offsets):
    posenc_ext.sinusoidal_table(16, 64)


def sinusoidal(x, positions, bias, offsets):
    posenc_ext.sinusoidal(positions, 64).sum().backward()


def add(x, positions, bias, offsets):
    posenc_ext.add_sinusoidal(x, dropout_p=0.5, training=True).sum().backward()


def add_offsets(x, positions, bias, offsets):
    posenc_ext.add_sinusoidal(x, start=offsets).sum().backward()


def embed(x, positions, bias, offsets):
    posenc_ext.add_position_embedding(x, x[0], [x[:1, :1]], False, 2.0, True, 0.5, True).sum().backward()


def window(x, positions, bias, offsets):
    posenc_ext.window_bias(bias, [4, 4], query_size=[8, 8]).sum().backward()


def t5(x, positions, bias, offsets):
    posenc_ext.t5_bias(bias, 8, 8).sum().backward()


def gather(x, positions, bias, offsets):
    posenc_ext.gather_bias(bias, offsets[:, None]).sum().backward()


def alibi(x, positions, bias, offsets):
    posenc_ext.alibi_bias(bias[0], 8, 8).sum().backward()


def error(x, positions, bias, offsets):
    with pytest.raises(RuntimeError):
        posenc_ext.window_bias(bias, [4, 5])


def resident() -> int:
    return int(Path(STATM).read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth() -> dict[str, int]:
    """Bytes that the resident set grows by over CALLS calls, per kind of call."""
    torch.set_num_threads(1)
    x = torch.randn(2, 8, 32, requires_grad=True)
    positions = torch.rand(16, requires_grad=True)
    bias = torch.randn(49, 4, requires_grad=True)
    offsets = torch.tensor([1, 2])
    grown = {}
    for call in (table, sinusoidal, add, add_offsets, embed, window, t5, gather, alibi, error):
        for _ in range(1_000):
            call(x, positions, bias, offsets)
        before = resident()
        for _ in range(CALLS):
            call(x, positions, bias, offsets)
        grown[call.__name__] = resident() - before
    return grown


def in_fresh_process(call: str, **variables: str):
    """What a function of this file returns in a process of its own, with these environment variables."""
    folders = [Path(__file__).parent, Path(posenc_ext.__file__).parents[1], os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), **variables}
    program = f"import json, test_memory; print(json.dumps(test_memory.{call}))"
    # From this folder: python -c imports from its own first, and the root may hold a build for another torch.
    command, here = [sys.executable, "-c", program], Path(__file__).parent
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not os.path.exists(STATM), reason=f"reads {STATM}, which is Linux's")
def test_resident_set_does_not_grow():
    """In a fresh process, where no freed memory can hide a leak; 100 bytes a call are 1 MB."""
    grown = in_fresh_process("growth()")
    assert max(grown.values()) < 1_000_000, grown


SMAPS = "/proc/self/smaps"


RESULTS = {
    "alibi_bias": lambda: posenc_ext.alibi_bias(torch.ones(1), 4096, 4096),
    "sinusoidal_table": lambda: posenc_ext.sinusoidal_table(4096, 4096),
}


def ask_for_huge_pages() -> dict[str, bool]:
    """Whether results of 64 MiB lie in memory that madvise marked so."""
    return {op: is_marked(make()) for op, make in RESULTS.items()}


def is_marked(result: torch.Tensor) -> bool:
    middle = result.data_ptr() + result.nbytes // 2
    inside = False
    for line in Path(SMAPS).read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            first, last = (int(word, 16) for word in words[0].split("-"))
            inside = first <= middle < last
        elif inside and words[0] == "VmFlags:":
            return "hg" in words
    raise AssertionError(f"{SMAPS} has no flags for the result")


@pytest.mark.skipif(
    not os.path.exists(SMAPS) or "VmFlags" not in Path(SMAPS).read_text(),
    reason=f"reads flags in {SMAPS}, which are Linux's",
)
@each(("setting", "expected"), [("1", True), ("0", False)])
def test_large_results_ask_for_huge_pages(setting, expected):
    assert in_fresh_process("ask_for_huge_pages()", POSENC_THP=setting) == dict.fromkeys(RESULTS, expected)
