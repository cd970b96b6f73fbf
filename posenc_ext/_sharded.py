"""What is computed for a call, where it meets parameters that are DTensors: torch's ops do not mix them."""

import torch
from torch import Tensor, nn


def _is_dtensor(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")  # the class takes long to import


def _replicated(tensor: Tensor, like: Tensor) -> Tensor:
    if not _is_dtensor(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def replicated_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has computed: replicated where `like` is a DTensor, else itself."""
    if torch.jit.is_scripting():  # which compiles no import
        return tensor
    else:
        return _replicated(tensor, like)


def replicated_for(tensor: Tensor, child: nn.Module) -> Tensor:
    """The same for a child that is called with the tensor; not for TorchScript, which passes no modules."""
    parameter = next(filter(_is_dtensor, child.parameters()), None)
    if parameter is None:
        return tensor
    from torch.distributed.fsdp import FSDPModule

    # FSDP gathers its parameters, DTensors between calls, before the child runs.
    gathered = any(isinstance(module, FSDPModule) for module in child.modules())
    return tensor if gathered else _replicated(tensor, parameter)
