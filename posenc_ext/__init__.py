"""Positional encodings for PyTorch with exact, deterministic CPU and CUDA kernels.

Importing loads libposenc_ext.so, which registers torch.ops.posenc_ext.*, or raises an ImportError of one line:
what the library was built for, what is here, and the command that mends it.
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps . (in posenc_ext's source folder)"


def _read_build_record():
    try:
        from . import _build
    except ImportError:
        raise ImportError(
            f"posenc_ext: {_FOLDER} is not built; build it in place with: pip install --no-build-isolation -e "
            f"{_FOLDER.parent}, or run from another folder to import an installed posenc_ext"
        ) from None
    return _build


def _import_torch(build):
    built_for = f"posenc_ext {build.VERSION} was built for torch {build.TORCH_VERSION}"
    minor = ".".join(build.TORCH_VERSION.split(".")[:2])
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"{built_for}, you have no torch: pip install 'torch=={minor}.*'") from None
    if not torch.__version__.startswith(f"{minor}."):
        raise ImportError(
            f"{built_for}, you have torch {torch.__version__}: pip install 'torch=={minor}.*', or rebuild with: {_REBUILD}"
        )
    if build.WITH_CUDA and torch.version.cuda is None:
        raise ImportError(
            f"{built_for} with CUDA {build.CUDA_VERSION}, you have torch {torch.__version__} without CUDA: "
            f"install a CUDA build of torch {minor}, or rebuild with: {_REBUILD}"
        )
    return torch


def _load_library(build, torch):
    """Registers the ops; returns posenc_ext._C."""
    path = _FOLDER / "libposenc_ext.so"
    if not path.exists():
        raise ImportError(f"posenc_ext: {path} is missing, the installation is incomplete: rebuild with: {_REBUILD}")
    try:
        torch.ops.load_library(path)
        from . import _C
    except (OSError, ImportError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise ImportError(
            f"posenc_ext: the library does not load ({cause}); it was built for torch {build.TORCH_VERSION}, "
            f"you have torch {torch.__version__}: rebuild with: {_REBUILD}"
        ) from None
    return _C


_build = _read_build_record()
_C = _load_library(_build, _import_torch(_build))
__version__ = _build.VERSION

from . import nn, ops, reference  # noqa: E402
from .ops import *  # noqa: E402, F403

__all__ = ["__version__", "nn", "ops", "reference"]
__all__ += ops.__all__
