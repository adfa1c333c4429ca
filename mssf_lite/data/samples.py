"""Samples, and the data sets made of them.

A data set is three lists of samples and a reader::

    dataset.train       normals to learn from
    dataset.held_out    normals kept from training: thresholds, stopping, colour scales
    dataset.test        normals and defects, looked at once, at the end

    image, mask = dataset.read(sample, size=(256, 256))  # (3, H, W) in [0, 1], (H, W) bool

Every sample names its ``group``, the physical item in front of the camera. Pictures of one item are no
independent witnesses, so a split keeps every group on one side; a data set that breaks this rule cannot be
made, except for a split that says of itself that it leaks.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ..files import written_whole
from .splits import SPLITS, check_sides

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class Sample:
    """One image and what is known about it.

    Args:
        key: its name: a POSIX path relative to the data set's root, or the name of a procedural image.
        texture: the material, such as "leather".
        defect: "good" for a normal image, else the kind of defect.
        split: "train", "held_out" or "test".
        group: the physical item it shows; samples of one group must not stand on two sides of a split.
        mask: name of its mask (relative path, or a procedural name), or the names of several, which together
            mark the defect. None: no mask is known, which for a normal image means the empty mask.
        crop: (top, left, height, width) in pixels of the part of the file that the image is; None for all of
            it. Make such samples with :meth:`cut`.
    """

    key: str
    texture: str
    defect: str
    split: str
    group: str
    mask: str | tuple[str, ...] | None = None
    crop: tuple[int, int, int, int] | None = None

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"{self.key}: unknown split {self.split!r}; choose one of {', '.join(SPLITS)}")

    def cut(self, top: int, left: int, height: int, width: int) -> "Sample":
        """A part of this image as a sample of its own: same item, same texture, same side.

        Args:
            top, left, height, width: the part, in pixels of the whole image.

        Returns:
            The sample; its key says which part it is, as in "a.png#xywh=256,0,256,256" (left, top, width,
            height, as media fragments have it).
        """
        key = f"{self.file}#xywh={left},{top},{width},{height}"
        return replace(self, key=key, crop=(top, left, height, width))

    @property
    def file(self) -> str:
        """The key of the whole image: of a part, the key without what :meth:`cut` added."""
        return self.key if self.crop is None else self.key.rpartition("#")[0]

    @property
    def is_defect(self) -> bool:
        """Whether the image shows a defect; the label says so, not the mask, which may be empty."""
        return self.defect != "good"

    @property
    def has_mask(self) -> bool:
        """Whether each pixel's label is known; always so for a normal image."""
        return self.mask is not None or not self.is_defect


class Reader(Protocol):
    """Whatever turns a sample into pixels; it may know more, see :meth:`Dataset.ignored`, ``seen_at``."""

    def read(self, sample: Sample, size: Size | None) -> tuple[Tensor, Tensor | None]:
        """The image (3, H, W) float32 in [0, 1] and its mask (H, W) bool; None for a defect without mask."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Samples in three splits, with a reader for their pixels.

    Args:
        name: "textures", "mt", "folder" ...
        split: name of the way the samples were divided.
        seed: the seed that division was drawn with.
        train: normals to learn from.
        held_out: normals kept from training.
        test: normals and defects.
        reader: gives the pixels of a sample.
        licence: terms of use, in words.
        citation: what to cite.
        root: the folder the keys are relative to; None for procedural images.
        notes: what a reader of its numbers should know of this data set, such as images left out, in words.
        leaks: True only for a split that is known to put pictures of one item into training *and* test;
            such a split is kept to stand beside published numbers.

    Raises:
        ValueError: if a training or held-out sample shows a defect, a key comes twice, a sample stands in
            another list than it says, or a group stands on two sides.
    """

    name: str
    split: str
    seed: int
    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    test: tuple[Sample, ...]
    reader: Reader
    licence: str
    citation: str
    root: Path | None = None
    leaks: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        check_sides(self)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples: train, held out, test."""
        return self.train + self.held_out + self.test

    @property
    def textures(self) -> tuple[str, ...]:
        """Names of the textures, sorted."""
        return tuple(sorted({sample.texture for sample in self.samples}))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the file list: who is in which split. It names the split, not the pixels."""
        lines = ("\t".join((s.split, s.key, s.texture, s.defect, s.group)) for s in self.samples)
        return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()

    def read(self, sample: Sample, size: Size | None = None) -> tuple[Tensor, Tensor | None]:
        """Read one sample.

        Args:
            sample: one of this data set's samples.
            size: (H, W) to resize to; None keeps the image's own.

        Returns:
            The image (3, H, W), float32 in [0, 1], and its mask (H, W), bool: all False for a normal image,
            None for a defect whose mask is not known (``sample.has_mask`` tells beforehand).
        """
        return self.reader.read(sample, size)

    def ignored(self, sample: Sample, size: Size | None = None) -> Tensor:
        """Which pixels show no material at all and should count neither in scores nor in metrics.

        Args:
            sample: one of this data set's samples.
            size: as for :meth:`read`.

        Returns:
            (H, W) bool, as large as the image that ``read`` gives. All False, unless the data set's reader
            knows of such pixels (it then has a method ``ignored`` with these arguments).
        """
        if known := getattr(self.reader, "ignored", None):
            return known(sample, size)
        shape = self.read(sample)[0].shape[1:] if size is None else size
        return torch.zeros(*shape, dtype=torch.bool)

    def seen_at(self, sample: Sample, size: Size) -> Size:
        """The size (H, W) at which detectors look at a sample.

        Args:
            sample: one of this data set's samples.
            size: (H, W) of an ordinary image.

        Returns:
            ``size``, unless the data set's reader knows of others (it then has a method ``seen_at`` with
            these arguments), such as whole strips of which the training sees tiles.
        """
        known = getattr(self.reader, "seen_at", None)
        return known(sample, size) if known else size

    def seen(self, sample: Sample, size: Size) -> tuple[Tensor, Tensor | None]:
        """What a detector looks at: as :meth:`read`, but strips, and textures of one shape, keep their
        aspect, and strips lose bare ends.

        Args:
            sample: one of this data set's samples.
            size: (H, W) of an ordinary image; the image is read as :meth:`seen_at` says.

        Returns:
            As :meth:`read`, without the rows and columns that are :meth:`ignored` throughout.
        """
        size = self.seen_at(sample, size)
        image, mask = self.read(sample, size)
        # parts are cut where all counts
        if sample.crop is None and (bare := self.ignored(sample, size)).any():
            rows, columns = ~bare.all(1), ~bare.all(0)
            image = image[:, rows][:, :, columns]
            mask = None if mask is None else mask[rows][:, columns]
        return image, mask

    def images(self, samples: Sequence[Sample], size: Size) -> "Images":
        """The images of some samples, as they are :meth:`seen`, each read when it is asked for.

        Args:
            samples: which, and in what order.
            size: (H, W) of an ordinary image.
        """
        without = tuple(replace(sample, mask=None) for sample in samples)  # no need to decode masks
        return Images(self, without, size)

    def masks(self, samples: Iterable[Sample], size: Size) -> np.ndarray | list[np.ndarray]:
        """The masks of some samples, as they are :meth:`seen`.

        Args:
            samples: which, and in what order.
            size: (H, W) of an ordinary image.

        Returns:
            (N, H, W) bool, or N of (H, W) where images differ in size; all False for a normal image.

        Raises:
            ValueError: for a defect without a mask: nobody knows which of its pixels are good.
        """
        masks = []
        for sample in samples:
            mask = self.seen(sample, size)[1]
            if mask is None:
                raise ValueError(
                    f"{sample.key}: this {sample.defect!r} image has no mask, so there is no pixel metric "
                    "for it; add the mask, or use only the samples where sample.has_mask is true"
                )
            masks.append(mask.numpy())
        same = len({mask.shape for mask in masks}) == 1
        return np.stack(masks) if same else masks

    def write_lists(self, folder: str | Path) -> list[Path]:
        """Write train.txt, held_out.txt and test.txt, one key a line, and return their paths.

        A reader never meets half a list.
        """
        paths = [Path(folder) / f"{split}.txt" for split in SPLITS]
        for split, path in zip(SPLITS, paths, strict=True):
            with written_whole(path) as aside:
                lines = [f"{sample.key}\n" for sample in getattr(self, split)]
                aside.write_text("".join(lines), encoding="utf-8", newline="\n")
        return paths


class Images(TorchDataset):
    """The images of a list of samples: ``images[i]`` is (3, H, W) float32 in [0, 1], read on demand.

    Args:
        dataset: gives the pixels of a sample.
        samples: which, and in what order.
        size: (H, W) of an ordinary image, see :meth:`Dataset.seen`.
    """

    def __init__(self, dataset: Dataset, samples: tuple[Sample, ...], size: Size):
        self.dataset, self.samples, self.size = dataset, samples, size

    def __len__(self) -> int:
        """How many images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        """The image at a position; IndexError past the end, so that a plain loop stops."""
        return self.dataset.seen(self.samples[index], self.size)[0]


def whole(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """The whole images that some samples were cut from, each once; other samples stay as they are.

    Thresholds for whole images, for instance, come from whole held-out images, not from their tiles.
    """
    found = {sample.file: replace(sample, key=sample.file, crop=None) for sample in samples}
    return tuple(found.values())
