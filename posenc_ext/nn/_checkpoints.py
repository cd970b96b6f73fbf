"""Checkpoints of the modules that are replaced: keys that are computed here, and keys of other names."""

from typing import Any

import torch
from torch import Tensor, nn


class DropsKeys(nn.Module):
    """A module whose older checkpoints hold buffers that are computed here."""

    _dropped_keys: tuple[str, ...] = ()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in self._dropped_keys:
            state_dict.pop(prefix + key, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ComputesKeys(DropsKeys):
    """Drops buffers that it computes after a look at them, and emits them again where that is asked for.

    ``emit_index`` is None, "flat" or "square": whether and in which form ``state_dict()`` holds the index. A
    buffer of the right size with other values is an error: its checkpoint was trained for other pairs.
    """

    emit_index: str | None

    def _set_emit_index(self, emit_index: str | None) -> None:
        if emit_index not in (None, "flat", "square"):
            rule = f'emit_index must be None, "flat" or "square", got {emit_index!r}'
            raise ValueError(f"{type(self).__name__}: {rule}")
        self.emit_index = emit_index

    def _computed(self) -> dict[str, Tensor]:
        """What the replaced module keeps beside its parameters, on torch's default device; index: [N, N]."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        error_messages = args[-1]
        found = [key for key in self._dropped_keys if prefix + key in state_dict]
        with torch.device("cpu"):
            computed = self._computed() if found else {}
        for key in found:
            if key in computed and _differs(state_dict[prefix + key], computed[key]):
                module = f"{type(self).__name__}({self.extra_repr()})"
                error_messages.append(f"{prefix}{key} is not what {module} computes")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.emit_index is None:
            return
        with next(self.parameters()).device:
            computed = self._computed()
        for key, tensor in computed.items():
            flat = key == "relative_position_index" and self.emit_index == "flat"
            destination[prefix + key] = tensor.flatten() if flat else tensor


def _differs(loaded: Tensor, computed: Tensor) -> bool:
    """Whether a loaded buffer of the computed one's size, in any shape, has other values."""
    if loaded.numel() != computed.numel() or loaded.is_meta:
        return False
    loaded, computed = loaded.detach().cpu().flatten().to(computed.dtype), computed.flatten()
    if computed.is_floating_point():  # it may have been stored in bfloat16
        return not torch.allclose(loaded, computed, rtol=2**-7, atol=0)
    return not torch.equal(loaded, computed)


def rename_keys(state_dict: dict[str, Any], prefix: str, names: dict[str, str]) -> None:
    """Gives the keys that begin with a name of `names` the other beginning; the order of keys stays."""
    for key in list(state_dict):
        for old, new in names.items():
            if key.startswith(prefix + old):
                state_dict[prefix + new + key.removeprefix(prefix + old)] = state_dict.pop(key)
                break
