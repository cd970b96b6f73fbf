"""Sinusoids, their grids and their modules against the libraries they replace.

Tolerances. eager: float32 code rounds its frequency and its angle, 1e-7 per position, and its sine, as ours
does. float64: code in float64 leaves half a float32 ulp of ours, 2**-25 below 1, and its own error. Half
types: one ulp below 1, for a rounding on either side.
"""

import importlib
import math

import pytest
import torch

import posenc_ext
from posenc_ext import nn

REASON = "the CUDA-build environment has the libraries (requirements/models.txt)"
timm = pytest.importorskip("timm", reason=REASON)
diffusers = pytest.importorskip("diffusers", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)
positional_encodings = pytest.importorskip("positional_encodings", reason=REASON)

from diffusers.models import embeddings as diffusion  # noqa: E402
from positional_encodings import torch_encodings  # noqa: E402
from timm.layers import pos_embed_sincos  # noqa: E402
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding  # noqa: E402
from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding  # noqa: E402
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding  # noqa: E402
from transformers.models.whisper.modeling_whisper import sinusoids  # noqa: E402

ULP = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def eager(max_position):
    return 1e-7 * max_position + 6e-8


def float64(max_position):
    return 2**-25 + max_position * 2**-51


# Tables


@pytest.mark.parametrize(("length", "dim"), [(1500, 384), (448, 80), (10, 4)])
def test_whisper(compare, length, dim):
    ours = posenc_ext.sinusoidal_table(length, dim, freq_shift=1, layout="concat")
    compare("transformers", "Whisper sinusoids", ours, sinusoids(length, dim), eager(length))
    module = nn.LearnedPositionalEmbedding.from_sinusoidal(
        length, dim, freq_shift=1, layout="concat", trainable=False
    )
    compare("transformers", "Whisper sinusoids", module.weight, sinusoids(length, dim), eager(length))


@pytest.mark.parametrize(("length", "dim"), [(512, 64), (300, 7), (100, 33)])
def test_marian(compare, length, dim):
    theirs = MarianSinusoidalPositionalEmbedding(length, dim).create_weight()
    # Frequencies base^(-2j/dim), of dim // 2 + 1/2 pairs if dim is odd.
    shift = -0.5 if dim % 2 else 0.0
    ours = posenc_ext.sinusoidal_table(length, dim, freq_shift=shift, layout="concat", odd="sin")
    # Both are rounded from float64: equal but where its error crosses a tie.
    compare("transformers", "MarianSinusoidalPositionalEmbedding", ours, theirs, 2**-24)


# M2M100

PADDED = torch.tensor(
    [
        [5, 6, 7, 8, 9, 3],
        [1, 1, 5, 6, 7, 8],  # padded on the left
        [5, 6, 7, 1, 1, 1],
        [5, 1, 6, 1, 7, 1],
        [1, 1, 1, 1, 1, 1],
    ]
)


def m2m100(dim=16, padding_idx=1, dtype=torch.float32):
    theirs = M2M100SinusoidalPositionalEmbedding(12, dim, padding_idx).to(dtype)
    ours = nn.SinusoidalPositionalEmbedding(12, dim, padding_idx).to(dtype)
    ours.load_state_dict({"weights": theirs.weights})  # as checkpoints of older versions have it
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("past", [0, 1, 1000])
@pytest.mark.parametrize("padding_idx", [0, 1, 5])
def test_positions_of_m2m100(compare, past, padding_idx):
    theirs = M2M100SinusoidalPositionalEmbedding.create_position_ids_from_input_ids(PADDED, padding_idx, past)
    ours = posenc_ext.padding_positions(PADDED, padding_idx, past)
    compare("transformers", "M2M100 create_position_ids_from_input_ids", ours, theirs)


@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize("past", [0, 3, 1000])
@pytest.mark.parametrize(("dim", "padding_idx"), [(16, 1), (17, 1), (64, 0)])
def test_m2m100(compare, dim, padding_idx, past, dtype):
    ours, theirs = m2m100(dim, padding_idx, dtype)
    atol = eager(past + 12) + (0 if dtype == torch.float32 else ULP[dtype])
    name = "M2M100SinusoidalPositionalEmbedding"
    name += "" if dtype == torch.float32 else f", {dtype}".replace("torch.", "")
    actual = ours(PADDED, past_key_values_length=past)
    compare("transformers", name, actual, theirs(PADDED, past_key_values_length=past), atol)
    assert (actual[padding_idx == PADDED] == 0).all()
    embeds = torch.zeros(2, 6, 5)
    actual = ours(inputs_embeds=embeds, past_key_values_length=past)
    expected = theirs(inputs_embeds=embeds, past_key_values_length=past)
    compare("transformers", name, actual, expected, atol)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("nllb_moe", "NllbMoeSinusoidalPositionalEmbedding"),
        ("seamless_m4t", "SeamlessM4TSinusoidalPositionalEmbedding"),
        ("speech_to_text", "Speech2TextSinusoidalPositionalEmbedding"),
        ("trocr", "TrOCRSinusoidalPositionalEmbedding"),
    ],
)
@pytest.mark.parametrize("past", [0, 3])
def test_copies_of_m2m100(compare, module, name, past):
    source = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    theirs = getattr(source, name)(12, 16, 1)
    ours = nn.SinusoidalPositionalEmbedding(12, 16, 1)
    expected = theirs(PADDED, past_key_values_length=past)
    compare("transformers", name, ours(PADDED, past_key_values_length=past), expected, eager(past + 12))


# Diffusion timesteps


@pytest.mark.parametrize("dim", [32, 33])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (1, 1), (0.5, 0.25), (0, 1000.0)])
def test_timesteps(compare, dim, flip, shift, scale):
    theirs = diffusion.Timesteps(dim, flip, shift, scale)
    ours = nn.TimestepEmbedding(dim, flip, shift, scale)
    ours.load_state_dict(theirs.state_dict())
    fractions = torch.linspace(0, 1, 50)  # with a scale of 1000: flow matching
    for timesteps in (fractions,) if scale == 1000 else (torch.arange(0, 1000, 7), 999 * fractions):
        atol = eager(scale * timesteps.max().item())
        compare("diffusers", "Timesteps", ours(timesteps), theirs(timesteps), atol)
    op = posenc_ext.sinusoidal(
        torch.arange(100), dim, base=500, freq_shift=shift, layout="concat", odd="zero"
    )
    expected = diffusion.get_timestep_embedding(
        torch.arange(100), dim, downscale_freq_shift=shift, max_period=500
    )
    compare("diffusers", "get_timestep_embedding", op, expected, eager(100))


def test_gradient_of_timesteps(compare):
    timesteps = torch.linspace(0, 999, 40, requires_grad=True)
    upstream = torch.randn(40, 32)
    gradients = [
        torch.autograd.grad(module(32, True, 0)(timesteps), timesteps, upstream)[0]
        for module in (nn.TimestepEmbedding, diffusion.Timesteps)
    ]
    frequency = 10000.0 ** (-torch.arange(16) / 16)
    terms = upstream.abs() @ frequency.repeat(2)
    # Each of 32 terms w cos(t w) has the error of an eager cosine; their float32 sum 32 roundings.
    atol = (terms * (eager(999) + 32 * 2**-24)).max().item()
    compare("diffusers", "Timesteps", *gradients, atol, what="gradient")


# Grids


@pytest.mark.parametrize("size", [(14, 14), (3, 5), (5, 2), (1, 1)])
@pytest.mark.parametrize("dim", [4, 64])
def test_grid_of_diffusers_2d(compare, size, dim):
    theirs = diffusion.get_2d_sincos_pos_embed(dim, size, cls_token=True, extra_tokens=2, base_size=1)
    scale = [1 / s for s in size]
    ours = posenc_ext.sinusoidal_grid(list(size), dim, "mae", scale=scale, extra_tokens=2)
    # Their positions are float32: within 2^-24 of one below 1.
    compare("diffusers", "get_2d_sincos_pos_embed", ours.double(), theirs.double(), float64(1) + 2**-24)
    if size[0] == size[1]:  # base_size, one for both axes, cancels: whole positions, as in MAE and DiT
        theirs = diffusion.get_2d_sincos_pos_embed(dim, size, base_size=size[0])
        ours = posenc_ext.sinusoidal_grid(list(size), dim, "mae")
        compare("diffusers", "get_2d_sincos_pos_embed", ours.double(), theirs, float64(size[0]))


def test_grid_of_diffusers_2d_interpolated(compare):
    theirs = diffusion.get_2d_sincos_pos_embed(32, (30, 20), base_size=16, interpolation_scale=1.5)
    scale = [16 / 30 / 1.5, 16 / 20 / 1.5]
    ours = posenc_ext.sinusoidal_grid([30, 20], 32, "mae", scale=scale)
    # Their positions are rounded to float32 twice, and lie below 16 / 1.5.
    compare("diffusers", "get_2d_sincos_pos_embed", ours.double(), theirs, float64(16) + 16 / 1.5 * 2**-23)


@pytest.mark.parametrize(("t", "h", "w"), [(4, 3, 5), (2, 6, 2)])
def test_grid_of_diffusers_3d(compare, t, h, w):
    theirs = diffusion.get_3d_sincos_pos_embed(48, (w, h), t)
    ours = posenc_ext.sinusoidal_grid([t, h, w], 48, "cogvideox").view(t, h * w, 48)
    compare("diffusers", "get_3d_sincos_pos_embed", ours.double(), theirs, float64(6))
    theirs = diffusion.get_3d_sincos_pos_embed(48, (w, h), t, 1.875, 0.75)
    scale = [1 / 0.75, 1 / 1.875, 1 / 1.875]
    ours = posenc_ext.sinusoidal_grid([t, h, w], 48, "cogvideox", scale=scale).view(t, h * w, 48)
    # Their positions, below 8, are rounded to float32 once.
    compare("diffusers", "get_3d_sincos_pos_embed", ours.double(), theirs, float64(8) + 8 * 2**-24)


@pytest.mark.parametrize("size", [[14, 14], [3, 5], [7, 2]])
@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("temperature", [10000.0, 100.0])
def test_grid_of_timm(compare, size, interleave, reverse, temperature):
    theirs = pos_embed_sincos.build_sincos2d_pos_embed(
        size, 32, temperature, reverse_coord=reverse, interleave_sin_cos=interleave
    )
    order = "timm_interleaved" if interleave else "timm"
    ours = posenc_ext.sinusoidal_grid(size[::-1] if reverse else size, 32, order, base=temperature)
    compare("timm", "build_sincos2d_pos_embed", ours, theirs, eager(max(size)))


@pytest.mark.parametrize("dim", [1, 2, 6, 12, 30, 31, 32])
@pytest.mark.parametrize("size", [[50], [7, 4], [2, 3, 5]])
def test_grid_of_positional_encodings(compare, size, dim):
    name = f"PositionalEncoding{len(size)}D"
    theirs = getattr(torch_encodings, name)(dim)(torch.zeros(1, *size, dim)).view(-1, dim)
    ours = posenc_ext.sinusoidal_grid(size, dim, "positional_encodings")
    compare("positional-encodings", name, ours, theirs, eager(max(size)))


def pixel_masks(padded):
    if not padded:
        return None, torch.ones(2, 7, 9, dtype=torch.bool)
    mask = torch.zeros(2, 7, 9, dtype=torch.bool)
    mask[0, :5, :6] = True
    mask[1, :, :3] = True
    return mask, mask


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("normalize", "scale"), [(False, None), (True, None), (True, 10.0)])
def test_detr(compare, padded, normalize, scale):
    theirs = DetrSinePositionEmbedding(16, temperature=20, normalize=normalize, scale=scale)
    mask, ours_mask = pixel_masks(padded)
    expected = theirs(torch.Size([2, 3, 7, 9]), "cpu", torch.float32, mask)
    extent = 2 * math.pi if scale is None else scale
    actual = posenc_ext.detr_sine(ours_mask, 16, base=20, normalize=normalize, scale=extent)
    # Normalised positions are rounded three times: eps is added, then / and *.
    atol = eager(9) if not normalize else eager(extent) + 3 * extent * 2**-24
    compare("transformers", "DetrSinePositionEmbedding", actual, expected, atol)
