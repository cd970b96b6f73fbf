"""Replacements for classes of timm."""

import math
from functools import partial
from typing import Optional

import torch
from timm.layers import pos_embed_rel, resample_abs_pos_embed
from timm.models import (
    beit,
    deit,
    efficientformer,
    efficientformer_v2,
    efficientvit_msra,
    levit,
    naflexvit,
    swin_transformer,
    swin_transformer_v2,
    swin_transformer_v2_cr,
    tiny_vit,
    vision_transformer,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import add_position_embedding, gather_bias, window_bias
from . import keeps, replaces
from ._windows import softmax

replaces = partial(replaces, version="timm 1.0.31")


@replaces(
    swin_transformer.WindowAttention,
    "window_bias_softmax, or window_bias where fused_attn is True",
    sources={
        "__init__": "5f70f27daaa7",
        "set_window_size": "7f8a64ac8a68",
        "_get_rel_pos_bias": "28d9cb9d886b",
        "forward": "25ecc84950d1",
        "get_relative_position_index": "b9c04895299c",
    },
)
class SwinWindowAttention(swin_transformer.WindowAttention):
    def _get_rel_pos_bias(self) -> Tensor:
        return window_bias(self.relative_position_bias_table, self.window_size).unsqueeze(0)

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        B, N, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused_attn:
            bias = self._get_rel_pos_bias()
            if mask is not None:
                bias = (bias + mask.unsqueeze(1)).repeat(B // mask.size(0), 1, 1, 1)
            dropout = self.attn_drop.p if self.training else 0.0
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        else:
            scores = q @ k.transpose(-2, -1)
            weights = softmax(scores, self.relative_position_bias_table, self.window_size, self.scale, mask)
            x = self.attn_drop(weights) @ v
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(B, N, -1)))


@replaces(
    swin_transformer_v2.WindowAttention,
    "window_bias_softmax",
    sources={
        "__init__": "e23b710edc79",
        "_make_pair_wise_relative_positions": "c9c031679861",
        "set_window_size": "b182230d3f26",
        "forward": "127a2e4fdaaa",
    },
)
class SwinV2WindowAttention(swin_transformer_v2.WindowAttention):
    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        B, N, C = x.shape
        if self.q_bias is None:
            qkv = self.qkv(x)
        else:
            bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
            if self.qkv_bias_separate:
                qkv = self.qkv(x)
                qkv += bias
            else:
                qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * self.logit_scale.clamp(max=math.log(100.0)).exp()
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        weights = softmax(scores, 16 * torch.sigmoid(table), self.window_size, mask=mask)
        x = (self.attn_drop(weights) @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj_drop(self.proj(x))


@replaces(
    beit.Attention,
    "window_bias",
    sources={
        "__init__": "e65c888492df",
        "_get_rel_pos_bias": "1255eb2e5e53",
        "gen_relative_position_index": "0dbe4dddb585",
    },
    unless=lambda module: "" if module.window_size else "it has no bias",
)
class BeitAttention(beit.Attention):
    def _get_rel_pos_bias(self) -> Tensor:
        bias = window_bias(self.relative_position_bias_table, self.window_size, prefix_tokens=1)
        return bias.unsqueeze(0)


@replaces(
    beit.RelativePositionBias,
    "window_bias",
    sources={
        "__init__": "3003032fab80",
        "forward": "82f0d270c294",
        "gen_relative_position_index": "0dbe4dddb585",
    },
)
class BeitRelativePositionBias(beit.RelativePositionBias):
    def forward(self) -> Tensor:
        return window_bias(self.relative_position_bias_table, self.window_size, prefix_tokens=1)


@replaces(
    pos_embed_rel.RelPosBias,
    "window_bias",
    sources={
        "__init__": "e06a6fd33c86",
        "set_window_size": "a455f18ec1bc",
        "get_bias": "7ed143e0fc7e",
        "gen_relative_position_index": "6b5d9e0fef53",
    },
)
class RelPosBias(pos_embed_rel.RelPosBias):
    def get_bias(self) -> Tensor:
        table = self.relative_position_bias_table
        return window_bias(table, self.window_size, prefix_tokens=self.prefix_tokens).unsqueeze(0)


@replaces(
    pos_embed_rel.RelPosMlp,
    "window_bias",
    sources={
        "__init__": "88d8f2b6add8",
        "set_window_size": "4249ad63ad7b",
        "get_bias": "15b27c252e3a",
        "gen_relative_position_index": "6b5d9e0fef53",
    },
)
class RelPosMlp(pos_embed_rel.RelPosMlp):
    def get_bias(self) -> Tensor:
        table = self.bias_act(self.mlp(self.rel_coords_log)).view(-1, self.num_heads)
        if self.bias_gain is not None:
            table = self.bias_gain * table
        bias = window_bias(table, self.window_size)
        if self.prefix_tokens > 0:
            bias = F.pad(bias, [self.prefix_tokens, 0, self.prefix_tokens, 0])
        return bias.unsqueeze(0)


@replaces(
    pos_embed_rel.RelPosBiasTf,
    "window_bias",
    sources={
        "__init__": "6a40506bd714",
        "set_window_size": "e0e227d77fe5",
        "get_bias": "e41e5d012248",
        "generate_lookup_tensor": "ae90de94ed93",
        "reindex_2d_einsum_lookup": "e2d64a033588",
    },
)
class RelPosBiasTf(pos_embed_rel.RelPosBiasTf):
    def get_bias(self) -> Tensor:
        # Rows in the order of key minus query: reversed.
        return window_bias(self.relative_position_bias_table.flatten(1).flip(1).t(), self.window_size)


_gathers_biases = partial(
    replaces, uses="gather_bias, not cached in evaluation", sources={"get_attention_biases": "b8a29b45684d"}
)


def _get_attention_biases(self, device: torch.device) -> Tensor:
    # timm's cache of evaluation is not used: it is stale after load_state_dict, and differentiable only once.
    return gather_bias(self.attention_biases.t(), self.attention_bias_idxs)


@_gathers_biases(levit.Attention)
class LevitAttention(levit.Attention):
    get_attention_biases = _get_attention_biases


@_gathers_biases(levit.AttentionDownsample)
class LevitAttentionDownsample(levit.AttentionDownsample):
    get_attention_biases = _get_attention_biases


@_gathers_biases(tiny_vit.Attention)
class TinyVitAttention(tiny_vit.Attention):
    get_attention_biases = _get_attention_biases


@_gathers_biases(efficientformer.Attention)
class EfficientFormerAttention(efficientformer.Attention):
    get_attention_biases = _get_attention_biases


@_gathers_biases(efficientformer_v2.Attention2d)
class EfficientFormerV2Attention2d(efficientformer_v2.Attention2d):
    get_attention_biases = _get_attention_biases


@_gathers_biases(efficientformer_v2.Attention2dDownsample)
class EfficientFormerV2Attention2dDownsample(efficientformer_v2.Attention2dDownsample):
    get_attention_biases = _get_attention_biases


@_gathers_biases(efficientvit_msra.CascadedGroupAttention)
class CascadedGroupAttention(efficientvit_msra.CascadedGroupAttention):
    get_attention_biases = _get_attention_biases


def _no_pos_embed(module: nn.Module) -> str:
    return "" if module.pos_embed is not None else "it has no position embedding"


@replaces(
    vision_transformer.VisionTransformer,
    "add_position_embedding",
    sources={"_pos_embed": "7a2e167abcde"},
    unless=_no_pos_embed,
)
class VisionTransformer(vision_transformer.VisionTransformer):
    def _pos_embed(self, x: Tensor) -> Tensor:
        prefix: list[Tensor] = []
        if self.cls_token is not None:
            prefix.append(self.cls_token)
        if self.reg_token is not None:
            prefix.append(self.reg_token)
        pos_embed = self.pos_embed
        if self.dynamic_img_size:
            pos_embed = resample_abs_pos_embed(
                pos_embed,
                new_size=[x.size(1), x.size(2)],
                old_size=self.patch_embed.grid_size,
                num_prefix_tokens=0 if self.no_embed_class else self.num_prefix_tokens,
            )
            x = x.flatten(1, 2)
        x = add_position_embedding(x, pos_embed, prefix, embed_prefix=not self.no_embed_class)
        return self.pos_drop(x)


@replaces(
    deit.VisionTransformerDistilled,
    "add_position_embedding",
    sources={"_pos_embed": "d92e10330058"},
    unless=_no_pos_embed,
)
class VisionTransformerDistilled(deit.VisionTransformerDistilled):
    def _pos_embed(self, x: Tensor) -> Tensor:
        pos_embed = self.pos_embed
        if self.dynamic_img_size:
            pos_embed = resample_abs_pos_embed(
                pos_embed,
                new_size=[x.size(1), x.size(2)],
                old_size=self.patch_embed.grid_size,
                num_prefix_tokens=0 if self.no_embed_class else self.num_prefix_tokens,
            )
            x = x.flatten(1, 2)
        prefix = [self.cls_token, self.dist_token]
        x = add_position_embedding(x, pos_embed, prefix, embed_prefix=not self.no_embed_class)
        return self.pos_drop(x)


keeps(naflexvit.NaFlexEmbeds, "it interpolates positions for each sample, and adds them in place")
keeps(
    swin_transformer_v2_cr.WindowMultiHeadAttention,
    "the dropout in its MLP zeroes features of single pairs of tokens",
)
