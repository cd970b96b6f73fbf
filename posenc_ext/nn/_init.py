"""Fixed values of parameters, however these are stored."""

import torch
from torch import Tensor


@torch.no_grad()
def fill_parameter(parameter: Tensor, value: Tensor) -> None:
    """Copies a value, the same in every process, into a parameter; a DTensor takes its own shard of it.

    Nothing is communicated. The value is rounded to the dtype of the parameter and moved to its device.
    """
    if hasattr(
        parameter, "device_mesh"
    ):  # of a DTensor, which is not imported for the sake of a plain tensor
        from torch.distributed.tensor import distribute_tensor

        value = value.to(parameter.device)
        value = distribute_tensor(
            value, parameter.device_mesh, parameter.placements, src_data_rank=None
        ).to_local()
        parameter = parameter.to_local()
    parameter.copy_(value)
