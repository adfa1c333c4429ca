"""Where the cloth is in a long picture of a fabric, and where something else is seen.

In the AITEX images the cloth does not fill the picture: at the left end one sees the lit background (white)
or the table under the cloth (grey, mottled, with streaks along the picture). Both are found from the pixels:

* *White or black*: a run of columns, from the very end, that are clipped. Where the cloth's edge is ragged
  the run goes on until hardly a clipped pixel is left.
* *The table*: the camera's noise is all its fine detail, the same along and across, while a weave has much
  more of it in one direction. So the detail of both directions and the brightness step at the cloth's edge.

Looked at as pictures, the border is right within a few columns on all 85 images with a table and on a choice
of the others; the seam thread of a selvedge counts as cloth, the shadow beside it as table, a stain on the
white as bare. All of it is ours.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .images import FileReader, decode, shape_of
from .samples import Sample, Size

CLIPPED = (5, 250)  # darker or lighter than these, of 255, is black or white
RAGGED = 0.02  # share of clipped pixels below which a column is cloth
STEP = 0.2  # least step at a table's border; the set's tables have 0.3 and more, its cloth 0.12 at most
WIDE, NARROW = 64, 16  # columns compared on each side of a border, to find it and to place it
BACK = 128  # columns a striped selvedge may keep the widest step away from the border
REACH = 0.45  # share of the picture that a table may fill


def bare_ends(pixels: np.ndarray) -> tuple[int, int]:
    """The columns that show cloth.

    A table is looked for at the left end, where the set has it; white and black at both.

    Args:
        pixels: (H, W) grey levels, 0 to 255, W at least 300.

    Returns:
        First column of the cloth, and the column after its last: (0, W) for a picture full of cloth.
    """
    width = pixels.shape[1]
    clipped = ((pixels <= CLIPPED[0]) | (pixels >= CLIPPED[1])).mean(axis=0)
    left, right = _clipped_run(clipped), width - _clipped_run(clipped[::-1])
    if left >= right:  # nothing but white and black
        return 0, 0
    return left or _table(pixels[:, : int(REACH * width)]), right


def tile_lefts(first: int, last: int, side: int) -> list[int]:
    """Left columns of square tiles spread evenly from column ``first`` to ``last``, overlapping least.

    Args:
        first, last: first column, and the column after the last.
        side: of a tile, in pixels.

    Returns:
        As many as cover everything, the first at ``first``, the last at ``last - side``; none if a single
        tile does not fit.
    """
    spare = last - first - side
    if spare < 0:
        return []
    steps = math.ceil(spare / side)
    return [first + (spare * step // steps if steps else 0) for step in range(steps + 1)]


@dataclass(frozen=True)
class ClothReader(FileReader):
    """Reads samples from files and knows which of their pixels are no cloth.

    Args:
        root: the folder the samples' files are relative to.
    """

    def ignored(self, sample: Sample, size: Size | None = None) -> Tensor:
        """(H, W) bool, as large as the image that ``read`` gives: True in the columns beside the cloth.

        A column of a resized image counts as cloth if its middle lies on cloth.
        """
        pixels = read_grey(self.root / sample.file)
        first, last = bare_ends(pixels)
        _, left, height, width = sample.crop or (0, 0, *pixels.shape)
        height, columns = (height, width) if size is None else size
        middle = left + (torch.arange(columns) + 0.5) * width / columns
        return ((middle < first) | (middle > last)).expand(height, -1).clone()

    def seen_at(self, sample: Sample, size: Size) -> Size:
        """A whole strip keeps its aspect, at the height of its tiles; a tile has the size asked for."""
        if sample.crop is not None:
            return size
        height, width = shape_of(self.root / sample.file)
        return size[0], round(size[0] * width / height)


def read_grey(path: Path) -> np.ndarray:
    """(H, W) grey levels of an image file, 0 to 255."""
    return np.asarray(decode(path).convert("L"))


def _clipped_run(clipped: np.ndarray) -> int:
    """How many columns from the start on are clipped, a ragged border included."""
    if clipped[0] < 0.5:
        return 0
    cloth = clipped < RAGGED
    return int(cloth.argmax()) if cloth.any() else len(clipped)


def _table(pixels: np.ndarray) -> int:
    """Columns of table at the start of the picture; 0 if there is none."""
    grey = pixels.astype(np.int32)  # sums of whole numbers are the same on every machine
    along = np.abs(grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]).mean(axis=0)
    across = np.abs(grey[:-2] - 2 * grey[1:-1] + grey[2:]).mean(axis=0)[1:-1]
    looks = np.log1p(np.stack([along, across, grey.mean(axis=0)[1:-1]]))  # (3, W - 2)
    steps = _steps(looks, WIDE)
    border = int(steps.argmax())
    if steps[border] < STEP:
        return 0
    steps = _steps(looks, NARROW)
    steps[: max(border - BACK, 0)] = steps[border + NARROW + 1 :] = 0
    first = int((steps >= steps.max() / 2).argmax())  # a selvedge's stripes are steps, too: take the first
    while steps[first + 1] > steps[first]:
        first += 1
    return first + 1  # the second differences begin at column 1


def _steps(looks: np.ndarray, reach: int) -> np.ndarray:
    """(W,): how much the means over ``reach`` columns to both sides differ; 0 where they do not fit."""
    sums = np.pad(np.cumsum(looks, axis=1), ((0, 0), (1, 0)))
    result = np.zeros(looks.shape[1])
    step = sums[:, 2 * reach :] - 2 * sums[:, reach:-reach] + sums[:, : -2 * reach]
    result[reach : reach + step.shape[1]] = np.linalg.norm(step / reach, axis=0)[: len(result) - reach]
    return result
