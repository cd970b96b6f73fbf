"""Learned absolute positions, their resampling and CLIP's pooling against the libraries they replace.

Gathers and single additions are compared for equality. Gradients of pos_embed are sums over a batch, of
float32 rounded to float32, in another order: BATCH roundings of BATCH terms. Resampling is rounded once here;
the libraries place their samples in float32 (`interpolated`); tests/test_compositions.py compares in float64.
"""

import pytest
import torch

import posenc_ext
from posenc_ext import nn

REASON = "the CUDA-build environment has the libraries (requirements/models.txt)"
timm = pytest.importorskip("timm", reason=REASON)
torchvision = pytest.importorskip("torchvision", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

from timm.layers import AttentionPool2d, resample_abs_pos_embed  # noqa: E402
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn  # noqa: E402
from torchvision.models.vision_transformer import interpolate_embeddings  # noqa: E402
from transformers import BartConfig, BertConfig, CLIPVisionConfig, DeiTConfig  # noqa: E402
from transformers.models.bart.modeling_bart import BartLearnedPositionalEmbedding  # noqa: E402
from transformers.models.bert.modeling_bert import BertEmbeddings  # noqa: E402
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings  # noqa: E402
from transformers.models.deit.modeling_deit import DeiTEmbeddings  # noqa: E402

BATCH, DIM = 3, 12


def interpolated(old, new, values, dtype=torch.float32, gradient=False):
    """What `interpolate` in float32, of values rounded to dtype, may be off by.

    A sampling point is off by three roundings of a coordinate up to the larger side; a weight, by 1.5 times
    that (the cubic kernel's steepest slope). Four cells along each of two axes are weighted, by at most 1.5
    in all. To the gradient of an old cell, as many new ones contribute as it has copies.
    """
    side, largest = max(*old, *new), values.detach().abs().max().item()
    copies = max(1.0, new[0] / old[0]) * max(1.0, new[1] / old[1]) if gradient else 1.0
    return (2 * 4 * 1.5 * 3 * side * 2**-24 + torch.finfo(dtype).eps) * 1.5 * copies * largest


def gradients(output, inputs, upstream):
    return torch.autograd.grad(output, inputs, upstream)


def compare_all(compare, library, name, ours, theirs, x, atol=0.0):
    """Forward to within atol, and gradients of the input and of the parameters that both have."""
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    ours_inputs, theirs_inputs = ([i, *p] for i, (_, p) in zip(inputs, (ours, theirs), strict=True))
    outputs = [call(i) for i, (call, _) in zip(inputs, (ours, theirs), strict=True)]
    compare(library, name, *outputs, atol)
    upstream = torch.randn_like(outputs[0])
    for mine, other in zip(
        gradients(outputs[0], ours_inputs, upstream),
        gradients(outputs[1], theirs_inputs, upstream),
        strict=True,
    ):
        atol = 0.0 if mine.shape == x.shape else BATCH * 2**-24 * BATCH * upstream.abs().max().item()
        compare(library, name, mine, other.reshape(mine.shape), atol, what="gradient")


# Resampling


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("old", "new"), [((14, 14), (16, 12)), ((7, 7), (3, 20)), ((4, 9), (9, 4)), ((5, 5), (5, 5))]
)
@pytest.mark.parametrize("options", [{}, {"antialias": False}, {"mode": "bilinear"}])
def test_resampling_of_timm(compare, old, new, prefix, dtype, options):
    pos_embed = torch.randn(1, prefix + old[0] * old[1], DIM).to(dtype).requires_grad_()
    square = old[0] == old[1]
    old_size = None if square else old
    theirs_options = {{"mode": "interpolation"}.get(key, key): value for key, value in options.items()}
    theirs = resample_abs_pos_embed(pos_embed, list(new), old_size, prefix, **theirs_options)
    ours = posenc_ext.resample_position_embedding(pos_embed, list(new), prefix, old_size, **options)
    name = f"resample_abs_pos_embed, {dtype}".replace("torch.", "")
    atol = 0.0 if old == new else interpolated(old, new, pos_embed, dtype)
    compare("timm", name, ours, theirs, atol)
    upstream = torch.randn_like(ours)
    (mine,), (other,) = (gradients(out, [pos_embed], upstream) for out in (ours, theirs))
    atol = 0.0 if old == new else interpolated(old, new, upstream, dtype, gradient=True)
    compare("timm", name, mine, other, atol, what="gradient")


@pytest.mark.parametrize("patches", [3, 7, 10])
def test_resampling_of_torchvision(compare, patches):
    pos_embedding = torch.randn(1, 50, DIM)
    state = {"encoder.pos_embedding": pos_embedding.clone()}
    theirs = interpolate_embeddings(patches * 16, 16, state)["encoder.pos_embedding"]
    ours = posenc_ext.resample_position_embedding(
        pos_embedding, [patches, patches], antialias=False, align_corners=True
    )
    atol = interpolated((7, 7), (patches, patches), pos_embedding)
    compare("torchvision", "interpolate_embeddings", ours, theirs, atol)


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize(("old", "new"), [(7, 12), (12, 7), (3, 3), (8, 24)])
def test_window_table_of_timm(compare, old, new, prefix):
    table = torch.randn((2 * old - 1) ** 2 + 3 * prefix, 4, requires_grad=True)
    shape = ((2 * new - 1) ** 2 + 3 * prefix, 4)
    theirs = resize_rel_pos_bias_table_simple(table, (new, new), shape)
    ours = posenc_ext.resample_window_table(table, [old, old], [new, new], prefix)
    sides = (2 * old - 1,) * 2, (2 * new - 1,) * 2
    atol = 0.0 if old == new else interpolated(*sides, table)
    compare("timm", "resize_rel_pos_bias_table_simple", ours, theirs, atol)
    upstream = torch.randn_like(ours)
    (mine,), (other,) = (gradients(out, [table], upstream) for out in (ours, theirs))
    atol = 0.0 if old == new else interpolated(*sides, upstream, gradient=True)
    compare("timm", "resize_rel_pos_bias_table_simple", mine, other, atol, what="gradient")


# ViT

VITS = {
    "cls": ({}, {}),
    "registers": ({"reg_tokens": 4}, {"registers": 4}),
    "no-embed-class": ({"no_embed_class": True}, {"embed_prefix": False}),
    "no-embed-class-registers": (
        {"no_embed_class": True, "reg_tokens": 2},
        {"embed_prefix": False, "registers": 2},
    ),
    "no-cls": ({"class_token": False, "global_pool": "avg"}, {"class_token": False}),
    "distilled": ({}, {"dist_token": True}),
    "distilled-no-embed-class": ({"no_embed_class": True}, {"dist_token": True, "embed_prefix": False}),
}


def vit(case, **changes):
    """timm's model, without blocks, and our module with its weights."""
    theirs_options, ours_options = VITS[case]
    build = VisionTransformerDistilled if "distilled" in case else VisionTransformer
    options = {"img_size": (64, 48), "patch_size": 16, "embed_dim": DIM, "depth": 0, "num_heads": 2}
    theirs = build(**{**options, **theirs_options, **changes})
    if case == "distilled-no-embed-class":  # timm's class makes rows for both tokens and then cannot add them
        theirs.pos_embed = torch.nn.Parameter(theirs.pos_embed[:, 2:].detach().clone())
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    ours = nn.VisionPositionEmbedding(theirs.patch_embed.grid_size, DIM, **ours_options)
    ours.load_state_dict({name: theirs.state_dict()[name] for name in ours.state_dict()})
    theirs.load_state_dict(ours.state_dict() | {k: v for k, v in theirs.state_dict().items() if "." in k})
    return ours, theirs


def parameters(ours, theirs):
    names = [name for name, _ in ours.named_parameters()]
    return [[dict(module.named_parameters())[name] for name in names] for module in (ours, theirs)]


@pytest.mark.parametrize("case", VITS)
def test_vit_of_timm(compare, case):
    ours, theirs = vit(case)
    mine, other = parameters(ours, theirs)
    x = torch.randn(BATCH, 12, DIM)
    name = "VisionTransformerDistilled" if "distilled" in case else "VisionTransformer"
    compare_all(compare, "timm", f"{name}._pos_embed", (ours, mine), (theirs._pos_embed, other), x)


@pytest.mark.parametrize("case", VITS)
@pytest.mark.parametrize("size", [(4, 3), (6, 5), (2, 7)])
def test_vit_of_timm_at_other_sizes(compare, case, size):
    ours, theirs = vit(case, dynamic_img_size=True)
    name = "VisionTransformerDistilled" if "distilled" in case else "VisionTransformer"
    x = torch.randn(BATCH, *size, DIM)
    expected = theirs._pos_embed(x)
    name += "._pos_embed"
    atol = 0.0 if size == (4, 3) else interpolated((4, 3), size, expected)
    compare("timm", name, ours(x.flatten(1, 2), size), expected, atol)
    compare("timm", name, ours(x.permute(0, 3, 1, 2)), expected, atol)  # a channels-last map
    compare("timm", name, ours(x.permute(0, 3, 1, 2).contiguous()), expected, atol)


@pytest.mark.parametrize("case", ["cls", "registers", "no-embed-class"])
def test_loading_another_resolution_as_timm_does(compare, case):
    small, large = (vit(case, img_size=size)[1] for size in (112, 160))
    state = {name: value for name, value in small.state_dict().items() if "pos_embed" in name}
    expected = checkpoint_filter_fn(dict(state), large, antialias=True)["pos_embed"]
    ours = nn.VisionPositionEmbedding(10, DIM, **VITS[case][1])
    ours.load_state_dict({name: small.state_dict()[name] for name in ours.state_dict()})
    atol = interpolated((7, 7), (10, 10), small.pos_embed)
    compare("timm", "checkpoint_filter_fn", ours.pos_embed, expected, atol)


@pytest.mark.parametrize("size", [(48, 48), (64, 96)])
def test_deit_of_transformers(compare, size):
    theirs = DeiTEmbeddings(DeiTConfig(hidden_size=DIM, image_size=48, patch_size=16))
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    ours = nn.VisionPositionEmbedding(3, DIM, dist_token=True, antialias=False)
    ours.load_state_dict(
        {
            "cls_token": theirs.cls_token,
            "dist_token": theirs.distillation_token,
            "pos_embed": theirs.position_embeddings,
        }
    )
    image = torch.randn(BATCH, 3, *size)
    conv = theirs.patch_embeddings.projection

    def replaced(image):
        return ours(conv(image))

    compare_all(
        compare,
        "transformers",
        "DeiTEmbeddings",
        (replaced, [ours.cls_token, ours.dist_token]),
        (
            lambda image: theirs(image, interpolate_pos_encoding=True),
            [theirs.cls_token, theirs.distillation_token],
        ),
        image,
        0.0 if size == (48, 48) else interpolated((3, 3), (4, 6), theirs.position_embeddings),
    )


@pytest.mark.parametrize("size", [48, 80])
def test_clip_vit_of_transformers(compare, size):
    config = CLIPVisionConfig(hidden_size=DIM, image_size=48, patch_size=16)
    theirs = CLIPVisionEmbeddings(config)
    ours = nn.VisionPositionEmbedding(3, DIM, antialias=False)
    class_embedding, table = theirs.class_embedding, theirs.position_embedding.weight
    ours.load_state_dict({"cls_token": class_embedding.view(1, 1, DIM), "pos_embed": table.unsqueeze(0)})
    image = torch.randn(BATCH, 3, size, size)
    expected = theirs(image, interpolate_pos_encoding=True)
    atol = 0.0 if size == 48 else interpolated((3, 3), (5, 5), expected)
    compare("transformers", "CLIPVisionEmbeddings", ours(theirs.patch_embedding(image)), expected, atol)


# Text


@pytest.mark.parametrize("past", [0, 5])
def test_bart(compare, past):
    theirs = BartLearnedPositionalEmbedding(20, DIM)
    ours = nn.LearnedPositionalEmbedding(20, DIM, offset=BartConfig().pad_token_id + 1)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(BATCH, 7, DIM)
    compare_all(
        compare,
        "transformers",
        "BartLearnedPositionalEmbedding",
        (lambda x: ours(x, past), [ours.weight]),
        (lambda x: x + theirs(x[..., 0], past), [theirs.weight]),
        x,
    )


def test_bert(compare):
    config = BertConfig(vocab_size=9, hidden_size=DIM, max_position_embeddings=20, hidden_dropout_prob=0.0)
    embeddings = BertEmbeddings(config)
    theirs = embeddings.position_embeddings
    ours = nn.LearnedPositionalEmbedding(20, DIM)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    compare_all(
        compare,
        "transformers",
        "BertEmbeddings.position_embeddings",
        (ours, [ours.weight]),
        (lambda x: x + theirs(embeddings.position_ids[:, :7]), [theirs.weight]),
        torch.randn(BATCH, 7, DIM),
    )


# Pooling


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((7, 7), torch.float64), ((7, 7), torch.float32), ((5, 9), torch.float32), ((8, 8), torch.float32)],
)
@pytest.mark.parametrize("out", [None, 10])
def test_attention_pool_of_timm(compare, size, dtype, out):
    theirs = AttentionPool2d(DIM, 7, out, num_heads=3, qkv_separate=True).to(dtype)
    ours = nn.AttentionPool2d(7, DIM, 3, out).to(dtype)
    names = {
        "positional_embedding": "pos_embed",
        "q_proj": "q",
        "k_proj": "k",
        "v_proj": "v",
        "c_proj": "proj",
    }
    renamed = {}
    for name in ours.state_dict():
        head, _, tail = name.partition(".")
        renamed[name] = f"{names[head]}.{tail}" if tail else names[head]
    ours.load_state_dict({name: theirs.state_dict()[other] for name, other in renamed.items()})
    x = torch.randn(BATCH, DIM, *size, dtype=dtype, requires_grad=True)
    actual, expected = ours(x), theirs(x)
    # Sums of up to this many terms, over channels, cells and batch, are taken in another order.
    terms = 4 * DIM + BATCH * size[0] * size[1]

    def atol(value):
        return terms * torch.finfo(dtype).eps * max(1.0, value.abs().max().item())

    name = f"AttentionPool2d, {dtype}".replace("torch.", "")
    compare("timm", name, actual, expected, atol(expected))
    upstream = torch.randn_like(actual)
    mine = gradients(actual, [x, *(ours.get_parameter(name) for name in renamed)], upstream)
    others = [theirs.get_parameter(other) for other in renamed.values()]
    for a, b in zip(mine, gradients(expected, [x, *others], upstream), strict=True):
        compare("timm", name, a, b, atol(b), what="gradient")
