"""Does the test set show strangers? A split audited by its pictures alone, whatever its lists say.

::

    found = audit(open_dataset("mt", split="published"))
    found.share              # of the normal test images, how many have a twin on the training side
    found.image_auroc()      # how far mere picture matching gets: near 0.5 where there is nothing to match

Two pictures are *twins* here if they show the same physical item, perhaps moved a little and in other light.
Every test image is laid on every training-side image of its texture, in all shifts at once, by fast Fourier
transforms of small grey pictures: high-pass filtered, faded out at the edges, and whitened. The largest
normalised cross-correlation names its nearest neighbour. Copies that are turned, mirrored or scaled are not
found, those that overlap by less than about two thirds not always, and one item shown as two textures never.

*Whitening* [ours] lets all frequencies of a picture count alike and keeps their phases (phase correlation).
Without it, any two pieces of a weave agree as soon as their yarns fall into step. Whitened, the period is one
frequency among thousands; what only this piece of cloth has lies in the others.

*The level* [ours] needs no labels. Nearly all pairs that are compared show different items, and what such a
pair reaches, the largest of many correlations, follows an extreme value law. A Gumbel law is laid through the
quartiles of each texture's pairs, which a minority of twins cannot move far. It tells the value that
strangers exceed with a chance of 5 % in a whole audit: an estimate, so look at pairs near the level yourself.

Shifts go around the edges: what leaves on one side enters on the other. On the magnetic tiles that finds the
same twins as padding with zeros, with the same AUROC to three digits, in a third of the time.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import fft, ndimage
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from .samples import Dataset, Sample, Size, whole

CHANCE = 0.05  # that any pair of strangers exceeds its level, in a whole audit
QUANTILES = 0.25, 0.75  # of the pairs, for the Gumbel law; a sixth of all pairs may be twins
FINEST = 0.3  # cycles per pixel where the weight of a frequency has fallen to 1/e; beyond is mostly noise
FLAT = 1e-4  # of the grey range: a picture with less contrast shows nothing that could be compared
BLOCK = 16  # training pictures that are compared at once: few enough for the processor's cache


class Match(NamedTuple):
    """A test image and the training-side image that looks most like it."""

    test: str  # key of the test image
    training: str  # key of the nearest training or held-out image
    texture: str
    is_defect: bool  # of the test image; not used to find the match
    correlation: float  # 1 for the same picture
    level: float  # of this texture: strangers stay below
    shift: Size  # (down, right) in small pixels: moved so, the test picture lies on the training picture

    @property
    def is_twin(self) -> bool:
        """Whether the two are more alike than strangers are."""
        return self.correlation > self.level


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        matches: one for each test image, in the order of ``dataset.test``.
        sizes: texture -> (H, W) of its small pictures, in whose pixels shifts are counted.
    """

    matches: tuple[Match, ...]
    sizes: dict[str, Size]

    @property
    def twins(self) -> tuple[Match, ...]:
        """The test images, normal and defective, that have a twin on the training side."""
        return tuple(match for match in self.matches if match.is_twin)

    @property
    def share(self) -> float:
        """Share of the normal test images that have a twin on the training side; 0 if there are none."""
        normals = [match.is_twin for match in self.matches if not match.is_defect]
        return sum(normals) / max(len(normals), 1)

    @property
    def scores(self) -> np.ndarray:
        """(N,) image scores of a detector that only recognises pictures: 1 - correlation."""
        return 1 - np.array([match.correlation for match in self.matches])

    def metrics(self) -> dict[str, dict[str, float]]:
        """:meth:`image_auroc` as it stands among the yardsticks of a run record."""
        return {part: {"image_auroc": value} for part, value in self.image_auroc().items()}

    def image_auroc(self) -> dict[str, float]:
        """Image AUROC of :attr:`scores`: how far a detector gets that knows pictures and no defects.

        Returns:
            ``pooled`` over all test images, and the ``mean`` over the textures that have both kinds; absent
            where normals or defects are missing.
        """
        label = np.array([match.is_defect for match in self.matches])
        texture = np.array([match.texture for match in self.matches])
        parts = [label == label, *(texture == name for name in self.sizes)]
        both = [len(set(label[rows])) == 2 for rows in parts]
        aurocs = [roc_auc_score(label[p], self.scores[p]) for p, b in zip(parts, both, strict=True) if b]
        found = {"pooled": float(aurocs[0])} if both[0] else {}
        return found | ({"mean": float(np.mean(aurocs[1:]))} if any(both[1:]) else {})


def audit(
    dataset: Dataset, size: Size | None = None, whitening: float = 1.0, leave_out_groups: bool = False
) -> Audit:
    """Find for each test image the most similar training or held-out image of its texture.

    A thousand images take a minute or two on one CPU core; the time grows as test times training images.
    Labels decide nothing. Groups, where the data set knows them, only tell which pairs are surely no
    strangers when the level is set.

    Args:
        dataset: any data set, of files or drawn. Where training images are parts, the wholes are compared.
        size: (H, W) of the small pictures. None: 128 x 128, or for a texture whose images are more than twice
            as long as wide 64 pixels across and their length in proportion.
        whitening: power by which the spectrum is flattened, in [0, 1]. 0 is the plain correlation, which
            periodic textures deceive: for comparison only.
        leave_out_groups: take the images of a test image's own group out of the comparison, to see what
            picture matching still knows on a split that is known to leak.

    Raises:
        ValueError: for a whitening out of range, a size below 16 pixels, an empty test set, and a test
            image that there is nothing to compare with.

    Warns:
        UserWarning: if the level of a texture is out of reach, so that no twin can be told.
    """
    if not 0 <= whitening <= 1:
        raise ValueError(f"whitening is a power in [0, 1], got {whitening}: 1 flattens the spectrum wholly")
    if size is not None and min(size) < 16:
        raise ValueError(f"size {tuple(size)} shows too little to recognise: use 16 pixels a side or more")
    if not dataset.test:
        raise ValueError(f"data set {dataset.name!r} has no test images: there is nothing to audit")
    test = _by_texture(dataset.test)
    training = _by_texture(whole(dataset.train + dataset.held_out))
    same = {texture: _same_group(test[texture], training.get(texture, [])) for texture in sorted(test)}
    pairs = sum(_compared(test[texture], own, leave_out_groups) for texture, own in same.items())
    matches: dict[str, Match] = {}
    sizes: dict[str, Size] = {}
    pictures = len(dataset.test) + sum(len(training[texture]) for texture in test)
    with tqdm(total=pictures, desc="pictures", leave=False) as bar:
        for texture, own in same.items():
            sizes[texture] = small = _small(dataset, training[texture]) if size is None else tuple(size)
            values, places = _compare(dataset, test[texture], training[texture], small, whitening, bar)
            level = _level(values[~own], pairs)
            if level >= 1:
                warnings.warn(
                    f"texture {texture!r}: its pairs are too alike to tell twins from strangers (level "
                    f"{level:.2f}, and no correlation exceeds 1); do most pictures show one item? "
                    "Look at the pairs, and name the groups where you know them",
                    stacklevel=2,
                )
            nearest = np.where(own & leave_out_groups, -np.inf, values).argmax(1).tolist()
            for i, (sample, j) in enumerate(zip(test[texture], nearest, strict=True)):
                alike, shift = float(values[i, j]), _signed(int(places[i, j]), small)
                other = training[texture][j].key
                matches[sample.key] = Match(sample.key, other, texture, sample.is_defect, alike, level, shift)
    return Audit(tuple(matches[sample.key] for sample in dataset.test), sizes)


def _by_texture(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.texture, []).append(sample)
    return found


def _same_group(test: Sequence[Sample], training: Sequence[Sample]) -> np.ndarray:
    """(test, training) bool: which pairs are known to show one item."""
    one, other = (
        np.array([sample.group for sample in samples], dtype=object) for samples in (test, training)
    )
    return (one[:, None] == other).astype(bool)


def _compared(test: Sequence[Sample], same: np.ndarray, leave_out_groups: bool) -> int:
    """How many pairs of a texture may become matches; each test image must have one."""
    count = (~same if leave_out_groups else np.ones_like(same)).sum(1)
    if not count.all():
        lonely = test[int(count.argmin())]
        raise ValueError(
            f"{lonely.key}: no training or held-out image of texture {lonely.texture!r} to compare it with"
            f"{' outside its own group' if leave_out_groups else ''}; take it out of the test"
        )
    return int(count.sum())


def _small(dataset: Dataset, samples: Sequence[Sample]) -> Size:
    """Size of the small pictures of a texture, from the median shape of a few of its images."""
    few = samples[:: -(-len(samples) // 9)]
    height, width = np.median([dataset.read(sample)[0].shape[1:] for sample in few], axis=0)
    if max(height, width) <= 2 * min(height, width):
        return 128, 128
    # multiples of 16 have fast transforms
    return tuple(16 * round(4 * side / min(height, width)) for side in (height, width))


def _compare(
    dataset: Dataset,
    test: Sequence[Sample],
    training: Sequence[Sample],
    size: Size,
    whitening: float,
    bar: tqdm,
) -> tuple[np.ndarray, np.ndarray]:
    """(test, training) largest correlation of each pair over all shifts, and where it is, flat."""
    stored = np.empty((len(training), size[0], size[1] // 2 + 1), np.complex64)
    for j, sample in enumerate(training):
        stored[j] = _spectrum(dataset, sample, size, whitening)
        bar.update()
    values = np.empty((len(test), len(training)), np.float32)
    places = np.empty(values.shape, np.int64)
    for i, sample in enumerate(test):
        values[i], places[i] = _correlate(_spectrum(dataset, sample, size, whitening), stored, size)
        bar.update()
    return values, places


def _spectrum(dataset: Dataset, sample: Sample, size: Size, whitening: float) -> np.ndarray:
    """(H, W // 2 + 1) complex64 spectrum of a small picture of unit norm; zero if it shows nothing."""
    fade, weight = _filters(size)
    grey = dataset.read(replace(sample, mask=None), size)[0].mean(0).numpy()  # masks are not needed
    bare = dataset.ignored(sample, size).numpy()
    grey = np.where(bare, grey[~bare].mean() if not bare.all() else 0, grey)
    detail = (grey - ndimage.gaussian_filter(grey, min(size) / 16, mode="reflect")) * fade
    if detail.std() <= FLAT:
        return np.zeros_like(weight, np.complex64)
    spectrum = fft.rfft2(detail)
    spectrum *= weight / np.maximum(np.abs(spectrum), 1e-12) ** whitening
    return (spectrum / np.linalg.norm(fft.irfft2(spectrum, size))).astype(np.complex64)


@cache
def _filters(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) weights of the pixels, falling to 0 at the edges, and (H, W // 2 + 1) of the frequencies."""
    fade = np.sqrt(np.outer(*(np.hanning(side + 2)[1:-1] for side in size)))
    frequency = np.hypot(fft.fftfreq(size[0])[:, None], fft.rfftfreq(size[1]))
    weight = np.exp(-((frequency / FINEST) ** 2))
    weight[0, 0] = 0  # the mean grey says nothing
    return fade, weight


def _correlate(one: np.ndarray, others: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """(M,) largest correlation of one picture with others over all shifts, and (M,) where it is, flat."""
    values, places = [], []
    for start in range(0, len(others), BLOCK):
        product = others[start : start + BLOCK] * one.conj()
        maps = fft.irfft2(product, size, workers=torch.get_num_threads(), overwrite_x=True)
        maps = maps.reshape(len(maps), -1)
        places.append(maps.argmax(1))
        values.append(maps[np.arange(len(maps)), places[-1]])
    return np.concatenate(values), np.concatenate(places)


def _level(strangers: np.ndarray, pairs: int) -> float:
    """The value that some of so many pairs of strangers exceeds with the chance of :data:`CHANCE`."""
    if not len(strangers):
        return 1.0  # all pairs are known to show one item
    x = -np.log(-np.log(QUANTILES))  # the same quantiles of the standard Gumbel law
    low, high = np.quantile(strangers, QUANTILES)
    scale = (high - low) / (x[1] - x[0])
    return float(low + scale * (np.log(pairs / CHANCE) - x[0]))


def _signed(place: int, size: Size) -> Size:
    """A flat position in a correlation map as (down, right), each in [-side / 2, side / 2)."""
    return tuple((x + n // 2) % n - n // 2 for x, n in zip(divmod(place, size[1]), size, strict=True))
