"""Procedural textures: a data set that needs no download, drawn when it is asked for.

::

    dataset = make_textures()                       # seven textures, normals and defects
    image, mask = dataset.read(dataset.test[0])     # always the same picture for the same seed

Every image is a piece of its own material under its own light: two images share nothing but the recipe, so
each is its own group. The defects of the test set happen to the material (``texture_defects``) and share no
code with the synthetic defects of training. All of it is ours.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, from_numpy

from .images import resize_mask
from .samples import Dataset, Sample, Size
from .texture_defects import DEFECTS
from .texture_materials import MATERIALS
from .texture_surface import Camera, Surface

KINDS: dict[str, tuple[str, ...]] = {  # what can happen to what
    "grid": ("drop", "fibre", "pulled", "rust", "thread"),
    "knit": ("fade", "fibre", "hole", "pulled", "stain", "thread"),
    "leather": ("burn", "crack", "dent", "drop", "fade", "hole"),
    "metal": ("dent", "drop", "fibre", "hole", "rust", "stain"),
    "tile": ("burn", "crack", "drop", "fibre", "hole", "stain"),
    "weave": ("burn", "fibre", "hole", "pulled", "stain", "thread"),
    "wood": ("burn", "crack", "dent", "fibre", "hole", "stain"),
}
SMALLEST, LARGEST = 0.001, 0.09  # area of a defect, as a share of the image
VISIBLE = 0.02  # a change by 5 of 255 grey levels; the sensor's noise is half of that
CLEAR = 0.045  # least change averaged over the mask: nothing is hidden that no eye could find
LEAST_SIDE = 64  # in pixels: below, an image shows two or three yarns and is no texture


@dataclass(frozen=True)
class Counts:
    """How many images to draw of each texture.

    Args:
        train: normals to learn from.
        held_out: normals kept from training.
        test_good: normals in the test set.
        test_defect_per_kind: defects in the test set, of each kind the texture can have.
    """

    train: int = 24
    held_out: int = 8
    test_good: int = 10
    test_defect_per_kind: int = 4

    def __post_init__(self):
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"Counts: {name} must be a whole number from 0 on, got {value!r}")


DEFAULT_COUNTS = Counts()  # 168 + 56 + 234 images


def changed(clean: np.ndarray, damaged: np.ndarray) -> np.ndarray:
    """The mask: where two noise-free pictures of one piece differ visibly.

    A pixel counts when any of its colours changes by more than ``VISIBLE``. Gaps that nobody would outline
    are closed (up to 4 pixels wide, holes under 100 pixels) and specks under 5 pixels dropped.

    Args:
        clean, damaged: (3, H, W) in [0, 1].

    Returns:
        (H, W) bool.
    """
    mask = np.abs(damaged - clean).max(0) > VISIBLE
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)  # the rest is equal: save the time
    inner = np.pad(mask[box], 3)
    inner |= ndimage.binary_closing(inner, np.hypot(*np.mgrid[-2:3, -2:3]) < 2.3)
    for value, smallest in ((True, 5), (False, 100)):
        label, _ = ndimage.label(inner == value)
        area = np.bincount(label.ravel())
        inner[(area < smallest)[label] & (label > 0)] = not value
    mask[box] = inner[3:-3, 3:-3]
    return mask


@dataclass(frozen=True)
class Picture:
    """One drawn image.

    Args:
        image: (3, H, W) float32 in [0, 1].
        mask: (H, W) bool, where the defect changed the image.
        twin: (3, H, W), the same piece in the same light without the defect; equal to ``image`` off the mask.
    """

    image: np.ndarray
    mask: np.ndarray
    twin: np.ndarray


def draw(key: str, texture: str, defect: str = "good", seed: int = 0, size: Size = (256, 256)) -> Picture:
    """Draw one image; the same arguments give the same pixels, in any order and in any process.

    Args:
        key: the image's name; every name has a piece of material and a light of its own.
        texture: one of ``MATERIALS``.
        defect: "good" or one of ``DEFECTS``.
        seed: another seed gives another world of images.
        size: (H, W); a smaller image shows a smaller piece.
    """

    def chance(*part: object) -> np.random.Generator:
        # hash() of a string differs from process to process, a digest never does
        words = hashlib.sha256("\t".join(map(str, (seed, key, *part))).encode()).digest()
        return np.random.default_rng(np.frombuffer(words, np.uint32))

    def redraw(**geometry) -> Surface:
        return MATERIALS[texture](chance("material"), size, **geometry)

    camera, surface = Camera(chance("light"), size), redraw()
    clean = camera.shoot(surface)
    twin = np.clip(clean + camera.noise, 0, 1)
    if defect == "good":
        return Picture(twin, np.zeros(size, bool), twin)
    for attempt in range(50):  # nearly always the first; now and then one is too faint or lies half outside
        damaged = camera.shoot(DEFECTS[defect](surface, chance("defect", attempt), redraw))
        mask = changed(clean, damaged)
        clear = mask.any() and np.abs(damaged - clean).max(0)[mask].mean() >= CLEAR
        if clear and SMALLEST <= mask.mean() <= LARGEST:
            return Picture(np.where(mask, np.clip(damaged + camera.noise, 0, 1), twin), mask, twin)
    raise RuntimeError(f"{key}: no visible {defect!r} in 50 attempts at size {size}; draw a larger image")


# Chapters and yardsticks look at the same few hundred images several times; 512 of 256 x 256 take 0.4 GB.
@lru_cache(maxsize=512)
def _drawn(key: str, texture: str, defect: str, seed: int, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of :func:`draw`; shared, not to be written to."""
    picture = draw(key, texture, defect, seed, size)
    for part in (picture.image, picture.mask):
        part.flags.writeable = False
    return picture.image, picture.mask


@dataclass(frozen=True)
class Painter:
    """The reader of procedural samples: it paints them.

    Args:
        seed: seed of everything that is drawn.
        size: (H, W) to draw at.
    """

    seed: int
    size: Size

    def read(self, sample: Sample, size: Size | None = None) -> tuple[Tensor, Tensor]:
        """Draw a sample, about 15 to 30 ms at 256 × 256; those drawn last are remembered.

        Args:
            sample: one made by :func:`make_textures`.
            size: (H, W) to resize the drawing to, as a photograph would be; None keeps it.

        Returns:
            The image (3, H, W), float32 in [0, 1], and its mask (H, W), bool.
        """
        picture, mask = _drawn(sample.key, sample.texture, sample.defect, self.seed, self.size)
        image = from_numpy(picture.copy())
        if size is not None and tuple(size) != self.size:
            image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
            return image, from_numpy(resize_mask(mask, size))
        return image, from_numpy(mask.copy())


def make_textures(
    seed: int = 0,
    textures: Iterable[str] | None = None,
    counts: Counts = DEFAULT_COUNTS,
    size: Size = (256, 256),
) -> Dataset:
    """The procedural data set.

    Args:
        seed: seed of everything that is drawn; two seeds share no image.
        textures: names from ``MATERIALS``; None takes all seven.
        counts: how many images of each texture.
        size: (H, W) to draw at, 64 or more each. The scale of the material stays, so a smaller image shows a
            smaller piece of it; ``dataset.read(sample, size)`` scales the finished picture instead.

    Returns:
        The data set; keys look like ``weave/test/hole/003``.

    Raises:
        ValueError: for an unknown texture or a size that is too small.
    """
    names = sorted(MATERIALS) if textures is None else sorted(set(textures))
    known = ", ".join(sorted(MATERIALS))
    if unknown := [name for name in names if name not in MATERIALS]:
        raise ValueError(f"unknown texture {unknown[0]!r}; choose from {known}")
    if not names:
        raise ValueError(f"textures is empty; choose from {known}, or leave it out to take all")
    size = (int(size[0]), int(size[1]))
    if min(size) < LEAST_SIDE:
        raise ValueError(f"size {size} is too small to show a texture; use at least {LEAST_SIDE} a side")

    def make(texture: str, split: str, defect: str, count: int) -> list[Sample]:
        keys = [f"{texture}/{split}/{defect}/{n:03d}" for n in range(count)]
        masks = [None if defect == "good" else f"{key}/mask" for key in keys]
        return [Sample(k, texture, defect, split, group=k, mask=m) for k, m in zip(keys, masks, strict=True)]

    test = []
    for name in names:
        test += make(name, "test", "good", counts.test_good)
        for kind in KINDS[name]:
            test += make(name, "test", kind, counts.test_defect_per_kind)
    return Dataset(
        name="textures",
        split="drawn",
        seed=seed,
        train=tuple(s for name in names for s in make(name, "train", "good", counts.train)),
        held_out=tuple(s for name in names for s in make(name, "held_out", "good", counts.held_out)),
        test=tuple(test),
        reader=Painter(seed, size),
        licence="Apache-2.0 (drawn by code)",
        citation="Procedural textures of mssf_lite",
    )
