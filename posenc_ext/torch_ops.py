"""`torch.ops.posenc_ext` with types: editors complete its ops, and type checkers check the calls.

>>> from posenc_ext import torch_ops
>>> torch_ops.alibi_slopes.out(2, out=torch.empty(0))
tensor([0.0625, 0.0039])
"""

import torch


def __getattr__(name: str) -> torch._ops.OpOverloadPacket:
    return getattr(torch.ops.posenc_ext, name)


def __dir__() -> list[str]:
    return dir(torch.ops.posenc_ext)
