"""ONNX: translations of the ops for torch.onnx's exporter. Needs the packages onnx and onnxscript."""

from collections.abc import Callable
from typing import Any

from torch._ops import OpOverload

__all__ = ["translation_table"]


def translation_table() -> dict[OpOverload, Callable[..., Any]]:
    """Translations of the ops into standard ONNX ops, for torch.onnx.export.

    ``torch.onnx.export(model.eval(), args, dynamo=True,
    custom_translation_table=posenc_ext.onnx.translation_table())``. The result has no custom ops: it needs
    only opset 18. Batch sizes and lengths can be dynamic, windows and channels cannot.

    Tables of sinusoids with known length and start, slopes, and the indices of windows are constants; other
    sinusoids are computed in float64, the buckets of T5 are looked up in a constant by distance. Biases are
    those of the ops bit for bit. Sums and softmax are computed in float32 (float64 for float64).

    Returns:
        A new dict for the inference ops in ``torch.ops.posenc_ext``; the exporter decomposes the other public
        ops into these.

    Raises:
        ImportError: onnxscript is not installed.
        torch.onnx.errors.OnnxExporterError: while exporting, if the model drops elements: call model.eval().

    Source: ``custom_translation_table`` of ``torch.onnx.export``.
    """
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "onnxscript":
            raise
        raise ImportError("posenc_ext.onnx needs onnxscript: pip install onnx onnxscript") from None
    from ._onnx_ops import TRANSLATIONS

    return dict(TRANSLATIONS)
