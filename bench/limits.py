"""The limits as contenders of every case: the memory, for as many bytes in the same regime, and autograd."""

import ctypes
import functools
import hashlib
import os
import subprocess
from pathlib import Path

import torch
from case import Backward, Contenders, Results, Rotating, bind
from measures import AUTOGRAD, KINDS

SOURCE = Path(__file__).resolve().with_name("limits.cpp")
FOLDER = SOURCE.parents[1] / "build" / "bench"


@functools.cache
def library() -> ctypes.CDLL | str:
    """limits.cpp, compiled when it is new; or why there is none (no x86-64, no compiler)."""
    path = FOLDER / f"limits-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        flags = ["-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC"]
        command = [os.environ.get("CXX", "c++"), *flags, str(SOURCE), "-o", str(part)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"limits.cpp does not compile here: {str(error).splitlines()[0]}"
        part.rename(path)
    loaded = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    loaded.nt_fill.argtypes, loaded.nt_fill.restype = (pointer, size), None
    loaded.nt_copy.argtypes, loaded.nt_copy.restype = (pointer, pointer, size), None
    loaded.read.argtypes, loaded.read.restype = (pointer, size), size
    return loaded


def contenders(kind: str | None, reads: int, writes: int) -> Contenders:
    """Rotating warm buffers, as for out=. copy: half of the bytes are read, half are written."""
    if kind is None:
        return {}
    count = {"fill": writes, "read": reads, "copy": (reads + writes) // 2}[kind] // 64 * 16

    outs = Results([count], torch.float32) if kind != "read" else None
    sources = Rotating(lambda: torch.ones(count)) if kind != "fill" else None
    c, native = library(), {}
    if kind == "fill":
        result = {"fill": bind(lambda out: out.fill_(1.0), [outs])}
        if not isinstance(c, str):
            native["nt fill"] = bind(lambda out: c.nt_fill(out.data_ptr(), out.nbytes), [outs])
    elif kind == "copy":
        result = {"copy": bind(lambda out, x: out.copy_(x), [outs, sources])}
        if not isinstance(c, str):
            native["nt copy"] = bind(
                lambda out, x: c.nt_copy(out.data_ptr(), x.data_ptr(), out.nbytes), [outs, sources]
            )
    else:
        result = {"sum": bind(torch.sum, [sources])}
        if not isinstance(c, str):
            native["read"] = bind(lambda x: c.read(x.data_ptr(), x.nbytes), [sources])
    return {**result, **(native or {KINDS[kind][1]: str(c)})}


def autograd(direction: str) -> Contenders:
    """torch.autograd.grad through a node that does nothing: what no backward can undercut."""
    if direction != "backward":
        return {}
    leaf = torch.ones(1, requires_grad=True)
    return {AUTOGRAD: Backward(lambda: torch.ops.aten.alias(leaf), [leaf], Rotating(lambda: torch.ones(1)))}
