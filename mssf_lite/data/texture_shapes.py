"""Where a drawn defect is: round-ish regions, and lines that wander. Lengths are in pixels; all is ours."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .samples import Size
from .texture_surface import Array, Rng, middle, pixels


@dataclass(frozen=True)
class Patch:
    """A round-ish region somewhere in the image.

    Args:
        depth: (H, W) distance to the outline in pixels, along the ray from the middle; positive inside.
        ring: (H, W) 0 in the middle, 1 on the outline, growing outwards.
        radius: mean radius in pixels.
    """

    depth: Array
    ring: Array
    radius: float


def patch(rng: Rng, size: Size, share: tuple[float, float], ragged: float = 0.18) -> Patch:
    """Draw a region.

    Args:
        rng: the only source of chance.
        size: (H, W).
        share: least and greatest area, as a share of the image; drawn evenly on a log scale.
        ragged: size of the bays in its outline, against the radius.
    """
    area = np.exp(rng.uniform(*np.log(share))) * size[0] * size[1]
    radius = max(float(np.sqrt(area / np.pi)), 2.5)
    y, x = pixels(size, middle(rng, size))
    turn, stretch = rng.uniform(0, np.pi), float(np.exp(rng.uniform(-0.35, 0.35)))
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    y, x = (cos * y + sin * x) * stretch, (cos * x - sin * y) / stretch
    away = np.hypot(y, x) + np.float32(1e-3)
    wave = direction = (x + 1j * y) / away  # powers of the direction give the waves of the outline
    outline = np.ones(size, np.float32)
    for k in range(2, 7):
        wave = wave * direction
        a, b = (float(n) for n in rng.normal(0, ragged / k, 2))
        outline += a * wave.real + b * wave.imag
    outline = radius * np.maximum(outline, 0.35)
    return Patch(outline - away, away / outline, radius)


def walk(rng: Rng, heading: float, length: float, curl: float, kink: float = 0.0) -> Array:
    """A line that wanders: points (N, 2), half a pixel apart, from (0, 0) on.

    Args:
        rng: the only source of chance.
        heading: direction at the start, in radians from the x axis towards y.
        length: in pixels.
        curl: radians a pixel that it curves, this way and that.
        kink: radians that it breaks off by, every few pixels.
    """
    steps = max(int(2 * length), 4)
    knots = np.arange(0, steps + 30, 30)
    turns = np.interp(np.arange(steps), knots, rng.normal(0, curl, len(knots)))
    breaks = rng.normal(0, kink, steps // 10 + 1).repeat(10)[:steps]
    angle = heading + 0.5 * np.cumsum(turns) + breaks
    return 0.5 * np.cumsum(np.stack([np.sin(angle), np.cos(angle)], 1), 0)


def distance_to(points: Array, size: Size) -> tuple[Array, Array]:
    """Distance of each pixel to the nearest of some points, and that point's number: both (H, W)."""
    cell = np.round(points).astype(int)
    kept = np.flatnonzero(((cell >= 0) & (cell < size)).all(1))
    if not len(kept):
        return np.full(size, np.float32(1e3)), np.zeros(size, int)
    names = np.full(size, -1)
    names[tuple(cell[kept].T)] = kept
    low, high = np.maximum(cell[kept].min(0) - 12, 0), cell[kept].max(0) + 13
    box = slice(low[0], high[0]), slice(low[1], high[1])
    nearest = ndimage.distance_transform_edt(names[box] < 0, return_distances=False, return_indices=True)
    number = names[box][tuple(nearest)]
    y, x = np.mgrid[
        box[0].start : box[0].start + number.shape[0], box[1].start : box[1].start + number.shape[1]
    ]
    distance, numbers = np.full(size, np.float32(1e3)), np.zeros(size, int)
    distance[box] = np.hypot(y - points[number, 0], x - points[number, 1])
    numbers[box] = number
    return distance, numbers
