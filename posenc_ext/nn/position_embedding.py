"""Modules with learned absolute position embeddings."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._sharded import replicated_like
from ..compositions import is_integer, per_sample, resample_position_embedding, sinusoidal_grid
from ..ops import add_position_embedding, sinusoidal_table
from ._dropout import FusesDropout
from ._init import fill_parameter


def _pair(name: str, what: str, size: Union[int, Sequence[int]]) -> list[int]:
    """Converts one size to [size, size], or two sizes to a list."""
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name}: {what} must be a positive size or two, got {size}")
    return pair


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


class _GridEmbedding(nn.Module):
    """A module with an embedding per grid cell; checkpoints for other grids are resampled when loaded.

    state_dict() records the grid and the number of prefix rows in its metadata, which torch.save preserves
    but safetensors and torch.distributed.checkpoint drop.
    """

    antialias: bool
    checkpoint_grid: Optional[list[int]]

    def _grid(self) -> tuple[str, list[int], int]:
        """The name of the parameter, its grid and the number of prefix rows."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            _, size, prefix_rows = self._grid()
            found = destination._metadata.setdefault(prefix[:-1], {})
            found.update(grid_size=list(size), prefix_rows=prefix_rows)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        error_messages = args[-1]
        name, size, prefix_rows = self._grid()
        key, own = prefix + name, getattr(self, name)
        loaded = state_dict.get(key)
        if isinstance(loaded, Tensor) and loaded.dim() == own.dim() and loaded.shape[-1] == own.shape[-1]:
            try:
                old_size = self._grid_of(key, loaded.shape[-2], own.shape[-2], local_metadata)
                if old_size is not None and old_size != size:
                    with torch.no_grad():
                        state_dict[key] = resample_position_embedding(
                            loaded, size, prefix_rows, old_size, antialias=self.antialias
                        )
            except ValueError as error:
                error_messages.append(str(error))
                state_dict[key] = own  # prevents a second error from torch
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _grid_of(self, key: str, rows: int, own_rows: int, metadata: dict[str, Any]) -> Optional[list[int]]:
        """The grid of a checkpoint, or None for the grid of this module; raises if it is ambiguous."""
        _, size, prefix_rows = self._grid()
        hint = "checkpoint_grid=[H, W] says it"
        recorded, recorded_rows = metadata.get("grid_size"), metadata.get("prefix_rows", 0)
        # The metadata does not describe an entry that was replaced after state_dict().
        if recorded is not None and rows == recorded_rows + math.prod(recorded):
            if recorded_rows != prefix_rows:
                rule = (
                    f"{key} must have {prefix_rows} rows in front of its {recorded} grid, got {recorded_rows}"
                )
                raise ValueError(f"{type(self).__name__}: {rule}")
            return list(recorded)
        given = self.checkpoint_grid
        if given is not None and rows == prefix_rows + math.prod(given):
            return given
        patches = rows - prefix_rows
        square = _is_square(patches)
        others = [tokens for tokens in (0, 1, 2) if tokens != prefix_rows and _is_square(rows - tokens)]
        if rows == own_rows and square == (size[0] == size[1]):
            if size[0] != size[1] or others:
                taken = f"is taken as {prefix_rows} rows and the grid {size}"
                assumed = f"{type(self).__name__}: {key} has no record of its grid and {taken}"
                warnings.warn(f"{assumed}; if it is another, {hint}", stacklevel=2)
            return None
        if rows != own_rows and square and not others:
            return [math.isqrt(patches)] * 2
        why = "may be more than one grid" if square else f"less {prefix_rows} are not a square"
        found = f"{rows} rows in the checkpoint, {own_rows} here"
        raise ValueError(f"size mismatch for {key}: {found}; {rows} rows {why}, and none is recorded: {hint}")


def _optional_pair(name: str, what: str, size: Optional[Sequence[int]]) -> Optional[list[int]]:
    return None if size is None else _pair(name, what, size)


class VisionPositionEmbedding(FusesDropout, _GridEmbedding):
    """Prepends class, distillation and register tokens to image patches, adds learned position embeddings and
    applies dropout, in one pass and at any resolution.

    Replaces the code between ``patch_embed`` and the blocks of a ViT: ``cls_token``, ``dist_token``,
    ``reg_token``, ``pos_embed`` and ``_pos_embed`` of ``VisionTransformer`` and
    ``VisionTransformerDistilled`` of timm (DeiT, DeiT-3, MAE, MoCo v3). The parameters have the same names
    and shapes, so checkpoints can be exchanged in both directions. A ``pos_embed`` for another grid is
    resampled when loaded: for any grid if state_dict() recorded it (in its metadata, which ``torch.save``
    preserves), otherwise for ``checkpoint_grid`` or a square grid. An ambiguous grid is an error.

    Args:
        grid_size: number of patches along height and width, or one number for both.
        dim: number of channels.
        class_token, dist_token: whether there is such a token.
        registers: number of register tokens. The order is class, distillation, registers, patches.
        embed_prefix: if True, pos_embed has rows for the prefix tokens, ``cat(tokens, x) + pos_embed`` (ViT,
            DeiT); if False, ``cat(tokens, x + pos_embed)`` (DeiT-3; ``no_embed_class`` in timm).
        dropout: probability of an element of the result to be zeroed in training, in [0, 1].
        antialias: as in :func:`posenc_ext.resample_position_embedding`.
        checkpoint_grid: the grid of checkpoints that do not record it. Default: inferred if unambiguous.

    Shapes and dtypes:
        cls_token, dist_token: parameters [1, 1, dim]; reg_token: parameter [1, registers, dim].
        pos_embed: parameter [1, P + N, dim] with P prefix tokens and N = prod(grid_size), or [1, N, dim] if
            not embed_prefix.
        x: [B, N, dim], or the feature map [B, dim, H, W] of a patch convolution, which is read in place; any
            strides. A feature map [B, H, W, dim] is recognized if only its last dimension is dim.
        size: [H, W] of the patches if x is [B, H W, dim]. Default: grid_size. Not allowed with a feature map.
        Result: [B, P + H W, dim], contiguous.

    Raises:
        ValueError: a size or dim is not positive, registers is negative, dropout is not in [0, 1], x does not
            have 3 or 4 dimensions or does not have H W patches, or size is given with a feature map.
        RuntimeError: ``posenc_ext::add_position_embedding: ...``, for the channels or the dtype of x.

    Complexity: O(B (P + N) dim), one read of x and one write of the result; for a size other than grid_size,
    each call resamples pos_embed. Gradients: with respect to x and all parameters.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021; Touvron et al., "DeiT", 2021, and
    "DeiT III", 2022; Darcet et al., "Vision Transformers Need Registers", 2024.

    Example:
        >>> embedding = VisionPositionEmbedding((14, 14), 384, dist_token=True)
        >>> embedding(torch.zeros(2, 196, 384)).shape
        torch.Size([2, 198, 384])
        >>> embedding(torch.zeros(2, 384, 16, 20)).shape  # a larger image, as a map
        torch.Size([2, 322, 384])
    """

    grid_size: list[int]

    def __init__(
        self,
        grid_size: Union[int, Sequence[int]],
        dim: int,
        class_token: bool = True,
        dist_token: bool = False,
        registers: int = 0,
        embed_prefix: bool = True,
        dropout: float = 0.0,
        antialias: bool = True,
        checkpoint_grid: Optional[Sequence[int]] = None,
    ) -> None:
        super().__init__()
        name = "VisionPositionEmbedding"
        self.grid_size = _pair(name, "grid_size", grid_size)
        if dim < 1:
            raise ValueError(f"{name}: dim must be positive, got {dim}")
        if registers < 0:
            raise ValueError(f"{name}: registers must be >= 0, got {registers}")
        self._set_dropout(dropout)
        self.embed_prefix = embed_prefix
        self.antialias = antialias
        self.checkpoint_grid = _optional_pair(name, "checkpoint_grid", checkpoint_grid)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, dim)) if dist_token else None
        self.reg_token = nn.Parameter(torch.empty(1, registers, dim)) if registers else None
        tokens = int(class_token) + int(dist_token) + registers
        self.embedded_tokens = tokens if embed_prefix else 0
        patches = self.grid_size[0] * self.grid_size[1]
        self.pos_embed = nn.Parameter(torch.empty(1, self.embedded_tokens + patches, dim))
        self._sinusoids = None  # arguments of from_sinusoidal
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the parameters as the constructor, or :meth:`from_sinusoidal`, does."""
        for parameter in self.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=0.02)
        if self._sinusoids is not None:
            grid = sinusoidal_grid(
                self.grid_size,
                self.pos_embed.size(-1),
                extra_tokens=self.embedded_tokens,
                dtype=self.pos_embed.dtype,
                device=self.pos_embed.device,
                **self._sinusoids,
            )
            fill_parameter(self.pos_embed, grid.unsqueeze(0))

    @classmethod
    def from_sinusoidal(
        cls,
        grid_size: Union[int, Sequence[int]],
        dim: int,
        order: str = "mae",
        base: float = 10000.0,
        trainable: bool = True,
        **options: Any,
    ) -> "VisionPositionEmbedding":
        """Creates a module with pos_embed set to :func:`posenc_ext.sinusoidal_grid`, zeros for prefix tokens.

        ``trainable=False`` freezes pos_embed, as in MAE and MoCo v3. reset_parameters() restores its values.

        >>> VisionPositionEmbedding.from_sinusoidal(2, 8).pos_embed[0, :2, :4]
        tensor([[0., 0., 0., 0.],
                [0., 0., 1., 1.]], grad_fn=<SliceBackward0>)
        """
        module = cls(grid_size, dim, **options)
        module._sinusoids = {"order": order, "base": base}
        module.reset_parameters()
        module.pos_embed.requires_grad_(trainable)
        return module

    def forward(self, x: Tensor, size: Optional[list[int]] = None) -> Tensor:
        if x.dim() == 4:
            if size is not None:
                raise ValueError(f"VisionPositionEmbedding: size must be None with a map, got {size}")
            x = _channels_first(x, self.pos_embed.size(-1))
            size = [x.size(2), x.size(3)]
            x = x.flatten(2).transpose(1, 2)
        elif x.dim() != 3:
            raise ValueError(f"VisionPositionEmbedding: x must have 3 or 4 dimensions, got {x.dim()}")
        else:
            if size is None:
                size = self.grid_size
            elif len(size) != 2:
                raise ValueError(f"VisionPositionEmbedding: size must have 2 sizes, got {size}")
            if x.size(1) != size[0] * size[1]:
                rule = f"x must have {size[0] * size[1]} patches for size {size}"
                raise ValueError(f"VisionPositionEmbedding: {rule}, got {x.size(1)}")
        pos_embed = resample_position_embedding(
            self.pos_embed, size, self.embedded_tokens, self.grid_size, antialias=self.antialias
        )
        prefix: list[Tensor] = []
        if self.cls_token is not None:
            prefix.append(self.cls_token)
        if self.dist_token is not None:
            prefix.append(self.dist_token)
        if self.reg_token is not None:
            prefix.append(self.reg_token)
        out = add_position_embedding(
            x,
            pos_embed,
            prefix,
            embed_prefix=self.embed_prefix,
            dropout_p=self._fused_dropout_p(),
            training=True,
        )
        return self._called_dropout(out)

    def _grid(self) -> tuple[str, list[int], int]:
        return "pos_embed", self.grid_size, self.embedded_tokens

    def extra_repr(self) -> str:
        return f"grid_size={self.grid_size}, dim={self.pos_embed.size(-1)}, embed_prefix={self.embed_prefix}"


def _channels_first(x: Tensor, dim: int) -> Tensor:
    """Converts [B, H, W, dim] to [B, dim, H, W]; x is [B, dim, H, W] if it could be either."""
    return x.permute(0, 3, 1, 2) if x.size(1) != dim and x.size(3) == dim else x


class LearnedPositionalEmbedding(FusesDropout):
    """Scales x, adds the rows of a learned table for its positions and applies dropout, in one pass.

    Replaces the position table of BERT and GPT-2 (an ``nn.Embedding`` indexed by arange, an addition and a
    dropout) and ``BartLearnedPositionalEmbedding`` (offset=2; also mBART, OPT) with the following addition.
    ``weight`` has the same name and shape, so checkpoints can be exchanged in both directions.

    Args:
        num_embeddings: number of positions.
        embedding_dim: number of channels.
        offset: number of rows of the table before position 0; 2 for BART, which reserves them for padding.
        dropout: probability of an element of the result to be zeroed in training, in [0, 1].
        x_scale: multiplies x.
        batch_first: whether x is [B, L, D] or [L, B, D].

    Shapes and dtypes:
        weight: parameter [num_embeddings + offset, embedding_dim], initially normal, std 0.02.
        x: [B, L, D], or [L, B, D] without batch_first; or [L, D]: a single sequence, or several packed
            sequences with their position_ids; any strides.
        past_length: the position of the first row of x (decoding with a cache): an int >= 0, or an integer
            tensor with one position per sample, [B] or [B, 1] (also [] or [1]), on the device of x. Negative
            positions (the padding of left-padded prompts, whose past_length is minus the length of the
            padding) are replaced by 0, as in generate() of transformers.
        position_ids: the position of each row: integers [B, L] or [1, L], regardless of batch_first, or [L]
            for x [L, D], on the device of x. With an offset, -offset to -1 select the rows before position 0
            (OPT uses -1 for padding). past_length must be 0.
        Result: like x, contiguous.

    Raises:
        ValueError: num_embeddings or embedding_dim is not positive, offset is negative, dropout is not in
            [0, 1], x does not have 2 or 3 dimensions, past_length is negative, past_length + L >
            num_embeddings, past_length is a tensor of another shape or dtype, or both past_length and
            position_ids are given.
        RuntimeError: ``posenc_ext::add_position_embedding: ...``, for the channels or the dtype of x, for
            position_ids that do not match x, and, on the CPU, for a position in a tensor that is outside the
            table. On CUDA positions are not copied to the host; a device-side assertion fails instead.

    Complexity: O(B L D), one read of x and one write of the result; positions are only read if they are given
    as a tensor. Gradients: with respect to x and weight; sums over batch and positions have a fixed order.

    Source: Gehring et al., "Convolutional Sequence to Sequence Learning", 2017; Devlin et al., "BERT", 2019.

    Example:
        >>> embedding = LearnedPositionalEmbedding(512, 64)
        >>> x = torch.randn(2, 5, 64)
        >>> torch.equal(embedding(x, past_length=3), x + embedding.weight[3:8])
        True
        >>> packed, position_ids = torch.randn(5, 64), torch.tensor([0, 1, 2, 0, 1])  # of 3 and 2 tokens
        >>> torch.equal(embedding(packed, position_ids=position_ids), packed + embedding.weight[position_ids])
        True
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        offset: int = 0,
        dropout: float = 0.0,
        x_scale: float = 1.0,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        name = "LearnedPositionalEmbedding"
        if num_embeddings < 1:
            raise ValueError(f"{name}: num_embeddings must be positive, got {num_embeddings}")
        if embedding_dim < 1:
            raise ValueError(f"{name}: embedding_dim must be positive, got {embedding_dim}")
        if offset < 0:
            raise ValueError(f"{name}: offset must be >= 0, got {offset}")
        self._set_dropout(dropout)
        self.num_embeddings = num_embeddings
        self.offset = offset
        self.x_scale = float(x_scale)
        self.batch_first = batch_first
        self.weight = nn.Parameter(torch.empty(num_embeddings + offset, embedding_dim))
        self._sinusoids = None  # arguments of from_sinusoidal
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the parameters as the constructor, or :meth:`from_sinusoidal`, does."""
        if self._sinusoids is None:
            nn.init.normal_(self.weight, std=0.02)
        else:
            table = sinusoidal_table(
                self.num_embeddings,
                self.weight.size(1),
                dtype=self.weight.dtype,
                device=self.weight.device,
                **self._sinusoids,
            )
            fill_parameter(self.weight, F.pad(table, (0, 0, self.offset, 0)))

    @classmethod
    def from_sinusoidal(
        cls,
        num_embeddings: int,
        embedding_dim: int,
        base: float = 10000.0,
        freq_shift: float = 0.0,
        layout: str = "interleaved",
        odd: str = "error",
        trainable: bool = True,
        **options: Any,
    ) -> "LearnedPositionalEmbedding":
        """Creates a module initialized with :func:`posenc_ext.sinusoidal_table`, zeros before position 0.

        The encoder of Whisper uses freq_shift=1, layout="concat", trainable=False. reset_parameters()
        restores the values.

        >>> LearnedPositionalEmbedding.from_sinusoidal(2, 2, offset=1, trainable=False).weight
        Parameter containing:
        tensor([[0.0000, 0.0000],
                [0.0000, 1.0000],
                [0.8415, 0.5403]])
        """
        module = cls(num_embeddings, embedding_dim, **options)
        module._sinusoids = {"base": base, "freq_shift": freq_shift, "layout": layout, "odd": odd}
        module.reset_parameters()
        module.weight.requires_grad_(trainable)
        return module

    def forward(
        self, x: Tensor, past_length: Union[int, Tensor] = 0, position_ids: Optional[Tensor] = None
    ) -> Tensor:
        if x.dim() != 2 and x.dim() != 3:
            raise ValueError(f"LearnedPositionalEmbedding: x must have 2 or 3 dimensions, got {x.dim()}")
        batch_first = self.batch_first or x.dim() == 2
        length = x.size(-2) if batch_first else x.size(0)
        if position_ids is not None:
            rule = "past_length must be 0 with position_ids"
            if isinstance(past_length, Tensor):
                raise ValueError(f"LearnedPositionalEmbedding: {rule}, got a tensor")
            elif past_length != 0:
                raise ValueError(f"LearnedPositionalEmbedding: {rule}, got {past_length}")
            if not is_integer(position_ids):
                rule = f"position_ids must be integers, got {position_ids.dtype}"
                raise ValueError(f"LearnedPositionalEmbedding: {rule}")
            positions = position_ids.to(torch.int64)
        elif isinstance(past_length, Tensor):
            batch = 1 if x.dim() == 2 else x.size(0 if batch_first else 1)
            first = per_sample("LearnedPositionalEmbedding: past_length", past_length, batch)
            steps = replicated_like(torch.arange(length, device=first.device), first)
            positions = (first + steps).clamp(min=0)
            if x.dim() == 2:
                positions = positions.squeeze(0)
        else:
            if past_length < 0:
                raise ValueError(f"LearnedPositionalEmbedding: past_length must be >= 0, got {past_length}")
            if past_length + length > self.num_embeddings:
                rule = f"past_length + L must be at most {self.num_embeddings}"
                raise ValueError(f"LearnedPositionalEmbedding: {rule}, got {past_length} + {length}")
            out = add_position_embedding(
                x if x.dim() == 3 else x.unsqueeze(0),
                self.weight.narrow(0, self.offset + past_length, length),
                x_scale=self.x_scale,
                batch_first=batch_first,
                dropout_p=self._fused_dropout_p(),
                training=True,
            )
            return self._called_dropout(out if x.dim() == 3 else out.squeeze(0))
        out = add_position_embedding(
            x,
            self.weight,
            x_scale=self.x_scale,
            dropout_p=self._fused_dropout_p(),
            training=True,
            positions=(positions if batch_first else positions.t()) + self.offset,
        )
        return self._called_dropout(out)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.weight.size(1)}, offset={self.offset}"


class AttentionPool2d(_GridEmbedding):
    """Pools a feature map of any size with attention, using its mean as the only query.

    Replaces ``AttentionPool2d`` of CLIP and open_clip: same arguments and parameters, so checkpoints can be
    exchanged in both directions; those for another size are resampled when loaded (see
    :class:`VisionPositionEmbedding`). The feature map is read in place: the mean is not concatenated to it
    before the positions are added, and a query is only computed for the mean.

    Args:
        spacial_dim: height and width of the feature map that positional_embedding is for, or one number for
            both (spelled as in CLIP).
        embed_dim: channels of the feature map, a multiple of num_heads.
        num_heads: number of attention heads.
        output_dim: channels of the result. Default: embed_dim.
        antialias: as in :func:`posenc_ext.resample_position_embedding`.
        checkpoint_grid: the size of the feature map in checkpoints that do not record it. Default: inferred
            if unambiguous.

    Shapes and dtypes:
        positional_embedding: parameter [spacial_dim ** 2 + 1, embed_dim], initially normal, std embed_dim **
            -0.5; the first row is that of the mean.
        q_proj, k_proj, v_proj, c_proj: ``nn.Linear``.
        x: [B, embed_dim, H, W], any strides, in the dtype of the projections; [B, H, W, embed_dim] is
            recognized if only its last dimension is embed_dim.
        Result: [B, output_dim].

    Raises:
        ValueError: a size is not positive, embed_dim is not a multiple of num_heads, or x is not a feature
            map with embed_dim channels and at least one cell.

    Complexity: O(B H W embed_dim^2), two projections of the feature map. Gradients: with respect to x and all
    parameters.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
    section 2.4.

    Example:
        >>> pool = AttentionPool2d(7, 64, num_heads=4, output_dim=32)
        >>> pool(torch.randn(2, 64, 7, 7)).shape, pool(torch.randn(2, 64, 9, 12)).shape
        (torch.Size([2, 32]), torch.Size([2, 32]))
    """

    size: list[int]

    def __init__(
        self,
        spacial_dim: Union[int, Sequence[int]],
        embed_dim: int,
        num_heads: int,
        output_dim: Optional[int] = None,
        antialias: bool = True,
        checkpoint_grid: Optional[Sequence[int]] = None,
    ) -> None:
        super().__init__()
        name = "AttentionPool2d"
        self.size = _pair(name, "spacial_dim", spacial_dim)
        if num_heads < 1:
            raise ValueError(f"{name}: num_heads must be positive, got {num_heads}")
        if embed_dim < 1 or embed_dim % num_heads != 0:
            rule = f"embed_dim must be a positive multiple of num_heads {num_heads}"
            raise ValueError(f"{name}: {rule}, got {embed_dim}")
        if output_dim is not None and output_dim < 1:
            raise ValueError(f"{name}: output_dim must be positive, got {output_dim}")
        self.num_heads = num_heads
        self.antialias = antialias
        self.checkpoint_grid = _optional_pair(name, "checkpoint_grid", checkpoint_grid)
        self.positional_embedding = nn.Parameter(torch.empty(self.size[0] * self.size[1] + 1, embed_dim))
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.c_proj = nn.Linear(embed_dim, embed_dim if output_dim is None else output_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes all parameters, including the projections, as the constructor does."""
        nn.init.normal_(self.positional_embedding, std=self.positional_embedding.size(1) ** -0.5)
        for child in self.children():
            if hasattr(child, "reset_parameters"):
                child.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        dim = self.positional_embedding.size(1)
        if x.dim() == 4:
            x = _channels_first(x, dim)
        if x.dim() != 4 or x.size(1) != dim or x.size(2) < 1 or x.size(3) < 1:
            raise ValueError(
                f"AttentionPool2d: x must be [B, {dim}, H, W] with H, W > 0, got {list(x.shape)}"
            )
        positions = resample_position_embedding(
            self.positional_embedding, [x.size(2), x.size(3)], 1, self.size, antialias=self.antialias
        )
        cells = x.flatten(2).transpose(1, 2)
        tokens = add_position_embedding(cells, positions.to(x.dtype), [cells.mean(1, keepdim=True)])
        heads = [self.num_heads, -1]
        query = self.q_proj(tokens.narrow(1, 0, 1)).unflatten(2, heads).transpose(1, 2)
        key = self.k_proj(tokens).unflatten(2, heads).transpose(1, 2)
        value = self.v_proj(tokens).unflatten(2, heads).transpose(1, 2)
        pooled = F.scaled_dot_product_attention(query, key, value)
        return self.c_proj(pooled.flatten(1))

    def _grid(self) -> tuple[str, list[int], int]:
        return "positional_embedding", self.size, 1

    def extra_repr(self) -> str:
        return f"size={self.size}, num_heads={self.num_heads}, antialias={self.antialias}"
