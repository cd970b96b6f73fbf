"""The ops on sharded tensors: ``torch.distributed.tensor.DTensor``, for tensor and sequence parallelism.

Nothing has to be called: importing posenc_ext and torch.distributed.tensor, in any order, registers this. A
call on DTensors then runs on every rank's own shard and gives a DTensor, forward and backward:

====================== ======================================================================================
op                     what stays sharded
====================== ======================================================================================
window_bias, t5_bias   heads: table ``Shard(1)`` gives bias ``Shard(0)``
gather_bias            heads, and every dimension of the index
alibi_bias             heads: slopes ``Shard(0)`` gives bias ``Shard(0)``
sinusoidal             every dimension of the positions
add_sinusoidal         batch; sequence, where each rank starts at its own position
add_position_embedding batch; sequence, where no token stands in front; channels
.positions             add_position_embedding: every dimension of x; add_sinusoidal: the first
====================== ======================================================================================

Gradients of what the shards of a batch share are ``Partial()``, as in torch's own ops. Everything else
(channels under add_sinusoidal, a table sharded by rows, a sequence with prefix tokens, ``Partial()`` inputs)
is gathered or reduced first. Of several ways the one that moves the fewest elements is taken, for each
dimension of the mesh. Results are those of one process, bit for bit but for sums across ranks.

As in torch's own ops, a DTensor and a plain tensor of more than one element do not mix outside
``torch.distributed.tensor.experimental.implicit_replication()``. The overloads with ``out`` take no DTensors.

Dropout drops the same elements as one process with the same seed, however the tensors are sharded, now and in
backward, if the generators of all ranks of the mesh are in the same state (``torch.manual_seed`` of one
number on each), which torch asks for as well. For this a rank makes the mask of the whole result: O(global
elements), a few bytes each for a while. A sharded result of a half type may differ in its last bit.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

__all__: list[str] = []

Values = dict[str, Any]  # the arguments of a call by name
# One way to run an op along one dimension of the mesh: the placement of the result, and of the arguments that
# are not replicated.
Way = tuple[Placement, dict[str, Placement]]


def _bias(values: Values) -> list[Way]:
    return [(Shard(0), {"table": Shard(1)})]


def _bias_backward(values: Values) -> list[Way]:
    return [(Shard(1), {"grad": Shard(0)}), (Partial(), {"grad": Partial()})]


def _alibi_bias(values: Values) -> list[Way]:
    return [(Shard(0), {"slopes": Shard(0)})]


def _alibi_bias_backward(values: Values) -> list[Way]:
    return [(Shard(0), {"grad": Shard(0)}), (Partial(), {"grad": Partial()})]


def _gather_bias(values: Values) -> list[Way]:
    heads = values["index"].dim() - 2
    by_index = [(Shard(d + (d >= heads)), {"index": Shard(d)}) for d in range(heads + 2)]
    return [(Shard(heads), {"table": Shard(1)}), *by_index]


def _gather_bias_backward(values: Values) -> list[Way]:
    heads = values["index"].dim() - 2
    by_index = [(Partial(), {"grad": Shard(d + (d >= heads)), "index": Shard(d)}) for d in range(heads + 2)]
    return [(Shard(1), {"grad": Shard(heads)}), *by_index, (Partial(), {"grad": Partial()})]


def _sinusoidal(values: Values) -> list[Way]:
    return [(Shard(d), {"positions": Shard(d)}) for d in range(values["positions"].dim())]


def _sinusoidal_backward(values: Values) -> list[Way]:
    dims = range(values["positions"].dim())
    by_position = [(Shard(d), {"grad": Shard(d), "positions": Shard(d)}) for d in dims]
    return [*by_position, (Partial(), {"grad": Partial()})]


def _scale_dropout(values: Values) -> list[Way]:
    return [*((Shard(d), {"x": Shard(d)}) for d in range(values["x"].dim())), (Partial(), {"x": Partial()})]


def _axes(values: Values) -> tuple[int, int]:
    """Those of the batch and of the tokens."""
    return (0, 1) if values["batch_first"] else (1, 0)


def _add_sinusoidal(values: Values) -> list[Way]:
    batch, token = _axes(values)
    by_sample: dict[str, Placement] = {"x": Shard(batch)}
    offsets = values["offsets"]
    if offsets is not None and offsets.dim() > 0 and offsets.size(0) == values["x"].size(batch):
        by_sample["offsets"] = Shard(0)
    return [(Shard(batch), by_sample), (Shard(token), {"x": Shard(token)})]


def _add_position_embedding(values: Values) -> list[Way]:
    batch, token = _axes(values)
    x, pos_embed, prefixes = values["x"], values["pos_embed"], values["prefix_tokens"]
    by_sample: dict[str, Placement] = {"x": Shard(batch)}
    by_channel: dict[str, Placement] = {"x": Shard(2), "pos_embed": Shard(pos_embed.dim() - 1)}
    for i, prefix in enumerate(prefixes):
        by_channel[f"prefix_tokens[{i}]"] = Shard(2)
        if prefix.size(batch) == x.size(batch):
            by_sample[f"prefix_tokens[{i}]"] = Shard(batch)
    ways: list[Way] = [(Shard(batch), by_sample), (Shard(2), by_channel)]
    if all(prefix.size(token) == 0 for prefix in prefixes):
        rows = 1 if pos_embed.dim() == 3 and pos_embed.size(1) == x.size(token) else 0
        ways.append((Shard(token), {"x": Shard(token), "pos_embed": Shard(rows)}))
    return ways


def _by_row(rows: DTensor, positions: DTensor, d: int) -> Placement:
    """How positions are cut, which broadcast to rows [*, D], where these are cut along d."""
    own = d - (rows.dim() - 1 - positions.dim())
    return Shard(own) if own >= 0 and positions.size(own) == rows.size(d) else Replicate()


def _add_positions(values: Values) -> list[Way]:
    x, positions = values["x"], values["positions"]
    last = x.dim() - 1
    ways: list[Way] = [
        (Shard(d), {"x": Shard(d), "positions": _by_row(x, positions, d)}) for d in range(last)
    ]
    return [*ways, (Shard(last), {"x": Shard(last), "pos_embed": Shard(1)})]


def _sum_positions(values: Values) -> list[Way]:
    grad, positions = values["grad"], values["positions"]
    last = grad.dim() - 1
    ways: list[Way] = [
        (Partial(), {"grad": Shard(d), "positions": _by_row(grad, positions, d)}) for d in range(last)
    ]
    return [*ways, (Shard(1), {"grad": Shard(last)}), (Partial(), {"grad": Partial()})]


def _sum_batch(values: Values) -> list[Way]:
    batch, token = _axes(values)
    return [
        (Partial(), {"grad": Shard(batch)}),
        (Shard(0), {"grad": Shard(token)}),
        (Shard(1), {"grad": Shard(2)}),
        (Partial(), {"grad": Partial()}),
    ]


# What reaches DTensor: the public ops are made of these, and so are their gradients.
_WAYS: dict[str, Callable[[Values], list[Way]]] = {
    "window_bias": _bias,
    "_window_bias_backward": _bias_backward,
    "t5_bias": _bias,
    "_t5_bias_backward": _bias_backward,
    "gather_bias": _gather_bias,
    "_gather_bias_backward": _gather_bias_backward,
    "alibi_bias": _alibi_bias,
    "_alibi_bias_backward": _alibi_bias_backward,
    "_sinusoidal": _sinusoidal,
    "_sinusoidal_backward": _sinusoidal_backward,
    "_add_sinusoidal": _add_sinusoidal,
    "_add_position_embedding": _add_position_embedding,
    "_add_positions": _add_positions,
    "_scale_dropout": _scale_dropout,
    "_sum_batch": _sum_batch,
    "_sum_positions": _sum_positions,
}


def _tensors(values: Values) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a call but for the seed; those of a list have the names that errors give them."""
    for name, value in values.items():
        if isinstance(value, list):
            yield from ((f"{name}[{i}]", t) for i, t in enumerate(value) if isinstance(t, Tensor))
        elif isinstance(value, Tensor) and name != "seed":
            yield name, value


def _with_tensors(values: Values, convert: Callable[[str, Any], Any]) -> Values:
    """The call with what `convert` makes of each of its tensors."""
    found = {name: convert(name, tensor) for name, tensor in _tensors(values)}
    result = {}
    for name, value in values.items():
        if isinstance(value, list):
            result[name] = [found.get(f"{name}[{i}]", item) for i, item in enumerate(value)]
        else:
            result[name] = found.get(name, value)
    return result


def _as_dtensor(op: Any, mesh: DeviceMesh, tensor: Tensor) -> DTensor:
    """Takes what torch's own ops take beside a DTensor."""
    if isinstance(tensor, DTensor):
        if tensor.device_mesh != mesh:
            raise RuntimeError(
                f"{op}: tensors must be on the same DeviceMesh, got {mesh} and {tensor.device_mesh}"
            )
        return tensor
    if tensor.numel() != 1 and not DTensor._op_dispatcher._allow_implicit_replication:
        raise RuntimeError(
            f"{op}: got mixed torch.Tensor and DTensor, need to convert all torch.Tensor to DTensor before "
            "calling distributed operators!"
        )
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def _same(a: Placement, b: Placement) -> bool:
    return type(a) is type(b) and a == b


def _moved(tensor: DTensor, have: Placement, want: Placement) -> float:
    """How many elements are communicated to bring a tensor from one placement to another."""
    if _same(have, want):
        return 0
    if want.is_partial():
        return float("inf")
    return 0 if have.is_replicate() else tensor.numel()


def _cheapest(ways: list[Way], values: Values, mesh_dim: int) -> Way:
    """The first of the ways that move the least."""

    def cost(way: Way) -> float:
        wanted = way[1]
        return sum(
            _moved(tensor, tensor.placements[mesh_dim], wanted.get(name, Replicate()))
            for name, tensor in _tensors(values)
        )

    return min(ways, key=cost)


def _placed(tensor: DTensor, placements: list[Placement]) -> DTensor:
    if all(map(_same, tensor.placements, placements)):
        return tensor
    # Detached: up to torch 2.12 autograd detaches the result in place, which DTensor knows no op for.
    return tensor.detach().redistribute(placements=placements)


def _offset_here(x: DTensor, axis: int) -> int:
    """Where this rank's shard begins along an axis."""
    size, offset = x.size(axis), 0
    for mesh_dim, placement in enumerate(x.placements):
        if placement.is_shard(axis):  # in pieces as torch.chunk cuts them
            piece = -(-size // x.device_mesh.size(mesh_dim))
            before = min(piece * x.device_mesh.get_local_rank(mesh_dim), size)
            offset, size = offset + before, min(piece, size - before)
    return offset


def _kept_here(
    values: Values, shape: torch.Size, mesh: DeviceMesh, placements: list[Placement], device: torch.device
) -> Tensor:
    """Which elements of this rank's shard of the result the seed of the whole result keeps."""
    ones = torch.ones((), dtype=torch.bfloat16, device=device).expand(shape)
    seed = values["seed"]
    kept = torch.ops.posenc_ext._scale_dropout(ones, 1.0, values["dropout_p"], seed) != 0
    whole = [Replicate() if placement.is_partial() else placement for placement in placements]
    return distribute_tensor(kept, mesh, whole, src_data_rank=None).to_local()


# In which results are scaled before their one rounding.
_WIDER = {torch.float32: torch.float64, torch.float16: torch.float32, torch.bfloat16: torch.float32}


def _call_dropping(op: Any, local: Values, kept: Tensor) -> Tensor:
    """The op on this rank's shard, where what is kept is known."""
    p, dtype = local["dropout_p"], next(t.dtype for _, t in _tensors(local))
    wide = _with_tensors(local, lambda _, t: t.to(_WIDER.get(t.dtype, t.dtype)))
    result = op(**{**wide, "dropout_p": 0.0, "seed": None})
    return torch.where(kept, result * (1.0 / (1.0 - p) if p < 1.0 else 0.0), 0.0).to(dtype)


@torch.no_grad()  # below autograd, whose formulas are in C++
def _dispatch(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DTensor:
    """What DTensor calls in place of an op."""
    arguments = op._schema.arguments
    values = {a.name: kwargs.get(a.name, a.default_value) for a in arguments}
    values.update(zip(values, args, strict=False))
    mesh = next(t.device_mesh for _, t in _tensors(values) if isinstance(t, DTensor))
    values = _with_tensors(values, lambda _, tensor: _as_dtensor(op, mesh, tensor))
    if isinstance(values.get("seed"), DTensor):
        values["seed"] = values["seed"].full_tensor()

    # On global shapes: errors are those of one process, and the shape of the result is known.
    seed = values.get("seed")
    on_meta = _with_tensors(values, lambda _, t: torch.empty(t.shape, dtype=t.dtype, device="meta"))
    if seed is not None:
        on_meta["seed"] = torch.empty(seed.shape, dtype=seed.dtype, device="meta")
    whole = op(**on_meta)

    ways: list[Way] = [(Replicate(), {}), *_WAYS[op._opname](values)]
    chosen = [_cheapest(ways, values, d) for d in range(mesh.ndim)]
    placements = [way[0] for way in chosen]
    placed = _with_tensors(
        values, lambda name, t: _placed(t, [way[1].get(name, Replicate()) for way in chosen])
    )
    local = _with_tensors(placed, lambda _, t: t.to_local())
    device = next(t.device for _, t in _tensors(local))
    if mesh.get_coordinate() is None:  # this rank has no part in it
        result = torch.empty(0, dtype=whole.dtype, device=device)
    else:
        if op._opname == "_add_sinusoidal":
            local["start"] = local["start"] + _offset_here(placed["x"], _axes(values)[1])
        drops = seed is not None and values["dropout_p"] > 0
        if drops and any(placement.is_shard() for placement in placements):
            kept = _kept_here(values, whole.shape, mesh, placements, device)
            result = _call_dropping(op, local, kept)
        else:
            result = op(**local)
    return DTensor.from_local(
        result, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


# DTensor's table of ops that are run by functions of their own: private, and the same in torch 2.10 to 2.14.
# register_sharding, which is public, hands all ranks the same arguments (the same start of a sequence), and
# remembers the shapes of results by arguments that leave out lists of sizes.
for _name in _WAYS:
    DTensor._op_dispatcher._custom_op_handlers[getattr(torch.ops.posenc_ext, _name).default] = _dispatch
