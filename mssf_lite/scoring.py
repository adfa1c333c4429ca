"""From likelihoods to anomaly maps and image scores.

A map is never rescaled by its own image: what is added here is standardised by *held-out normal images*, so
that maps and scores compare across images and textures, and one threshold means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Prediction(NamedTuple):
    """What every detector returns for a batch."""

    maps: Tensor  # (B, H, W) float32, higher is more anomalous, in standard deviations of held-out normals
    scores: Tensor  # (B,) float32


def add_scales(maps: Sequence[Tensor], means: Tensor, stds: Tensor, size: tuple[int, int]) -> Tensor:
    """Standardise the map of each scale, bring it to the image's size, and average.

    Args:
        maps: one (B, h_s, w_s) a scale.
        means, stds: (S,) of each scale's map over held-out normal images.
        size: (H, W) of the image.

    Returns:
        (B, H, W).
    """
    total = 0
    for m, mean, std in zip(maps, means, stds, strict=True):
        total = total + F.interpolate(
            ((m - mean) / std)[:, None], size=size, mode="bilinear", align_corners=False
        )
    return total[:, 0] / len(maps)


def image_score(maps: Tensor, top_share: float) -> Tensor:
    """Mean of the highest ``top_share`` of each map, (B, H, W) -> (B,)."""
    flat = maps.flatten(1)
    return flat.topk(max(1, round(top_share * flat.shape[1])), dim=1).values.mean(1)
