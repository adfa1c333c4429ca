"""Does the light alone tell normal from defective? A yardstick that looks at one number of an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .samples import Dataset, Sample, whole

SIDE = 64  # pixels of the small pictures; a mean needs no more


def light_scores(dataset: Dataset) -> np.ndarray:
    """Image scores of a detector that knows only how bright an image is, and what was normal for its texture.

    The score is the distance of the mean grey level to that of the nearest training or held-out image of the
    texture. It sees no defect that leaves the mean alone. Where it does well, normal and defective images
    were recorded in different light, and a figure of any detector should be read beside it.

    Args:
        dataset: any data set; places that it ignores do not count.

    Returns:
        (N,) for ``dataset.test``, grey levels in [0, 1]; the largest distance, 1, where a texture has no
        training image.
    """
    known: dict[str, list[float]] = {}
    for sample in whole(dataset.train + dataset.held_out):
        known.setdefault(sample.texture, []).append(_grey(dataset, sample))
    levels = [(sample.texture, _grey(dataset, sample)) for sample in dataset.test]
    return np.array(
        [min((abs(level - own) for own in known.get(texture, ())), default=1.0) for texture, level in levels]
    )


def _grey(dataset: Dataset, sample: Sample) -> float:
    """Mean grey level in [0, 1] of what is not ignored; 0 if all of it is."""
    size = (SIDE, SIDE)
    grey = dataset.read(replace(sample, mask=None), size)[0].mean(0)
    shown = ~dataset.ignored(sample, size)
    return float(grey[shown].mean()) if shown.any() else 0.0
