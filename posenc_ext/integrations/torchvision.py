"""Replacements for classes of torchvision."""

# ruff: noqa: RUF005 (TorchScript does not support [*sizes, 1])

import math
from functools import partial
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import maxvit, swin_transformer, vision_transformer
from torchvision.models.video import mvit
from torchvision.models.video import swin_transformer as video_swin

from ..ops import add_position_embedding, window_attention
from . import keeps, replaces
from ._windows import attend, merge, partition, shifted_regions

replaces = partial(replaces, version="torchvision 0.29")


def shifted_window_attention(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Optional[Tensor],
    proj_weight: Tensor,
    proj_bias: Optional[Tensor],
    table: Tensor,
    window: list[int],
    shift: list[int],
    num_heads: int,
    attention_dropout: float,
    dropout: float,
    training: bool,
    logit_scale: Optional[Tensor] = None,
    index: Optional[Tensor] = None,
) -> Tensor:
    """Attention of Swin v1, or v2 with logit_scale, in windows of [B, H, W, C] or [B, T, H, W, C].

    The bias is that of the window, or with index [N, N] that of these rows of the table.
    """
    sizes: list[int] = []
    steps: list[int] = []
    padding: list[int] = []
    for axis, size in enumerate(window):
        sizes.append((x.size(axis + 1) + size - 1) // size * size)
        steps.append(shift[axis] if size < sizes[axis] else 0)
        padding = [0, sizes[axis] - x.size(axis + 1)] + padding
    axes = [axis + 1 for axis in range(len(window))]
    shifted = sum(steps) > 0
    original = x
    if sum(padding) > 0:
        x = F.pad(x, [0, 0] + padding)
    if shifted:
        x = torch.roll(x, [-step for step in steps], axes)
    x = partition(x, window)
    regions: Optional[Tensor] = None
    if shifted:
        regions = shifted_regions(sizes, window, steps, x.device)

    if logit_scale is not None and qkv_bias is not None:  # v2 has no bias of keys
        q_bias, _, v_bias = qkv_bias.chunk(3)
        qkv_bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
    qkv = F.linear(x, qkv_weight, qkv_bias).unflatten(-1, [3, num_heads, -1])
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind()
    if logit_scale is None and index is None:
        scale = q.size(-1) ** -0.5
        x = attend(q, k, v, table, window, scale, None, regions, attention_dropout, training)
    else:
        if logit_scale is not None:
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            scores = scores * logit_scale.clamp(max=math.log(100.0)).exp()
        else:
            scores = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)
        if index is None:
            weights = torch.ops.posenc_ext.window_bias_softmax_(scores, table, window, regions=regions)
        else:
            weights = torch.ops.posenc_ext.gather_bias_softmax_(scores, table, index, regions=regions)
        x = F.dropout(weights, attention_dropout, training) @ v
    x = F.linear(x.transpose(2, 3).flatten(3), proj_weight, proj_bias)
    x = merge(F.dropout(x, dropout, training), window, sizes)
    if shifted:
        x = torch.roll(x, steps, axes)
    for axis in axes:
        x = x.narrow(axis, 0, original.size(axis))
    return x.contiguous()


torch.fx.wrap("shifted_window_attention")  # a leaf of torchvision's feature extraction, as the original is


@replaces(
    swin_transformer.ShiftedWindowAttention,
    "window_attention",
    sources={
        "define_relative_position_bias_table": "7291718a0323",
        "define_relative_position_index": "3dbf29629d31",
        "get_relative_position_bias": "7c9ebbcfd52a",
        "forward": "5163df6ea97f",
        "_get_relative_position_bias": "5dda9352a279",
        "shifted_window_attention": "83f7a786345e",
    },
)
class ShiftedWindowAttention(swin_transformer.ShiftedWindowAttention):
    def forward(self, x: Tensor) -> Tensor:
        return shifted_window_attention(
            x,
            self.qkv.weight,
            self.qkv.bias,
            self.proj.weight,
            self.proj.bias,
            self.relative_position_bias_table,
            self.window_size,
            self.shift_size,
            self.num_heads,
            self.attention_dropout,
            self.dropout,
            self.training,
        )


@replaces(
    swin_transformer.ShiftedWindowAttentionV2,
    "window_bias_softmax",
    sources={
        "define_relative_position_bias_table": "0e5ed22e9cb5",
        "define_relative_position_index": "3dbf29629d31",
        "get_relative_position_bias": "3ffcd7995513",
        "forward": "00ef00213659",
        "_get_relative_position_bias": "5dda9352a279",
        "shifted_window_attention": "83f7a786345e",
    },
)
class ShiftedWindowAttentionV2(swin_transformer.ShiftedWindowAttentionV2):
    def forward(self, x: Tensor) -> Tensor:
        table = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads))
        return shifted_window_attention(
            x,
            self.qkv.weight,
            self.qkv.bias,
            self.proj.weight,
            self.proj.bias,
            table,
            self.window_size,
            self.shift_size,
            self.num_heads,
            self.attention_dropout,
            self.dropout,
            self.training,
            logit_scale=self.logit_scale,
        )


@replaces(
    video_swin.ShiftedWindowAttention3d,
    "window_attention",
    sources={
        "define_relative_position_bias_table": "b4603bc715f5",
        "define_relative_position_index": "c2d1a983b855",
        "get_relative_position_bias": "393207a9bcda",
        "forward": "07245cd62550",
        "_get_relative_position_bias": "e6fb23be1c5d",
        "_get_window_and_shift_size": "180a66572459",
        "_compute_pad_size_3d": "ad15672bf30a",
        "_compute_attention_mask_3d": "0b42f4205109",
        "shifted_window_attention_3d": "1746e055dacb",
    },
)
class ShiftedWindowAttention3d(video_swin.ShiftedWindowAttention3d):
    def forward(self, x: Tensor) -> Tensor:
        window = self.window_size.copy()
        for axis in range(3):
            window[axis] = min(window[axis], x.size(axis + 1))
        index: Optional[Tensor] = None
        if window != self.window_size:  # torchvision takes rows of the full window for a clipped one
            area = window[0] * window[1] * window[2]
            index = self.relative_position_index[:area, :area]
        return shifted_window_attention(
            x,
            self.qkv.weight,
            self.qkv.bias,
            self.proj.weight,
            self.proj.bias,
            self.relative_position_bias_table,
            window,
            self.shift_size,
            self.num_heads,
            self.attention_dropout,
            self.dropout,
            self.training,
            index=index,
        )


@replaces(
    maxvit.RelativePositionalMultiHeadAttention,
    "window_attention",
    sources={
        "__init__": "be5f917ce3ce",
        "get_relative_positional_bias": "6e1baa852585",
        "forward": "919d63ce4084",
        "_get_relative_position_index": "6de264871ee6",
    },
)
class RelativePositionalMultiHeadAttention(maxvit.RelativePositionalMultiHeadAttention):
    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(x).unflatten(-1, [3, self.n_heads, -1])
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind()
        window = [self.size, self.size]
        x = window_attention(q, k, v, self.relative_position_bias_table, window, scale=self.scale_factor)
        return self.merge(x.transpose(2, 3).flatten(3))


@replaces(
    vision_transformer.Encoder,
    "add_position_embedding",
    sources={"forward": "d1ae4ed64773"},
)
class Encoder(vision_transformer.Encoder):
    def forward(self, input: Tensor) -> Tensor:
        x = add_position_embedding(input, self.pos_embedding)
        return self.ln(self.layers(self.dropout(x)))


def _is_relative(module: nn.Module) -> str:
    return "" if module.spatial_pos is not None else "it has no absolute positions"


@replaces(
    mvit.PositionalEncoding,
    "add_position_embedding",
    sources={"__init__": "cec83050d33e", "forward": "014889c62f15"},
    unless=_is_relative,
)
class PositionalEncoding(mvit.PositionalEncoding):
    def forward(self, x: Tensor) -> Tensor:
        spatial, temporal, first = self.spatial_pos, self.temporal_pos, self.class_pos
        assert spatial is not None
        assert temporal is not None
        assert first is not None
        pos_embed = (temporal.unsqueeze(1) + spatial).flatten(0, 1)
        pos_embed = torch.cat([first.unsqueeze(0), pos_embed])
        return add_position_embedding(x, pos_embed, [self.class_token.unsqueeze(0).unsqueeze(0)])


keeps(mvit.MultiscaleAttention, "its bias depends on the queries, which no op computes")
