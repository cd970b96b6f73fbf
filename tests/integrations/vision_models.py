"""Small models of torchvision, timm and MONAI with random weights: at least one for each class replaced."""

import math
import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn


class Case(NamedTuple):
    library: str
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    replaced: dict[str, int]  # class: number of modules
    kept: int = 0
    equal: bool = True  # the outputs are, bit for bit
    script: bool = True  # the original can be scripted

    def build(self) -> nn.Module:
        pytest.importorskip(self.library, reason=f"{self.library} is not installed (requirements/models.txt)")
        torch.manual_seed(0)
        model = self.make()
        with torch.no_grad():  # libraries fill tables, and whole layers, with zeros or nearly
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1 / math.sqrt(16 + parameter.shape[-1]))
        return model

    def input(self) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(1))


def new(path: str, **arguments: Any) -> nn.Module:
    """Calls the class or function with this path."""
    return pkgutil.resolve_name(path)(**arguments)


TV, TIMM = "torchvision.models", "timm.models"
DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1}
SWIN = {"patch_size": [4, 4], "window_size": [4, 4], "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4]}
SWIN |= DROPOUT | {"num_classes": 5}
SWIN_3D = {
    "patch_size": [2, 4, 4],
    "window_size": [4, 4, 4],
    "embed_dim": 16,
    "depths": [2],
    "num_heads": [2],
}
SWIN_3D |= DROPOUT | {"num_classes": 5}
MAXVIT = {"input_size": (32, 32), "partition_size": 4, "stem_channels": 8, "block_channels": [16]}
MAXVIT |= {"block_layers": [1], "head_dim": 8, "stochastic_depth_prob": 0.0, "num_classes": 5}
VIT = {"image_size": 16, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
VIT |= DROPOUT

TIMM_SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4)}
TIMM_SWIN |= {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "num_classes": 5}
TIMM_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 5}
BEIT = TIMM_VIT | {"use_abs_pos_emb": False}
LEVIT = {"img_size": 32, "embed_dim": (16, 16, 16), "num_heads": (2, 2, 2), "depth": (1, 1, 1), "key_dim": 8}
TINY_VIT = {"embed_dims": (8, 16), "depths": (1, 1), "num_heads": (1, 2), "window_sizes": (4, 4)}
FORMER = {"embed_dims": (8, 8, 8, 16), "depths": (1, 1, 1, 1), "num_vit": 1}
EFFICIENT_VIT = {"embed_dim": (16, 16, 16), "depth": (1, 1, 1), "key_dim": (4, 4, 4), "num_heads": (2, 2, 2)}

UNETR = {"in_channels": 1, "out_channels": 2, "feature_size": 12, "window_size": 4, "depths": (2, 1, 1, 1)}
UNETR |= {"num_heads": (2, 2, 2, 2), "drop_rate": 0.1, "attn_drop_rate": 0.1}


def swin_v2() -> nn.Module:
    file = f"{TV}.swin_transformer"
    block = pkgutil.resolve_name(f"{file}.SwinTransformerBlockV2")
    merging = pkgutil.resolve_name(f"{file}.PatchMergingV2")
    return new(f"{file}.SwinTransformer", block=block, downsample_layer=merging, **SWIN)


def mvit(rel_pos_embed: bool) -> nn.Module:
    file = f"{TV}.video.mvit"
    block = new(
        f"{file}.MSBlockConfig",
        num_heads=2,
        input_channels=16,
        output_channels=16,
        kernel_q=[3, 3, 3],
        kernel_kv=[3, 3, 3],
        stride_q=[1, 1, 1],
        stride_kv=[1, 2, 2],
    )
    return new(
        f"{file}.MViT",
        spatial_size=(16, 16),
        temporal_size=4,
        block_setting=[block, block],
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=rel_pos_embed,
        proj_after_attn=True,
        num_classes=5,
    )


def timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return partial(new, "timm.create_model", model_name=name, num_classes=5, **arguments)


def rel_pos_attention(name: str, **arguments: Any) -> nn.Module:
    """Of timm: a layer with one of its modules for relative positions."""
    module = partial(pkgutil.resolve_name(f"timm.layers.{name}"), window_size=(4, 3), **arguments)
    return new(f"{TIMM}.vision_transformer_relpos.RelPosAttention", dim=16, num_heads=2, rel_pos_cls=module)


# Images that are padded to windows, and windows as large as the image in the second stage.
PADDED, SQUARE, TOKENS, CLIP = (2, 3, 40, 24), (2, 3, 32, 32), (2, 12, 16), (1, 3, 8, 64, 64)
WINDOWS = {"WindowAttention": 3}
EFFICIENT_FORMER_V2 = {"Attention2d": 1, "Attention2dDownsample": 1}

CASES = [
    Case(
        "torchvision",
        "Swin",
        partial(new, f"{TV}.SwinTransformer", **SWIN),
        PADDED,
        {"ShiftedWindowAttention": 3},
        equal=False,
    ),
    Case("torchvision", "Swin v2", swin_v2, PADDED, {"ShiftedWindowAttentionV2": 3}, equal=False),
    Case(
        "torchvision",
        "Video Swin",
        partial(new, f"{TV}.video.SwinTransformer3d", **SWIN_3D),
        (1, 3, 12, 24, 20),
        {"ShiftedWindowAttention3d": 2},
        equal=False,
    ),
    Case(
        "torchvision",
        "Video Swin, clipped windows",
        partial(new, f"{TV}.video.SwinTransformer3d", **SWIN_3D),
        (1, 3, 4, 24, 12),
        {"ShiftedWindowAttention3d": 2},
        equal=False,
    ),
    Case(
        "torchvision",
        "MaxViT",
        partial(new, f"{TV}.MaxVit", **MAXVIT),
        SQUARE,
        {"RelativePositionalMultiHeadAttention": 2},
        equal=False,
    ),
    Case(
        "torchvision", "ViT", partial(new, f"{TV}.VisionTransformer", **VIT), (2, 3, 16, 16), {"Encoder": 1}
    ),
    Case("torchvision", "MViT v1", partial(mvit, False), CLIP, {"PositionalEncoding": 1}, kept=2),
    Case("torchvision", "MViT v2", partial(mvit, True), CLIP, {}, kept=3),
    Case(
        "timm",
        "Swin",
        partial(new, f"{TIMM}.SwinTransformer", **TIMM_SWIN),
        (2, 3, 64, 64),
        WINDOWS,
        equal=False,
    ),
    Case(
        "timm",
        "Swin v2",
        partial(new, f"{TIMM}.SwinTransformerV2", **TIMM_SWIN),
        (2, 3, 64, 64),
        WINDOWS,
        equal=False,
    ),
    Case(
        "timm", "BEiT", partial(new, f"{TIMM}.Beit", use_rel_pos_bias=True, **BEIT), SQUARE, {"Attention": 1}
    ),
    Case(
        "timm",
        "BEiT, shared bias",
        partial(new, f"{TIMM}.Beit", use_shared_rel_pos_bias=True, **BEIT),
        SQUARE,
        {"RelativePositionBias": 1},
        kept=1,
    ),
    Case("timm", "LeViT", timm("levit_128s", **LEVIT), SQUARE, {"Attention": 3, "AttentionDownsample": 2}),
    Case("timm", "TinyViT", timm("tiny_vit_5m_224", **TINY_VIT), SQUARE, {"Attention": 1}),
    Case("timm", "EfficientFormer", timm("efficientformer_l1", **FORMER), (1, 3, 224, 224), {"Attention": 1}),
    Case(
        "timm", "EfficientFormer v2", timm("efficientformerv2_s0", img_size=32), SQUARE, EFFICIENT_FORMER_V2
    ),
    Case(
        "timm",
        "EfficientViT",
        timm("efficientvit_m0", img_size=64, **EFFICIENT_VIT),
        (2, 3, 64, 64),
        {"CascadedGroupAttention": 3},
    ),
    Case("timm", "RelPosBias", partial(rel_pos_attention, "RelPosBias"), TOKENS, {"RelPosBias": 1}),
    Case("timm", "RelPosBiasTf", partial(rel_pos_attention, "RelPosBiasTf"), TOKENS, {"RelPosBiasTf": 1}),
    Case("timm", "RelPosMlp", partial(rel_pos_attention, "RelPosMlp"), TOKENS, {"RelPosMlp": 1}),
    Case(
        "timm",
        "RelPosMlp, swin",
        partial(rel_pos_attention, "RelPosMlp", mode="swin"),
        TOKENS,
        {"RelPosMlp": 1},
    ),
    Case(
        "timm",
        "ViT",
        partial(new, f"{TIMM}.VisionTransformer", pos_drop_rate=0.1, reg_tokens=2, **TIMM_VIT),
        SQUARE,
        {"VisionTransformer": 1},
    ),
    Case(
        "timm",
        "ViT, another size",
        partial(new, f"{TIMM}.VisionTransformer", no_embed_class=True, dynamic_img_size=True, **TIMM_VIT),
        PADDED,
        {"VisionTransformer": 1},
    ),
    Case(
        "timm",
        "DeiT, distilled",
        partial(new, f"{TIMM}.deit.VisionTransformerDistilled", **TIMM_VIT),
        SQUARE,
        {"VisionTransformerDistilled": 1},
    ),
    Case(
        "monai",
        "Swin UNETR",
        partial(new, "monai.networks.nets.SwinUNETR", **UNETR),
        (1, 1, 32, 64, 64),
        {"WindowAttention": 5},
        equal=False,
    ),
]
