"""Small models of transformers with random weights, at least one for each piece of our code."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn


class Case(NamedTuple):
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    replaced: int
    equal: bool = True  # the outputs are, bit for bit
    complete: bool = True  # in float64 the library has no float32 sinusoids or slopes, and every gradient
    float64: bool = True  # the library can run the model in float64


def original(path: str) -> type[nn.Module]:
    model, *file, name = path.split(".")
    return getattr(
        importlib.import_module(f"transformers.models.{model}.modeling_{(file or [model])[0]}"), name
    )


def build(
    path: str, config: transformers.PreTrainedConfig, attention: str = "", **arguments: Any
) -> nn.Module:
    if attention:
        config._attn_implementation = attention
    torch.manual_seed(0)
    model = original(path)(config, **arguments)
    with torch.no_grad():  # tables, and scales of layers, begin as zeros or nearly
        for name, parameter in model.named_parameters():
            if "bias" in name or "lambda" in name:
                parameter.normal_(0, 0.5)
    return model


def tokens(*size: int, vocabulary: int = 50, padding: int = 0) -> Tensor:
    ids = torch.randint(3, vocabulary, size, generator=torch.Generator().manual_seed(2))
    if padding:
        ids[-1, -padding:] = 1
    return ids


def images(size: int, channels: int = 3, count: int = 2) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(2))


T5 = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 16,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
WINDOWS = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 3],
    "window_size": 4,
}
BEIT = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "use_relative_position_bias": True,
    "use_shared_relative_position_bias": True,
}
BERT = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def pair() -> dict[str, Tensor]:
    mask = torch.ones(2, 40, dtype=torch.int64)
    mask[1, 30:] = 0
    return {"input_ids": tokens(2, 40), "attention_mask": mask, "decoder_input_ids": tokens(2, 20)}


def t5(name: str, replaced: int = 2, model: str = "ForConditionalGeneration", **options: Any) -> list[Case]:
    path = {"Switch": "switch_transformers.SwitchTransformers"}.get(name, f"{name.lower()}.{name}")
    config = getattr(transformers, path.split(".")[1] + "Config")
    attentions = {"LongT5": ("",), "Switch": ("",)}.get(name, ("eager", "sdpa"))
    return [
        Case(
            f"{name} {attention}".strip(),
            lambda attention=attention: build(path + model, config(**{**T5, **options}), attention),
            pair,
            replaced,
        )
        for attention in attentions
    ]


def windows(
    path: str, config: Callable[..., Any], replaced: int, attention: str = "", size: int = 32, **options: Any
) -> Case:
    options = {**WINDOWS, "drop_path_rate": 0.0, **options}
    name = f"{path.rpartition('.')[2]} {attention}".strip()
    return Case(
        name,
        lambda: build(path, config(**options), attention),
        lambda: {"pixel_values": images(size)},
        replaced,
        equal=False,
    )


def layout_boxes() -> Tensor:
    corner, extent = torch.randint(0, 250, (2, 2, 40, 2), generator=torch.Generator().manual_seed(3))
    return torch.cat([corner, corner + extent], -1)


def layoutlmv2_encoder() -> nn.Module:
    """The whole model needs detectron2."""
    return build("layoutlmv2.LayoutLMv2Encoder", transformers.LayoutLMv2Config(**BERT))


M2M100 = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "max_position_embeddings": 30,  # shorter than the input
}


def m2m(path: str, config: str, **options: Any) -> Case:
    return Case(
        path.rpartition(".")[2],
        lambda: build(path, getattr(transformers, config)(**{**M2M100, **options})),
        lambda: {"input_ids": tokens(2, 40, padding=9), "decoder_input_ids": tokens(2, 20, padding=3)},
        2,
        equal=False,
        complete=False,
    )


CASES = [
    windows("swin.SwinModel", transformers.SwinConfig, 8, "eager"),
    windows("swin.SwinModel", transformers.SwinConfig, 8, "sdpa"),
    windows("swinv2.Swinv2Model", transformers.Swinv2Config, 4),
    windows("swin2sr.Swin2SRModel", transformers.Swin2SRConfig, 4, image_size=16, patch_size=1, size=16),
    windows("donut.donut_swin.DonutSwinModel", transformers.DonutSwinConfig, 4),
    windows("maskformer.maskformer_swin.MaskFormerSwinModel", transformers.MaskFormerSwinConfig, 4),
    *(
        Case(
            f"{path.rpartition('.')[2]} {attention}",
            lambda path=path, config=config, attention=attention: build(path, config(**BEIT), attention),
            lambda: {"pixel_values": images(16)},
            3,
        )
        for path, config in (
            ("beit.BeitModel", transformers.BeitConfig),
            ("data2vec.data2vec_vision.Data2VecVisionModel", transformers.Data2VecVisionConfig),
        )
        for attention in ("eager", "sdpa")
    ),
    *t5("T5"),
    *t5("MT5"),
    *t5("UMT5", 4),
    *t5(
        "Switch",
        num_experts=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        router_jitter_noise=0.0,
    ),
    *t5("LongT5", local_radius=7, encoder_attention_type="local"),
    *(
        case._replace(name="LongT5 transient-global")
        for case in t5(
            "LongT5", local_radius=7, encoder_attention_type="transient-global", global_block_size=8
        )
    ),
    Case(
        "MPNetModel",
        lambda: build("mpnet.MPNetModel", transformers.MPNetConfig(**BERT)),
        lambda: {key: value for key, value in pair().items() if key != "decoder_input_ids"},
        1,
    ),
    Case(
        "LayoutLMv3Model",
        lambda: build(
            "layoutlmv3.LayoutLMv3Model",
            transformers.LayoutLMv3Config(
                **BERT, visual_embed=False, coordinate_size=4, shape_size=4, max_2d_position_embeddings=512
            ),
        ),
        lambda: {"input_ids": tokens(2, 40), "bbox": layout_boxes()},
        1,
        complete=False,
    ),
    Case(
        "LayoutLMv2Encoder",
        layoutlmv2_encoder,
        lambda: {
            "hidden_states": torch.randn(2, 40, 24, generator=torch.Generator().manual_seed(2)),
            "attention_mask": torch.zeros(2, 1, 1, 40),
            "bbox": layout_boxes(),
            "position_ids": torch.arange(40).repeat(2, 1),
        },
        1,
        float64=False,
    ),
    Case(
        "WavLMModel",
        lambda: build(
            "wavlm.WavLMModel",
            transformers.WavLMConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=16,
                conv_dim=(8,),
                conv_stride=(5,),
                conv_kernel=(10,),
                num_feat_extract_layers=1,
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
                apply_spec_augment=False,
                layerdrop=0.0,
                hidden_dropout=0.0,
                activation_dropout=0.0,
                attention_dropout=0.0,
                feat_proj_dropout=0.0,
            ),
        ),
        lambda: {"input_values": torch.randn(2, 200, generator=torch.Generator().manual_seed(2))},
        1,
    ),
    m2m("m2m_100.M2M100Model", "M2M100Config"),
    m2m(
        "nllb_moe.NllbMoeModel", "NllbMoeConfig", num_experts=2, encoder_sparse_step=0, decoder_sparse_step=0
    ),
    Case(
        "XGLMModel",
        lambda: build(
            "xglm.XGLMModel",
            transformers.XGLMConfig(
                vocab_size=50,
                d_model=16,
                num_layers=1,
                attention_heads=2,
                ffn_dim=16,
                dropout=0.0,
                attention_dropout=0.0,
                max_position_embeddings=30,
            ),
        ),
        lambda: {"input_ids": tokens(2, 40)},
        1,
        equal=False,
        complete=False,
        float64=False,
    ),
    Case(
        "MusicgenForCausalLM",
        lambda: build(
            "musicgen.MusicgenForCausalLM",
            original("musicgen.MusicgenDecoderConfig")(
                vocab_size=50,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                ffn_dim=16,
                dropout=0.0,
                num_codebooks=2,
                max_position_embeddings=30,
                pad_token_id=0,
                bos_token_id=0,
            ),
        ),
        lambda: {"input_ids": tokens(4, 40)},
        1,
        equal=False,
        complete=False,
    ),
    Case(
        "BloomModel",
        lambda: build(
            "bloom.BloomModel",
            transformers.BloomConfig(
                vocab_size=50, hidden_size=48, n_layer=2, n_head=12, hidden_dropout=0.0, attention_dropout=0.0
            ),
        ),
        lambda: {key: value for key, value in pair().items() if key != "decoder_input_ids"},
        1,
        equal=False,
        complete=False,
    ),
    Case(
        "MptModel",
        lambda: build(
            "mpt.MptModel",
            transformers.MptConfig(vocab_size=50, d_model=48, n_layers=2, n_heads=12, max_seq_len=64),
        ),
        lambda: {"input_ids": tokens(2, 40)},
        1,
        equal=False,
        complete=False,
    ),
]
