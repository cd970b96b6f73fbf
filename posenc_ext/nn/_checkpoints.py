"""Checkpoints of the modules that are replaced: keys that are computed here, and keys of other names."""

from typing import Any

import torch
from torch import Tensor, nn

from ._init import fill_parameter


class DropsKeys(nn.Module):
    """A module whose older checkpoints hold buffers that are computed here."""

    _dropped_keys: tuple[str, ...] = ()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in self._dropped_keys:
            state_dict.pop(prefix + key, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ComputesKeys(nn.Module):
    """Computes what the replaced module keeps in buffers, and has these buffers where that is asked for.

    ``emit_index`` is None, "flat" or "square": whether there are buffers, and in which form the index. They
    are for ``state_dict()`` alone: nothing reads them, and whatever is loaded, they hold what is computed. A
    loaded index, or coordinates, of the right size with other values is an error: that checkpoint was trained
    for other pairs. An index that is not an integer tensor has been rounded with its checkpoint, and tells
    nothing.
    """

    _dropped_keys: tuple[str, ...] = ()
    emit_index: str | None

    def _set_emit_index(self, emit_index: str | None) -> None:
        if emit_index not in (None, "flat", "square"):
            rule = f'emit_index must be None, "flat" or "square", got {emit_index!r}'
            raise ValueError(f"{type(self).__name__}: {rule}")
        self.emit_index = emit_index

    def _computed(self) -> dict[str, Tensor]:
        """What the replaced module keeps beside its parameters, on torch's default device; index: [Q, K]."""
        raise NotImplementedError

    def _emitted(self) -> dict[str, Tensor]:
        """What is computed, in the form of the buffers."""
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
    """Whether a loaded buffer of the computed one's size, in any shape, is known to have other values."""
    if loaded.numel() != computed.numel() or loaded.is_meta or hasattr(loaded, "device_mesh"):
        return False
    if computed.is_floating_point():  # it may have been stored in bfloat16
        if loaded.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            return False
        loaded = loaded.detach().cpu().flatten().to(computed.dtype)
        return not torch.allclose(loaded, computed.flatten(), rtol=2**-7, atol=0)
    if loaded.is_floating_point() or loaded.is_complex():
        return False
    return not torch.equal(loaded.cpu().flatten().to(computed.dtype), computed.flatten())


def rename_keys(state_dict: dict[str, Any], prefix: str, names: dict[str, str]) -> None:
    """Gives the keys that begin with a name of `names` the other beginning; the order of keys stays."""
    for key in list(state_dict):
        for old, new in names.items():
            if key.startswith(prefix + old):
                state_dict[prefix + new + key.removeprefix(prefix + old)] = state_dict.pop(key)
                break
