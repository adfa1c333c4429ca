"""From likelihoods to anomaly maps and image scores.

Each scale's raw map is read in standard deviations of *held-out normal images*: no map is ever rescaled by
its own image, so maps and scores compare across images and textures, and one threshold means the same
everywhere. Locations near the border look beyond the image, where the network sees zeros, and even normal
images are less likely there than inside; they can have units of their own, which helped on synthetic defects
and drawn textures (one seed each) and harmed on magnetic tiles (three) [ours]. Then the scales are put
together, and differently for the two questions [ours]:

* *Where?* The map weights each scale by the number of its locations: one of the half-size image, or of a grid
  twice as coarse, speaks for four times the area. It averages their asinh, which is linear near 0 and a
  logarithm far out, so that a scale which finds a defect a hundred times too large does not smear it over its
  neighbours.
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
    # anomalous, in standard deviations of held-out normals; those of the peers in their papers' units
    scores: Tensor  # (B,) float32, in the same unit


def distance_to_border(grid: tuple[int, int], most: int) -> Tensor:
    """How many locations lie between each location and the border, at most ``most``: (h, w) int64."""
    rows, columns = (torch.minimum(torch.arange(n), torch.arange(n).flip(0)) for n in grid)
    return torch.minimum(rows[:, None], columns).clamp_max(most)


def moments(raw: Tensor | Sequence[Tensor], rings: int) -> tuple[Tensor, Tensor]:
    """The units of raw maps: mean and standard deviation over images and locations.

    Args:
        raw: (B, h, w), of normal images; or several such, of grids that may differ.
        rings: how many rings of locations have a unit of their own, counted from the border.

    Returns:
        Mean and standard deviation, (rings + 1,) each: from the outermost ring to the inside. What a small
        grid has none of takes the unit of the next ring outside it.
    """
    parts = [raw] if isinstance(raw, Tensor) else raw
    distances = [distance_to_border(part.shape[1:], rings).to(part.device) for part in parts]
    found: list[tuple[Tensor, Tensor]] = []
    for ring in range(rings + 1):
        of_ring = [part[:, far == ring] for part, far in zip(parts, distances, strict=True)]
        values = torch.cat([part.flatten() for part in of_ring])
        found.append((values.mean(), values.std()) if values.numel() else found[-1])
    mean, std = (torch.stack(values) for values in zip(*found, strict=True))
    return mean, std.clamp_min(1e-6)


def standardised(raw: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Raw maps (B, h, w) in the units that :func:`moments` gave, (rings + 1,) each -> (B, h, w)."""
    if len(mean) == 1:
        return (raw - mean) / std
    distance = distance_to_border(raw.shape[1:], len(mean) - 1).to(raw.device)
    return (raw - mean[distance]) / std[distance]


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
    maps: Sequence[Tensor], fineness: Sequence[float], size: tuple[int, int], combine: str = "multiply"
) -> Tensor:
    """The anomaly map: scales brought to one grid, averaged, and enlarged to the image's size.

    Each is weighted by the number of its locations, and the mean is one of asinh, see above. Chosen by AUPRO
    on synthetic defects of held-out magnetic tiles, three zooms: 0.494; 0.484 without asinh; 0.458 with the
    zoom itself as weight and without asinh [ours].

    Args:
        maps: standardised, one (B, h_s, w_s) a scale.
        fineness: of each scale, how many places lie side by side on the same length, in any unit. Where all
            have one grid, that is the zoom.
        size: (H, W) of the image.
        combine: see :func:`merged`.

    Returns:
        (B, H, W).
    """
    finest = max((m.shape[-2:] for m in maps), key=lambda grid: grid[0] * grid[1])
    if combine == "multiply":
        maps = [m.asinh() for m in maps]
    weights = [fine**2 for fine in fineness]
    whole = enlarged(merged([enlarged(m, finest) for m in maps], weights, combine), size)
    return whole.sinh() if combine == "multiply" else whole  # in standard deviations again


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) -> (B, H, W), bilinear; maps of that size already are returned as they are."""
    if maps.shape[1:] == size:
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


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
