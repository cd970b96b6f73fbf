"""A child ``dropout`` that is fused into an op whenever the result is the same."""

from torch import Tensor, nn

from ._children import is_plain


class FusesDropout(nn.Module):
    """Passes the probability of ``self.dropout`` to an op if it is a plain ``nn.Dropout``, else calls it.

    If it has hooks or was replaced (by ``nn.Identity`` or another kind of dropout), the module is called.
    TorchScript decides once, when the module is scripted.
    """

    __constants__ = ("_dropout_is_plain",)  # TorchScript only compiles the branch taken on a constant
    __jit_unused_properties__ = ("_dropout_is_plain",)

    def _set_dropout(self, p: float) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: dropout must be in [0, 1], got {p}")
        self.dropout = nn.Dropout(p)

    @property
    def _dropout_is_plain(self) -> bool:
        return is_plain(self.dropout, nn.Dropout)

    def _fused_dropout_p(self) -> float:
        """The dropout probability to pass to the op."""
        if self._dropout_is_plain:
            return self.dropout.p if self.dropout.training else 0.0
        else:
            return 0.0

    def _called_dropout(self, x: Tensor) -> Tensor:
        """Applies ``self.dropout`` to the result of the op, unless the op has already applied it."""
        if self._dropout_is_plain:
            return x
        else:
            return self.dropout(x)
