"""Detectors on fused features of several zooms: what MSSF and its yardsticks have in common."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .config import Config
from .detector import Detector, Images, autocast, batches, side_by_side
from .fusion import fuse
from .scoring import Prediction, add_scales, image_score, moments, standardised


class FusedDetector(Detector):
    """A detector on fused features of every scale: a raw map a scale, standardised by held-out normals.

    A subclass gives ``fit``, which ends with :meth:`standardise`, and ``scale_maps``.

    Args:
        config: see :class:`mssf_lite.config.Config`.
        pyramid: see :class:`Detector`.
    """

    settings = Config
    config: Config

    def __init__(self, config: Config, pyramid: nn.Module | None = None):
        super().__init__(config, pyramid)
        scales = len(config.zooms)
        self.least = round(2 * config.stride / min(config.zooms))
        # of each raw map over held-out normals, ring by ring to the inside: see scoring.moments
        self.register_buffer("map_mean", torch.zeros(scales, config.rings + 1))
        self.register_buffer("map_std", torch.ones(scales, config.rings + 1))

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
        """Fused features: one (B, C, h_s, w_s) float32 a zoom; see :meth:`Detector.see`."""

        def look(x: Tensor) -> Tensor:
            grid = tuple(max(1, side // self.config.stride) for side in x.shape[-2:])
            with autocast(self.device, network=True):
                seen = self.pyramid(x)
            return fuse([f.float() for f in seen], grid, self.config.neighbourhood)

        return side_by_side([partial(look, x) for x in self.views(images)], self.device)

    def judge(self, features: list[Tensor], size: tuple[int, int]) -> Prediction:
        """Features of images of this size (H, W) -> their maps and scores."""
        raw = zip(self.scale_maps(features), self.map_mean, self.map_std, strict=True)
        scales = [standardised(*each) for each in raw]
        c = self.config
        maps = add_scales(scales, c.zooms, size, c.combine)
        return Prediction(maps, image_score(scales, c.top_share, c.combine))

    @torch.no_grad()
    def standardise(self, held_out: Images) -> None:
        """Set the unit of each raw map from held-out normals; the last step of every fit."""
        self.eval()
        title = "unit of the maps"
        maps = [self.scale_maps(self.features(batch)) for batch in batches(held_out, self.config, title)]
        for s, scale in enumerate(zip(*maps, strict=True)):
            self.map_mean[s], self.map_std[s] = moments(torch.cat(scale), self.config.rings)
        self.fitted.fill_(True)
