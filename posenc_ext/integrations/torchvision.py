"""Replacements for classes of torchvision."""

from functools import partial

from torch import Tensor
from torchvision.models import swin_transformer

from ..ops import window_bias
from . import replaces

replaces = partial(replaces, version="torchvision 0.29")


@replaces(
    swin_transformer.ShiftedWindowAttention,
    "window_bias",
    sources={
        "define_relative_position_index": "3dbf29629d31",
        "get_relative_position_bias": "7c9ebbcfd52a",
        "_get_relative_position_bias": "5dda9352a279",
    },
)
class ShiftedWindowAttention(swin_transformer.ShiftedWindowAttention):
    def get_relative_position_bias(self) -> Tensor:
        return window_bias(self.relative_position_bias_table, self.window_size).unsqueeze(0)
