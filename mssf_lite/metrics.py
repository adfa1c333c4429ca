"""How good scores and maps are, in NumPy.

Three rules hold for every metric here:

* Exact: every distinct value is a threshold, equal values move together, nothing is binned or rescaled.
* A metric that needs normals *and* defects is left out of the result where one of them is missing, so that a
  test set of one kind still gives its scores and no crash.
* Higher is better, and the range is [0, 1].

Scores of images are judged by scikit-learn. Pixels come in tens of millions, for which it needs minutes:
there one curve (:mod:`mssf_lite.curves`) serves all four metrics, and the tests hold them to scikit-learn's.
F1-max takes its threshold from the test labels: an upper bound, not a figure to deploy by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from .curves import area, checked, corners, pixel_curve

if TYPE_CHECKING:
    from mssf_lite.data.samples import Sample

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")


def image_metrics(scores: ArrayLike, is_defect: ArrayLike) -> dict[str, float]:
    """AUROC, average precision and F1-max over images.

    Args:
        scores: (N,), higher is more anomalous.
        is_defect: (N,) bool.

    Returns:
        ``image_auroc``, ``image_ap`` (the step-wise sum, not the trapezoid) and ``image_f1max``; empty if all
        images are normal or all show a defect.

    Raises:
        ValueError: if the shapes differ, a score is not finite, or ``is_defect`` is not bool.
    """
    scores, is_defect = checked(scores, is_defect, ("scores", "is_defect"), dimensions=1)
    if not (is_defect.any() and not is_defect.all()):
        return {}
    return {
        "image_auroc": float(roc_auc_score(is_defect, scores)),
        "image_ap": float(average_precision_score(is_defect, scores)),
        "image_f1max": f1_max(scores, is_defect),
    }


def f1_max(scores: ArrayLike, is_defect: ArrayLike) -> float:
    """The largest F1 that any threshold on the scores reaches.

    Args:
        scores: (N,), higher is more anomalous.
        is_defect: (N,) bool with at least one True.

    Raises:
        ValueError: as :func:`image_metrics`, and if there is no defect.
    """
    scores, is_defect = checked(scores, is_defect, ("scores", "is_defect"), dimensions=1)
    if not is_defect.any():
        raise ValueError(f"F1 needs a defect, but all {len(scores)} images are normal: leave F1 out")
    precision, recall, _ = precision_recall_curve(is_defect, scores)
    both = precision + recall
    return float(np.max(2 * precision * recall / np.where(both > 0, both, 1)))  # no hit at all: F1 is 0


def pixel_metrics(maps: ArrayLike, masks: ArrayLike) -> dict[str, float]:
    """AUROC, average precision, F1-max and AUPRO over all pixels of all images, normal images included.

    Args:
        maps: (N, H, W), or N maps (H, W) of different sizes; higher is more anomalous.
        masks: bool, of the same sizes.

    Returns:
        ``pixel_auroc``, ``pixel_ap``, ``pixel_f1max`` and ``aupro`` (up to a false-positive rate of 0.3);
        empty if no pixel is a defect or every one is.

    Raises:
        ValueError: if the shapes differ, a value is not finite, or ``masks`` is not bool.
    """
    curve = pixel_curve(maps, masks)
    if curve is None:
        return {}
    hits, precision = curve.hits, curve.hits / (curve.hits + curve.false)
    return {
        "pixel_auroc": area(curve.fpr, corners(hits), limit=1),
        "pixel_ap": float(np.sum(np.diff(hits, prepend=0) / hits[-1] * precision)),
        "pixel_f1max": float(np.max(2 * hits / (hits + curve.false + hits[-1]))),
        "aupro": area(curve.fpr, curve.pro, limit=0.3),
    }


def aupro(maps: ArrayLike, masks: ArrayLike, max_fpr: float = 0.3) -> float:
    """Area under the per-region-overlap curve [Bergmann et al. 2019]. Each defect counts alike.

    Per-region overlap: the share of a defect's pixels that lie above the threshold, averaged over all defects
    (8-connected regions of the masks). The false-positive rate runs over all normal pixels of all images. The
    curve is interpolated at ``max_fpr`` and the area divided by it, so that a perfect map reaches 1.

    Args:
        maps: (N, H, W), or N maps (H, W) of different sizes; higher is more anomalous.
        masks: bool, of the same sizes; all False for a normal image.
        max_fpr: where the curve ends, in (0, 1].

    Raises:
        ValueError: as :func:`pixel_metrics`, for ``max_fpr`` out of range, and if no pixel is a defect or
            every one is.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr is a rate in (0, 1], got {max_fpr}: the usual limit is 0.3")
    curve = pixel_curve(maps, masks)
    if curve is None:
        kind = "a defect" if any(np.any(mask) for mask in masks) else "normal"
        raise ValueError(
            f"AUPRO needs defect and normal pixels, but every pixel of {len(masks)} mask(s) is {kind}: "
            "use pixel_metrics, which leaves AUPRO out then"
        )
    return area(curve.fpr, curve.pro, max_fpr)


def bootstrap_auroc(
    scores: ArrayLike,
    is_defect: ArrayLike,
    groups: Sequence[str],
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the image AUROC over resampled groups.

    Six exposures of one tile are one witness, not six: whole groups are drawn with replacement, as many as
    there are, and a group drawn twice counts twice. A draw that holds only normals or only defects has no
    AUROC and is skipped.

    Args:
        scores: (N,), higher is more anomalous.
        is_defect: (N,) bool, of both kinds.
        groups: (N,) names of the physical items; across textures put the texture's name in front.
        repeats: number of draws.
        seed: of the draws; one seed gives one interval.
        level: share of the draws that the interval covers, in (0, 1).

    Returns:
        Its lower and its upper end.

    Raises:
        ValueError: as :func:`image_metrics`, and where no interval can be had.
    """
    scores, is_defect = checked(scores, is_defect, ("scores", "is_defect"), dimensions=1)
    if len(groups) != len(scores):
        raise ValueError(f"{len(scores)} scores but {len(groups)} groups: name one group for every score")
    if not 0 < level < 1:
        raise ValueError(f"level is a share in (0, 1), got {level}: the usual one is 0.95")
    if not (is_defect.any() and not is_defect.all()):
        kind = "show a defect" if is_defect.any() else "are normal"
        raise ValueError(f"AUROC needs normals and defects, but all {len(scores)} images {kind}")
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), repeats)
    weight = drawn[:, member].astype(float)  # (repeats, N): how often each image came along
    defect, normal = weight[:, is_defect], weight[:, ~is_defect]
    pairs = defect.sum(1) * normal.sum(1)
    high, low = scores[is_defect][:, None], scores[~is_defect][None]
    wins = (high > low) + 0.5 * (high == low)  # (defects, normals); its weighted mean is the AUROC
    usable = pairs > 0
    if not usable.any():
        raise ValueError(f"none of {repeats} draws of {len(names)} group(s) held both kinds: raise repeats")
    aurocs = ((defect @ wins) * normal).sum(1)[usable] / pairs[usable]
    low_end, high_end = np.quantile(aurocs, [(1 - level) / 2, (1 + level) / 2])
    return float(low_end), float(high_end)


def evaluate(
    scores: ArrayLike,
    samples: Sequence[Sample],
    maps: Sequence[ArrayLike] | None = None,
    masks: Sequence[ArrayLike] | None = None,
) -> dict[str, Any]:
    """All metrics of one test set: for each texture, as their mean, pooled, and for each kind of defect.

    *Mean* averages the textures' own metrics, as papers do: each texture may have a threshold of its own.
    *Pooled* treats all textures as one set, which asks one threshold to serve all: what a unified detector
    delivers, and seldom the same number.

    An image's label comes from its sample, so a defect whose mask is empty stays a defect. Samples without
    a known mask take part in the image metrics only, and are counted.

    Args:
        scores: (N,), higher is more anomalous.
        samples: (N,) test samples.
        maps: one (H, W) for each sample, or None for image metrics only.
        masks: one (H, W) bool for each sample with ``has_mask``, in their order:
            ``dataset.masks([s for s in samples if s.has_mask], (H, W))``. Needed with ``maps``.

    Returns:
        A dictionary ready for JSON; a metric that cannot be had is absent:

        * ``textures``: texture -> image and pixel metrics, ``interval`` (95 % of the image AUROC, see
          :func:`bootstrap_auroc`) and the counts ``normals``, ``defects`` and, with maps, ``masks_unknown``.
        * ``mean``: metric -> mean over the textures that have it.
        * ``pooled``: the same entries as for a texture, over all samples.
        * ``defects``: texture -> defect -> ``image_auroc`` against all normals of this texture, ``images``.
        * ``defects_pooled``: defect -> the same over all textures, against all normals.

    Raises:
        ValueError: as :func:`image_metrics` and :func:`pixel_metrics`, and if the counts do not fit together.
    """
    labels = np.array([sample.is_defect for sample in samples], dtype=bool)
    scores, labels = checked(scores, labels, ("scores", "samples"), dimensions=1)
    known = np.array([sample.has_mask for sample in samples], dtype=bool)
    if maps is not None:
        masks = [] if masks is None else masks
        if len(maps) != len(samples) or len(masks) != known.sum():
            raise ValueError(
                f"{len(samples)} samples, {known.sum()} of them with a known mask, but {len(maps)} maps and "
                f"{len(masks)} masks: give a map for every sample and a mask for each that has one"
            )
    row_of_mask = np.cumsum(known) - 1
    groups = np.array([f"{sample.texture}/{sample.group}" for sample in samples])
    textures = np.array([sample.texture for sample in samples])
    defects = np.array([sample.defect for sample in samples])

    def metrics(rows: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = image_metrics(scores[rows], labels[rows])
        if found:
            found["interval"] = list(bootstrap_auroc(scores[rows], labels[rows], groups[rows]))
        found |= {"normals": int((~labels[rows]).sum()), "defects": int(labels[rows].sum())}
        if maps is not None:
            seen = rows & known
            own = np.flatnonzero(seen)
            found |= pixel_metrics([maps[i] for i in own], [masks[row_of_mask[i]] for i in own])
            found["masks_unknown"] = int((rows & ~known).sum())
        return found

    def by_defect(rows: np.ndarray) -> dict[str, dict[str, float]]:
        kinds = {}
        for kind in sorted(set(defects[rows & labels])):
            chosen = rows & (~labels | (defects == kind))
            kinds[str(kind)] = {"images": int(labels[chosen].sum())}
            if not labels[chosen].all():
                kinds[str(kind)]["image_auroc"] = float(roc_auc_score(labels[chosen], scores[chosen]))
        return kinds

    everything = np.ones(len(samples), dtype=bool)
    each = {str(name): textures == name for name in sorted(set(textures))}
    per_texture = {name: metrics(rows) for name, rows in each.items()}
    return {
        "textures": per_texture,
        "mean": _mean(per_texture),
        "pooled": per_texture[str(textures[0])] if len(each) == 1 else metrics(everything),
        "defects": {name: by_defect(rows) for name, rows in each.items() if (rows & labels).any()},
        "defects_pooled": by_defect(everything),
    }


def _mean(per_texture: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each metric over the textures that have it."""
    columns = {m: [t[m] for t in per_texture.values() if m in t] for m in IMAGE_METRICS + PIXEL_METRICS}
    return {metric: float(np.mean(values)) for metric, values in columns.items() if values}
