"""Detectors on fused features of several scales: what MSSF and its yardsticks have in common.

A *scale* is one grid of places on one size of the image. Every size (zoom) has as many grids, each twice as
coarse as the one before. The coarsest holds all stages of the network; a finer one only those that are no
coarser than itself, for a deep stage brought to a fine grid tells every place the same about all of its
neighbours, and blurs the map [ours].
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .config import Config
from .detector import Detector, Images, batches
from .device import autocast, side_by_side
from .fusion import fuse
from .scoring import Prediction, add_scales, image_score, moments, standardised


class Scale(NamedTuple):
    """One grid of places on one size of the image."""

    zoom: float  # the size
    stride: int  # of the grid, in pixels of the zoomed image
    stages: tuple[int, ...]  # of the pyramid, by position
    channels: int  # of those stages together


class FusedDetector(Detector):
    """A detector on fused features of every scale: a raw map a scale, standardised by held-out normals.

    A subclass gives ``fit``, which ends with :meth:`standardise`, and ``scale_maps``.

    Args:
        config: see :class:`mssf_lite.config.Config`.
        pyramid: see :class:`Detector`.

    Attributes:
        scales: zoom by zoom, the finest grid first.

    Raises:
        ValueError: no stage is as fine as the finest grid.
    """

    settings = Config
    config: Config

    def __init__(self, config: Config, pyramid: nn.Module | None = None):
        super().__init__(config, pyramid)
        self.grids = self.stages_on_grids()
        count = self.pyramid.channels
        self.scales = [
            Scale(zoom, stride, stages, sum(count[i] for i in stages))
            for zoom in config.zooms
            for stride, stages in self.grids.items()
        ]
        scales, coarsest = len(self.scales), max(self.grids)
        self.least = round(2 * coarsest / min(config.zooms))
        # of each raw map over held-out normals, ring by ring to the inside: see scoring.moments
        self.register_buffer("map_mean", torch.zeros(scales, config.rings + 1))
        self.register_buffer("map_std", torch.ones(scales, config.rings + 1))

    def stages_on_grids(self) -> dict[int, tuple[int, ...]]:
        """Stride of each grid -> positions of its stages."""
        config, strides = self.config, self.pyramid.strides
        fine = [config.stride * 2**k for k in range(config.grids - 1)]
        found = {grid: tuple(i for i, own in enumerate(strides) if own <= grid) for grid in fine}
        if not all(found.values()):
            raise ValueError(
                f"stages {config.stages} have strides {strides}, none fits a grid of {config.stride} pixels "
                f"beside coarser ones: take a shallower stage, a larger stride or grids=1"
            )
        return found | {config.stride * 2 ** len(fine): tuple(range(len(strides)))}

    def scale_maps(self, features: list[Tensor]) -> list[Tensor]:
        """The raw maps: one (B, h_s, w_s) a scale, higher is more anomalous.

        Args:
            features: one (B, C, h_s, w_s) a scale.
        """
        raise TypeError(f"{type(self).__name__} does not say how it scores: give it scale_maps()")

    def views(self, images: Tensor) -> list[Tensor]:
        """The images (B, 3, H, W) at every zoom."""
        look = {"mode": "bilinear", "antialias": True, "align_corners": False}
        return [
            images if zoom == 1 else nn.functional.interpolate(images, scale_factor=zoom, **look)
            for zoom in self.config.zooms
        ]

    def see(self, images: Tensor) -> list[Tensor]:
        """Fused features: one (B, C_s, h_s, w_s) float32 a scale; see :meth:`Detector.see`."""

        def look(x: Tensor) -> list[Tensor]:
            with autocast(self.device, network=True):
                seen = [f.float() for f in self.pyramid(x)]
            return [
                fuse([seen[i] for i in stages], grid_of(x, stride), self.config.neighbourhood)
                for stride, stages in self.grids.items()
            ]

        found = side_by_side([partial(look, x) for x in self.views(images)], self.device)
        return [fused for of_zoom in found for fused in of_zoom]

    def judge(self, features: list[Tensor], size: tuple[int, int]) -> Prediction:
        """Features of images of this size (H, W) -> their maps and scores."""
        raw = zip(self.scale_maps(features), self.map_mean, self.map_std, strict=True)
        scales = [standardised(*each) for each in raw]
        c = self.config
        maps = add_scales(scales, [scale.zoom / scale.stride for scale in self.scales], size, c.combine)
        return Prediction(maps, image_score(scales, c.top_share, c.combine))

    @torch.no_grad()
    def standardise(self, held_out: Images) -> None:
        """Set the unit of each raw map from held-out normals; the last step of every fit."""
        self.eval()
        title = "unit of the maps"
        maps = [self.scale_maps(self.features(batch)) for batch in batches(held_out, self.config, title)]
        for s, scale in enumerate(zip(*maps, strict=True)):
            self.map_mean[s], self.map_std[s] = moments(scale, self.config.rings)
        self.fitted.fill_(True)


def grid_of(x: Tensor, stride: int) -> tuple[int, int]:
    """How many places of a stride an image (B, 3, H, W) has: (h, w), at least one each."""
    return max(1, x.shape[-2] // stride), max(1, x.shape[-1] // stride)
