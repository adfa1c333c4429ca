"""Mixed anomalies synthesis (MAS): normal images in, twins with invented defects and exact masks out.

One call takes a batch of images and gives back a twin of each::

    twins, masks = MAS()(images, torch.Generator().manual_seed(0))
    # images, twins: (B, 3, H, W) in [0, 1]; masks: (B, H, W) bool

The mask is the visible change: a pixel belongs to it exactly if some channel moved by at least
``VISIBLE``. Outside the mask the twin equals its image bit by bit; no mask is ever empty.

A defect is a *shape* (where, see :mod:`mssf_lite.synthesis_masks`) and a *kind* (what, see
:mod:`mssf_lite.synthesis_kinds`). That anomalies are
mixed and that training is self-supervised is the paper's promise [paper]; which shapes and kinds are mixed,
and how, is our choice [ours], after ideas of DRAEM (noise masks, foreign texture), CutPaste (the image
itself), MemSeg (shuffled patches) and NSA (soft blending). Taught in the chapter on synthesis.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mssf_lite.synthesis_kinds import KINDS, Points
from mssf_lite.synthesis_masks import LARGEST, SHAPES, Dice, Size, opaque_share

__all__ = ["KINDS", "MAS", "SHAPES", "VISIBLE", "Twins"]

VISIBLE = 2 / 255
"""Least change of a channel that counts as visible; smaller ones are taken back."""

FAINT = 6 / 255
"""A defect whose core changed by less than this on average is stained in addition."""

SMALLEST_SIDE = 16
"""Images with a shorter side in pixels are refused."""


class Twins(NamedTuple):
    """What MAS returns.

    Attributes:
        images: (B, 3, H, W) in [0, 1], equal to the input outside the masks.
        masks: (B, H, W) bool, True where the twin visibly differs; at least one pixel each.
    """

    images: Tensor
    masks: Tensor


@dataclass(frozen=True)
class MAS:
    """Draws one to three defects on each image; ``mas(images, generator)`` gives :class:`Twins`.

    Every defect has its own shape, kind, size, opacity and softness, all even over their ranges (sizes on
    a logarithmic scale). Each kind starts from the clean image; later defects cover earlier ones.

    Args:
        shapes: names out of ``SHAPES``; one name alone will do.
        kinds: names out of ``KINDS``; one name alone will do.
        defects: (fewest, most) defects an image, whole numbers from 1.
        opacity: (least, most) share of a defect in what is seen, in (0, 1].
        size: (least, most) share of the image's area that one defect covers, in (0, 0.5]; thin shapes stop
            at their own limit (``LARGEST``), and no defect is smaller than about four pixels.

    Raises:
        ValueError: for an unknown name or a range out of bounds.
    """

    shapes: tuple[str, ...] = tuple(SHAPES)
    kinds: tuple[str, ...] = tuple(KINDS)
    defects: tuple[int, int] = (1, 3)
    opacity: tuple[float, float] = (0.35, 1.0)
    size: tuple[float, float] = (0.001, 0.1)

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        for field, known in (("shapes", SHAPES), ("kinds", KINDS)):
            given = getattr(self, field)
            names = (given,) if isinstance(given, str) else tuple(given)
            if not names or set(names) - set(known):
                wrong = sorted(set(names) - set(known)) or "none at all"
                raise ValueError(f"MAS {field}: {wrong} unknown, choose from {', '.join(known)}")
            object.__setattr__(self, field, names)
        for field, least, most in (("defects", 1, 100), ("opacity", 1e-6, 1), ("size", 1e-6, 0.5)):
            low, high = getattr(self, field)
            if not least <= low <= high <= most:
                raise ValueError(f"MAS {field} is {(low, high)}: give {least} <= least <= most <= {most}")

    @torch.no_grad()
    def __call__(self, images: Tensor, generator: torch.Generator) -> Twins:
        """Twins of the images, with the masks of what changed.

        Args:
            images: (B, 3, H, W) float32 in [0, 1], before normalisation, sides of at least 16 pixels; any
                device; left as they are.
            generator: the only source of chance, on the images' device or on the CPU. On the CPU one seed
                gives one result; a CPU generator draws the same numbers for images on a GPU.

        Returns:
            Twins on the images' device.

        Raises:
            ValueError: for images of another type, shape or range.
        """
        check_images(images)
        dice = Dice(generator, images.device)
        fewest, most = self.defects
        counts = [fewest + extra for extra in dice.pick(most - fewest + 1, len(images))]
        twins, masks = images.clone(), images.new_zeros(images[:, 0].shape, dtype=torch.bool)
        for layer in range(most):
            rows = [row for row, count in enumerate(counts) if count > layer]
            if rows:
                rows = torch.tensor(rows, device=images.device)
                self._add_defect(images, twins, masks, rows, dice)
        row, y, x = masks.nonzero(as_tuple=True)  # so far: every pixel that a defect reaches
        was, now = images.movedim(1, 3)[row, y, x], twins.movedim(1, 3)[row, y, x]
        visible = (now - was).abs().amax(1) >= VISIBLE
        masks[row, y, x] = visible
        twins.movedim(1, 3)[row, y, x] = torch.where(visible[:, None], now, was)
        return Twins(twins, masks)

    def _add_defect(self, images: Tensor, twins: Tensor, reached: Tensor, rows: Tensor, dice: Dice) -> None:
        """Lays one more defect on each of twins[rows], in place, and adds its pixels to ``reached``."""
        shapes = self._where(len(rows), images.shape[2:], dice)
        at = Points(rows, *shapes.nonzero(as_tuple=True))
        alpha = shapes[at.defect, at.y, at.x, None]  # (P, 1)
        opacity = dice.uniform(len(rows), 1, low=self.opacity[0], high=self.opacity[1])[at.defect]
        colours = torch.empty(len(alpha), 3, device=images.device)
        for kind, chosen in grouped(self.kinds, len(rows), dice):
            own, inside = at.only(chosen)
            colours[inside] = KINDS[kind](images, own, dice)
        colours = at.colours(twins).lerp(colours.clamp(0, 1), alpha * opacity)
        colours = stain_faint(colours, at.colours(images), alpha, at, dice)
        image = rows[at.defect]
        twins.movedim(1, 3)[image, at.y, at.x] = colours
        reached[image, at.y, at.x] = True

    def _where(self, n: int, size: Size, dice: Dice) -> Tensor:
        """Opacities (n, H, W) of n defects of random shape, size and softness."""
        alpha = torch.empty(n, *size, device=dice.device)
        for shape, chosen in grouped(self.shapes, n, dice):
            largest = min(self.size[1], LARGEST.get(shape, 1))
            share = dice.sizes(len(chosen), min(self.size[0], largest), largest)
            share = share.clamp_min(4 / (size[0] * size[1]))
            edge = dice.uniform(len(chosen), low=0.05, high=0.7)
            alpha[chosen] = opaque_share(SHAPES[shape](share, size, dice), share, edge)
        return alpha


def grouped(names: tuple[str, ...], n: int, dice: Dice) -> list[tuple[str, Tensor]]:
    """Draws one of the names for each of n defects; gives each drawn name with the numbers of its defects."""
    drawn = dice.pick(len(names), n)
    places = [[i for i, d in enumerate(drawn) if d == k] for k in range(len(names))]
    return [(name, torch.tensor(p, device=dice.device)) for name, p in zip(names, places, strict=True) if p]


def stain_faint(colours: Tensor, clean: Tensor, alpha: Tensor, at: Points, dice: Dice) -> Tensor:
    """Stains those defects that nobody could see, such as a warped plain wall; the others stay as they are.

    The stain leads away from the nearer end of the grey scale, by at least a fifth of the way. The core of
    the defect (alpha from one half on) then differs from the clean image by 0.05 - FAINT > VISIBLE on
    average, whatever the image: at least one pixel is visible, so no mask is ever empty.

    Args:
        colours: (P, 3), the pixels with the defect.
        clean: (P, 3), the pixels of the clean image.
        alpha: (P, 1) in [0, 1], the shape's opacity at the pixels.
        at: the pixels.
        dice: source of chance.

    Returns:
        (P, 3), the pixels with the defect or its stain.
    """
    n, core = len(at.rows), (alpha >= 0.5).float()
    grey = colours.mean(1, keepdim=True)
    values = core * torch.cat([(colours - clean).abs().mean(1, keepdim=True), grey, torch.ones_like(grey)], 1)
    change, grey, count = values.new_zeros(n, 3).index_add(0, at.defect, values).T[..., None]  # each (n, 1)
    strength = dice.uniform(n, 1, low=0.2, high=0.4) * (change < FAINT * count)
    target = (grey < 0.5 * count).float()
    return colours.lerp(target[at.defect].expand_as(colours), strength[at.defect] * alpha)


def check_images(images: Tensor) -> None:
    """Refuses what is not (B, 3, H, W) float32 in [0, 1] with a message that names the remedy."""
    if images.dtype != torch.float32:
        raise ValueError(f"MAS got images of {images.dtype}: give float32 in [0, 1] (bytes divided by 255)")
    if images.ndim != 4 or images.shape[1] != 3 or not len(images) or min(images.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(
            f"MAS got images of shape {tuple(images.shape)}: give (B, 3, H, W) with B at least 1 and sides of"
            f" at least {SMALLEST_SIDE} pixels; a single image needs images[None], grey needs three channels"
        )
    low, high = (float(end) for end in images.aminmax())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # rounding of a resize passes, NaN does not
        raise ValueError(
            f"MAS got values from {low:.4g} to {high:.4g}: give images in [0, 1], before normalisation"
        )
