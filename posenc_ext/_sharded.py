"""Makes tensors that a call computes compatible with parameters that are DTensors.

torch's ops do not mix DTensors and plain tensors.
"""

import torch
from torch import Tensor, nn


def is_dtensor(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")  # does not import the class, which is slow to import


def _replicated(tensor: Tensor, like: Tensor) -> Tensor:
    if not is_dtensor(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def replicated_like(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor, which every process has computed, as a replicated DTensor if `like` is a DTensor."""
    if torch.jit.is_scripting():  # TorchScript cannot compile the import
        return tensor
    else:
        return _replicated(tensor, like)


def replicated_for(tensor: Tensor, child: nn.Module) -> Tensor:
    """Same as `replicated_like`, for a child module that is called with the tensor; not scriptable."""
    parameter = next(filter(is_dtensor, child.parameters()), None)
    if parameter is None:
        return tensor
    from torch.distributed.fsdp import FSDPModule

    # FSDP parameters are DTensors between calls; FSDP gathers them before the child runs.
    gathered = any(isinstance(module, FSDPModule) for module in child.modules())
    return tensor if gathered else _replicated(tensor, parameter)
