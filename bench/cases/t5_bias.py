"""T5's bucketed bias: a full square, and the row of one query while decoding."""

import math
from functools import partial

import torch
from case import Case, Contenders, contenders, into

import posenc_ext

HEADS, BUCKETS, MAX_DISTANCE = 12, 32, 128
FORMS = {
    "eager": "transformers' compute_bias: buckets in every call, the lookup; its result is a permuted view",
    "cached buckets": "table.t().contiguous().index_select(1, cached buckets in int32)",
    "best eager": "a vector of distances per head, unfold(1, k_len, 1).flip(1); decoding: cached buckets",
}


def buckets(q_len: int, k_len: int, q_offset: int, bidirectional: bool) -> torch.Tensor:
    """As transformers computes them."""
    context = torch.arange(q_len)[:, None] + q_offset
    distance = torch.arange(k_len)[None, :] - context
    found, count = 0, BUCKETS
    if bidirectional:
        count //= 2
        found = found + (distance > 0).to(torch.long) * count
        distance = torch.abs(distance)
    else:
        distance = -torch.min(distance, torch.zeros_like(distance))
    exact = count // 2
    large = torch.log(distance.float() / exact) / math.log(MAX_DISTANCE / exact) * (count - exact)
    large = torch.min(exact + large.to(torch.long), torch.full_like(distance, count - 1))
    return found + torch.where(distance < exact, distance, large)


def t5(direction: str, dtype: torch.dtype, q_len: int, k_len: int) -> Contenders:
    decoding = q_len == 1
    offset, shape = k_len - q_len, (HEADS, q_len, k_len)
    cached = buckets(q_len, k_len, offset, not decoding).view(-1).int()

    def eager(table):
        index = buckets(q_len, k_len, offset, not decoding)
        return torch.nn.functional.embedding(index, table).permute(2, 0, 1)

    def by_buckets(table):
        return table.t().contiguous().index_select(1, cached).view(shape)

    distances = torch.arange(q_len + k_len - 1) - (offset + q_len - 1)
    diagonals = posenc_ext.reference.t5_bucket(distances, BUCKETS, not decoding, MAX_DISTANCE)

    def by_diagonals(table):
        return table.t()[:, diagonals].unfold(1, k_len, 1).flip(1)

    options = {"q_offset": offset, "bidirectional": not decoding, "max_distance": MAX_DISTANCE}

    def ours(table):
        return posenc_ext.t5_bias(table, q_len, k_len, **options)

    table = torch.randn(BUCKETS, HEADS, dtype=dtype)
    forms = {"eager": eager, "cached buckets": by_buckets, "best eager": by_diagonals, "posenc_ext": ours}
    if decoding:
        forms["best eager"] = by_buckets
    if decoding or direction != "forward":
        del forms["cached buckets"]
    result = contenders(direction, forms, [table], lambda: torch.rand(shape).to(dtype))
    if direction == "forward":
        attention = transformers_t5(table, decoding)
        if attention is not None:
            library = partial(attention.compute_bias, q_len, k_len, past_seen_tokens=offset)
            result["transformers"] = torch.no_grad()(library)
        call = lambda op, t, out: op(t, q_len, k_len, **options, out=out)  # noqa: E731
        result |= into("t5_bias", call, [table], shape, dtype)
    return result


def transformers_t5(table: torch.Tensor, decoding: bool):
    """The attention of transformers' T5, where transformers is installed."""
    try:
        from transformers.models.t5.modeling_t5 import T5Attention, T5Config
    except ImportError:
        return None
    config = T5Config(d_model=HEADS, d_kv=1, num_heads=HEADS, is_decoder=decoding)
    attention = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).to(table.dtype)
    with torch.no_grad():
        attention.relative_attention_bias.weight.copy_(table)
    return attention


def cases() -> list[Case]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for q_len, k_len in ((128, 128), (512, 512), (2048, 2048), (1, 512), (1, 4096)):
            moved = HEADS * q_len * k_len * dtype.itemsize
            name = f"decode k={k_len}" if q_len == 1 else f"{q_len}x{k_len}"
            for direction in ("forward",) if q_len == 1 else ("forward", "backward", "both"):
                forward = direction == "forward"
                if direction == "both" and (q_len != 512 or dtype == torch.bfloat16):
                    continue
                if dtype == torch.bfloat16 and q_len == 128:
                    continue
                found.append(
                    Case(
                        title=f"T5 {name}, {HEADS} heads",
                        direction=direction,
                        dtype=dtype,
                        family=f"T5 decode, {direction}" if q_len == 1 else f"T5, {direction}",
                        build=partial(t5, direction, q_len=q_len, k_len=k_len),
                        reads=0 if forward else moved,
                        writes=moved if forward else 0,
                        limit={"forward": "fill", "backward": "read"}.get(direction),
                        # values are copied; eager sums up to 4 million float32 in one go
                        tolerance=0.0 if forward else 2e-3,
                        check_dtype=None if forward else torch.float32,
                        quick=q_len in (1, 2048) and dtype == torch.float32,
                        forms=FORMS,
                    )
                )
    return found
