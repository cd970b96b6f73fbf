"""Wall time that a model spends in its position modules in training, forward and backward."""

from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn


class PositionClock:
    """Forward: the time of each position module's forward. Backward: the time from when the gradient of its
    output is complete until that of its input is. The autograd engine runs the newest nodes first, so the
    nodes of one module run one after another, without others in between."""

    def __init__(self, model: nn.Module, positions: Any) -> None:
        self.forward = 0.0
        self.backward = 0.0
        self._started = 0.0
        self._handles = []
        for module in model.modules():
            if getattr(positions, type(module).__name__, None) is type(module):
                self._handles.append(module.register_forward_pre_hook(self._before_forward))
                self._handles.append(module.register_forward_hook(self._after_forward))
                self._handles += [table.register_hook(self._after_backward) for table in module.parameters()]

    def lap(self) -> tuple[float, float]:
        """Returns the seconds (forward, backward) since the last call."""
        times = self.forward, self.backward
        self.forward = self.backward = 0.0
        return times

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].requires_grad:
            inputs[0].register_hook(self._after_backward)
        self._started = perf_counter()

    def _after_forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        elapsed = perf_counter() - self._started
        if torch.is_grad_enabled():
            self.forward += elapsed
            output.register_hook(self._before_backward)

    def _before_backward(self, grad: Tensor) -> None:
        self._started = perf_counter()

    def _after_backward(self, grad: Tensor) -> None:
        self.backward += perf_counter() - self._started
