"""Prints how posenc_ext was built and what this machine provides: python -m posenc_ext.info"""

import torch

from . import _C, __version__, _build


def _cuda_here() -> str:
    if torch.version.cuda is None:
        return "no (this torch is built without CUDA)"
    if not torch.cuda.is_available():
        return f"{torch.version.cuda} in torch, but no usable GPU"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{torch.version.cuda} on {', '.join(devices)}"


def facts() -> dict[str, str]:
    cuda = f"{_build.CUDA_VERSION}, archs {_build.CUDA_ARCHS}" if _build.WITH_CUDA else "no (CPU only)"
    return {
        "posenc_ext": __version__,
        "library": _C.build_info(),
        "built for torch": _build.TORCH_VERSION,
        "running torch": str(torch.__version__),
        "built with CUDA": cuda,
        "CUDA here": _cuda_here(),
        "CPU level": _C.cpu_level(),
        "threads": str(torch.get_num_threads()),
    }


if __name__ == "__main__":
    for name, value in facts().items():
        print(f"{name:<16} {value}")
