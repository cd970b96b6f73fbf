"""No kernel touches memory beyond its tensors: here they stand next to pages that must not be touched."""

import ctypes
import mmap
import sys
from functools import partial

import pytest
import torch
from op_db import OPS
from op_types import packed
from support import same, seed
from test_determinism import levels, under
from torch import Tensor

PAGE = mmap.PAGESIZE
PROT_NONE = 0


def fenced(tensor: Tensor, at_start: bool) -> Tensor:
    """The same numbers and strides between two pages whose use ends the process, next to one of them."""
    if tensor.numel() == 0:
        return tensor
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.as_strided((last + 1,), (1,))
    used = flat.numel() * flat.element_size()
    inner = -(-used // PAGE) * PAGE
    memory = mmap.mmap(-1, inner + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(address, PAGE, PROT_NONE) == protect(address + PAGE + inner, PAGE, PROT_NONE) == 0
    offset = PAGE if at_start else PAGE + inner - used
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=flat.numel(), offset=offset)
    return copy.copy_(flat).as_strided(tensor.shape, tensor.stride())


def at_odd_address(tensor: Tensor) -> Tensor:
    """The same numbers and strides in memory from elsewhere, where no element is aligned."""
    if tensor.numel() == 0:
        return tensor
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.as_strided((last + 1,), (1,))
    memory = bytearray(flat.numel() * flat.element_size() + 1)
    copy = torch.frombuffer(memory, dtype=tensor.dtype, offset=1)
    return copy.copy_(flat).as_strided(tensor.shape, tensor.stride())


def run_all() -> None:
    """Every sample of every op, as it is, between fences, and at odd addresses."""
    for op in OPS:
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            for sample in op.samples("cpu", dtype):
                seed(1)
                expected = op(sample).clone()
                for move in (partial(fenced, at_start=False), partial(fenced, at_start=True), at_odd_address):
                    moved = {name: move(t) for name, t in sample.tensors().items()}
                    seed(1)
                    actual = packed(op.overload(**sample.replace(**moved).inputs))  # over moved tensors
                    assert same(op, actual, expected), f"{op.name} {dtype} {sample.name}"
    print("done")


@pytest.mark.skipif(
    sys.platform != "linux", reason="asks libc for mprotect, and reads /proc for the CPU levels"
)
@pytest.mark.parametrize(
    ("level", "non_temporal"), [*((level, "1") for level in levels()), (levels()[-1], "0")], ids=str
)
def test_memory_around_tensors_is_not_touched(level, non_temporal):
    program = "import test_bounds; test_bounds.run_all()"
    assert under(program, POSENC_CPU_ISA=level, POSENC_NT=non_temporal).stdout.endswith("done\n")
