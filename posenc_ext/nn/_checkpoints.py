"""Checkpoint compatibility with the replaced modules: buffers that are computed here, and renamed keys."""

from typing import Any

import torch
from torch import Tensor, nn

from .._sharded import is_dtensor
from ._init import fill_parameter


class DropsKeys(nn.Module):
    """A module that drops buffers from checkpoints because it computes them."""

    _dropped_keys: tuple[str, ...] = ()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in self._dropped_keys:
            state_dict.pop(prefix + key, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ComputesKeys(nn.Module):
    """A module that computes the buffers of the replaced module, and registers them on request.

    ``emit_index`` is None (no buffers), "flat" or "square" (the shape of the index). The buffers only exist
    for ``state_dict()``: nothing reads them, and loading a checkpoint does not change them. A loaded index,
    or loaded coordinates, of the right size with other values is an error, since that checkpoint was trained
    with other pairs. An index that is not an integer tensor was rounded with its checkpoint and is not
    checked.
    """

    _dropped_keys: tuple[str, ...] = ()
    emit_index: str | None

    def _set_emit_index(self, emit_index: str | None) -> None:
        if emit_index not in (None, "flat", "square"):
            rule = f'emit_index must be None, "flat" or "square", got {emit_index!r}'
            raise ValueError(f"{type(self).__name__}: {rule}")
        self.emit_index = emit_index

    def _computed(self) -> dict[str, Tensor]:
        """The buffers of the replaced module, on torch's default device; the index is [Q, K]."""
        raise NotImplementedError

    def _emitted(self) -> dict[str, Tensor]:
        """The computed buffers, with the index in the shape given by ``emit_index``."""
        computed = self._computed()
        if self.emit_index == "flat":
            computed["relative_position_index"] = computed["relative_position_index"].flatten()
        return computed

    def _register_emitted(self) -> None:
        if self.emit_index is not None:
            for key, tensor in self._emitted().items():
                self.register_buffer(key, tensor)

    def _restore_emitted(self) -> None:
        if self.emit_index is not None:
            with torch.device("cpu"):
                emitted = self._emitted()
            for key, tensor in emitted.items():
                fill_parameter(getattr(self, key), tensor)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        error_messages = args[-1]
        loaded = {key: state_dict.pop(prefix + key, None) for key in self._dropped_keys}
        if self.emit_index is not None or any(tensor is not None for tensor in loaded.values()):
            with torch.device("cpu"):
                emitted = self._emitted()
            first = next((state_dict.get(prefix + name) for name, _ in self.named_parameters()), None)
            for key, tensor in emitted.items():
                theirs = loaded[key]
                if theirs is not None and _differs(theirs, tensor):
                    module = f"{type(self).__name__}({self.extra_repr()})"
                    error_messages.append(f"{prefix}{key} is not what {module} computes")
                if self.emit_index is not None:
                    place = first if theirs is None else theirs
                    state_dict[prefix + key] = tensor if place is None else tensor.to(place.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _differs(loaded: Tensor, computed: Tensor) -> bool:
    """Whether a loaded buffer with as many elements is known to have other values than the computed one."""
    if loaded.numel() != computed.numel() or loaded.is_meta or is_dtensor(loaded):
        return False
    if computed.is_floating_point():  # the tolerance allows for a checkpoint in bfloat16
        if loaded.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            return False
        loaded = loaded.detach().cpu().flatten().to(computed.dtype)
        return not torch.allclose(loaded, computed.flatten(), rtol=2**-7, atol=0)
    if loaded.is_floating_point() or loaded.is_complex():
        return False
    return not torch.equal(loaded.cpu().flatten().to(computed.dtype), computed.flatten())


def rename_keys(state_dict: dict[str, Any], prefix: str, names: dict[str, str]) -> None:
    """Replaces key prefixes in a state_dict: `names` maps old prefixes to new ones."""
    for key in list(state_dict):
        for old, new in names.items():
            if key.startswith(prefix + old):
                state_dict[prefix + new + key.removeprefix(prefix + old)] = state_dict.pop(key)
                break
