"""The bias of any index, as LayoutLM and Graphormer gather it."""

from functools import partial

import torch
from case import Case, Contenders, contenders, into

import posenc_ext

FORMS = {
    "eager": "table[index].permute(0, 3, 1, 2).contiguous()",
    "best eager": "stack of table.t().contiguous().index_select(1, index of a sample)",
}


def gather(direction: str, dtype: torch.dtype, batch: int, length: int, heads: int) -> Contenders:
    rows = 32
    index = torch.randint(0, rows, (batch, length, length))
    shape = (batch, heads, length, length)

    def eager(table):
        return table[index].permute(0, 3, 1, 2).contiguous()

    def best(table):
        by_head = table.t().contiguous()
        return torch.stack([by_head.index_select(1, i.view(-1)).view(shape[1:]) for i in index])

    table = torch.randn(rows, heads, dtype=dtype)
    ours = partial(posenc_ext.gather_bias, index=index)
    forms = {"eager": eager, "best eager": best, "posenc_ext": ours}
    result = contenders(direction, forms, [table], lambda: torch.rand(shape).to(dtype))
    if direction == "forward":
        call = lambda op, t, out: op(t, index, out=out)  # noqa: E731
        result |= into("gather_bias", call, [table], shape, dtype)
    return result


def cases() -> list[Case]:
    found = []
    batch, heads = 2, 12
    for dtype in (torch.float32, torch.bfloat16):
        for length in (64, 512):
            moved = batch * heads * length**2 * dtype.itemsize
            for direction in ("forward", "backward"):
                if dtype == torch.bfloat16 and length == 64:
                    continue
                forward = direction == "forward"
                found.append(
                    Case(
                        title=f"any index {batch}x{length}x{length}, {heads} heads",
                        direction=direction,
                        dtype=dtype,
                        family=f"any index, {direction}",
                        build=partial(gather, direction, batch=batch, length=length, heads=heads),
                        reads=0 if forward else moved,
                        writes=moved if forward else 0,
                        limit="fill" if forward else "read",
                        # values are copied; sums of some 16,000 float32 in different orders
                        tolerance=0.0 if forward else 1e-4,
                        check_dtype=None if forward else torch.float32,
                        quick=length == 512 and dtype == torch.float32,
                        forms=FORMS,
                    )
                )
    return found
