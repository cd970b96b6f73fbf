"""Replacements for classes of diffusers."""

import torch
from diffusers.models import embeddings
from torch import Tensor

from ..ops import sinusoidal
from . import keeps, replaces


@replaces(
    embeddings.Timesteps,
    "sinusoidal: correctly rounded",
    version="diffusers 0.42",
    sources={"forward": "7e57cb0d890b", "get_timestep_embedding": "6028d48c06ba"},
)
class Timesteps(embeddings.Timesteps):
    def forward(self, timesteps: Tensor) -> Tensor:
        if timesteps.dim() != 1:
            return super().forward(timesteps)
        return sinusoidal(
            timesteps,
            self.num_channels,
            freq_shift=self.downscale_freq_shift,
            scale=self.scale,
            layout="concat_cos_first" if self.flip_sin_to_cos else "concat",
            odd="zero",
            dtype=torch.float32,
        )


for _kept in ("PatchEmbed", "CogVideoXPatchEmbed"):
    if hasattr(embeddings, _kept):
        keeps(
            getattr(embeddings, _kept),
            "its sin-cos grid is computed in float64 and stored in a buffer",
        )
