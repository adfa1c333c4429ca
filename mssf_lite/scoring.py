"""From likelihoods to anomaly maps and image scores.

Each scale's raw map is read in standard deviations of *held-out normal images*: no map is ever rescaled by
its own image, so maps and scores compare across images and textures, and one threshold means the same
everywhere. Then the scales are put together, and differently for the two questions [ours]:

* *Where?* The map averages the scales with weights in proportion to their zoom: a location of the half-size
  image speaks for four times the area, and draws outlines half as sharp.
* *Whether?* The image score averages the scales evenly, each judged on its own grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Prediction(NamedTuple):
    """What every detector returns for a batch."""

    maps: Tensor | list[Tensor]  # (B, H, W), or B of (H, W) where images differ in size; higher is more
    # anomalous, in standard deviations of held-out normals
    scores: Tensor  # (B,) float32, in the same unit


def merged(values: Sequence[Tensor], weights: Sequence[float], combine: str = "multiply") -> Tensor:
    """What all scales say together.

    Args:
        values: of each scale, all of one shape, in standard deviations; -value stands for a log-likelihood.
        weights: of the scales, in any unit.
        combine: ``"multiply"`` the likelihoods, which is the weighted mean of the values: one scale is heard
            alone. ``"add"`` the likelihoods, -log sum_s w_s exp(-value_s), as MSFlow does for its maps: what
            one scale finds likely passes.
    """
    total = sum(weights)
    if combine == "multiply":
        return sum(value * (weight / total) for value, weight in zip(values, weights, strict=True))
    shares = torch.tensor([weight / total for weight in weights], device=values[0].device).log()
    return -torch.logsumexp(shares.view(-1, *[1] * values[0].ndim) - torch.stack(list(values)), 0)


def add_scales(
    maps: Sequence[Tensor], zooms: Sequence[float], size: tuple[int, int], combine: str = "multiply"
) -> Tensor:
    """The anomaly map: scales brought to the image's size and averaged, each weighted by its zoom.

    Args:
        maps: standardised, one (B, h_s, w_s) a scale.
        zooms: the size at which each scale sees the image.
        size: (H, W) of the image.
        combine: see :func:`merged`.

    Returns:
        (B, H, W).
    """
    large = [F.interpolate(m[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] for m in maps]
    return merged(large, zooms, combine)


def image_score(maps: Sequence[Tensor], top_share: float, combine: str = "multiply") -> Tensor:
    """The mean over scales of the mean of the highest ``top_share`` of each scale's map.

    Args:
        maps: standardised, one (B, h_s, w_s) a scale.
        top_share: in (0, 1]; of any grid at least one location is taken.
        combine: see :func:`merged`.

    Returns:
        (B,).
    """
    scores = []
    for m in maps:
        flat = m.flatten(1)
        scores.append(flat.topk(max(1, round(top_share * flat.shape[1])), dim=1).values.mean(1))
    return merged(scores, [1.0] * len(scores), combine)
