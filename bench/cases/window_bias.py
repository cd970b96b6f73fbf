"""Windows of Swin and others, and the expanded form of UTNet; the adjoint op by itself."""

from functools import partial

import torch
from case import Case, Contenders, Rotating, bind, contenders, into

import posenc_ext

FORMS = {
    "eager": "table[index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()",
    "best eager": "table.t().contiguous().index_select(1, index.view(-1)).view(-1, n, n)",
}
EXPAND_FORMS = {
    "eager": "table[index], repeat_interleave over both axes, permute(2, 0, 1).contiguous()",
    "best eager": "the head-major gather, expand and reshape",
}
ADJOINT_FORMS = {
    "eager": "zeros.index_put_((index,), grad rows, accumulate=True)",
    "best eager": "zeros.index_add_(0, index, grad rows)",
}


def window(direction: str, dtype: torch.dtype, size: int, heads: int) -> Contenders:
    cells, flat = size * size, posenc_ext.reference.window_index([size, size]).view(-1)
    sides = [size, size]

    def eager(table):
        return table[flat].view(cells, cells, -1).permute(2, 0, 1).contiguous()

    def best(table):
        return table.t().contiguous().index_select(1, flat).view(-1, cells, cells)

    def ours(table):
        return posenc_ext.window_bias(table, sides)

    forms = {"eager": eager, "best eager": best, "posenc_ext": ours}
    timm = timm_window(size, heads, dtype)
    table = torch.randn((2 * size - 1) ** 2, heads, dtype=dtype)
    result = contenders(
        direction, forms, [table], lambda: torch.rand(heads, cells, cells).to(dtype), compiled="eager"
    )
    if timm is not None and direction == "forward":
        with torch.no_grad():
            timm.relative_position_bias_table.copy_(table)
        result["timm"] = torch.no_grad()(timm._get_rel_pos_bias)
    if direction == "forward":
        call = lambda op, t, out: op(t, [size, size], out=out)  # noqa: E731
        result |= into("window_bias", call, [table], (heads, cells, cells), dtype)
    return result


def timm_window(size: int, heads: int, dtype: torch.dtype):
    """timm's Swin attention, where timm is installed."""
    try:
        from timm.models.swin_transformer import WindowAttention
    except ImportError:
        return None
    return WindowAttention(dim=heads, num_heads=heads, window_size=(size, size), dtype=dtype)


def expand(direction: str, dtype: torch.dtype, size: int, heads: int, query: int) -> Contenders:
    keys, flat = size * size, posenc_ext.reference.window_index([size, size]).view(-1)
    ratio = query // size

    def eager(table):
        bias = table[flat].view(size, size, keys, -1)
        bias = bias.repeat_interleave(ratio, dim=0).repeat_interleave(ratio, dim=1)
        return bias.view(query * query, keys, -1).permute(2, 0, 1).contiguous()

    def best(table):
        bias = table.t().contiguous().index_select(1, flat).view(heads, size, 1, size, 1, keys)
        return bias.expand(heads, size, ratio, size, ratio, keys).reshape(heads, query * query, keys)

    ours = partial(posenc_ext.window_bias, window=[size] * 2, query_size=[query] * 2)
    table = torch.randn((2 * size - 1) ** 2, heads, dtype=dtype)
    shape = (heads, query * query, keys)
    forms = {"eager": eager, "best eager": best, "posenc_ext": ours}
    result = contenders(direction, forms, [table], lambda: torch.rand(shape).to(dtype))
    if direction == "forward":
        call = lambda op, t, out: op(t, [size] * 2, query_size=[query] * 2, out=out)  # noqa: E731
        result |= into("window_bias", call, [table], shape, dtype)
    return result


def adjoint(dtype: torch.dtype, size: int, heads: int) -> Contenders:
    cells, rows = size * size, (2 * size - 1) ** 2
    flat = posenc_ext.reference.window_index([size, size]).view(-1)
    forms = {
        "eager": lambda grad: torch.zeros(rows, heads, dtype=dtype).index_put_(
            (flat,), grad.flatten(1).t(), accumulate=True
        ),
        "best eager": lambda grad: torch.zeros(rows, heads, dtype=dtype).index_add_(
            0, flat, grad.flatten(1).t()
        ),
        "posenc_ext": lambda grad: torch.ops.posenc_ext._window_bias_backward(grad, rows, [size, size]),
    }
    grads = Rotating(lambda: torch.rand(heads, cells, cells).to(dtype))
    return {name: bind(form, [grads]) for name, form in forms.items()}


def case(title, family, direction, dtype, build, elements, forms, quick) -> Case:
    moved = elements * dtype.itemsize
    forward = direction == "forward"
    return Case(
        title=title,
        direction=direction,
        dtype=dtype,
        family=f"{family}, {direction}",
        build=build,
        reads=0 if forward else moved,
        writes=moved if forward else 0,
        limit={"forward": "fill", "both": None}.get(direction, "read"),
        tolerance=0.0 if forward else 1e-5,  # gathers are exact; sums of float32 in different orders
        check_dtype=None if forward else torch.float32,
        quick=quick and dtype == torch.float32 and direction != "both",
        forms=forms,
    )


def cases() -> list[Case]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for size, heads in ((7, 3), (7, 6), (7, 12), (7, 24), (12, 12), (16, 4), (32, 16)):
            title, elements = f"window {size}x{size}, {heads} heads", heads * size**4
            quick = (size, heads) in ((7, 12), (16, 4), (32, 16))
            small = size == 7 and heads != 12
            for direction in ("forward", "backward") if small else ("forward", "backward", "both"):
                if dtype == torch.bfloat16 and (small or direction == "both"):
                    continue
                build = partial(window, direction, size=size, heads=heads)
                found.append(case(title, "window", direction, dtype, build, elements, FORMS, quick))
            if size == 7 and dtype == torch.float32:
                build = partial(adjoint, size=size, heads=heads)
                found.append(
                    case(title, "window", "adjoint op", dtype, build, elements, ADJOINT_FORMS, quick)
                )
        for direction in ("forward", "backward"):
            build = partial(expand, direction, size=16, heads=4, query=112)
            elements = 4 * 112**2 * 16**2
            title = "expand 16x16 to 112x112, 4 heads"
            found.append(case(title, "expand", direction, dtype, build, elements, EXPAND_FORMS, True))
    return found
