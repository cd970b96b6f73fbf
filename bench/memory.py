"""The memory's limit: what filling, copying or reading as many bytes takes, by torch and by memory.cpp."""

import ctypes
import functools
import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("memory.cpp")


@functools.cache
def library() -> ctypes.CDLL | None:
    """memory.cpp, compiled if it has changed; None where it does not compile (no x86-64, no compiler)."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    path = SOURCE.parents[1] / "build" / "bench" / f"memory-{digest}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        flags = ["-O3", "-std=c++17", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        command = [os.environ.get("CXX", "c++"), *flags, str(SOURCE), "-o", str(part)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        part.rename(path)
    loaded = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    loaded.nt_fill.argtypes, loaded.nt_fill.restype = (pointer, size), None
    loaded.nt_copy.argtypes, loaded.nt_copy.restype = (pointer, pointer, size), None
    loaded.read_all.argtypes, loaded.read_all.restype = (pointer, size), size
    return loaded


def contenders(kind: str, nbytes: int, device: str) -> dict[str, Callable[[], object]]:
    """Ways to fill or copy as many bytes, or to read them. Like the ops, they allocate their results."""
    count, c = max(1, nbytes // 4), library() if device == "cpu" else None
    empty = functools.partial(torch.empty, count, device=device)
    source = torch.ones(count, device=device) if kind != "fill" else None

    def fill():
        out = empty()
        c.nt_fill(out.data_ptr(), nbytes)

    def copy():
        out = empty()
        c.nt_copy(out.data_ptr(), source.data_ptr(), nbytes)

    def read():
        c.read_all(source.data_ptr(), nbytes)

    plain, native = {
        "fill": (lambda: empty().fill_(1.0), fill),
        "copy": (lambda: empty().copy_(source), copy),
        "read": (lambda: source.sum(), read),
    }[kind]
    return {f"torch {kind}": plain} | ({f"native {kind}": native} if c else {})
