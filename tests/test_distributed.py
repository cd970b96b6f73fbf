"""Ops and modules on DTensors, in processes of their own, which run tests/distributed_cases.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import same_bits

import posenc_ext

dist = pytest.importorskip("torch.distributed")
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch is built without torch.distributed")


@pytest.mark.parametrize(("world", "meshes"), [(2, [(2,)]), (4, [(4,), (2, 2)])])
def test_sharded_calls_equal_one_process(world, meshes, tmp_path):
    import distributed_cases
    from torch import multiprocessing

    multiprocessing.spawn(distributed_cases.work, (world, meshes, str(tmp_path)), nprocs=world)
    for rank in range(world):
        report = (tmp_path / f"{rank}.txt").read_text()
        count, *failures = report.split("\n", 1)
        assert int(count.split()[0]) > 100
        assert not failures, f"rank {rank}: {failures[0]}"


def test_every_op_has_sharding_strategies():
    """Every op that has a kernel, except those that write into `out` or over an argument."""
    from posenc_ext import distributed

    names = {s.name for s in torch._C._jit_get_all_schemas() if s.name.startswith("posenc_ext::")}
    kernels = {n.split("::")[1] for n in names if torch._C._dispatch_has_kernel_for_dispatch_key(n, "Meta")}
    assert {name for name in kernels if name[-1] != "_"} == set(distributed._STRATEGIES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shard_with_the_mask_of_the_whole_result_has_its_bits(dtype):
    """The op without dropout, then the mask: the same values as the op with the seed of that mask."""
    from posenc_ext import distributed

    ops, seed = torch.ops.posenc_ext, torch.tensor([7])
    x = torch.randn(3, 5, 7, dtype=dtype)
    table, positions = torch.randn(9, 7, dtype=dtype), torch.randint(9, (3, 5))
    encoding = {"base": 1e4, "freq_shift": 0.0, "layout": "interleaved", "odd": "sin", "batch_first": True}
    for p in (0.3, 0.5, 1.0):
        mask = ops._scale_dropout(torch.ones_like(x), 1.0, p, seed) != 0
        for name, arguments in {
            "_scale_dropout": {"scale": 0.7},
            "_add_sinusoidal": {"offsets": None, "start": 3, "x_scale": 7**0.5, **encoding},
            "_add_positions": {"pos_embed": table, "positions": positions, "x_scale": 0.7},
        }.items():
            op = getattr(ops, name).default
            values = {"x": x, **arguments, "dropout_p": p, "seed": seed}
            assert same_bits(distributed._call_with_mask(op, values, mask, dtype), op(**values)), (name, p)


def in_fresh_processes(codes: list[str]) -> subprocess.CompletedProcess:
    """Runs each where torch, and nothing else, was imported; prints their exit statuses."""
    program = """
import json, os, sys, torch
for code in json.loads(sys.argv[1]):
    if os.fork() == 0:
        exec(code)
        sys.exit()
    print(os.wait()[1])
"""
    root = Path(posenc_ext.__file__).resolve().parents[1]
    command = [sys.executable, "-c", program, json.dumps(codes)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)


def test_registers_with_whichever_import_comes_last():
    imports = [
        "import posenc_ext; assert not hasattr(posenc_ext, 'distributed'); import torch.distributed.tensor",
        "import torch.distributed.tensor, posenc_ext",
        "import posenc_ext.distributed, torch.distributed.tensor",
        "import posenc_ext; from torch.distributed._tensor import Shard",
    ]
    check = (
        "table = torch.distributed.tensor.DTensor._op_dispatcher._custom_op_handlers\n"
        "assert torch.ops.posenc_ext.t5_bias.default in table\n"
        "assert not [f for f in sys.meta_path if type(f).__module__.startswith('posenc_ext')]\n"
    )
    done = in_fresh_processes([f"{line}\n{check}" for line in imports])
    assert done.stdout.split() == ["0"] * len(imports), done.stderr


def test_what_another_torch_breaks_is_a_warning():
    """DTensor has to be importable, whatever becomes of what we know of it."""
    orders = ["posenc_ext, torch.distributed.tensor", "torch.distributed.tensor, posenc_ext"]
    codes = [f"sys.modules['posenc_ext.distributed'] = None; import {order}" for order in orders]
    done = in_fresh_processes(codes)
    assert done.stdout.split() == ["0", "0"], done.stderr
    assert done.stderr.count("posenc_ext.distributed does not know this torch.distributed.tensor") == 2
