"""Checkpoints of the modules that are replaced: what they hold that is computed here."""

from typing import Any

from torch import nn


class DropsKeys(nn.Module):
    """A module whose older checkpoints hold buffers that are computed here."""

    _dropped_keys: tuple[str, ...] = ()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in self._dropped_keys:
            state_dict.pop(prefix + key, None)
        super()._load_from_state_dict(state_dict, prefix, *args)
