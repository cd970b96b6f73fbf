"""Modules that make sinusoids."""

import math
from collections.abc import Callable
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from ..compositions import padding_positions
from ..ops import add_sinusoidal, sinusoidal, sinusoidal_table
from ._checkpoints import DropsKeys


class SinusoidalPositionalEncoding(DropsKeys):
    """Scales embeddings by sqrt(dim), adds sinusoids and applies dropout in one pass, with no ``pe`` buffer.

    Replaces the classic ``PositionalEncoding`` of OpenNMT-py up to 2.3 and its many copies. Their
    checkpoints load (``pe`` is dropped, whatever its length); its own state_dict is empty, unless
    ``emit_pe`` asks for a ``pe`` that the classic module can load. OpenNMT-py's own takes dropout before
    dim: :meth:`opennmt`.

    Args:
        dim: channels of the embedding, even.
        dropout: probability in [0, 1) of zeroing an element of the result while training.
        max_len: kept so that calls to the classic module still work; there is no limit on the length.
        batch_first: whether emb is [B, L, dim], as in many copies.
        emit_pe: whether state_dict() has ``pe``, [max_len, 1, dim] or, batch first, [1, max_len, dim].

    Shapes and dtypes:
        emb: [L, B, dim], or [B, L, dim] with batch_first; float64, float32, float16 or bfloat16, any strides.
        step: an int.
        start: an int, or an integer tensor [B] with one position per sample, on the device of emb.
        Result: like emb, contiguous. The sum is made in float64 and rounded once, in every dtype.

    ``step`` is the classic one: every row of emb is at position ``step``, as in decoding one token at a
    time. ``start`` is the position of the first row, the others follow: a chunk of a sequence (``pe[step:step
    + L]`` of later OpenNMT-py), or per sample, prompts padded on the left and caches of different lengths.

    Raises:
        ValueError: dim is odd, dropout is not in [0, 1), emb has other than dim channels, or step is given
            together with a start.
        RuntimeError: ``posenc_ext::add_sinusoidal: ...``, for emb of a wrong dtype or number of dimensions,
            or a start that is no integer [B].

    Complexity: O(L B dim) time, one read of emb and one write of the result, no state.

    Source: Vaswani et al. 2017, section 3.5, interleaved sines and cosines.

    Example:
        >>> encoding = SinusoidalPositionalEncoding(4, dropout=0.1).eval()
        >>> encoding(torch.zeros(2, 1, 4))
        tensor([[[0.0000, 1.0000, 0.0000, 1.0000]],
        <BLANKLINE>
                [[0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    _dropped_keys = ("pe",)

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
        if not 0 <= dropout < 1:
            raise ValueError(f"SinusoidalPositionalEncoding: dropout must be in [0, 1), got {dropout}")
        self.dim = dim
        self.max_len = max_len
        self.batch_first = batch_first
        self.emit_pe = emit_pe
        # Never called: it keeps p and train()/eval() where code for the classic module looks for them.
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def opennmt(cls, dropout: float, dim: int, max_len: int = 5000) -> "SinusoidalPositionalEncoding":
        """The module by the argument order of ``onmt.modules.PositionalEncoding`` up to OpenNMT-py 2.3.

        >>> SinusoidalPositionalEncoding.opennmt(0.1, 512).dim
        512
        """
        return cls(dim, dropout, max_len)

    def forward(self, emb: Tensor, step: Optional[int] = None, start: Union[int, Tensor] = 0) -> Tensor:
        if emb.size(-1) != self.dim:
            rule = f"emb must have {self.dim} channels, got {emb.size(-1)}"
            raise ValueError(f"SinusoidalPositionalEncoding: {rule}")
        scale = math.sqrt(self.dim)
        p = self.dropout.p if self.dropout.training else 0.0
        if step is None:
            # Without what is at its default: reading that takes longer than adding to a short sequence.
            if not torch.jit.is_scripting() and isinstance(start, int) and start == 0 and p == 0.0:
                return add_sinusoidal(emb, x_scale=scale, batch_first=self.batch_first)
            return add_sinusoidal(
                emb, start, x_scale=scale, batch_first=self.batch_first, dropout_p=p, training=True
            )
        if isinstance(start, Tensor):
            raise ValueError("SinusoidalPositionalEncoding: start must be 0 with step, got a tensor")
        elif start != 0:
            raise ValueError(f"SinusoidalPositionalEncoding: start must be 0 with step, got {start}")
        # All rows of emb as the batch of one position: that adds the same row of the table to each.
        rows = emb.flatten(0, 1).unsqueeze(0)
        out = add_sinusoidal(rows, step, x_scale=scale, batch_first=False, dropout_p=p, training=True)
        return out.view(emb.shape)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.emit_pe:
            table = sinusoidal_table(self.max_len, self.dim, device=torch.device("cpu"))
            destination[prefix + "pe"] = table.unsqueeze(0 if self.batch_first else 1)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, batch_first={self.batch_first}"


class SinusoidalPositionalEmbedding(DropsKeys):
    """Sinusoids of the tokens of padded batches: padding has a row of zeros and counts for no position.

    Replaces ``M2M100SinusoidalPositionalEmbedding`` of transformers and its copies in NLLB-MoE, SeamlessM4T
    and (input_ids alone) Speech2Text and TrOCR, and fairseq's ``SinusoidalPositionalEmbedding``
    (:meth:`fairseq` has its argument order). Their checkpoints load (``weights`` and fairseq's
    ``_float_tensor`` are dropped); state_dict() is empty, as theirs is in current versions.

    The layout is that of tensor2tensor: sines, then cosines, freq_shift=1, and for an odd embedding_dim a
    last channel of zeros.

    Args:
        num_positions: kept for calls to the replaced class; there is no limit on the length.
        embedding_dim: channels, at least 4.
        padding_idx: the token that is padding, >= 0. The first real token is at position padding_idx + 1.

    Shapes and dtypes:
        input_ids: [B, L], integer.
        inputs_embeds: [B, L, anything], in place of input_ids; without tokens nothing is padding.
        past_key_values_length: int >= 0, tokens in the cache.
        Result: [B, L, embedding_dim] in ``self.dtype``: torch's default dtype at construction, then what
            ``.to()``, ``.half()``, ``.bfloat16()`` and the like say. Correctly rounded in every one. From
            inputs_embeds it is one [L, embedding_dim] expanded along the batch.

    Raises:
        ValueError: embedding_dim is under 4, padding_idx is negative, neither or both of input_ids and
            inputs_embeds are given, or what :func:`posenc_ext.padding_positions` says.

    Complexity: O(B L embedding_dim), no state. Nothing to differentiate.

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
    dtype: torch.dtype

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
        self.dtype = torch.get_default_dtype()

    @classmethod
    def fairseq(
        cls, embedding_dim: int, padding_idx: int, init_size: int = 1024
    ) -> "SinusoidalPositionalEmbedding":
        """The module by the argument order of fairseq.

        >>> SinusoidalPositionalEmbedding.fairseq(512, padding_idx=1).embedding_dim
        512
        """
        return cls(init_size, embedding_dim, padding_idx)

    def forward(
        self,
        input_ids: Optional[Tensor] = None,
        inputs_embeds: Optional[Tensor] = None,
        past_key_values_length: int = 0,
    ) -> Tensor:
        if input_ids is not None and inputs_embeds is None:
            positions = padding_positions(input_ids, self.padding_idx, past_key_values_length)
            out = sinusoidal(
                positions, self.embedding_dim, freq_shift=1.0, layout="concat", odd="zero", dtype=self.dtype
            )
            return out.masked_fill_(positions.eq(self.padding_idx).unsqueeze(-1), 0.0)
        if inputs_embeds is not None and input_ids is None:
            table = sinusoidal_table(
                inputs_embeds.size(1),
                self.embedding_dim,
                start=self.padding_idx + 1 + past_key_values_length,
                freq_shift=1.0,
                layout="concat",
                odd="zero",
                dtype=self.dtype,
                device=inputs_embeds.device,
            )
            return table.expand(inputs_embeds.size(0), -1, -1)
        given = "both" if input_ids is not None else "neither"
        rule = f"one of input_ids and inputs_embeds must be given, got {given}"
        raise ValueError(f"SinusoidalPositionalEmbedding: {rule}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SinusoidalPositionalEmbedding":
        super()._apply(fn, recurse)
        # What .to(), .half() and the like would do to the table of the replaced class.
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self

    def extra_repr(self) -> str:
        return f"embedding_dim={self.embedding_dim}, padding_idx={self.padding_idx}"


class TimestepEmbedding(nn.Module):
    """Sinusoids of diffusion timesteps.

    Replaces ``Timesteps`` of diffusers: same arguments, no parameters, empty state_dict. (diffusers calls the
    small MLP behind it ``TimestepEmbedding``; this is not that.) ``timestep_embedding`` of DiT and of guided
    diffusion is flip_sin_to_cos=True, downscale_freq_shift=0.

    Args:
        num_channels: channels; an odd number has a last channel of zeros.
        flip_sin_to_cos: cosines before sines.
        downscale_freq_shift: subtracted from num_channels // 2 in the exponent.
        scale: multiplies the timesteps.
        max_period: base of the geometric progression of wavelengths.
        dtype: of the result; diffusers has float32 alone.

    Shapes and dtypes:
        timesteps: any shape, integer or floating; read exactly, also float64 (diffusers rounds to float32).
        Result: [*timesteps.shape, num_channels], correctly rounded to dtype.

    Raises:
        ValueError: num_channels // 2 - downscale_freq_shift or max_period is not positive.
        RuntimeError: ``posenc_ext::sinusoidal: ...``, for timesteps that are bool or complex.

    Complexity: O(timesteps.numel() num_channels). Gradients: of floating timesteps, to any order.

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
