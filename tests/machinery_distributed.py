"""Machineries that need processes: two of them, started once, walk every row."""

import json
import os
import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from machinery import MACHINERIES, Row, compare, failures, machinery, no_state, run
from machinery_modes import ITS_OWN_DTYPE, module_output
from machinery_state import REPEATS, check_same_distribution, constructed, poison
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import MixedPrecision, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from posenc_ext.nn import SinusoidalPositionalEmbedding

PROCESSES = 2
GROUP = "Two processes"
LAYERS = {nn.Embedding, nn.Linear}


@cache
def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (PROCESSES,))


def whole(t: torch.Tensor) -> torch.Tensor:
    return t.full_tensor() if isinstance(t, DTensor) else t


def run_whole(model: nn.Module, row: Row) -> dict[str, torch.Tensor]:
    """What `run` gives, of sharded gradients all shards."""
    return {name: whole(value) for name, value in run(model, row.x()).items()}


def close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    compare(actual, expected, rtol=1e-6, atol=1e-6)


@machinery(GROUP, "DistributedDataParallel", distributed=True)
def ddp(row: Row) -> None:
    model = DistributedDataParallel(row.model().train())
    actual = {k.replace("gradient of module.", "gradient of ", 1): v for k, v in run(model, row.x()).items()}
    close(actual, run(row.model().train(), row.x()))


def check_fsdp1(row: Row, use_orig_params: bool) -> None:
    expected = run(row.model().train(), row.x())
    for layers in (LAYERS, LAYERS | {type(row.build())}):
        model = FSDP(
            row.model().train(),
            auto_wrap_policy=ModuleWrapPolicy(layers),
            use_orig_params=use_orig_params,
            device_id=torch.device("cpu"),
        )
        actual = {k: v for k, v in run(model, row.x()).items() if k in ("output", "gradient of x")}
        if not use_orig_params:
            close(actual, {k: expected[k] for k in actual})
            continue
        with FSDP.summon_full_params(model, with_grads=True):
            for name, p in model.named_parameters():
                if p.grad is not None:
                    actual[f"gradient of {name.replace('_fsdp_wrapped_module.', '')}"] = p.grad.clone()
        close(actual, expected)


@machinery(GROUP, "FSDP1 around every Embedding and Linear, `use_orig_params=True`", distributed=True)
def fsdp1(row: Row) -> None:
    check_fsdp1(row, use_orig_params=True)


@machinery(
    GROUP,
    "FSDP1 around every Embedding and Linear, `use_orig_params=False`",
    {"mixes frozen and trainable parameters; torch's flat parameters cannot": lambda row: row.frozen},
    distributed=True,
)
def fsdp1_flat(row: Row) -> None:
    check_fsdp1(row, use_orig_params=False)


NO_TENSOR = ITS_OWN_DTYPE | {
    "has no tensor that mixed precision could convert: pass `dtype=`": lambda row: row.name == "AlibiBias"
}
NO_BUFFER = NO_TENSOR | {
    "computes its result from integers: FSDP2 casts no buffers, as in the replaced module": lambda row: (
        isinstance(row.build(), SinusoidalPositionalEmbedding)
    )
}


@machinery(GROUP, "FSDP1 mixed precision (bfloat16)", NO_TENSOR, distributed=True)
def fsdp1_mixed(row: Row) -> None:
    expected = run(row.model().eval(), row.x())
    precision = MixedPrecision(torch.bfloat16, torch.float32, torch.bfloat16)
    model = FSDP(
        row.model().eval(), mixed_precision=precision, use_orig_params=True, device_id=torch.device("cpu")
    )
    check_mixed(row, model, expected)


def check_mixed(row: Row, model: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    result = module_output(model, row.x())
    assert result.dtype is torch.bfloat16, f"the result is {result.dtype}"
    actual = {k: v.float() for k, v in run(model, row.x()).items() if k in ("output", "gradient of x")}
    compare(actual, {k: expected[k] for k in actual}, rtol=2**-4, atol=2**-4)


@machinery(GROUP, "FSDP2 around the model", distributed=True)
def fsdp2(row: Row) -> None:
    model = row.model().train()
    fully_shard(model, mesh=mesh())
    close(run_whole(model, row), run(row.model().train(), row.x()))


def shard_owners(model: nn.Module) -> None:
    """Every module that owns a parameter is a group of its own, children first."""
    for module in reversed(list(model.modules())):
        if module is not model and [*module.parameters(recurse=False)]:
            fully_shard(module, mesh=mesh())
    fully_shard(model, mesh=mesh())


@machinery(GROUP, "FSDP2 around every child", distributed=True)
def fsdp2_children(row: Row) -> None:
    model = row.model().train()
    shard_owners(model)
    close(run_whole(model, row), run(row.model().train(), row.x()))


@machinery(GROUP, "FSDP2 mixed precision (bfloat16)", NO_BUFFER, distributed=True)
def fsdp2_mixed(row: Row) -> None:
    model = row.model().eval()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mesh=mesh(), mp_policy=policy)
    check_mixed(row, model, run(row.model().eval(), row.x()))


@machinery(
    GROUP,
    "FSDP2 of a model on meta, `to_empty`, `reset_parameters`",
    {"has nothing to initialize": no_state},
    distributed=True,
)
def fsdp2_meta(row: Row) -> None:
    with torch.device("meta"):
        model = row.model().train()
    shard_owners(model)
    model.to_empty(device="cpu")
    torch.manual_seed(dist.get_rank())
    drawn = []
    for _ in range(REPEATS):
        poison(model)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        named = [*model.module.named_parameters(), *model.module.named_buffers()]
        drawn.append({name: whole(t).detach().clone() for name, t in named})
    check_same_distribution(drawn, constructed(row))
    assert all(value.isfinite().all() for value in run_whole(model, row).values())


@machinery(
    GROUP, "`torch.distributed.checkpoint`, with the optimizer, plain and under FSDP2", distributed=True
)
def distributed_checkpoint(row: Row) -> None:
    for shard in (False, True):
        source, target = trained(row, shard), trained(row, shard)
        with torch.no_grad():
            for t in [*target[0].parameters(), *target[0].buffers()]:
                t.zero_()
        folder = [tempfile.mkdtemp()]
        dist.broadcast_object_list(folder)
        model_state = get_model_state_dict(source[0])
        state, optimizer_state = get_state_dict(*source)
        assert state.keys() == model_state.keys()
        checkpoint.save({"model": state, "optimizer": optimizer_state}, checkpoint_id=folder[0])
        loaded = dict(zip(("model", "optimizer"), get_state_dict(*target)))
        checkpoint.load(loaded, checkpoint_id=folder[0])
        set_model_state_dict(target[0], loaded["model"])
        close(run_whole(target[0], row), run_whole(source[0], row))
        set_state_dict(*target, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
        for model, optimizer in (source, target):
            run(model, row.x())
            optimizer.step()
        close(run_whole(target[0], row), run_whole(source[0], row))


def trained(row: Row, shard: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = row.model().eval()
    if shard:
        shard_owners(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    run(model, row.x())
    optimizer.step()
    return model, optimizer


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    timeout = timedelta(minutes=5)  # a busy machine
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES, timeout=timeout)
    found = {}
    for column in MACHINERIES:
        if column.distributed:
            errors = [None] * PROCESSES
            dist.all_gather_object(errors, failures(column))
            found[column.name] = errors[0] | errors[1]
    if rank == 0:
        Path(folder, "failures.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # torch's threads sometimes abort a process that ends in the usual way, after all is done


def distributed_failures(folder: Path) -> dict[str, dict[str, str]]:
    """Machinery to row to error, of every distributed machinery."""
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=PROCESSES)
    return json.loads(Path(folder, "failures.json").read_text())
