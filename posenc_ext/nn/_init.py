"""Initialization of parameters with fixed values, sharded or not."""

import torch
from torch import Tensor

from .._sharded import is_dtensor


@torch.no_grad()
def fill_parameter(parameter: Tensor, value: Tensor) -> None:
    """Copies a value that is the same in every process into a parameter; a DTensor takes its shard.

    Does not communicate. The value is rounded to the dtype of the parameter and moved to its device.
    """
    if is_dtensor(parameter):
        from torch.distributed.tensor import distribute_tensor

        value = value.to(parameter.device)
        value = distribute_tensor(
            value, parameter.device_mesh, parameter.placements, src_data_rank=None
        ).to_local()
        parameter = parameter.to_local()
    parameter.copy_(value)
