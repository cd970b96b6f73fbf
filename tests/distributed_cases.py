"""What the processes of tests/test_distributed.py run: ops on DTensors against the same calls in one process.

Inputs and gradients are small integers and scales are powers of two, so that sums across ranks are exact and
all comparisons are of bits.
"""

import copy
import datetime
import itertools
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.distributed as dist
from support import same_bits
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.experimental import implicit_replication
from torch.nn.attention import SDPBackend, sdpa_kernel

import posenc_ext

R, S0, S1, S2, P = Replicate(), Shard(0), Shard(1), Shard(2), Partial()


def whole(*shape: int) -> Tensor:
    """Small integers: their sums and differences are exact."""
    return torch.randint(-8, 9, shape).float()


@dataclass
class Case:
    """A function of tensors; placements that need no communication, with that of the result."""

    name: str
    function: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    free: list[tuple[tuple[Placement, ...], Placement]] = field(default_factory=list)
    grads: tuple[Placement, ...] = (R,)  # placements of gradients, beside that of the result
    exact: bool = True  # sums across ranks in gradients are


def cases() -> list[Case]:
    torch.manual_seed(0)  # the same in every process
    ops = posenc_ext.ops
    x, channels_last = whole(5, 6, 4), whole(6, 5, 4)
    index = torch.randint(0, 7, (2, 3, 5, 4))
    starts = torch.tensor([0, 7, -2, 100, 3])
    ids = torch.randint(0, 9, (5, 6))
    adds = {"x_scale": 2.0}
    batch, first = [((S0,), S0), ((S1,), S1)], {"batch_first": False}
    rows = [((S0, R), S0), ((S1, R), S1), ((S1, S0), S1), ((S2, S1), S2), ((S2, R), S2)]
    token = whole(1, 1, 4)
    drop = {"dropout_p": 0.5, "training": True}
    return [
        *softmax_cases(),
        Case("window_bias", lambda t: ops.window_bias(t, [2, 3]), (whole(15, 5),), [((S1,), S0)]),
        Case(
            "window_bias, expanded queries and a prefix",
            lambda t: ops.window_bias(t, [2, 2], [4, 2], 1),
            (whole(12, 3),),
            [((S1,), S0)],
        ),
        Case("t5_bias", lambda t: ops.t5_bias(t, 5, 7, 2), (whole(8, 6),), [((S1,), S0)]),
        Case("t5_bias of other lengths", lambda t: ops.t5_bias(t, 4, 9, 2), (whole(8, 6),), [((S1,), S0)]),
        Case("alibi_bias", lambda s: ops.alibi_bias(s, 4, 6, 1), (whole(6),), [((S0,), S0)]),
        Case(
            "gather_bias",
            ops.gather_bias,
            (whole(7, 6), index),
            [((S1, R), S2), *(((R, Shard(d)), Shard(o)) for d, o in [(0, 0), (1, 1), (2, 3), (3, 4)])],
        ),
        Case(
            "sinusoidal",
            lambda p: ops.sinusoidal(p, 6),
            (torch.randn(3, 5),),
            [((S0,), S0), ((S1,), S1)],
            grads=(R, S2),
        ),
        Case("add_sinusoidal", lambda x: ops.add_sinusoidal(x, 3, **adds), (x,), batch, grads=(R, S0, P)),
        Case("add_sinusoidal, [L, B, D]", lambda x: ops.add_sinusoidal(x, **first), (channels_last,), batch),
        Case(
            "add_sinusoidal.offsets",
            lambda x, start: ops.add_sinusoidal(x, start),
            (x, starts),
            [((S0, S0), S0), ((S0, R), S0), ((S1, R), S1)],
        ),
        Case(
            "add_sinusoidal, dropout",
            lambda x: ops.add_sinusoidal(x, **adds, **drop),
            (x,),
            batch,
            grads=(R, S0, S1, P),
        ),
        Case(
            "add_sinusoidal, dropout, large",
            lambda x: ops.add_sinusoidal(x, **drop),
            (whole(3, 5, 2200),),
            batch,
            grads=(R, S1),
        ),
        Case(
            "add_position_embedding",
            lambda x, pos: ops.add_position_embedding(x, pos, **adds),
            (x, whole(6, 4)),
            rows,
            grads=(R, S0, S1, P),
        ),
        Case(
            "add_position_embedding, [L, B, D]",
            lambda x, pos: ops.add_position_embedding(x, pos, **first),
            (channels_last, whole(6, 1, 4)),
            [((S1, R), S1), ((S0, S0), S0)],
        ),
        Case(
            "add_sinusoidal.positions",
            lambda x, p: ops.add_sinusoidal(x, positions=p, **adds),
            (whole(4, 6, 4), ids[:4]),
            [((S0, S0), S0), ((S0, R), S0)],
        ),
        Case(
            "add_sinusoidal.positions, packed",
            lambda x, p: ops.add_sinusoidal(x, positions=p, **drop),
            (whole(7, 4), ids[0].new_tensor([0, 1, 2, 0, 1, 0, 1])),
            [((S0, S0), S0)],
            grads=(R, S0),
        ),
        Case(
            "add_position_embedding.positions",
            lambda x, pos, p: ops.add_position_embedding(x, pos, positions=p, **adds, **drop),
            (x, whole(9, 4), ids),
            [((S0, R, S0), S0), ((S0, R, R), S0), ((S1, R, S1), S1), ((S2, S1, R), S2)],
            grads=(R, S0, P),
        ),
        Case(
            "add_position_embedding.positions, shared",
            lambda x, pos, p: ops.add_position_embedding(x, pos, positions=p),
            (x, whole(9, 4), ids[:1]),
            [((S0, R, R), S0), ((S1, R, S1), S1)],
        ),
        Case(
            "add_position_embedding, prefix tokens, dropout",
            lambda x, pos, one, each: ops.add_position_embedding(x, pos, [one, each], **drop),
            (x, whole(1, 9, 4), token, whole(5, 2, 4)),
            [((S0, R, R, S0), S0), ((S0, R, R, R), S0), ((S2, S2, S2, S2), S2)],
            grads=(R, S0, S1),
        ),
        Case(
            "add_position_embedding, rows for x alone",
            lambda x, pos, one: ops.add_position_embedding(x, pos, [one], False),
            (x, whole(6, 4), token),
            [((S0, R, R), S0)],
        ),
    ]


def softmax_cases() -> list[Case]:
    """Results are those of one process, bit for bit; sums of gradients across ranks have another order."""
    ops = posenc_ext.ops
    scores, keys = whole(4, 6, 4, 4), whole(4, 1, 1, 4).gt(-5)
    regions = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])
    index = torch.randint(0, 7, (4, 4))
    heads, batch = ((S1, S1), S1), ((S0, R), S0)
    rows = ((S1, S0), S1)
    cases = [
        Case(
            "window_bias_softmax",
            lambda s, t: ops.window_bias_softmax(s, t, [4]),
            (scores, whole(7, 6)),
            [heads, batch],
        ),
        Case(
            "window_bias_softmax, mask",
            lambda s, t, m: ops.window_bias_softmax(s, t, [2, 2], mask=m, scale=0.5),
            (scores, whole(9, 6), keys),
            [((S1, S1, R), S1), ((S0, R, S0), S0)],
        ),
        Case(
            "window_bias_softmax, regions",
            lambda s, t, r: ops.window_bias_softmax(s, t, [4], regions=r),
            (whole(8, 6, 4, 4), whole(7, 6), regions),
            [((S1, S1, R), S1), ((S0, R, R), S0)],
        ),
        Case(
            "window_bias_softmax, regions that a shard of the samples would split",
            lambda s, t, r: ops.window_bias_softmax(s, t, [4], regions=r),
            (whole(6, 6, 4, 4), whole(7, 6), regions),
            [((S1, S1, R), S1)],
        ),
        Case(
            "diagonal_bias_softmax",
            lambda s, t: ops.diagonal_bias_softmax(s, t, causal=True),
            (scores, whole(6, 7)),
            [rows, batch],
        ),
        Case("bias_softmax", ops.bias_softmax, (scores, whole(6, 4, 4)), [rows, batch]),
        Case(
            "gather_bias_softmax",
            lambda s, t, i: ops.gather_bias_softmax(s, t, i),
            (scores, whole(7, 6), index),
            [((S1, S1, R), S1), ((S0, R, R), S0)],
        ),
        Case(
            "t5_bias_softmax", lambda s, t: ops.t5_bias_softmax(s, t), (scores, whole(32, 6)), [heads, batch]
        ),
        Case("alibi_bias_softmax", ops.alibi_bias_softmax, (scores, whole(6)), [rows, batch]),
    ]
    return [replace(case, exact=False) for case in cases]


def place(tensor: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> DTensor:
    """A DTensor of this value; of a Partial() one the first rank has it all."""
    pairs = enumerate(placements)
    if any(p.is_partial() and mesh.get_local_rank(d) != 0 for d, p in pairs):
        tensor = torch.zeros_like(tensor)
    split = tuple(R if p.is_partial() else p for p in placements)
    local = distribute_tensor(tensor, mesh, split, src_data_rank=None).to_local()
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


class Differs(AssertionError):
    pass


def equal(what: str, found: Tensor | None, expected: Tensor) -> None:
    if found is None:
        raise Differs(f"{what} is missing")
    if isinstance(found, DTensor):
        found = found.full_tensor()
    if not same_bits(found, expected):
        raise Differs(f"{what} is not that of one process:\n{found}\n{expected}")


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]


def compare(
    case: Case,
    mesh: DeviceMesh,
    placements: list[tuple[Placement, ...]],
    free: tuple[Placement, ...] | None,
    grads: tuple[Placement, ...],
) -> None:
    """Forward and backward against one process, for arguments that are placed so."""
    alone = leaves(list(case.tensors))
    torch.manual_seed(7)
    expected = case.function(*alone)
    after = torch.get_rng_state()
    grad = whole(*expected.shape)
    expected.backward(grad)

    apart = leaves([place(t, mesh, p) for t, p in zip(case.tensors, placements, strict=True)])
    torch.manual_seed(7)
    with CommDebugMode() as communication:
        result = case.function(*apart)
    assert isinstance(result, DTensor)
    equal("the result", result, expected)
    if not torch.equal(torch.get_rng_state(), after):
        raise Differs("the generator's state is not that of one process")
    if free is not None:
        if communication.get_total_counts() != 0:
            raise Differs(f"communicates: {communication.get_comm_counts()}")
        if result.placements != free:
            raise Differs(f"the result is placed {result.placements}")
    for placement in (result.placements, *[(g,) * mesh.ndim for g in grads]):
        for leaf in apart:
            leaf.grad = None
        result.backward(place(grad, mesh, placement), retain_graph=True)
        for i, (leaf, one) in enumerate(zip(apart, alone, strict=True)):
            if leaf.requires_grad:
                check = equal if case.exact else close
                check(f"the gradient of argument {i} from {placement}", leaf.grad, one.grad)


def options(tensor: Tensor) -> list[Placement]:
    return [R, *(Shard(d) for d in range(tensor.dim())), *([P] if tensor.is_floating_point() else [])]


def placings(case: Case) -> list[tuple[Placement, ...]]:
    """Along one dimension of a mesh: all combinations of the first two arguments, others replicated."""
    few = [options(t) if i < 2 else [R] for i, t in enumerate(case.tensors)]
    return list(itertools.product(*few))


def check_ops(mesh: DeviceMesh, attempt: Callable) -> None:
    """Every placement in two processes; in four, what needs no communication, along one axis or two."""
    for case in cases():
        free = dict(case.free)
        free[(R,) * len(case.tensors)] = R
        if mesh.ndim == 1:
            for placing in dict.fromkeys([*free, *(placings(case) if mesh.size() == 2 else [])]):
                expected = (free[placing],) if placing in free else None
                args = [(p,) for p in placing]
                grads = case.grads if placing in free else ()
                attempt(f"{case.name} {placing}", compare, case, mesh, args, expected, grads)
        else:
            for (one, out_one), (other, out_other) in itertools.combinations_with_replacement(
                free.items(), 2
            ):
                args = list(zip(one, other, strict=True))
                # Where both axes cut one dimension the first cuts first: what the second alone has cut moves.
                moves = one != other and out_one == out_other
                expected = None if moves else (out_one, out_other)
                attempt(f"{case.name} {args}", compare, case, mesh, args, expected, case.grads[:1])


def refused(rule: str, call: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError) as error:
        call()
    if rule not in str(error.value):
        raise Differs(f"the error is not {rule!r}: {error.value}")


def check_rules(mesh: DeviceMesh) -> None:
    """What mixes with what, as in torch's own ops; errors of global shapes; inference mode."""
    x, plain = place(whole(4, 6, 8), mesh, (S1,) * mesh.ndim), whole(6, 8)
    add = posenc_ext.add_position_embedding
    refused("got mixed torch.Tensor and DTensor", lambda: x + plain)
    refused("got mixed torch.Tensor and DTensor", lambda: add(x, plain))
    refused(
        "got mixed torch.Tensor and DTensor", lambda: add(x.full_tensor(), place(plain, *replicated_like(x)))
    )
    with implicit_replication():
        equal("under implicit_replication", add(x, plain), add(x.full_tensor(), plain))
    rule = "posenc_ext::add_position_embedding: pos_embed must have shape [6, 8] or [1, 6, 8], got [5, 8]"
    refused(rule, lambda: add(x, place(whole(5, 8), *replicated_like(x))))
    with torch.inference_mode():
        for call in (posenc_ext.add_sinusoidal, lambda x: posenc_ext.sinusoidal(x, 4)):
            equal("in inference mode", call(x), call(x.full_tensor()))


def check_in_place(mesh: DeviceMesh) -> None:
    """Over scores that are sharded, in training and in inference."""
    scores, table = whole(4, 6, 4, 4), whole(9, 6)
    expected = posenc_ext.window_bias_softmax(scores, table, [2, 2])
    for placements, of_table in [
        ((S1,) * mesh.ndim, (S1,) * mesh.ndim),
        ((S0,) * mesh.ndim, (R,) * mesh.ndim),
    ]:
        for training in (False, True):
            rows = place(table, mesh, of_table).requires_grad_(training)
            own = place(scores, mesh, placements) * 1.0
            result = posenc_ext.window_bias_softmax(own, rows, [2, 2], inplace=True)
            assert result.placements == placements
            equal("the result in place", result, expected)
            equal("what is in place", own, expected)


def check_attention(mesh: DeviceMesh) -> None:
    """Without a gradient, by the op that stores no scores."""
    q, k, v, table = whole(4, 6, 4, 8), whole(4, 6, 4, 8), whole(4, 6, 4, 8), whole(9, 6)
    mask = whole(4, 1, 1, 4).gt(-7)
    expected = posenc_ext.window_attention(q, k, v, table, [2, 2], mask=mask)
    for shard, of_table, of_mask in [(S1, S1, R), (S0, R, S0)]:
        parts = [place(t, mesh, (shard,) * mesh.ndim) for t in (q, k, v)]
        rows, shown = place(table, mesh, (of_table,) * mesh.ndim), place(mask, mesh, (of_mask,) * mesh.ndim)
        result = posenc_ext.window_attention(*parts, rows, [2, 2], mask=shown)
        assert result.placements == (shard,) * mesh.ndim
        close("attention", result, expected)


def replicated_like(x: DTensor) -> tuple[DeviceMesh, tuple[Placement, ...]]:
    """Replicated on the mesh of x."""
    return x.device_mesh, (R,) * x.device_mesh.ndim


@dataclass
class ModuleCase:
    """A module, what it is called with, and the name of the parameter whose heads can be sharded, if any."""

    make: Callable[[], nn.Module]
    inputs: tuple = ()
    sharded: tuple[str, int] | None = None
    exact: bool = True  # no product of matrices, whose sums are in another order where their sizes are others


def module_cases() -> list[ModuleCase]:
    torch.manual_seed(0)  # the same in every process
    n, x, image = posenc_ext.nn, whole(4, 6, 8), whole(4, 8, 4, 6)
    tokens = torch.tensor([[5, 6, 1, 1], [5, 6, 7, 8], [1, 1, 5, 6], [5, 1, 1, 1]])
    table = "relative_position_bias_table", 1
    return [
        ModuleCase(lambda: n.AlibiBias(4, learnable=True), (5, 6), ("slopes", 0)),
        ModuleCase(lambda: n.T5RelativePositionBias(4), (5, 6), ("relative_attention_bias.weight", 1)),
        ModuleCase(lambda: n.WindowRelativePositionBias((3, 2), 4), (), table),
        ModuleCase(lambda: n.WindowRelativePositionBias((3, 2), 4), ([2, 2],), table),
        ModuleCase(lambda: n.WindowRelativePositionBias((3, 2), 4, prefix_tokens=1), (), table),
        ModuleCase(lambda: n.WindowRelativePositionBias((3, 2), 4, key_window=(5, 4)), (), table),
        ModuleCase(lambda: n.RelativePositionBias(4, 2, 3), (4, 6), table),
        ModuleCase(lambda: n.RelativePositionBias(4, 2, 3, legacy_stride=True), (4, 6), table),
        ModuleCase(lambda: n.LogCoordinatePositionBias((3, 2), 4), exact=False),
        ModuleCase(lambda: n.LearnedPositionalEmbedding(9, 8), (x,)),
        ModuleCase(lambda: n.LearnedPositionalEmbedding(9, 8), (x, 2)),
        ModuleCase(lambda: n.LearnedPositionalEmbedding(9, 8), (x, torch.arange(4))),
        ModuleCase(lambda: n.VisionPositionEmbedding((4, 6), 8), (image,)),
        ModuleCase(lambda: n.VisionPositionEmbedding((3, 3), 8), (image,), exact=False),
        ModuleCase(lambda: n.AttentionPool2d((4, 6), 8, 2), (image,), exact=False),
        ModuleCase(lambda: n.SinusoidalPositionalEncoding(8, 0.0, batch_first=True), (x,)),
        ModuleCase(lambda: n.SinusoidalPositionalEmbedding(64, 8, 1), (tokens,)),
        ModuleCase(lambda: n.SinusoidalPositionalEmbedding(64, 8, 1), (None, x)),
        ModuleCase(lambda: n.SinusoidalPositionalEmbedding(64, 8, 1), (None, x, torch.arange(4))),
        ModuleCase(lambda: n.TimestepEmbedding(8, True, 0), (torch.arange(4.0),)),
    ]


def check_module(case: ModuleCase, mesh: DeviceMesh, sharded: bool) -> None:
    """distribute_module with replicated parameters, or one sharded by heads, and inputs sharded by batch."""
    torch.manual_seed(0)
    alone = case.make()
    apart = copy.deepcopy(alone)

    def partition(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in list(module.named_parameters(recurse=False)):
            if sharded and f"{name}.{key}".lstrip(".") == case.sharded[0]:
                split = [Shard(case.sharded[1])] * mesh.ndim
                module.register_parameter(key, nn.Parameter(distribute_tensor(parameter, mesh, split)))

    distribute_module(apart, mesh, partition)
    shards = [place(t, mesh, (S0,) * mesh.ndim) if isinstance(t, Tensor) else t for t in case.inputs]
    with sdpa_kernel(SDPBackend.MATH):  # the only one whose backward torch runs on DTensors on the CPU
        expected, result = alone(*case.inputs), apart(*shards)
    check = equal if case.exact else close
    check("the result", result, expected)
    if sharded and result.placements != (S1,) * mesh.ndim:
        raise Differs(f"the result is placed {result.placements}")
    if expected.requires_grad:
        grad = whole(*expected.shape)
        expected.backward(grad)
        result.backward(place(grad, mesh, result.placements))
        for (name, one), parameter in zip(alone.named_parameters(), apart.parameters(), strict=True):
            check(f"the gradient of {name}", parameter.grad, one.grad)


def close(what: str, found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        found.full_tensor(), expected, rtol=1e-5, atol=1e-5, msg=lambda m: f"{what}: {m}"
    )


def check_modules(mesh: DeviceMesh, attempt: Callable) -> None:
    for i, case in enumerate(module_cases()):
        for sharded in [False, True] if case.sharded else [False]:
            name = f"{mesh.shape} {type(case.make()).__name__}, case {i}, sharded {sharded}"
            attempt(name, check_module, case, mesh, sharded)


def check_compiled(mesh: DeviceMesh) -> None:
    def encode(x, pos, table):
        y = posenc_ext.add_position_embedding(posenc_ext.add_sinusoidal(x), pos)
        return y.sum() + posenc_ext.t5_bias(table, 6, 6).sum()

    placements = [(S1,) * mesh.ndim, (R,) * mesh.ndim, (S1,) * mesh.ndim]
    tensors = [whole(4, 6, 8), whole(6, 8), whole(8, 4)]
    alone = leaves(tensors)
    encode(*alone).backward()
    apart = leaves([place(t, mesh, p) for t, p in zip(tensors, placements, strict=True)])
    torch.compile(encode, backend="aot_eager", fullgraph=True)(*apart).backward()
    for i, (leaf, one) in enumerate(zip(apart, alone, strict=True)):
        equal(f"the gradient of argument {i}", leaf.grad, one.grad)


def work(rank: int, world: int, meshes: list[tuple[int, ...]], folder: str) -> None:
    """One process: writes what fails into the file of its rank."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    minutes = datetime.timedelta(minutes=5)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=minutes
    )
    failures: list[str] = []
    count = 0

    def attempt(name: str, function: Callable, *args) -> None:
        nonlocal count
        count += 1
        torch.manual_seed(0)
        try:
            function(*args)
        except Exception:
            failures.append(f"{name}\n{traceback.format_exc()}")

    for shape in meshes:
        mesh = init_device_mesh("cpu", shape)
        check_ops(mesh, attempt)
        if shape != (4,):
            check_modules(mesh, attempt)
        if world == 2:
            attempt("rules", check_rules, mesh)
            attempt("in place", check_in_place, mesh)
            attempt("attention", check_attention, mesh)
            attempt("compiled", check_compiled, mesh)
    with open(f"{folder}/{rank}.txt", "w") as file:
        file.write("\n".join([f"{count} checks", *failures]))
    dist.destroy_process_group()
