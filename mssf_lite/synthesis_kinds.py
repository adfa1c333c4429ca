"""What a synthetic defect shows: the kinds of mixed anomalies synthesis (MAS).

A kind gives the colours of defects at their own pixels only, which is what makes the synthesis fast::

    colours = KINDS["stain"](images, at, dice)     # images: (B, 3, H, W); at: Points; colours: (P, 3)

Every kind starts from the clean images, works at any H, W and on any device, and keeps grey images grey.
Colours may leave [0, 1]; the caller clamps them. All kinds are ours; the paper promises only "mixed
synthesis". Taught in the chapter on synthesis.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mssf_lite.synthesis_masks import Dice, Size, smooth_noise


class Points(NamedTuple):
    """The pixels of n defects, one after the other: all that synthesis ever touches, hence its speed.

    Attributes:
        rows: (n,) number of the image that each defect lies on.
        defect: (P,) number of the defect, from 0 to n - 1, that each pixel belongs to.
        y: (P,) row of each pixel.
        x: (P,) column of each pixel.
    """

    rows: Tensor
    defect: Tensor
    y: Tensor
    x: Tensor

    def colours(self, images: Tensor) -> Tensor:
        """(P, 3): what images (B, 3, H, W) show at the pixels."""
        return images.movedim(1, 3)[self.rows[self.defect], self.y, self.x]

    def only(self, chosen: Tensor) -> tuple["Points", Tensor]:
        """The pixels of the chosen defects (m,), counted anew from 0, and a mask (P,) that tells which."""
        number = torch.full_like(self.rows, -1)
        number[chosen] = torch.arange(len(chosen), device=chosen.device)
        defect = number[self.defect]
        inside = defect >= 0
        return Points(self.rows[chosen], defect[inside], self.y[inside], self.x[inside]), inside


def look(images: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Colours between the pixels, bilinear; beyond the border the image is reflected.

    Args:
        images: (N, C, H, W).
        image: (P,) number of the image to look at.
        y: (P,) place in pixels, any real number; 0 is the middle of the first row.
        x: (P,) likewise.

    Returns:
        (P, C).
    """
    ends = []
    for place, side in ((y, images.shape[2]), (x, images.shape[3])):
        place = place.remainder(2 * side - 2)
        place = torch.minimum(place, 2 * side - 2 - place).clamp(0, side - 1)
        first = place.long()  # rounds down
        ends.append((first, (first + 1).clamp_max(side - 1), (place - first)[:, None]))
    (top, bottom, down), (left, right, across) = ends
    images = images.movedim(1, 3)
    upper = images[image, top, left].lerp(images[image, top, right], across)
    lower = images[image, bottom, left].lerp(images[image, bottom, right], across)
    return upper.lerp(lower, down)


def moved(images: Tensor, rows: Tensor, at: Points, dice: Dice, zoom: tuple[float, float]) -> Tensor:
    """(P, 3): images[rows] seen at the pixels after a turn by any angle, mirroring, zoom and shift."""
    n, size = len(rows), torch.tensor(images.shape[2:], device=images.device)
    angle, shrink = dice.uniform(n, high=2 * math.pi), 1 / dice.sizes(n, *zoom)
    sin, cos = (shrink * angle.sin())[at.defect], (shrink * angle.cos())[at.defect]
    mirror = dice.signed(n, low=1, high=1)[at.defect]
    shift_y, shift_x = (size * dice.uniform(n, 2))[at.defect].unbind(1)
    y, x = at.y, at.x * mirror
    return look(images, rows[at.defect], cos * y + sin * x + shift_y, cos * x - sin * y + shift_x)


def noise_at(size: Size, at: Points, dice: Dice, cells: int, channels: int = 1) -> Tensor:
    """(P, channels): smooth noise of mean 0 and deviation 1 at the pixels, drawn at half the size."""
    half = tuple(-(-side // 2) for side in size)
    field = smooth_noise(len(at.rows), channels, half, dice, cells, octaves=2)
    return look(field, at.defect, at.y / 2, at.x / 2)


def average(images: Tensor, rows: Tensor) -> Tensor:
    """(n, 3) mean colours of images[rows]."""
    return images[rows].mean((2, 3))


def colourfulness(images: Tensor, rows: Tensor) -> Tensor:
    """(n, 1) in [0, 1]: 0 for grey images, whose defects then stay grey, as a grey camera sees them."""
    thin = images[:, :, ::5, ::5][rows]
    return ((thin.amax(1) - thin.amin(1)).mean((1, 2)) / 0.1).clamp_max(1)[:, None]


def tint(images: Tensor, at: Points, dice: Dice, strength: float) -> Tensor:
    """(n, 3) factors around 1 by which the channels part; all 1 on grey images."""
    n = len(at.rows)
    return 1 + colourfulness(images, at.rows) * dice.uniform(n, 3, low=-strength, high=strength)


# --- kinds: what a defect shows at its pixels, (P, 3), not yet clamped ------------------------------------


def texture(images: Tensor, at: Points, dice: Dice) -> Tensor:
    """Another image of the batch, moved and zoomed, brightness matched in part: foreign material, patches.

    A batch of one has no other image; there its own image is taken with light and dark exchanged.
    """
    batch, n = len(images), len(at.rows)
    step = 1 + (dice.uniform(n) * (batch - 1)).long().clamp_max(max(batch - 2, 0))
    others = (at.rows + step) % batch
    colours = moved(images, others, at, dice, zoom=(0.5, 3.0))
    theirs, own = average(images, others)[at.defect], average(images, at.rows)[at.defect]
    if batch == 1:
        colours = 2 * own - colours
    colours = colours + dice.uniform(n, 1)[at.defect] * (own - theirs)
    grey = colours.mean(1, keepdim=True)
    return grey + colourfulness(images, at.rows)[at.defect] * (colours - grey)


def paste(images: Tensor, at: Points, dice: Dice) -> Tensor:
    """The same image, turned, shifted and slightly lighter or darker: misplaced pieces, folds, mis-weaves.

    Without the change of light a turned piece of leather or sand would be leather or sand: no defect at all.
    """
    light = dice.signed(len(at.rows), 1, low=0.03, high=0.12)
    return moved(images, at.rows, at, dice, zoom=(0.7, 1.4)) + light[at.defect]


def shuffle(images: Tensor, at: Points, dice: Dice) -> Tensor:
    """The same image in small shuffled patches, lighter or darker: broken, frayed or crumbled surface."""
    h, w = images.shape[2:]
    side = max(4, min(h, w) // (8, 16, 32)[dice.pick(3, 1)[0]])
    down, across = h // side, w // side
    order = dice.orders(len(at.rows), down * across)
    patch = (at.y // side).clamp_max(down - 1) * across + (at.x // side).clamp_max(across - 1)
    source = order[at.defect, patch]
    # Rows and columns left over beyond the last patch read on beside the source patch, or wrap round.
    y = (at.y + (source // across - patch // across) * side) % h
    x = (at.x + (source % across - patch % across) * side) % w
    light = dice.signed(len(at.rows), 1, low=0.02, high=0.08)
    return images.movedim(1, 3)[at.rows[at.defect], y, x] + light[at.defect]


def warp(images: Tensor, at: Points, dice: Dice) -> Tensor:
    """The surface pushed aside smoothly, with light and shade on the slopes: dents, wrinkles, stretching."""
    n, size = len(at.rows), images.shape[2:]
    push = noise_at(size, at, dice, cells=4, channels=2)
    shade = push[:, :1] * dice.signed(n, 1, low=0.04, high=0.15)[at.defect]
    push = push * (min(size) * dice.uniform(n, 1, low=0.02, high=0.06))[at.defect]
    return look(images, at.rows[at.defect], at.y + push[:, 0], at.x + push[:, 1]) + shade


def stain(images: Tensor, at: Points, dice: Dice) -> Tensor:
    """Darker, unevenly, perhaps tinted; the structure shows through: oil, damp, ink, burns."""
    mottle = 1 + 0.15 * noise_at(images.shape[2:], at, dice, cells=8)
    dark = dice.uniform(len(at.rows), 1, low=0.2, high=0.7) * tint(images, at, dice, 0.25)
    return at.colours(images) * (1 - dark[at.defect] * mottle)


def gloss(images: Tensor, at: Points, dice: Dice) -> Tensor:
    """Lighter, perhaps tinted, dark places gaining most: polish, glare, bleaching, worn coating."""
    light = dice.uniform(len(at.rows), 1, low=0.15, high=0.6) * tint(images, at, dice, 0.2)
    colours = at.colours(images)
    return colours + light[at.defect] * (1 - colours)


def smear(images: Tensor, at: Points, dice: Dice) -> Tensor:
    """Fine structure wiped out, evenly or along one side, brightness shifted: rubbing, glue, fading."""
    reach = max(2, min(images.shape[2:]) // 24)
    tall, wide = ((reach, reach), (4 * reach, 2), (2, 4 * reach))[dice.pick(3, 1)[0]]
    blurred = F.avg_pool2d(images[at.rows], (tall, wide), ceil_mode=True)
    # Pooling puts the middle of its first cell (tall - 1) / 2 pixels below the first row.
    y, x = (at.y - (tall - 1) / 2) / tall, (at.x - (wide - 1) / 2) / wide
    colours = look(blurred, at.defect, y.clamp(0, blurred.shape[2] - 1), x.clamp(0, blurred.shape[3] - 1))
    shift = dice.signed(len(at.rows), 1, low=0.02, high=0.12) * tint(images, at, dice, 0.3)
    return colours + shift[at.defect]


def noise(images: Tensor, at: Points, dice: Dice) -> Tensor:
    """Grain of any coarseness laid over the image, stronger on busy textures: roughness, pilling, rust."""
    size = images.shape[2:]
    grain = noise_at(size, at, dice, cells=max(2, min(size) // (4, 8, 24)[dice.pick(3, 1)[0]]))
    contrast = images[at.rows, 1].flatten(1).std(1, keepdim=True)
    strength = (0.05 + 0.5 * contrast) * dice.uniform(len(at.rows), 1, low=0.7, high=1.6)
    return at.colours(images) + grain * (strength * tint(images, at, dice, 0.5))[at.defect]


KINDS: dict[str, Callable[[Tensor, Points, Dice], Tensor]] = {
    "texture": texture,
    "paste": paste,
    "shuffle": shuffle,
    "warp": warp,
    "stain": stain,
    "gloss": gloss,
    "smear": smear,
    "noise": noise,
}
"""Name -> function ``(images (B, 3, H, W), points, dice) -> colours (P, 3)``."""
