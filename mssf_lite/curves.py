"""What happens as the threshold falls over all pixels of a test set: the curve behind the pixel metrics.

Exact and in one sort: every distinct value is a threshold, equal values move together, and the normal pixels,
tens of millions of them, are sorted once. :mod:`mssf_lite.metrics` reads its four pixel metrics off it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

EIGHT = np.ones((3, 3))  # diagonal neighbours belong to one defect


class Curve(NamedTuple):
    """What happens as the threshold falls; entries only where a defect pixel is reached (T of them).

    Between two such values nothing but false positives is added, so no other threshold matters to any of
    the metrics.
    """

    hits: np.ndarray  # (T,) defect pixels at or above each value
    false: np.ndarray  # (T,) normal pixels at or above each value
    fpr: np.ndarray  # (2T + 2,) corners of the curve from 0 to 1: before and after each value
    pro: np.ndarray  # (2T + 2,) per-region overlap at these corners


def pixel_curve(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> Curve | None:
    """The curve of all pixels of all images, normal images included.

    Args:
        maps: (N, H, W), or N maps (H, W) of different sizes; higher is more anomalous.
        masks: bool, of the same sizes; all False for a normal image.

    Returns:
        The curve; None if no pixel is a defect or every one is.

    Raises:
        ValueError: if the shapes differ, a value is not finite, or ``masks`` is not bool.
    """
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps but {len(masks)} masks: give one mask for every map")
    pairs = [checked(m, k, ("maps", "masks"), dimensions=2) for m, k in zip(maps, masks, strict=True)]
    normal = np.concatenate([values[~mask] for values, mask in pairs] or [[]])
    defect = np.concatenate([values[mask] for values, mask in pairs] or [[]])
    if not (normal.size and defect.size):
        return None
    normal.sort()  # the one sort: a plain sort of float32 is ten times faster than an argsort
    order = np.argsort(defect)[::-1]
    defect = defect[order]
    last = np.flatnonzero(np.r_[np.diff(defect) != 0, True])  # of equal values: ties move together
    before = normal.size - np.searchsorted(normal, defect[last], "right")
    after = normal.size - np.searchsorted(normal, defect[last], "left")  # larger where normal pixels tie
    fpr = np.stack([before, after], axis=1).ravel() / normal.size
    overlap = region_weights([mask for _, mask in pairs])[order].cumsum()[last]
    return Curve(last + 1, after, np.r_[0, fpr, 1], corners(overlap))


def corners(found: np.ndarray) -> np.ndarray:
    """Shares found before and after each value, from (T,) cumulated counts to the (2T + 2,) corners."""
    return np.r_[0, 0, np.repeat(found / found[-1], 2)]


def region_weights(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Of each defect pixel, image by image: 1 / area of its region."""
    weights = []
    for mask in filter(np.any, masks):
        label, _ = ndimage.label(mask, EIGHT)
        regions = label[mask]
        weights.append(1 / np.bincount(regions)[regions])
    return np.concatenate(weights)


def area(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Area under straight lines through (x, y), x rising from 0, up to ``limit``, divided by it.

    The line that crosses the limit is cut there. A step exactly at the limit adds nothing, which
    interpolating with ``np.interp`` would get wrong.
    """
    width = np.diff(x)
    part = np.divide(limit - x[:-1], width, out=np.zeros_like(width), where=width > 0).clip(0, 1)
    return float(np.sum(width * part * (y[:-1] + part * np.diff(y) / 2)) / limit)


def checked(
    values: ArrayLike, labels: ArrayLike, names: tuple[str, str], dimensions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of one shape, the values finite and the labels bool.

    Args:
        values: one number for each label, higher is more anomalous.
        labels: bool, of the same shape.
        names: what the two are called in a message.
        dimensions: how many both must have.

    Raises:
        ValueError: names what is wrong with which of them, and what to do.
    """
    values, labels = np.asarray(values), np.asarray(labels)
    if values.shape != labels.shape or values.ndim != dimensions:
        raise ValueError(
            f"{names[0]} {values.shape} and {names[1]} {labels.shape} must be of one shape with {dimensions} "
            "dimension(s): one label for each value; resize or squeeze first"
        )
    if labels.dtype != bool:
        raise ValueError(f"{names[1]} must be bool, got {labels.dtype}: pass {names[1]} > 0")
    finite = np.isfinite(values)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"{(~finite).sum()} of {values.size} {names[0]} are not finite, the first {values[first]} at "
            f"index {first}: look at that image, or train with a lower learning rate"
        )
    return values, labels
