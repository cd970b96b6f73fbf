"""ALiBi's penalty on distances."""

from functools import partial

import torch
from case import Case, Contenders, contenders, into

import posenc_ext

HEADS = 12
FORMS = {
    "eager": "-slopes[:, None, None] * (arange(L) - arange(L)[:, None]).abs()",
    "best eager": "slopes[:, None, None] * cached negative distances",
}


def alibi(direction: str, dtype: torch.dtype, length: int) -> Contenders:
    shape = (HEADS, length, length)
    cached = -(torch.arange(length) - torch.arange(length)[:, None]).abs().to(torch.float32)
    cached = cached.to(dtype) if dtype == torch.float32 else cached  # bfloat16 has no exact distances

    def eager(slopes):
        distance = (torch.arange(length) - torch.arange(length)[:, None]).abs()
        return (-slopes.float()[:, None, None] * distance).to(dtype)

    def best(slopes):
        return (slopes.float()[:, None, None] * cached).to(dtype)

    slopes = posenc_ext.alibi_slopes(HEADS, dtype=dtype)
    ours = partial(posenc_ext.alibi_bias, q_len=length, k_len=length)
    forms = {"eager": eager, "best eager": best, "posenc_ext": ours}
    result = contenders(direction, forms, [slopes], lambda: torch.rand(shape).to(dtype))
    if direction == "forward":
        call = lambda op, s, out: op(s, length, length, out=out)  # noqa: E731
        result |= into("alibi_bias", call, [slopes], shape, dtype)
    return result


def cases() -> list[Case]:
    found = []
    for dtype, length, direction in (
        (torch.float32, 128, "forward"),
        (torch.float32, 512, "forward"),
        (torch.float32, 512, "backward"),
        (torch.float32, 2048, "forward"),
        (torch.bfloat16, 512, "forward"),
    ):
        moved, forward = HEADS * length**2 * dtype.itemsize, direction == "forward"
        found.append(
            Case(
                title=f"ALiBi {length}x{length}, {HEADS} heads",
                direction=direction,
                dtype=dtype,
                family=f"ALiBi, {direction}",
                build=partial(alibi, direction, length=length),
                reads=0 if forward else moved,
                writes=moved if forward else 0,
                limit="fill" if forward else "read",
                tolerance=0.0 if forward else 1e-4,  # one rounded product; sums in different orders
                quick=length == 512 and dtype == torch.float32,
                forms=FORMS,
            )
        )
    return found
