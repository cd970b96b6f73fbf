"""What a call costs apart from its work: 64 elements, as torch.add, the wrapper, and the op behind it."""

from functools import partial

import torch
from case import Case, Contenders

import posenc_ext

FORMS = {
    "torch.add": "torch.add(x, pos_embed), the same sum",
    "posenc_ext op": "torch.ops.posenc_ext's overload, with its defaults",
}


def calls(
    mode: str, dtype: torch.dtype, ours, op, eager, leaves: list[torch.Tensor], result: torch.Tensor
) -> Contenders:
    """`leaves` are the arguments, too."""
    if mode != "no grad":
        leaves = [leaf.requires_grad_() for leaf in leaves]
    forms = {**eager, "posenc_ext": ours, "posenc_ext op": op}
    bound = {name: partial(form, *leaves) for name, form in forms.items()}
    if mode != "forward+backward":
        return bound
    upstream = torch.rand_like(result)
    return {name: lambda f=f: torch.autograd.grad(f(), leaves, upstream) for name, f in bound.items()}


def embedding(mode: str, dtype: torch.dtype) -> Contenders:
    x, pos_embed = torch.randn(1, 8, 8, dtype=dtype), torch.randn(8, 8, dtype=dtype)
    op = torch.ops.posenc_ext.add_position_embedding.default
    eager = {"torch.add": torch.add}
    return calls(mode, dtype, posenc_ext.add_position_embedding, op, eager, [x, pos_embed], x)


def sinusoid(mode: str, dtype: torch.dtype) -> Contenders:
    x, table = torch.randn(1, 8, 8, dtype=dtype), posenc_ext.sinusoidal_table(8, 8, dtype=dtype)
    op = torch.ops.posenc_ext.add_sinusoidal.default
    eager = {"torch.add": lambda x: torch.add(x, table)}
    return calls(mode, dtype, posenc_ext.add_sinusoidal, op, eager, [x], x)


def window(mode: str, dtype: torch.dtype) -> Contenders:
    table, flat = torch.randn(9, 4, dtype=dtype), posenc_ext.reference.window_index([2, 2]).view(-1)
    ours = partial(posenc_ext.window_bias, window=[2, 2])
    op = partial(torch.ops.posenc_ext.window_bias.default, window=[2, 2])
    eager = {"best eager": lambda table: table.t().contiguous().index_select(1, flat).view(4, 4, 4)}
    return calls(mode, dtype, ours, op, eager, [table], torch.empty(4, 4, 4))


def cases() -> list[Case]:
    builds = {"add_position_embedding": embedding, "add_sinusoidal": sinusoid, "window_bias": window}
    return [
        Case(
            title=f"call overhead, {title}, 64 elements",
            direction=mode,
            dtype=torch.float32,
            family="call overhead",
            build=partial(build, mode),
            tolerance=1e-6,
            quick=title == "add_position_embedding",
            other_settings=False,
            forms=FORMS,
        )
        for title, build in builds.items()
        for mode in ("no grad", "grad forward", "forward+backward")
    ]
