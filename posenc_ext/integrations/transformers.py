"""Replacements for classes of transformers, which copies code between models: a mixin serves all copies."""

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..nn._children import is_plain
from . import keeps, replaces

Length = Union[int, Tensor]  # the length of a static cache is a tensor


def _originals(paths: str) -> list[type[nn.Module]]:
    """Classes by model, file and name, "t5.T5Attention donut.donut_swin.DonutSwinLayer", if they exist."""
    found = []
    for path in paths.split():
        model, *file, name = path.split(".")
        try:
            module = importlib.import_module(f"transformers.models.{model}.modeling_{(file or [model])[0]}")
            found.append(getattr(module, name))
        except (ImportError, AttributeError):
            continue
    return found


def _replace(
    methods: type,
    paths: str,
    uses: str,
    sources: Mapping[str, str],
    unless: Callable[[Any], str] = lambda module: "",
) -> None:
    """Registers a subclass with these methods for each of the classes, at the top level of this file."""
    for original in _originals(paths):
        ours = type(original.__name__, (methods, original), {"__module__": __name__})
        register = replaces(original, uses, version="transformers 5.23", sources=sources, unless=unless)
        globals()[original.__name__] = register(ours)


# T5's buckets


def _unknown_buckets(num_buckets: int, max_distance: int, bidirectional: bool = True) -> str:
    """Why t5_bias has no such buckets, or ""."""
    try:
        ops.t5_bias(torch.zeros(num_buckets, 0), 0, 0, bidirectional=bidirectional, max_distance=max_distance)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def _is_bidirectional(module: Any) -> bool:
    return not getattr(module, "is_decoder", True)  # Pix2Struct has decoders only


def _unless_t5(module: Any) -> str:
    if not module.has_relative_attention_bias:
        return "it has no table: it is given the bias of the first layer, or none"
    sizes = module.relative_attention_num_buckets, module.relative_attention_max_distance
    return _unknown_buckets(*sizes, _is_bidirectional(module))


class _T5Attention:
    def compute_bias(
        self,
        query_length: int,
        key_length: int,
        device: Optional[torch.device] = None,
        past_seen_tokens: Length = 0,
    ) -> Tensor:
        if isinstance(past_seen_tokens, Tensor) or not is_plain(self.relative_attention_bias, nn.Embedding):
            return super().compute_bias(query_length, key_length, device, past_seen_tokens)
        bias = ops.t5_bias(
            self.relative_attention_bias.weight,
            query_length,
            key_length,
            q_offset=past_seen_tokens,
            bidirectional=_is_bidirectional(self),
            max_distance=self.relative_attention_max_distance,
        )
        return bias.unsqueeze(0)


class _LongT5Attention:
    def compute_bias(self, block_length: int) -> Tensor:
        """Of the queries of a block, for the keys of the blocks before, at and after it."""
        if not is_plain(self.relative_attention_bias, nn.Embedding):
            return super().compute_bias(block_length)
        bias = ops.t5_bias(
            self.relative_attention_bias.weight,
            block_length,
            3 * block_length,
            q_offset=block_length,
            bidirectional=_is_bidirectional(self),
            max_distance=self.relative_attention_max_distance,
        )
        return bias[None, None]


class _MPNetEncoder:
    def compute_position_bias(
        self, x: Tensor, position_ids: Optional[Tensor] = None, num_buckets: int = 32
    ) -> Tensor:
        if position_ids is not None or not is_plain(self.relative_attention_bias, nn.Embedding):
            return super().compute_position_bias(x, position_ids, num_buckets)
        samples, length = x.shape[:2]
        bias = ops.t5_bias(self.relative_attention_bias.weight[:num_buckets], length, length)
        return bias.expand(samples, -1, -1, -1)  # the original stores it once per sample


class _WavLMAttention:
    def compute_bias(self, query_length: int, key_length: int) -> Tensor:
        if not is_plain(self.rel_attn_embed, nn.Embedding):
            return super().compute_bias(query_length, key_length)
        return ops.t5_bias(
            self.rel_attn_embed.weight, query_length, key_length, max_distance=self.max_distance
        )


def _unless_wavlm(module: Any) -> str:
    if not hasattr(module, "rel_attn_embed"):
        return "it has no table: it is given the bias of the first layer"
    sizes = module.num_buckets, module.max_distance
    if reason := _unknown_buckets(*sizes):
        return reason
    # WavLM truncates the sum m + log(...), T5 the logarithm alone: float32 may round the sum up.
    reach = module.max_distance + 1
    distances = torch.arange(-reach, reach + 1)
    buckets = torch.arange(module.num_buckets).float().unsqueeze(1)
    ours = ops.t5_bias(buckets, 1, len(distances), q_offset=reach, max_distance=module.max_distance)
    same = torch.equal(ours.flatten().long(), module._relative_positions_bucket(distances))
    return "" if same else f"its buckets are not those of T5 for {sizes[0]} buckets and distance {sizes[1]}"


_replace(
    _T5Attention,
    "t5.T5Attention mt5.MT5Attention umt5.UMT5Attention longt5.LongT5Attention udop.UdopAttention"
    " pop2piano.Pop2PianoAttention switch_transformers.SwitchTransformersAttention"
    " pix2struct.Pix2StructTextAttention",
    "t5_bias",
    {
        "compute_bias": "1404749cb905 a87f864d3e4c 58a84f36f0a5",
        "_relative_position_bucket": "a8b2e328358a 772254283d16 281c3f0c1044",
    },
    _unless_t5,
)
_replace(
    _LongT5Attention,
    "longt5.LongT5LocalAttention longt5.LongT5TransientGlobalAttention",
    "t5_bias",
    {"compute_bias": "6bbe8fe20802", "_relative_position_bucket": "281c3f0c1044"},
    _unless_t5,
)
_replace(
    _MPNetEncoder,
    "mpnet.MPNetEncoder",
    "t5_bias, expanded instead of stored per sample",
    {"compute_position_bias": "9e5e63d42c67", "relative_position_bucket": "ed763438756d"},
    lambda module: _unknown_buckets(module.relative_attention_bias.num_embeddings, 128),
)
_replace(
    _WavLMAttention,
    "wavlm.WavLMAttention",
    "t5_bias",
    {"compute_bias": "2a393636ce48", "_relative_positions_bucket": "9fc220a2d086"},
    _unless_wavlm,
)


# LayoutLM: an index from the data


def _bucket_bias(table: nn.Linear, positions: Tensor, bucket: Callable[..., Tensor], **sizes: int) -> Tensor:
    """[samples, heads, tokens, tokens], of the weight [heads, buckets] of a Linear."""
    return ops.gather_bias(
        table.weight.t(), bucket(positions.unsqueeze(-2) - positions.unsqueeze(-1), **sizes)
    )


def _layout_1d(module: Any, positions: Tensor, bucket: Callable[..., Tensor]) -> Tensor:
    sizes = {"num_buckets": module.rel_pos_bins, "max_distance": module.max_rel_pos}
    return _bucket_bias(module.rel_pos_bias, positions, bucket, **sizes)


def _layout_2d(module: Any, boxes: Tensor, bucket: Callable[..., Tensor]) -> Tensor:
    sizes = {"num_buckets": module.rel_2d_pos_bins, "max_distance": module.max_rel_2d_pos}
    x = _bucket_bias(module.rel_pos_x_bias, boxes[..., 0], bucket, **sizes)
    return x + _bucket_bias(module.rel_pos_y_bias, boxes[..., 3], bucket, **sizes)


class _LayoutLMv3Encoder:
    def _cal_1d_pos_emb(self, position_ids: Tensor) -> Tensor:
        if not is_plain(self.rel_pos_bias, nn.Linear):
            return super()._cal_1d_pos_emb(position_ids)
        return _layout_1d(self, position_ids, self.relative_position_bucket)

    def _cal_2d_pos_emb(self, bbox: Tensor) -> Tensor:
        if not (is_plain(self.rel_pos_x_bias, nn.Linear) and is_plain(self.rel_pos_y_bias, nn.Linear)):
            return super()._cal_2d_pos_emb(bbox)
        return _layout_2d(self, bbox, self.relative_position_bucket)


class _LayoutLMv2Encoder:
    def _calculate_1d_position_embeddings(self, position_ids: Tensor) -> Tensor:
        if not is_plain(self.rel_pos_bias, nn.Linear):
            return super()._calculate_1d_position_embeddings(position_ids)
        return _layout_1d(self, position_ids, _layoutlmv2_bucket())

    def _calculate_2d_position_embeddings(self, bbox: Tensor) -> Tensor:
        if not (is_plain(self.rel_pos_x_bias, nn.Linear) and is_plain(self.rel_pos_y_bias, nn.Linear)):
            return super()._calculate_2d_position_embeddings(bbox)
        return _layout_2d(self, bbox, _layoutlmv2_bucket())


def _layoutlmv2_bucket() -> Callable[..., Tensor]:
    return sys.modules["transformers.models.layoutlmv2.modeling_layoutlmv2"].relative_position_bucket


def _unless_layout(module: Any) -> str:
    if module.has_relative_attention_bias or module.has_spatial_attention_bias:
        return ""
    return "it has no tables"


LAYOUT_USES = "gather_bias; its tables get a gradient, which transformers leaves out"
_replace(
    _LayoutLMv3Encoder,
    "layoutlmv3.LayoutLMv3Encoder",
    LAYOUT_USES,
    {
        "_cal_1d_pos_emb": "d4dca17056d1",
        "_cal_2d_pos_emb": "7fc4269cd30d",
        "relative_position_bucket": "32433658283a",
    },
    _unless_layout,
)
_replace(
    _LayoutLMv2Encoder,
    "layoutlmv2.LayoutLMv2Encoder",
    LAYOUT_USES,
    {
        "_calculate_1d_position_embeddings": "03f4a70a2b6d",
        "_calculate_2d_position_embeddings": "5a797a69fe3f",
        "relative_position_bucket": "65d2d5e50e46",
    },
    _unless_layout,
)


# Windows


def _by_sample(mask: Optional[Tensor], *windows: Tensor) -> tuple[Any, ...]:
    """A mask [windows, N, N] with a dimension for heads, and [samples * windows, ...] to go with it."""
    if mask is None:
        return None, *windows
    return mask.unsqueeze(1), *(x.unflatten(0, (-1, mask.size(0))) for x in windows)


def _softmax(
    q: Tensor, k: Tensor, table: Tensor, window: Any, scale: float, mask: Optional[Tensor]
) -> Tensor:
    mask, q, k = _by_sample(mask, q, k)
    scores = q @ k.transpose(-2, -1)
    weights = ops.window_bias_softmax(scores, table, window, scale=scale, mask=mask, inplace=True)
    return weights if mask is None else weights.flatten(0, 1)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, window: Any, scale: float, mask: Optional[Tensor]
) -> Tensor:
    mask, q, k, v = _by_sample(mask, q, k, v)
    context = ops.window_attention(q, k, v, table, window, scale=scale, mask=mask)
    return context if mask is None else context.flatten(0, 1)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class _SwinRelativePositionBias:
    def forward(self) -> Tensor:
        return ops.window_bias(self.relative_position_bias_table, self.window_size).unsqueeze(0)


class _SwinAttention:
    """sdpa stays as it is on CUDA, where ours was not measured, and for dropout, whose masks would differ."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Optional[Tensor] = None, **kwargs: Any
    ) -> tuple[Tensor, Optional[Tensor]]:
        implementation = self.config._attn_implementation
        eager = implementation == "eager"
        dropout = self.training and self.attention_dropout > 0
        fused = implementation == "sdpa" and not dropout and hidden_states.device.type == "cpu"
        bias = self.relative_position_bias
        if not (eager or fused) or not is_plain(bias, type(bias)):
            return super().forward(hidden_states, attention_mask, **kwargs)
        projections = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (_heads(project(hidden_states), self.num_attention_heads) for project in projections)
        arguments = bias.relative_position_bias_table, bias.window_size, self.scaling, attention_mask
        probabilities = None
        if eager:  # which returns them
            probabilities = F.dropout(_softmax(q, k, *arguments), self.attention_dropout, self.training)
            context = probabilities @ v
        else:
            context = _attention(q, k, v, *arguments)
        return self.o_proj(context.transpose(1, 2).flatten(2)), probabilities


class _WindowSelfAttention:
    """Swin in older code: the method that the copies share, for two tables and scores."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Optional[Tensor] = None,
        output_attentions: Optional[bool] = False,
    ) -> tuple[Tensor, ...]:
        projections = self.query, self.key, self.value
        q, k, v = (_heads(project(hidden_states), self.num_attention_heads) for project in projections)
        q, k, *arguments = self._scaled(q, k, attention_mask)
        probabilities = None
        if output_attentions or (self.training and self.dropout.p > 0):
            probabilities = self.dropout(_softmax(q, k, *arguments))
            context = probabilities @ v
        else:
            context = _attention(q, k, v, *arguments)
        context = context.transpose(1, 2).flatten(2)
        return (context, probabilities) if output_attentions else (context,)


class _DonutSwinSelfAttention(_WindowSelfAttention):
    def _scaled(self, q: Tensor, k: Tensor, mask: Optional[Tensor]) -> tuple[Any, ...]:
        scale = self.attention_head_size**-0.5
        return q, k, self.relative_position_bias_table, self.window_size, scale, mask


class _Swinv2SelfAttention(_WindowSelfAttention):
    def _scaled(self, q: Tensor, k: Tensor, mask: Optional[Tensor]) -> tuple[Any, ...]:
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        table = self.continuous_position_bias_mlp(self.relative_coords_table).flatten(0, -2)
        mask = None if mask is None else 2 * mask  # transformers adds it twice
        k = F.normalize(k, dim=-1)
        q = (F.normalize(q, dim=-1) * scale).type_as(k)  # autocast leaves scale in float32
        return q, k, 16 * torch.sigmoid(table), self.window_size, 1.0, mask


class _BeitRelativePositionBias:
    def forward(
        self,
        window_size: tuple[int, int],
        interpolate_pos_encoding: bool = False,
        dim_size: Optional[int] = None,
    ) -> Tensor:
        if interpolate_pos_encoding or tuple(window_size) != tuple(self.window_size):
            return super().forward(window_size, interpolate_pos_encoding, dim_size)
        table = self.relative_position_bias_table
        return ops.window_bias(table, self.window_size, prefix_tokens=1).unsqueeze(0)


_replace(
    _SwinRelativePositionBias,
    "swin.SwinRelativePositionBias",
    "window_bias",
    {"_create_relative_position_index": "efa2cc631e55", "forward": "ccee0b9781ba"},
)
_replace(
    _SwinAttention,
    "swin.SwinAttention",
    "window_bias_softmax in eager mode; window_attention on the CPU",
    {
        "forward": "d002167133cc",
        "SwinRelativePositionBias": "6309690db872",
        "eager_attention_forward": "23b87df58f90",
    },
)
_replace(
    _DonutSwinSelfAttention,
    "donut.donut_swin.DonutSwinSelfAttention maskformer.maskformer_swin.MaskFormerSwinSelfAttention"
    " clap.ClapAudioSelfAttention",
    "window_attention",
    {"create_relative_position_index": "dbce3bb13e94", "forward": "768c76f681e9 438154544842 eeba6effce96"},
)
_replace(
    _Swinv2SelfAttention,
    "swinv2.Swinv2SelfAttention swin2sr.Swin2SRSelfAttention",
    "window_attention; sigmoid of the table instead of the bias",
    {"create_coords_table_and_index": "6e1d78f35cab", "forward": "45e0ab1be182 0e21bfe1d975"},
)
_replace(
    _BeitRelativePositionBias,
    "beit.BeitRelativePositionBias data2vec.data2vec_vision.Data2VecVisionRelativePositionBias",
    "window_bias",
    {"generate_relative_position_index": "a1b2a14d771e df5cd5e421d9", "forward": "367fbb421fa1"},
    lambda module: (
        ""
        if module.window_size[0] == module.window_size[1]
        else "the original reads the table of a window that is not square in another order"
    ),
)


# Sinusoids of M2M100


def _sinusoids(module: Any, positions: Tensor, layout: str = "concat") -> Tensor:
    dtype = module.weights.dtype
    return ops.sinusoidal(
        positions, module.embedding_dim, freq_shift=1.0, layout=layout, odd="zero", dtype=dtype
    )


def _padded_sinusoids(module: Any, positions: Tensor) -> Tensor:
    padding = positions.eq(module.padding_idx).unsqueeze(-1)
    return _sinusoids(module, positions).masked_fill(padding, 0.0)


class _M2M100Embedding:
    def forward(
        self,
        input_ids: Optional[Tensor] = None,
        inputs_embeds: Optional[Tensor] = None,
        past_key_values_length: Length = 0,
        position_ids: Optional[Tensor] = None,
    ) -> Tensor:
        if position_ids is not None:
            positions = position_ids
        elif input_ids is not None:
            positions = self.create_position_ids_from_input_ids(
                input_ids, self.padding_idx, past_key_values_length
            )
        else:
            positions = self.create_position_ids_from_inputs_embeds(
                inputs_embeds, past_key_values_length, self.padding_idx
            )
        return _padded_sinusoids(self, positions)


class _Speech2TextEmbedding:
    def forward(self, input_ids: Tensor, past_key_values_length: Length = 0) -> Tensor:
        positions = self.create_position_ids_from_input_ids(
            input_ids, self.padding_idx, past_key_values_length
        )
        return _padded_sinusoids(self, positions)


class _XGLMEmbedding:
    def forward(self, position_ids: Optional[Tensor] = None, past_key_values_length: Length = 0) -> Tensor:
        return _padded_sinusoids(self, position_ids + self.offset)


class _MusicgenEmbedding:
    def forward(self, input_ids: Tensor, past_key_values_length: Length = 0) -> Tensor:
        length = input_ids.size(2)  # [samples, codebooks, length]
        positions = torch.arange(length, device=input_ids.device) + past_key_values_length
        return _sinusoids(self, positions, "concat_cos_first")


class _MusicgenMelodyEmbedding:
    def forward(self, inputs_embeds: Tensor, past_key_values_length: Length = 0) -> Tensor:
        positions = torch.arange(inputs_embeds.size(1), device=inputs_embeds.device) + past_key_values_length
        return _sinusoids(self, positions, "concat_cos_first")


# ALiBi


class _BloomModel:
    def build_alibi_tensor(self, attention_mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        slopes = ops.alibi_slopes(num_heads, dtype=wide, device=attention_mask.device)
        positions = (attention_mask.cumsum(-1) - 1) * attention_mask
        return (slopes.unsqueeze(-1) * positions.unsqueeze(1)).flatten(0, 1).unsqueeze(1).to(dtype)


class _MptModel:
    def build_mpt_alibi_tensor(
        self,
        num_heads: int,
        sequence_length: int,
        alibi_bias_max: int = 8,
        device: Optional[torch.device] = None,
    ) -> Tensor:
        if alibi_bias_max != 8:
            return super().build_mpt_alibi_tensor(num_heads, sequence_length, alibi_bias_max, device)
        slopes = ops.alibi_slopes(num_heads, dtype=torch.float32, device=device)
        return ops.alibi_bias(slopes, 1, sequence_length, q_offset=sequence_length - 1)


SINUSOIDS = "sinusoidal: correctly rounded, at any position; the buffer is not read"
_replace(
    _M2M100Embedding,
    "m2m_100.M2M100SinusoidalPositionalEmbedding nllb_moe.NllbMoeSinusoidalPositionalEmbedding"
    " seamless_m4t.SeamlessM4TSinusoidalPositionalEmbedding"
    " seamless_m4t_v2.SeamlessM4Tv2SinusoidalPositionalEmbedding"
    " kosmos2.Kosmos2TextSinusoidalPositionalEmbedding kosmos2_5.Kosmos2_5TextSinusoidalPositionalEmbedding",
    SINUSOIDS,
    {
        "forward": "baace565b263 8da57ce23561",
        "get_embedding": "356597ed25c6 3f9c63047bc5",
        "create_position_ids_from_input_ids": "32baff7b6b7e",
        "create_position_ids_from_inputs_embeds": "6ca9bfa6232a cd30b07fe771",
    },
)
_replace(
    _Speech2TextEmbedding,
    "speech_to_text.Speech2TextSinusoidalPositionalEmbedding"
    " speecht5.SpeechT5SinusoidalPositionalEmbedding trocr.TrOCRSinusoidalPositionalEmbedding",
    SINUSOIDS,
    {
        "forward": "2c3214b3d28f d9fb710e746a",
        "get_embedding": "9f9edf487ba3 5cf7889ef98e",
        "create_position_ids_from_input_ids": "7838093557c9 81e6703fa0d6",
    },
)
_replace(
    _XGLMEmbedding,
    "xglm.XGLMSinusoidalPositionalEmbedding",
    SINUSOIDS,
    {"forward": "3c5f8539adea", "get_embedding": "356597ed25c6"},
)
_replace(
    _MusicgenEmbedding,
    "musicgen.MusicgenSinusoidalPositionalEmbedding",
    SINUSOIDS,
    {"forward": "3c3ced723637", "get_embedding": "a4dcc71af2da"},
)
_replace(
    _MusicgenMelodyEmbedding,
    "musicgen_melody.MusicgenMelodySinusoidalPositionalEmbedding",
    SINUSOIDS,
    {"forward": "05d5f29a8e52", "get_embedding": "a4dcc71af2da"},
)
_replace(
    _BloomModel,
    "bloom.BloomModel",
    "alibi_slopes, rounded once",
    {
        "build_alibi_tensor": "103fd6b6d36c",
        ".build_alibi_tensor": "b174520b2bc0",
        "_get_alibi_slopes": "7a650538a888",
    },
)
_replace(
    _MptModel,
    "mpt.MptModel",
    "alibi_bias, rounded once",
    {"build_mpt_alibi_tensor": "31a8329daad3", ".build_mpt_alibi_tensor": "ceac1cf0eb0d"},
)
for _original in _originals("whisper.WhisperEncoder"):
    keeps(_original, "its sinusoids are a weight of the checkpoint")
