"""Children that are called for their values, and how they are initialised."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_plain(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a call would do what the class does and nothing else, so that it may be left out."""
    return type(module) is cls and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _has_any_global_hook()
        or "forward" in module.__dict__  # accelerate's hooks
    )


class NormalReset:
    """The ``reset_parameters`` of one embedding: normal values of another standard deviation than 1.

    The class has to stay ``nn.Embedding``, by which tools find it (dynamic quantization), and the loops that
    initialise a model call the child's own method (FSDP), maybe after its parent's. An object, since a copy
    or a pickle of the embedding needs one of its own.
    """

    def __init__(self, embedding: nn.Embedding, std: float) -> None:
        self.embedding = embedding
        self.std = std

    def __call__(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.std)


class CallsChildren(nn.Module):
    """A module whose parameters are all its children's, which it calls with tensors that it makes.

    Reading a child's weights would miss the hooks that gather, load or cast them for a call, and what stands
    in the child's place (a quantized layer, an adapter) may not have them.
    """

    def reset_parameters(self) -> None:
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def _dtype_and_device(self) -> tuple[torch.dtype, torch.device]:
        """Those of the first floating parameter; float32 and CPU if there is none, as in quantized layers."""
        if torch.jit.is_scripting():  # which knows a module's parameters by their names alone
            dtype, device, found = torch.float32, torch.device("cpu"), False
            for module in self.modules():
                if hasattr(module, "weight") and not hasattr(module, "_packed_params") and not found:
                    dtype, device, found = module.weight.dtype, module.weight.device, True
            return dtype, device
        else:
            return _dtype_and_device(self)


def _dtype_and_device(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return torch.float32, torch.device("cpu")
    device = parameter.device
    return parameter.dtype, _execution_device(module, device) if device.type == "meta" else device


def _execution_device(module: nn.Module, default: torch.device) -> torch.device:
    """Where accelerate's hooks load the offloaded parameters of a module or its children for a call."""
    for part in module.modules():
        hook: Any = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return default
