"""Two yardsticks that keep the detector contract, on the same fused features as MSSF.

A flow that is not above the plain Gaussian has learned nothing that helps; a detector that is only as good
as the nearest neighbour may just know the training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from .config import Config
from .detector import Images, Progress
from .fused import FusedDetector
from .loop import remember, seeded
from .mssf import MSSF


def gaussian(config: Config, pyramid: nn.Module | None = None) -> MSSF:
    """The Gaussian of the fused features: MSSF without couplings and training.

    Its map is half the squared Mahalanobis distance per dimension, which is also where every flow starts.
    """
    return MSSF(replace(config, blocks=0, epochs=0), pyramid)


def gaussian_of(model: MSSF, held_out: Images) -> MSSF:
    """The Gaussian that a fitted MSSF started from: the same whitening, no flow.

    Args:
        model: fitted.
        held_out: the held-out normals of its fit; they set the scale of the maps.
    """
    start = gaussian(model.config, model.pyramid).to(model.device)
    start.whitening.load_state_dict(model.whitening.state_dict())
    start.standardise(held_out)
    return start


class Memory(nn.Module):
    """Stored vectors of one scale, in units of their channels.

    Args:
        stored: how many.
        channels: C.
    """

    def __init__(self, stored: int, channels: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(stored, channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def store(self, rows: Tensor) -> None:
        """Take (N, C), as many as there is room for."""
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0).clamp_min(1e-6))
        self.rows.copy_((rows - self.mean) / self.std)

    def forward(self, rows: Tensor) -> Tensor:
        """Distance of each of (n, C) to the nearest stored one, per square root of a dimension: (n,)."""
        flat = (rows - self.mean) / self.std
        # |a - b|^2 = |a|^2 + |b|^2 - 2 ab, with the root only after the minimum
        rest = torch.addmm(self.rows.square().sum(1), flat, self.rows.T, alpha=-2).amin(1)
        return (flat.square().sum(1) + rest).clamp_min(0).sqrt() / flat.shape[1] ** 0.5


class NearestNeighbour(FusedDetector):
    """Distance of each location to the nearest of 10 000 stored normal ones (PatchCore's idea).

    Features are standardised, not whitened; what is stored is drawn at random, not greedily [ours].

    Args:
        config: as for MSSF; of the training fields only ``seed`` is used.
        pyramid: see :class:`mssf_lite.detector.Detector`.
    """

    stored = 10_000  # feature vectors a scale
    read = 500  # at most so many images are looked at for them, drawn at random

    def __init__(self, config: Config, pyramid: nn.Module | None = None):
        super().__init__(config, pyramid)
        self.memories = nn.ModuleList(Memory(self.stored, scale.channels) for scale in self.scales)

    @torch.no_grad()
    def fit(self, train: Images, held_out: Images, resume: str | Path | None = None) -> Iterator[Progress]:
        """Store features; yields nothing and leaves ``resume`` alone, for there are no epochs.

        See :meth:`mssf_lite.detector.Detector.fit`.
        """
        chosen = torch.randperm(len(train), generator=seeded(self.config.seed, 4))[: self.read]
        some = Subset(train, chosen.tolist())
        seen = remember(self.features, some, self.config, "storing")
        for s, parts in enumerate(zip(*seen, strict=True)):
            rows = torch.cat([part.permute(0, 2, 3, 1).flatten(0, 2) for part in parts])
            chosen = torch.randint(len(rows), (self.stored,), generator=seeded(self.config.seed, 3, s))
            kept = rows[chosen].float()
            self.memories[s].store(kept.to(self.device))
        self.standardise(held_out)
        yield from ()

    @torch.no_grad()
    def scale_maps(self, features: list[Tensor]) -> list[Tensor]:
        """Distance to the nearest stored vector, per square root of a dimension, of every scale."""
        maps = []
        for memory, x in zip(self.memories, features, strict=True):
            rows = x.permute(0, 2, 3, 1)
            maps.append(memory(rows.flatten(0, 2)).view(rows.shape[:3]))
        return maps
