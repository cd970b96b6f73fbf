"""Positional encodings for PyTorch with exact, deterministic CPU and CUDA kernels.

Importing the package loads libposenc_ext.so, which registers torch.ops.posenc_ext.*. If that fails, the
ImportError says in one line what the library was built for, what was found, and which command fixes it.
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_REBUILD = "pip install --no-build-isolation --no-deps --force-reinstall . (in posenc_ext's source folder)"


def _read_build_record():
    try:
        from . import _build
    except ImportError:
        raise ImportError(
            f"posenc_ext: {_FOLDER} holds sources that were not built: build them in place with "
            f"pip install --no-build-isolation -e {_FOLDER.parent}, or import from another folder"
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
    # Checked before loading: a library for another minor version fails with an obscure undefined symbol.
    if not torch.__version__.startswith(f"{minor}."):
        raise ImportError(
            f"{built_for}, you have torch {torch.__version__}: pip install 'torch=={minor}.*', "
            f"or rebuild with {_REBUILD}"
        )
    if build.WITH_CUDA and torch.version.cuda is None:
        raise ImportError(
            f"{built_for} with CUDA {build.CUDA_VERSION}, you have torch {torch.__version__} without CUDA: "
            f"install a CUDA build of torch {minor}, or rebuild with {_REBUILD}"
        )
    return torch


def _load_library(build, torch):
    """Registers the ops; returns the module posenc_ext._C."""
    path = _FOLDER / "libposenc_ext.so"
    if not path.exists():
        raise ImportError(
            f"posenc_ext {build.VERSION} was built for torch {build.TORCH_VERSION}, but {path} is missing: "
            f"rebuild with {_REBUILD}"
        )
    try:
        torch.ops.load_library(path)
        from . import _C
    except (OSError, ImportError) as error:
        raise ImportError(
            f"posenc_ext {build.VERSION} was built for torch {build.TORCH_VERSION}, you have "
            f"torch {torch.__version__}, and it does not load ({str(error).splitlines()[0]}): "
            f"rebuild with {_REBUILD}"
        ) from None
    return _C


_build = _read_build_record()
_C = _load_library(_build, _import_torch(_build))
__version__ = _build.VERSION

from . import compositions, integrations, nn, ops, reference  # noqa: E402
from ._import_hook import import_after  # noqa: E402
from .audit import audit  # noqa: E402
from .compositions import *  # noqa: E402, F403
from .integrations import *  # noqa: E402, F403
from .ops import *  # noqa: E402, F403

__all__ = ["__version__", "audit", "compositions", "integrations", "nn", "ops", "reference"]
__all__ += compositions.__all__
__all__ += integrations.__all__
__all__ += ops.__all__

# Importing torch.distributed.tensor takes longer than importing all of posenc_ext.
import_after("torch.distributed.tensor", "posenc_ext.distributed")
del import_after
