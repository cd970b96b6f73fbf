"""Support for modules that call their children instead of reading the children's parameters."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_plain(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether calling the module runs exactly ``cls.forward``, so that the call can be skipped."""
    return type(module) is cls and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _has_any_global_hook()
        or "forward" in module.__dict__  # accelerate's hooks
    )


class NormalReset:
    """A ``reset_parameters`` for an ``nn.Embedding`` with a standard deviation other than 1.

    This is not a subclass of ``nn.Embedding`` because tools look for that exact class (dynamic quantization).
    It replaces the method of the child because initialization loops call it directly (FSDP), possibly after
    that of the parent. It is an object rather than a closure so that the embedding can be copied and pickled.
    """

    def __init__(self, embedding: nn.Embedding, std: float) -> None:
        self.embedding = embedding
        self.std = std

    def __call__(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.std)


class CallsChildren(nn.Module):
    """A module whose parameters all belong to children, which it calls with tensors that it creates.

    Reading the weights of a child would bypass hooks that gather, load or cast them for a call, and a
    replacement of the child (a quantized layer, an adapter) may not have such weights.
    """

    def reset_parameters(self) -> None:
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def _dtype_and_device(self) -> tuple[torch.dtype, torch.device]:
        """Those of the first floating parameter; float32 and CPU if there is none (quantized layers)."""
        if torch.jit.is_scripting():  # TorchScript can only access parameters by name
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
    """The device to which accelerate's hooks load the offloaded parameters of a module for a call."""
    for part in module.modules():
        hook: Any = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return default
