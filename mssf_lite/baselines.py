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
        scales, channels = len(config.zooms), sum(self.pyramid.channels)
        self.register_buffer("memory", torch.zeros(scales, self.stored, channels))
        self.register_buffer("mean", torch.zeros(scales, channels))
        self.register_buffer("std", torch.ones(scales, channels))

    @torch.no_grad()
    def fit(self, train: Images, held_out: Images, resume: str | Path | None = None) -> Iterator[Progress]:
        """Store features; yields nothing and leaves ``resume`` alone, for there are no epochs.

        See :meth:`mssf_lite.detector.Detector.fit`.
        """
        chosen = torch.randperm(len(train), generator=seeded(self.config.seed, 4))[: self.read]
        some = Subset(train, chosen.tolist())
        for s, scale in enumerate(remember(self.features, some, self.config, "storing")):
            rows = scale.permute(0, 2, 3, 1).flatten(0, 2)
            chosen = torch.randint(len(rows), (self.stored,), generator=seeded(self.config.seed, 3, s))
            kept = rows[chosen].float()
            self.mean[s], self.std[s] = kept.mean(0), kept.std(0).clamp_min(1e-6)
            self.memory[s] = (kept.to(self.device) - self.mean[s]) / self.std[s]
        self.standardise(held_out)
        yield from ()

    @torch.no_grad()
    def scale_maps(self, features: list[Tensor]) -> list[Tensor]:
        """Distance to the nearest stored vector, per square root of a dimension, of every scale."""
        maps = []
        for s, x in enumerate(features):
            rows = (x.permute(0, 2, 3, 1) - self.mean[s]) / self.std[s]
            flat, stored = rows.flatten(0, 2), self.memory[s]
            # |a - b|^2 = |a|^2 + |b|^2 - 2 ab, with the root only after the minimum
            rest = torch.addmm(stored.square().sum(1), flat, stored.T, alpha=-2).amin(1)
            nearest = (flat.square().sum(1) + rest).clamp_min(0).sqrt() / flat.shape[1] ** 0.5
            maps.append(nearest.view(rows.shape[:3]))
        return maps
