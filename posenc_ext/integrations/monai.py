"""Replacements for classes of MONAI."""

from functools import partial
from typing import Optional

import torch
from monai.networks.nets import swin_unetr
from torch import Tensor

from . import replaces
from ._windows import softmax

replaces = partial(replaces, version="monai 1.6.1")


@replaces(
    swin_unetr.WindowAttention,
    "window_bias_softmax (not where use_flash_attention applies)",
    sources={"__init__": "9a48447c8366", "forward": "ba16a1bc411d"},
)
class WindowAttention(swin_unetr.WindowAttention):
    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        if self.use_flash_attention and not torch.jit.is_scripting() and not torch.is_grad_enabled():
            return super().forward(x, mask)
        B, N, C = x.shape
        index: Optional[Tensor] = None
        area = 1
        for size in self.window_size:
            area *= size
        if area != N:  # MONAI takes rows of the full window for a clipped one
            index = self.relative_position_index[:N, :N]
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores, table = q @ k.transpose(-2, -1), self.relative_position_bias_table
        weights = softmax(scores, table, self.window_size, self.scale, mask, index)
        x = (self.attn_drop(weights) @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj_drop(self.proj(x))
