"""A child ``dropout`` that an op does in its own pass, as long as nobody could tell."""

from torch import Tensor, nn

from ._children import is_plain


class FusesDropout(nn.Module):
    """Gives an op the probability of ``self.dropout`` where that is plain ``nn.Dropout``, else calls it.

    Another module in its place (``nn.Identity``, another kind of dropout) and hooks on it are called.
    TorchScript decides once, when the module is scripted.
    """

    __constants__ = ("_dropout_is_plain",)  # a branch on a constant is compiled only if it is taken
    __jit_unused_properties__ = ("_dropout_is_plain",)

    def _set_dropout(self, p: float) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: dropout must be in [0, 1], got {p}")
        self.dropout = nn.Dropout(p)

    @property
    def _dropout_is_plain(self) -> bool:
        return is_plain(self.dropout, nn.Dropout)

    def _fused_dropout_p(self) -> float:
        """The probability with which the op drops."""
        if self._dropout_is_plain:
            return self.dropout.p if self.dropout.training else 0.0
        else:
            return 0.0

    def _called_dropout(self, x: Tensor) -> Tensor:
        """The result of the op after what it did not do."""
        if self._dropout_is_plain:
            return x
        else:
            return self.dropout(x)
