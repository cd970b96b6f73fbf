"""Support for ``torch.distributed.tensor.DTensor``: tensor and sequence parallelism.

The ops are registered with DTensor as soon as posenc_ext and torch.distributed.tensor are imported, in any
order. A call on DTensors then runs on the local shard of each rank and returns a DTensor, forward and
backward:

====================== ======================================================================================
op                     dimensions that can be sharded
====================== ======================================================================================
window_bias, t5_bias   heads: table ``Shard(1)``, bias ``Shard(0)``
gather_bias            heads, and every dimension of the index
alibi_bias             heads: slopes ``Shard(0)``, bias ``Shard(0)``
sinusoidal             every dimension of the positions
add_sinusoidal         batch; sequence (each rank starts at the position of its shard)
add_position_embedding batch; sequence (without prefix tokens); channels
.positions             add_position_embedding: every dimension of x; add_sinusoidal: the first
``*_bias_softmax``     heads (scores ``Shard(-3)``, and those of the table); batch
``*_attention``        as softmax; where a gradient is needed, products are those of torch
====================== ======================================================================================

The gradient of a tensor that is shared by the shards of a batch is ``Partial()``, as in torch's own ops. In
all other cases (channels in add_sinusoidal, a table sharded by rows, a sequence with prefix tokens,
``Partial()`` inputs) tensors are gathered or reduced first. For each dimension of the mesh, the strategy that
communicates the fewest elements is used. Results are bit for bit those of a single process, except for sums
across ranks.

Scores that are overwritten (``inplace=True``) must not be ``Partial()``.

As in torch's own ops, a DTensor cannot be combined with a plain tensor of more than one element outside
``torch.distributed.tensor.experimental.implicit_replication()``. The ``out`` overloads do not support
DTensors.

Dropout zeroes the same elements as a single process with the same seed, however the tensors are sharded, in
forward and backward, provided that the generators of all ranks of the mesh are in the same state (call
``torch.manual_seed`` with the same number on each), which torch requires as well. To this end each rank
temporarily computes the mask of the whole result: O(global elements) time and a few bytes per element, and
computes its shard in float64 (float32 for half types, whose last bit may differ).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

__all__: list[str] = []

Values = dict[str, Any]  # the arguments of a call by name
# A strategy to run an op along one dimension of the mesh: the placement of the result, or of each of several,
# and the placements of the arguments that are not replicated.
Strategy = tuple[Placement | tuple[Placement, ...], dict[str, Placement]]


def _bias(values: Values) -> list[Strategy]:
    return [(Shard(0), {"table": Shard(1)})]


def _bias_backward(values: Values) -> list[Strategy]:
    return [(Shard(1), {"grad": Shard(0)}), (Partial(), {"grad": Partial()})]


def _alibi_bias(values: Values) -> list[Strategy]:
    return [(Shard(0), {"slopes": Shard(0)})]


def _alibi_bias_backward(values: Values) -> list[Strategy]:
    return [(Shard(0), {"grad": Shard(0)}), (Partial(), {"grad": Partial()})]


def _gather_bias(values: Values) -> list[Strategy]:
    heads = values["index"].dim() - 2
    by_index = [(Shard(d + (d >= heads)), {"index": Shard(d)}) for d in range(heads + 2)]
    return [(Shard(heads), {"table": Shard(1)}), *by_index]


def _gather_bias_backward(values: Values) -> list[Strategy]:
    heads = values["index"].dim() - 2
    by_index = [(Partial(), {"grad": Shard(d + (d >= heads)), "index": Shard(d)}) for d in range(heads + 2)]
    return [(Shard(1), {"grad": Shard(heads)}), *by_index, (Partial(), {"grad": Partial()})]


def _sinusoidal(values: Values) -> list[Strategy]:
    return [(Shard(d), {"positions": Shard(d)}) for d in range(values["positions"].dim())]


def _sinusoidal_backward(values: Values) -> list[Strategy]:
    dims = range(values["positions"].dim())
    by_position = [(Shard(d), {"grad": Shard(d), "positions": Shard(d)}) for d in dims]
    return [*by_position, (Partial(), {"grad": Partial()})]


def _scale_dropout(values: Values) -> list[Strategy]:
    return [*((Shard(d), {"x": Shard(d)}) for d in range(values["x"].dim())), (Partial(), {"x": Partial()})]


def _axes(values: Values) -> tuple[int, int]:
    """The dimensions of the batch and of the tokens."""
    return (0, 1) if values["batch_first"] else (1, 0)


def _add_sinusoidal(values: Values) -> list[Strategy]:
    batch, token = _axes(values)
    by_sample: dict[str, Placement] = {"x": Shard(batch)}
    offsets = values["offsets"]
    if offsets is not None and offsets.dim() > 0 and offsets.size(0) == values["x"].size(batch):
        by_sample["offsets"] = Shard(0)
    return [(Shard(batch), by_sample), (Shard(token), {"x": Shard(token)})]


def _add_position_embedding(values: Values) -> list[Strategy]:
    batch, token = _axes(values)
    x, pos_embed, prefixes = values["x"], values["pos_embed"], values["prefix_tokens"]
    by_sample: dict[str, Placement] = {"x": Shard(batch)}
    by_channel: dict[str, Placement] = {"x": Shard(2), "pos_embed": Shard(pos_embed.dim() - 1)}
    for i, prefix in enumerate(prefixes):
        by_channel[f"prefix_tokens[{i}]"] = Shard(2)
        if prefix.size(batch) == x.size(batch):
            by_sample[f"prefix_tokens[{i}]"] = Shard(batch)
    strategies: list[Strategy] = [(Shard(batch), by_sample), (Shard(2), by_channel)]
    if all(prefix.size(token) == 0 for prefix in prefixes):
        rows = 1 if pos_embed.dim() == 3 and pos_embed.size(1) == x.size(token) else 0
        strategies.append((Shard(token), {"x": Shard(token), "pos_embed": Shard(rows)}))
    return strategies


def _by_row(rows: DTensor, positions: DTensor, d: int) -> Placement:
    """The placement of positions, which broadcast to rows [*, D], if the rows are sharded along d."""
    own = d - (rows.dim() - 1 - positions.dim())
    return Shard(own) if own >= 0 and positions.size(own) == rows.size(d) else Replicate()


def _add_positions(values: Values) -> list[Strategy]:
    x, positions = values["x"], values["positions"]
    last = x.dim() - 1
    strategies: list[Strategy] = [
        (Shard(d), {"x": Shard(d), "positions": _by_row(x, positions, d)}) for d in range(last)
    ]
    return [*strategies, (Shard(last), {"x": Shard(last), "pos_embed": Shard(1)})]


def _sum_positions(values: Values) -> list[Strategy]:
    grad, positions = values["grad"], values["positions"]
    last = grad.dim() - 1
    strategies: list[Strategy] = [
        (Partial(), {"grad": Shard(d), "positions": _by_row(grad, positions, d)}) for d in range(last)
    ]
    return [*strategies, (Shard(1), {"grad": Shard(last)}), (Partial(), {"grad": Partial()})]


def _sum_batch(values: Values) -> list[Strategy]:
    batch, token = _axes(values)
    return [
        (Partial(), {"grad": Shard(batch)}),
        (Shard(0), {"grad": Shard(token)}),
        (Shard(1), {"grad": Shard(2)}),
        (Partial(), {"grad": Partial()}),
    ]


# The dimension of the heads in the tensor that a bias is made from.
_HEADS = {"table": 1, "diagonals": 0, "bias": 0}


def _mask_of(values: Values, like: Tensor, d: int) -> dict[str, Placement]:
    """The placement of a mask, which broadcasts to scores, if these are sharded along d."""
    mask = values["mask"]
    if mask is None:
        return {}
    own = d - (like.dim() - mask.dim())
    return {"mask": Shard(own)} if own >= 0 and mask.size(own) == like.size(d) else {}


def _regions_fit(values: Values, like: DTensor, d: int) -> bool:
    """Whether every shard of the samples along d begins with the first window."""
    regions = values["regions"]
    if regions is None:
        return True
    inner = like.shape[d + 1 : -3].numel()
    if inner % regions.size(0) == 0:
        return True
    samples, ranks = like.size(d), like.device_mesh.size()
    first = like.shape[:d].numel() == 1
    return first and samples % ranks == 0 and samples // ranks * inner % regions.size(0) == 0


def _softmax(values: Values) -> list[Strategy]:
    return _by_head_and_sample(values, ("scores",))


def _attention(values: Values) -> list[Strategy]:
    return _by_head_and_sample(values, ("q", "k", "v"))


def _by_head_and_sample(values: Values, names: tuple[str, ...]) -> list[Strategy]:
    scores = values[names[0]]
    heads = scores.dim() - 3
    (table,) = _HEADS.keys() & values.keys()

    def along(d: int) -> dict[str, Placement]:
        return {**dict.fromkeys(names, Shard(d)), **_mask_of(values, scores, d)}

    by_sample: list[Strategy] = [
        (Shard(d), along(d)) for d in range(heads) if _regions_fit(values, scores, d)
    ]
    return [(Shard(heads), {**along(heads), table: Shard(_HEADS[table])}), *by_sample]


def _softmax_backward(values: Values) -> list[Strategy]:
    heads = values["grad"].dim() - 3
    by_sample: list[Strategy] = [
        ((Shard(d), Partial()), {"grad": Shard(d), "result": Shard(d)}) for d in range(heads)
    ]
    by_head = (Shard(heads), Shard(_heads_of_sizes(values))), {"grad": Shard(heads), "result": Shard(heads)}
    return [by_head, *by_sample, ((Partial(), Partial()), {"grad": Partial()})]


def _heads_of_sizes(values: Values) -> int:
    """The dimension of the heads in table_sizes: tables [rows, heads] have a window or an index."""
    return 1 if "window" in values or "index" in values else 0


# The ops that reach DTensor: the public ops and their gradients are composed of these.
_STRATEGIES: dict[str, Callable[[Values], list[Strategy]]] = {
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
    "window_bias_softmax": _softmax,
    "_window_bias_softmax_backward": _softmax_backward,
    "diagonal_bias_softmax": _softmax,
    "_diagonal_bias_softmax_backward": _softmax_backward,
    "gather_bias_softmax": _softmax,
    "_gather_bias_softmax_backward": _softmax_backward,
    "bias_softmax": _softmax,
    "_bias_softmax_backward": _softmax_backward,
    "_window_attention": _attention,
    "_diagonal_attention": _attention,
}


def _tensors(values: Values) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a call except the seed; elements of a list are named as in error messages."""
    for name, value in values.items():
        if isinstance(value, list):
            yield from ((f"{name}[{i}]", t) for i, t in enumerate(value) if isinstance(t, Tensor))
        elif isinstance(value, Tensor) and name != "seed":
            yield name, value


def _with_tensors(values: Values, convert: Callable[[str, Any], Any]) -> Values:
    """The arguments with `convert` applied to each tensor."""
    found = {name: convert(name, tensor) for name, tensor in _tensors(values)}
    result = {}
    for name, value in values.items():
        if isinstance(value, list):
            result[name] = [found.get(f"{name}[{i}]", item) for i, item in enumerate(value)]
        else:
            result[name] = found.get(name, value)
    return result


def _as_dtensor(op: Any, mesh: DeviceMesh, tensor: Tensor) -> DTensor:
    """Converts a tensor under the same rules as torch's own ops on DTensors."""
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
    """The number of elements communicated to redistribute a tensor from one placement to another."""
    if _same(have, want):
        return 0
    if want.is_partial():
        return float("inf")
    return 0 if have.is_replicate() else tensor.numel()


def _cheapest(strategies: list[Strategy], values: Values, mesh_dim: int) -> Strategy:
    """The first of the strategies that communicate the fewest elements."""

    def cost(strategy: Strategy) -> float:
        wanted = strategy[1]
        return sum(
            _moved(tensor, tensor.placements[mesh_dim], wanted.get(name, Replicate()))
            for name, tensor in _tensors(values)
        )

    return min(strategies, key=cost)


def _placed(tensor: DTensor, placements: list[Placement]) -> DTensor:
    if all(map(_same, tensor.placements, placements)):
        return tensor
    # Detached: up to torch 2.12, autograd detaches the result in place, which DTensor does not support.
    return tensor.detach().redistribute(placements=placements)


def _offset_here(x: DTensor, axis: int) -> int:
    """The offset of this rank's shard along an axis."""
    size, offset = x.size(axis), 0
    for mesh_dim, placement in enumerate(x.placements):
        if placement.is_shard(axis):  # in chunks, as by torch.chunk
            chunk = -(-size // x.device_mesh.size(mesh_dim))
            before = min(chunk * x.device_mesh.get_local_rank(mesh_dim), size)
            offset, size = offset + before, min(chunk, size - before)
    return offset


def _local_mask(
    values: Values, shape: torch.Size, mesh: DeviceMesh, placements: list[Placement], device: torch.device
) -> Tensor:
    """The local shard of the dropout mask of the whole result: True for retained elements."""
    ones = torch.ones((), dtype=torch.bfloat16, device=device).expand(shape)
    seed = values["seed"]
    mask = torch.ops.posenc_ext._scale_dropout(ones, 1.0, values["dropout_p"], seed) != 0
    whole = [Replicate() if placement.is_partial() else placement for placement in placements]
    return distribute_tensor(mask, mesh, whole, src_data_rank=None).to_local()


def _call_with_mask(op: Any, local: Values, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Runs the op on the local shard with a given dropout mask; like the kernels, rounds once to dtype."""
    wide = torch.float32 if dtype.itemsize == 2 else torch.float64
    widened = _with_tensors(local, lambda _, t: t.to(wide) if t.is_floating_point() else t)
    p = local["dropout_p"]
    result = op(**{**widened, "dropout_p": 0.0, "seed": None})
    return torch.where(mask, result * (1.0 / (1.0 - p) if p < 1.0 else 0.0), 0.0).to(dtype)


@torch.no_grad()  # runs below autograd, which is implemented in C++
def _dispatch(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DTensor | tuple[DTensor, ...]:
    """Called by DTensor instead of an op."""
    arguments = op._schema.arguments
    values = {a.name: kwargs.get(a.name, a.default_value) for a in arguments}
    values.update(zip(values, args, strict=False))
    mesh = next(t.device_mesh for _, t in _tensors(values) if isinstance(t, DTensor))
    values = _with_tensors(values, lambda _, tensor: _as_dtensor(op, mesh, tensor))
    if isinstance(values.get("seed"), DTensor):
        values["seed"] = values["seed"].full_tensor()

    # A call on meta tensors of the global shapes: raises the errors of a single process, and has the shape of
    # the result.
    seed = values.get("seed")
    on_meta = _with_tensors(values, lambda _, t: torch.empty(t.shape, dtype=t.dtype, device="meta"))
    if seed is not None:
        on_meta["seed"] = torch.empty(seed.shape, dtype=seed.dtype, device="meta")
    whole = op(**on_meta)

    strategies: list[Strategy] = [(Replicate(), {}), *_STRATEGIES[op._opname](values)]
    chosen = [_cheapest(strategies, values, d) for d in range(mesh.ndim)]
    wholes = whole if isinstance(whole, tuple) else (whole,)
    # For each dimension of the mesh, the placement of each result.
    split = [p if isinstance(p, tuple) else (p,) * len(wholes) for p, _ in chosen]
    placements = [p[0] for p in split]
    placed = _with_tensors(
        values, lambda name, t: _placed(t, [strategy[1].get(name, Replicate()) for strategy in chosen])
    )
    local = _with_tensors(placed, lambda _, t: t.to_local())
    device = next(t.device for _, t in _tensors(local))
    if mesh.get_coordinate() is None:  # this rank is not part of the mesh
        result = tuple(torch.empty(0, dtype=one.dtype, device=device) for one in wholes)
    else:
        if op._opname.endswith("_softmax_backward"):
            sizes = list(local["table_sizes"])
            sizes[_heads_of_sizes(local)] = local["grad"].size(-3)
            local["table_sizes"] = sizes
        if op._opname == "_add_sinusoidal":
            local["start"] = local["start"] + _offset_here(placed["x"], _axes(values)[1])
        drops = seed is not None and values["dropout_p"] > 0
        if drops and any(placement.is_shard() for placement in placements):
            mask = _local_mask(values, whole.shape, mesh, placements, device)
            result = _call_with_mask(op, local, mask, whole.dtype)
        else:
            result = op(**local)
    results = result if isinstance(result, tuple) else (result,)
    found = tuple(
        DTensor.from_local(
            one,
            mesh,
            [p[i] for p in split],
            run_check=False,
            shape=wholes[i].shape,
            stride=wholes[i].stride(),
        )
        for i, one in enumerate(results)
    )
    return found if isinstance(whole, tuple) else found[0]


# DTensor's table of custom handlers: private, but the same in torch 2.10 to 2.14. The public
# register_sharding passes the same arguments on all ranks (the same start of a sequence), and caches the
# shapes of results by keys that leave out lists of sizes.
for _name in _STRATEGIES:
    DTensor._op_dispatcher._custom_op_handlers[getattr(torch.ops.posenc_ext, _name).default] = _dispatch
