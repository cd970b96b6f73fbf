"""No memory is lost: the resident set does not grow over ten thousand calls, with and without errors."""

import os

import pytest
import torch

import posenc_ext

CALLS = 10_000
OFFSETS = torch.tensor([1, 2])
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * PAGE


def table(x, positions, bias):
    posenc_ext.sinusoidal_table(16, 64)


def sinusoidal(x, positions, bias):
    posenc_ext.sinusoidal(positions, 64).sum().backward()


def add(x, positions, bias):
    posenc_ext.add_sinusoidal(x, dropout_p=0.5, training=True).sum().backward()


def add_offsets(x, positions, bias):
    posenc_ext.add_sinusoidal(x, start=OFFSETS).sum().backward()


def window(x, positions, bias):
    posenc_ext.window_bias(bias, [4, 4], query_size=[8, 8]).sum().backward()


def error(x, positions, bias):
    with pytest.raises(RuntimeError):
        posenc_ext.window_bias(bias, [4, 5])


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc/self/statm, which is Linux's")
@pytest.mark.parametrize(
    "call", [table, sinusoidal, add, add_offsets, window, error], ids=lambda f: f.__name__
)
def test_resident_set_does_not_grow(call):
    """A leak of one 1 KiB tensor a call would be 10 MiB."""
    torch.set_num_threads(1)
    x = torch.randn(2, 8, 32, requires_grad=True)
    positions = torch.rand(16, requires_grad=True)
    bias = torch.randn(49, 4, requires_grad=True)
    for _ in range(1_000):
        call(x, positions, bias)
    before = resident()
    for _ in range(CALLS):
        call(x, positions, bias)
    assert resident() - before < 2**21
