"""Modules that make sinusoids."""

import math

import torch
from torch import Tensor, nn

from ._checkpoints import DropsKeys


class SinusoidalPositionalEncoding(DropsKeys):
    """Scales embeddings by sqrt(dim), adds sinusoids and applies dropout in one pass, with no ``pe`` buffer.

    Replaces the classic ``PositionalEncoding`` of OpenNMT-py up to 2.3 and its many copies. Their
    checkpoints load (``pe`` is dropped, whatever its length); its own state_dict is empty. OpenNMT-py's own
    takes dropout before dim.

    Args:
        dim: channels of the embedding, even.
        dropout: probability in [0, 1) of zeroing an element of the result while training.
        max_len: kept so that calls to the classic module still work; there is no limit on the length.

    Shapes and dtypes:
        emb: [L, B, dim], sequence first; float64, float32, float16 or bfloat16, any strides.
        Result: like emb, contiguous. The sum is made in float64 and rounded once, in every dtype.

    ``step`` is the classic one: every row of emb is at position ``step``, as in decoding one token at a
    time. For L rows at positions s, s + 1, ... call ``posenc_ext.add_sinusoidal(..., start=s)``.

    Raises:
        ValueError: dim is odd, dropout is not in [0, 1), or emb has other than dim channels.
        RuntimeError: ``posenc_ext::add_sinusoidal: ...``, for emb of a wrong dtype or number of dimensions.

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

    def __init__(self, dim: int, dropout: float, max_len: int = 5000) -> None:
        super().__init__()
        if dim % 2 != 0:
            raise ValueError(f"Cannot use sin/cos positional encoding with odd dim (got dim={dim})")
        if not 0 <= dropout < 1:
            raise ValueError(f"SinusoidalPositionalEncoding: dropout must be in [0, 1), got {dropout}")
        self.dim = dim
        self.max_len = max_len
        # Never called: it keeps p and train()/eval() where code for the classic module looks for them.
        self.dropout = nn.Dropout(dropout)

    def forward(self, emb: Tensor, step: int | None = None) -> Tensor:
        if emb.size(-1) != self.dim:
            rule = f"emb must have {self.dim} channels, got {emb.size(-1)}"
            raise ValueError(f"SinusoidalPositionalEncoding: {rule}")
        # All rows of emb as the batch of one position: that adds the same row of the table to each.
        rows = emb if step is None else emb.flatten(0, 1).unsqueeze(0)
        start = 0 if step is None else step
        scale = math.sqrt(self.dim)
        p, training = self.dropout.p, self.dropout.training
        if torch.jit.is_scripting():
            out = torch.ops.posenc_ext.add_sinusoidal(
                rows, start=start, x_scale=scale, batch_first=False, dropout_p=p, training=training
            )
        else:
            # A choice of overloads costs more here than a small add; TorchScript makes it beforehand.
            out = torch.ops.posenc_ext.add_sinusoidal.default(
                rows, start=start, x_scale=scale, batch_first=False, dropout_p=p, training=training
            )
        return out if step is None else out.view(emb.shape)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
