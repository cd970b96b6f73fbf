"""Drop-in modules with the names, arguments, parameters and checkpoints of common position code.

The modules hold parameters and settings and call the ops, which do the math. None of them reads a buffer, so
there is no index that could mismatch in a state_dict, no maximum length, and no precision loss under
``.half()``. ``load_state_dict`` accepts and drops the buffers that checkpoints of the replaced modules
contain, even with ``strict=True``; with ``emit_index``, window modules register these buffers so that the
replaced modules can load their checkpoints. Load before ``torch.jit.script``: a scripted module only accepts
its own keys.

Every key of a ``state_dict()`` is a parameter or a buffer of that name, and children are called rather than
read: modules can be built on the meta device, sharded, offloaded, quantized, parametrized and hooked.
``reset_parameters`` initializes the parameters as the constructor does.
"""

from .bias_softmax import AlibiBiasSoftmax, T5BiasSoftmax, WindowBiasSoftmax
from .distance_bias import AlibiBias, T5RelativePositionBias
from .position_embedding import AttentionPool2d, LearnedPositionalEmbedding, VisionPositionEmbedding
from .relative_bias import LogCoordinatePositionBias, RelativePositionBias, WindowRelativePositionBias
from .sinusoidal import SinusoidalPositionalEmbedding, SinusoidalPositionalEncoding, TimestepEmbedding

__all__ = [
    "AlibiBias",
    "AlibiBiasSoftmax",
    "AttentionPool2d",
    "LearnedPositionalEmbedding",
    "LogCoordinatePositionBias",
    "RelativePositionBias",
    "SinusoidalPositionalEmbedding",
    "SinusoidalPositionalEncoding",
    "T5BiasSoftmax",
    "T5RelativePositionBias",
    "TimestepEmbedding",
    "VisionPositionEmbedding",
    "WindowBiasSoftmax",
    "WindowRelativePositionBias",
]
