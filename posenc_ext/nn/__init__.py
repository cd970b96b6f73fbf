"""Modules with the names, arguments, parameters and checkpoints of the position code people copy.

They hold parameters and settings and call the ops; the maths is there. None of them reads a
buffer: no index to register or to mismatch in a state_dict, no table to run out of rows or to lose digits
under ``.half()``. Keys that the replaced modules keep in their checkpoints are accepted and dropped by
``load_state_dict``, also with ``strict=True``; window modules have theirs as buffers with ``emit_index``, for
checkpoints that go back. Load before ``torch.jit.script``: a scripted module accepts its own keys alone.

Every key of a ``state_dict()`` is a parameter or a buffer under that name, and a child is called wherever
that makes a difference: modules can be built on the meta device, sharded, offloaded, quantized, parametrized
and hooked. ``reset_parameters`` draws, or restores, what the constructor made.
"""

from .distance_bias import AlibiBias, T5RelativePositionBias
from .position_embedding import AttentionPool2d, LearnedPositionalEmbedding, VisionPositionEmbedding
from .relative_bias import LogCoordinatePositionBias, RelativePositionBias, WindowRelativePositionBias
from .sinusoidal import SinusoidalPositionalEmbedding, SinusoidalPositionalEncoding, TimestepEmbedding

__all__ = [
    "AlibiBias",
    "AttentionPool2d",
    "LearnedPositionalEmbedding",
    "LogCoordinatePositionBias",
    "RelativePositionBias",
    "SinusoidalPositionalEmbedding",
    "SinusoidalPositionalEncoding",
    "T5RelativePositionBias",
    "TimestepEmbedding",
    "VisionPositionEmbedding",
    "WindowRelativePositionBias",
]
