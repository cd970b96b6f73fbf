"""Modules with sinusoidal encodings."""

import math
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from .._sharded import replicated_like
from ..compositions import padding_positions, per_sample
from ..ops import add_sinusoidal, sinusoidal, sinusoidal_table
from ._checkpoints import DropsKeys
from ._dropout import FusesDropout
from ._init import fill_parameter


class SinusoidalPositionalEncoding(FusesDropout):
    """Scales embeddings by sqrt(dim), adds sinusoids and applies dropout in one pass, without a table ``pe``.

    Replaces the classic ``PositionalEncoding`` of OpenNMT-py up to 2.3 and its many copies. Their checkpoints
    load (``pe`` is dropped, regardless of its length). The state_dict of this module is empty unless
    ``emit_pe`` requests a buffer ``pe`` that the classic module can load. For the original argument order of
    OpenNMT-py (dropout before dim), use :meth:`opennmt`. The result has the dtype of emb, whereas the float32
    ``pe`` of the classic module promotes half-precision embeddings unless ``.half()`` converts it.

    Args:
        dim: number of channels of the embedding, even.
        dropout: probability of an element of the result to be zeroed in training, in [0, 1].
        max_len: only for compatibility with the classic module; the length is not limited.
        batch_first: whether emb is [B, L, dim], as in many copies.
        emit_pe: whether to register a buffer ``pe``, only for state_dict().

    Shapes and dtypes:
        emb: [L, B, dim], or [B, L, dim] with batch_first; or [L, dim]: a single sequence, or several packed
            sequences with their position_ids; float64, float32, float16 or bfloat16, any strides.
        step: an int.
        start: an int, or an integer tensor on the device of emb with one position per sample, [B] or [B, 1],
            or one for all, [] or [1]. May be negative.
        position_ids: the position of each row: integers [B, L] or [1, L], regardless of batch_first, or [L]
            for emb [L, dim], on the device of emb.
        pe: buffer with emit_pe, [max_len, 1, dim] or [1, max_len, dim]. Follows ``.half()`` and other
            conversions, ignores checkpoints, and is recomputed by reset_parameters().
        Result: like emb, contiguous; rounded as in :func:`posenc_ext.add_sinusoidal`.

    ``step`` is the argument of the classic module: every row of emb has position ``step``, as in decoding one
    token at a time. ``start`` is the position of the first row of consecutive positions: a chunk of a
    sequence (``pe[step:step + L]`` in later versions of OpenNMT-py) or, per sample, left-padded prompts and
    caches of different lengths. ``position_ids`` is for all other cases. At most one of them can be given.

    Raises:
        ValueError: dim is odd, dropout is not in [0, 1], emb does not have dim channels, or more than one of
            step, start and position_ids is given.
        RuntimeError: ``posenc_ext::add_sinusoidal: ...``, for the dtype or the number of dimensions of emb,
            and for the dtype, shape or device of start or position_ids.

    Complexity: O(L B dim) time, one read of emb and one write of the result, no state.

    Source: Vaswani et al. 2017, section 3.5, interleaved sines and cosines.

    Example:
        >>> encoding = SinusoidalPositionalEncoding(4, dropout=0.1).eval()
        >>> encoding(torch.zeros(2, 1, 4))
        tensor([[[0.0000, 1.0000, 0.0000, 1.0000]],
        <BLANKLINE>
                [[0.8415, 0.5403, 0.0100, 0.9999]]])
        >>> packed = torch.zeros(3, 4)  # sequences of 1 and 2 tokens
        >>> encoding(packed, position_ids=torch.tensor([0, 0, 1]))
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])
    """

    def __init__(
        self,
        dim: int,
        dropout: float,
        max_len: int = 5000,
        batch_first: bool = False,
        emit_pe: bool = False,
    ) -> None:
        super().__init__()
        if dim % 2 != 0:
            raise ValueError(f"Cannot use sin/cos positional encoding with odd dim (got dim={dim})")
        self._set_dropout(dropout)
        self.dim = dim
        self.max_len = max_len
        self.batch_first = batch_first
        self.emit_pe = emit_pe
        if emit_pe:
            self.register_buffer("pe", self._computed_pe())

    def reset_parameters(self) -> None:
        """Recomputes ``pe``, if it exists."""
        if self.emit_pe:
            fill_parameter(self.pe, self._computed_pe(self.pe.dtype, self.pe.device))

    def _computed_pe(
        self, dtype: Optional[torch.dtype] = None, device: Optional[torch.device] = None
    ) -> Tensor:
        table = sinusoidal_table(self.max_len, self.dim, dtype=dtype, device=device)
        return table.unsqueeze(0 if self.batch_first else 1)

    @classmethod
    def opennmt(cls, dropout: float, dim: int, max_len: int = 5000) -> "SinusoidalPositionalEncoding":
        """Constructor with the argument order of ``onmt.modules.PositionalEncoding`` up to OpenNMT-py 2.3.

        >>> SinusoidalPositionalEncoding.opennmt(0.1, 512).dim
        512
        """
        return cls(dim, dropout, max_len)

    def forward(
        self,
        emb: Tensor,
        step: Optional[int] = None,
        start: Union[int, Tensor] = 0,
        position_ids: Optional[Tensor] = None,
    ) -> Tensor:
        name = "SinusoidalPositionalEncoding"
        if emb.size(-1) != self.dim:
            raise ValueError(f"{name}: emb must have {self.dim} channels, got {emb.size(-1)}")
        if position_ids is not None and step is not None:
            raise ValueError(f"{name}: step must be None with position_ids, got {step}")
        if position_ids is not None or step is not None:
            if isinstance(start, Tensor):
                raise ValueError(f"{name}: start must be 0 with step or position_ids, got a tensor")
            elif start != 0:
                raise ValueError(f"{name}: start must be 0 with step or position_ids, got {start}")
        scale = math.sqrt(self.dim)
        p = self._fused_dropout_p()
        if position_ids is not None:
            positions = position_ids if self.batch_first or emb.dim() < 3 else position_ids.t()
            out = add_sinusoidal(emb, x_scale=scale, dropout_p=p, training=True, positions=positions)
        elif step is not None:
            # All rows of emb form the batch of one position, so each gets the same encoding.
            rows = emb.flatten(0, -2).unsqueeze(0)
            out = add_sinusoidal(rows, step, x_scale=scale, batch_first=False, dropout_p=p, training=True)
            out = out.view(emb.shape)
        elif not torch.jit.is_scripting() and isinstance(start, int) and start == 0 and p == 0.0:
            # Leaves out default arguments: parsing them takes longer than adding to a short sequence.
            out = add_sinusoidal(emb, x_scale=scale, batch_first=self.batch_first)
        else:
            out = add_sinusoidal(
                emb, start, x_scale=scale, batch_first=self.batch_first, dropout_p=p, training=True
            )
        return self._called_dropout(out)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        loaded = state_dict.pop(prefix + "pe", None)
        if self.emit_pe:
            pe = self.pe
            if pe.is_meta and local_metadata.get("assign_to_params_buffers", False):
                pe = torch.empty(0) if loaded is None else loaded  # has the target dtype and device
            state_dict[prefix + "pe"] = self._computed_pe(pe.dtype, pe.device)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, batch_first={self.batch_first}"


class SinusoidalPositionalEmbedding(DropsKeys):
    """Sinusoids of the tokens of padded batches: padding tokens are not counted and have a row of zeros.

    Replaces ``M2M100SinusoidalPositionalEmbedding`` of transformers and its copies in NLLB-MoE, SeamlessM4T
    and (only with input_ids) Speech2Text and TrOCR, and ``SinusoidalPositionalEmbedding`` of fairseq
    (:meth:`fairseq` has its argument order). Their checkpoints load (``weights`` and ``_float_tensor`` of
    fairseq are dropped); state_dict() is empty, as in current versions of the originals.

    The layout is that of tensor2tensor: sines, then cosines, freq_shift=1, and a last channel of zeros if
    embedding_dim is odd.

    Args:
        num_positions: only for compatibility with the replaced class; the length is not limited.
        embedding_dim: number of channels, at least 4.
        padding_idx: token ID of the padding, >= 0. The first real token has position padding_idx + 1.

    Shapes and dtypes:
        input_ids: [B, L], integer.
        inputs_embeds: [B, L, anything], instead of input_ids; no token is treated as padding.
        past_key_values_length: number of tokens in the cache: an int >= 0, or an integer tensor with one
            number per sample, [B] or [B, 1] (also [] or [1]), whose values are not checked.
        attention_mask: [B, L], bool or integer, 0 for padding, regardless of the tokens; or [B, M] with
            M > L for the cache followed by the input, as generate() of transformers passes it.
            past_key_values_length is then ignored, since the mask contains the cache.
        position_ids: the positions, integers [B, L] or [1, L], alone or with input_ids or inputs_embeds; the
            other arguments are ignored. Padding has position padding_idx.
        Result: [B, L, embedding_dim] in ``self.dtype``: torch's default dtype at construction, then as
            converted by ``.to()``, ``.half()``, ``.bfloat16()``, FSDP's buffer_dtype etc.; correctly rounded.
            With inputs_embeds only, the result is one [L, embedding_dim] expanded along the batch.

    The buffer ``_float_tensor``, which is not part of state_dict(), holds that dtype, as in fairseq.

    Raises:
        ValueError: embedding_dim is less than 4, padding_idx is negative, both or neither of input_ids and
            inputs_embeds are given, attention_mask is not [B, M] with M >= L, past_key_values_length is
            negative or has another shape or dtype, or an error of :func:`posenc_ext.padding_positions`.

    Complexity: O(B L embedding_dim), no state. Not differentiable.

    Source: Ott et al., "fairseq", 2019; Fan et al., "Beyond English-Centric Multilingual Machine
    Translation", 2020.

    Example:
        >>> embedding = SinusoidalPositionalEmbedding(1024, 4, padding_idx=1)
        >>> embedding(torch.tensor([[7, 8, 1]]))
        tensor([[[ 9.0930e-01,  2.0000e-04, -4.1615e-01,  1.0000e+00],
                 [ 1.4112e-01,  3.0000e-04, -9.8999e-01,  1.0000e+00],
                 [ 0.0000e+00,  0.0000e+00,  0.0000e+00,  0.0000e+00]]])
    """

    _dropped_keys = ("weights", "_float_tensor")
    _float_tensor: Tensor

    def __init__(self, num_positions: int, embedding_dim: int, padding_idx: int) -> None:
        super().__init__()
        if embedding_dim < 4:
            rule = f"embedding_dim must be at least 4, got {embedding_dim}"
            raise ValueError(f"SinusoidalPositionalEmbedding: {rule}")
        if padding_idx < 0:
            raise ValueError(f"SinusoidalPositionalEmbedding: padding_idx must be >= 0, got {padding_idx}")
        self.num_positions = num_positions
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.register_buffer("_float_tensor", torch.zeros(1), persistent=False)

    def reset_parameters(self) -> None:
        """Zeroes the buffer; for initialization loops that call this on every module with a buffer."""
        self._float_tensor.zero_()

    @property
    def dtype(self) -> torch.dtype:
        return self._float_tensor.dtype

    @classmethod
    def fairseq(
        cls, embedding_dim: int, padding_idx: int, init_size: int = 1024
    ) -> "SinusoidalPositionalEmbedding":
        """Constructor with the argument order of fairseq.

        >>> SinusoidalPositionalEmbedding.fairseq(512, padding_idx=1).embedding_dim
        512
        """
        return cls(init_size, embedding_dim, padding_idx)

    def forward(
        self,
        input_ids: Optional[Tensor] = None,
        inputs_embeds: Optional[Tensor] = None,
        past_key_values_length: Union[int, Tensor] = 0,
        attention_mask: Optional[Tensor] = None,
        position_ids: Optional[Tensor] = None,
    ) -> Tensor:
        name = "SinusoidalPositionalEmbedding"
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError(f"{name}: one of input_ids and inputs_embeds must be given, got both")
        given = input_ids if input_ids is not None else inputs_embeds
        if position_ids is not None:
            positions = position_ids
            if given is not None:
                positions = positions.expand(given.size(0), given.size(1))
        elif given is None:
            raise ValueError(f"{name}: one of input_ids and inputs_embeds must be given, got neither")
        elif attention_mask is not None:
            length = given.size(1)
            if attention_mask.dim() != 2 or attention_mask.size(1) < length:
                rule = f"attention_mask must be [B, M] with M >= {length}"
                raise ValueError(f"{name}: {rule}, got {list(attention_mask.shape)}")
            tokens = attention_mask.ne(0).to(torch.int64) + self.padding_idx  # padding_idx is padding
            if attention_mask.size(1) > length:
                positions = padding_positions(tokens, self.padding_idx)[:, -length:]
            else:
                positions = padding_positions(tokens, self.padding_idx, past_key_values_length)
        elif input_ids is not None:
            positions = padding_positions(input_ids, self.padding_idx, past_key_values_length)
        elif isinstance(past_key_values_length, Tensor):
            past = per_sample(f"{name}: past_key_values_length", past_key_values_length, given.size(0))
            first = past + self.padding_idx + 1
            positions = first + replicated_like(torch.arange(given.size(1), device=first.device), first)
        else:
            if past_key_values_length < 0:
                rule = f"past_key_values_length must be >= 0, got {past_key_values_length}"
                raise ValueError(f"{name}: {rule}")
            table = sinusoidal_table(
                given.size(1),
                self.embedding_dim,
                start=self.padding_idx + 1 + past_key_values_length,
                freq_shift=1.0,
                layout="concat",
                odd="zero",
                dtype=self.dtype,
                device=given.device,
            )
            return replicated_like(table, given).expand(given.size(0), -1, -1)
        out = sinusoidal(
            positions, self.embedding_dim, freq_shift=1.0, layout="concat", odd="zero", dtype=self.dtype
        )
        out = out.masked_fill_(positions.eq(self.padding_idx).unsqueeze(-1), 0.0)
        return out if given is None else out.expand(given.size(0), -1, -1)

    def extra_repr(self) -> str:
        return f"embedding_dim={self.embedding_dim}, padding_idx={self.padding_idx}"


class TimestepEmbedding(nn.Module):
    """Sinusoidal encodings of diffusion timesteps.

    Replaces ``Timesteps`` of diffusers: same arguments, no parameters, empty state_dict. (It is not the
    ``TimestepEmbedding`` of diffusers, which is the small MLP that follows.) ``timestep_embedding`` of DiT
    and of guided diffusion is flip_sin_to_cos=True, downscale_freq_shift=0.

    Args:
        num_channels: number of channels; if it is odd, the last channel is zero.
        flip_sin_to_cos: whether cosines come before sines.
        downscale_freq_shift: subtracted from num_channels // 2 in the exponent.
        scale: multiplies the timesteps.
        max_period: base of the geometric progression of wavelengths.
        dtype: dtype of the result; not changed by ``.half()`` etc. diffusers always returns float32, which
            its models convert.

    Shapes and dtypes:
        timesteps: any shape, integer or floating; used exactly, even float64 (diffusers rounds to float32).
        Result: ``[*timesteps.shape, num_channels]``, correctly rounded to dtype.

    Raises:
        ValueError: num_channels // 2 - downscale_freq_shift or max_period is not positive.
        RuntimeError: ``posenc_ext::sinusoidal: ...``, for timesteps that are bool or complex.

    Complexity: O(timesteps.numel() num_channels). Gradients: with respect to floating timesteps, of any
    order.

    Source: Ho et al., "Denoising Diffusion Probabilistic Models", 2020.

    Example:
        >>> embedding = TimestepEmbedding(4, flip_sin_to_cos=True, downscale_freq_shift=0)
        >>> embedding(torch.tensor([0, 1]))
        tensor([[1.0000, 1.0000, 0.0000, 0.0000],
                [0.5403, 0.9999, 0.8415, 0.0100]])
    """

    dtype: torch.dtype

    def __init__(
        self,
        num_channels: int,
        flip_sin_to_cos: bool,
        downscale_freq_shift: float,
        scale: float = 1.0,
        max_period: float = 10000.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        divisor = num_channels // 2 - downscale_freq_shift
        if not divisor > 0:
            rule = f"num_channels // 2 - downscale_freq_shift must be positive, got {divisor}"
            raise ValueError(f"TimestepEmbedding: {rule}")
        if not max_period > 0:
            raise ValueError(f"TimestepEmbedding: max_period must be positive, got {max_period}")
        self.num_channels = num_channels
        self.flip_sin_to_cos = flip_sin_to_cos
        self.downscale_freq_shift = float(downscale_freq_shift)
        self.scale = float(scale)
        self.max_period = float(max_period)
        self.dtype = dtype

    def forward(self, timesteps: Tensor) -> Tensor:
        return sinusoidal(
            timesteps,
            self.num_channels,
            base=self.max_period,
            freq_shift=self.downscale_freq_shift,
            scale=self.scale,
            layout="concat_cos_first" if self.flip_sin_to_cos else "concat",
            odd="zero",
            dtype=self.dtype,
        )

    def extra_repr(self) -> str:
        return (
            f"num_channels={self.num_channels}, flip_sin_to_cos={self.flip_sin_to_cos}, "
            f"downscale_freq_shift={self.downscale_freq_shift}, scale={self.scale}"
        )
