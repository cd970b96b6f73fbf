"""Modules with a bias that depends on the distance between query and key in a sequence: T5 and ALiBi."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .._sharded import replicated_for
from ..ops import alibi_bias, alibi_slopes, t5_bias
from ._children import CallsChildren, NormalReset, is_plain
from ._init import fill_parameter


class T5RelativePositionBias(CallsChildren):
    """T5's learned bias: a row of the table for each short distance, shared rows for longer distances.

    Replaces ``relative_attention_bias`` and ``compute_bias`` of ``T5Attention`` of transformers (5.x and
    4.x): the parameter has the same name, and the values are those of the original on the CPU, bit for bit.
    As in the original, only the first layer of a stack has this module; all layers share its result.

    ``relative_attention_bias`` is an ``nn.Embedding``. If it is sharded, offloaded, quantized, parametrized,
    hooked or wrapped by an adapter, it is called once for all of its rows and works as in transformers.

    Args:
        num_heads: number of attention heads.
        num_buckets: rows of the table (``relative_attention_num_buckets``): at least 4 if bidirectional,
            otherwise 2.
        max_distance: distance at which the last bucket begins (``relative_attention_max_distance``): greater
            than the number of distances with a separate bucket, which is num_buckets // 4 if bidirectional,
            otherwise num_buckets // 2.
        bidirectional: True for an encoder, False for a causal decoder.

    Shapes and dtypes:
        relative_attention_bias.weight: parameter [num_buckets, num_heads], initially normal, std 0.02.
        forward(q_len, k_len, q_offset=0, device=None): [1, num_heads, q_len, k_len], contiguous, in the
            dtype of the weight (float64, float32, float16 or bfloat16). q_offset is the position of the first
            query: the length of the cache while decoding (``past_seen_tokens``). device is where the
            embedding is called. Default: the device of its parameters, or the device to which accelerate's
            hooks load them. Required if something else moves them for the call (FSDP2 with a CPU offload
            policy).

        diagonals(q_len, k_len, q_offset=0, device=None): [num_heads, q_len + k_len - 1] in float32 (float64
            for a float64 weight), the same bias for :func:`posenc_ext.diagonal_bias_softmax` and
            :func:`posenc_ext.diagonal_attention`. Compute it once for all layers of a stack: backward then
            adds the gradients of the layers as diagonals and sums them per bucket once. It is a call of the
            module, ``bias(q_len, k_len, as_diagonals=True)``, with its hooks.

    Raises:
        ValueError: num_heads, num_buckets or max_distance is too small.
        RuntimeError: ``posenc_ext::t5_bias: ...``, for a negative length.

    Complexity: O(num_heads q_len k_len) forward and backward; buckets are neither stored nor read.

    Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", 2020, section 2.1; its code (mesh-tensorflow) defines the buckets.

    Example:
        >>> bias = T5RelativePositionBias(num_heads=8, bidirectional=False)
        >>> bias(q_len=1, k_len=6, q_offset=5).shape
        torch.Size([1, 8, 1, 6])
        >>> list(bias.state_dict())
        ['relative_attention_bias.weight']
        >>> diagonals = bias.diagonals(q_len=4, k_len=4)
        >>> torch.ops.posenc_ext.diagonal_bias_softmax(torch.zeros(2, 8, 4, 4), diagonals).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
    ) -> None:
        super().__init__()
        name = "T5RelativePositionBias"
        if num_heads < 1:
            raise ValueError(f"{name}: num_heads must be positive, got {num_heads}")
        least = 4 if bidirectional else 2
        if num_buckets < least:
            raise ValueError(f"{name}: num_buckets must be at least {least}, got {num_buckets}")
        exact = num_buckets // least
        if max_distance <= exact:
            raise ValueError(f"{name}: max_distance must be above {exact}, got {max_distance}")
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        embedding = nn.Embedding(num_buckets, num_heads)
        embedding.reset_parameters = NormalReset(embedding, std=0.02)
        self.relative_attention_bias = embedding
        self.reset_parameters()

    def forward(
        self,
        q_len: int,
        k_len: int,
        q_offset: int = 0,
        device: torch.device | None = None,
        as_diagonals: bool = False,
    ) -> Tensor:
        if as_diagonals:
            return self._diagonals(q_len, k_len, q_offset, device)
        return self._bias(self._table(device), q_len, k_len, q_offset).unsqueeze(0)

    @torch.jit.export
    def diagonals(
        self, q_len: int, k_len: int, q_offset: int = 0, device: torch.device | None = None
    ) -> Tensor:
        """The bias of each key - query, [num_heads, q_len + k_len - 1]; see the class."""
        if torch.jit.is_scripting():  # TorchScript cannot compile a call of self
            return self._diagonals(q_len, k_len, q_offset, device)
        else:
            return self(q_len, k_len, q_offset, device, True)

    def _diagonals(self, q_len: int, k_len: int, q_offset: int, device: torch.device | None) -> Tensor:
        """The bias of one query that is before all keys."""
        table = self._table(device)
        table = table.to(torch.float64 if table.dtype == torch.float64 else torch.float32)
        return self._bias(table, 1, q_len + k_len - 1, q_offset + q_len - 1).squeeze(1)

    def _bias(self, table: Tensor, q_len: int, k_len: int, q_offset: int) -> Tensor:
        return t5_bias(
            table,
            q_len,
            k_len,
            q_offset=q_offset,
            bidirectional=self.bidirectional,
            max_distance=self.max_distance,
        )

    def _table(self, device: torch.device | None) -> Tensor:
        if torch.jit.is_scripting():  # TorchScript cannot compile the other branches
            table = self._called_table(device)
        elif is_plain(self.relative_attention_bias, nn.Embedding):
            table = self.relative_attention_bias.weight
        else:
            table = self._called_table(device)
        return table

    def _called_table(self, device: torch.device | None) -> Tensor:
        if device is None:
            device = self._dtype_and_device()[1]
        buckets = torch.arange(self.num_buckets, device=device)
        if not torch.jit.is_scripting():
            buckets = replicated_for(buckets, self.relative_attention_bias)
        return self.relative_attention_bias(buckets)

    def extra_repr(self) -> str:
        buckets = f"num_buckets={self.num_buckets}, max_distance={self.max_distance}"
        return f"num_heads={self.num_heads}, {buckets}, bidirectional={self.bidirectional}"


class AlibiBias(nn.Module):
    """ALiBi: a penalty that grows with the distance, with a separate slope for each head.

    bias[h, q, k] = -slope[h] * abs(k - q - q_offset). Replaces the tables that models build with
    ``build_alibi_tensor`` (transformers 5.x, BLOOM) and ``build_mpt_alibi_tensor`` (MPT). These contain a
    single row for all queries: MPT uses that of the last query, ``AlibiBias(h)(1, L, L - 1)``; BLOOM uses
    slope * k, which is ``-AlibiBias(h)(1, L)``. For keys up to the query, both differ from the definition by
    a constant per query, which softmax cancels.

    Args:
        num_heads: number of attention heads; slopes as in :func:`posenc_ext.alibi_slopes`.
        causal: sets the bias to 0 for keys after the query, which the attention mask removes.
        learnable: makes the slopes a parameter, initialized with those values.

    Shapes and dtypes:
        slopes: parameter [num_heads] if learnable; otherwise computed in each call and not part of
            ``state_dict()``.
        forward(q_len, k_len, q_offset=0, dtype=None, device=None): [1, num_heads, q_len, k_len] in dtype
            (float64, float32, float16 or bfloat16). q_offset is the position of the first query: the length
            of the cache while decoding. Without a parameter, a half-precision result is computed from float32
            slopes and rounded again.
        dtype, device: default to those of the parameter. Without a parameter, they default to what the module
            was converted to (``.half()``, ``.to("cuda")``), otherwise to the default dtype at construction
            and the default device at the call. Tools that convert individual tensors (FSDP's mixed precision,
            autocast, accelerate's dispatch_model) do not affect a module without tensors: pass those of the
            scores, as BLOOM passes its dtype to ``build_alibi_tensor``.

    Raises:
        ValueError: num_heads is not positive.
        RuntimeError: ``posenc_ext::alibi_bias: ...``, for a negative length.

    Complexity: O(num_heads q_len k_len) forward and backward.

    Source: Press, Smith, Lewis, "Train Short, Test Long", 2022.

    Example:
        >>> AlibiBias(num_heads=2)(1, 3, q_offset=4)
        tensor([[[[-0.2500, -0.1875, -0.1250]],
        <BLANKLINE>
                 [[-0.0156, -0.0117, -0.0078]]]])
    """

    slopes: nn.Parameter | None
    _dtype: torch.dtype
    _device: torch.device | None

    def __init__(self, num_heads: int, causal: bool = False, learnable: bool = False) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"AlibiBias: num_heads must be positive, got {num_heads}")
        self.num_heads = num_heads
        self.causal = causal
        self._dtype = torch.get_default_dtype()
        self._device = None
        if learnable:
            self.slopes = nn.Parameter(torch.empty(num_heads))
            self.reset_parameters()
        else:
            self.register_parameter("slopes", None)

    def reset_parameters(self) -> None:
        if self.slopes is not None:
            slopes = alibi_slopes(self.num_heads, dtype=torch.float64, device=self.slopes.device)
            fill_parameter(self.slopes, slopes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AlibiBias":
        before = torch.empty(0, dtype=self._dtype, device=self._device)
        after = fn(before)
        if after.is_floating_point():
            self._dtype = after.dtype
        if after.device != before.device:
            self._device = after.device
        return super()._apply(fn, recurse)

    def forward(
        self,
        q_len: int,
        k_len: int,
        q_offset: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        slopes = self.slopes
        if slopes is None:
            result = self._dtype if dtype is None else dtype
            wide = torch.float64 if result == torch.float64 else torch.float32
            device = self._device if device is None else device
            slopes = alibi_slopes(self.num_heads, dtype=wide, device=device)
        else:
            result = slopes.dtype if dtype is None else dtype
        bias = alibi_bias(slopes, q_len, k_len, q_offset=q_offset, causal=self.causal)
        return bias.to(result).unsqueeze(0)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, causal={self.causal}, learnable={self.slopes is not None}"
