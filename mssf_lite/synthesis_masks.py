"""Where a synthetic defect lies: the shapes of mixed anomalies synthesis (MAS).

Every shape is a *field*: one number per pixel, larger = deeper inside. Which level of the field becomes
the border is chosen afterwards from the area that the defect shall cover (:func:`opaque_share`). So any
shape can have any size, is never empty, and needs no rendering library::

    field = SHAPES["scratch"](share, (h, w), dice)        # share: (n,) part of the area; field: (n, H, W)
    alpha = opaque_share(field, share, edge)              # (n, H, W) in [0, 1], soft towards the border

All shapes are ours; the paper promises only "mixed synthesis". Taught in the chapter on synthesis.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


@dataclass(frozen=True)
class Dice:
    """All chance of the synthesis: numbers from one generator, handed over on the images' device.

    The generator may live on the CPU while the images are on a GPU: then both draw the same numbers.

    Args:
        generator: the only source of chance.
        device: where the numbers are needed.
    """

    generator: torch.Generator
    device: torch.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers of the given shape, even in [low, high)."""
        numbers = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return (low + (high - low) * numbers).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Numbers of the given shape, mean 0, standard deviation 1."""
        return torch.randn(shape, generator=self.generator, device=self.generator.device).to(self.device)

    def signed(self, *shape: int, low: float, high: float) -> Tensor:
        """Numbers whose size is even in [low, high) and whose sign is tossed."""
        return self.uniform(*shape, low=low, high=high) * (2 * self.uniform(*shape).round() - 1)

    def sizes(self, n: int, low: float, high: float) -> Tensor:
        """(n,) numbers in [low, high), even on a logarithmic scale: as many small ones as large ones."""
        return low * (high / low) ** self.uniform(n)

    def pick(self, options: int, n: int) -> list[int]:
        """n whole numbers from 0 to options - 1."""
        device = self.generator.device
        return torch.randint(options, (n,), generator=self.generator, device=device).tolist()

    def orders(self, n: int, items: int) -> Tensor:
        """(n, items): n random orders of the numbers 0 to items - 1."""
        return self.uniform(n, items).argsort(1)


def smooth_noise(n: int, channels: int, size: Size, dice: Dice, cells: int, octaves: int = 3) -> Tensor:
    """Fractal noise: random grids, each twice as fine and weaker than the one before, added up.

    Drawn on the small grids and enlarged once, so that its cost hardly depends on the number of octaves.

    Args:
        n: number of noise images.
        channels: C.
        size: (H, W) in pixels.
        dice: source of chance.
        cells: of the coarsest grid along the shorter side; at least 1.
        octaves: number of grids; none gets finer than the pixels.

    Returns:
        (n, C, H, W), mean 0 and standard deviation 1 for each image.
    """
    keep = dice.uniform(n, 1, 1, 1, low=0.3, high=0.8)  # strength of an octave against the one before
    noise = 0.0
    for octave in range(octaves):
        cell = min(size) / (cells * 2**octave)
        grid = [min(s, max(2, round(s / cell) + 1)) for s in size]
        layer = dice.normal(n, channels, *grid)
        if octave:
            noise = F.interpolate(noise, grid, mode="bilinear", align_corners=True)
        noise = noise + keep**octave * layer
    mean, std = noise.mean((2, 3), keepdim=True), noise.std((2, 3), keepdim=True)
    noise = (noise - mean) / std.clamp_min(1e-3)
    return F.interpolate(noise, size, mode="bicubic", align_corners=True)


def pixel_frame(n: int, size: Size, dice: Dice) -> tuple[Tensor, Tensor]:
    """A turned coordinate cross somewhere in the image: u along it, v across, in pixels, each (n, H, W)."""
    (h, w), device = size, dice.device
    y = torch.arange(h, device=device)[:, None] - h * dice.uniform(n, 1, 1)  # (n, H, 1)
    x = torch.arange(w, device=device)[None] - w * dice.uniform(n, 1, 1)  # (n, 1, W)
    angle = dice.uniform(n, 1, 1, high=2 * math.pi)
    cos, sin = angle.cos(), angle.sin()
    return cos * x + sin * y, cos * y - sin * x


def line_length(share: Tensor, size: Size, low: float, high: float, dice: Dice) -> Tensor:
    """(n, 1, 1) pixels: a random part of the shorter side, bounded so that the line is thin, not hair-thin.

    Lines get 2 pixels wide at least and 2.5 % of the shorter side at most, 4 pixels where that is less.
    """
    area, short = share * size[0] * size[1], min(size)
    length = short * dice.uniform(len(share), low=low, high=high)
    return length.clamp(area / max(4, 0.025 * short), area / 2)[:, None, None]


# --- shapes ---------------------------------------------------------------------------------------------


def blob(share: Tensor, size: Size, dice: Dice) -> Tensor:
    """Ragged islands of fractal noise, gathered or scattered: stains, patches of wear, corrosion."""
    n = len(share)
    noise = smooth_noise(n, 1, size, dice, cells=5, octaves=4)[:, 0]
    u, v = pixel_frame(n, size, dice)
    # The smaller the defect, the stronger it is drawn to one place; else it would fall apart into crumbs.
    reach = min(size) * share.sqrt()[:, None, None] * dice.uniform(n, 1, 1, low=0.6, high=4.0)
    return noise - (u.square() + v.square()) / reach.square()


def polygon(share: Tensor, size: Size, dice: Dice, sides: int = 6) -> Tensor:
    """A convex piece with three to six corners, often longer than wide: chips, flakes, foreign scraps."""
    n = len(share)
    u, v = pixel_frame(n, size, dice)
    v = v * dice.uniform(n, 1, 1, low=1.0, high=3.0)
    gauge = torch.zeros_like(u)  # 1 on the border, 0 at the centre
    for side in range(sides):  # jitter stays below half a turn between neighbours, so the piece is closed
        angle = 2 * math.pi * (side + dice.uniform(n, 1, 1)) / sides
        distance = dice.uniform(n, 1, 1, low=0.4, high=1.0)
        gauge = torch.maximum(gauge, angle.cos() / distance * u + angle.sin() / distance * v)
    return -gauge


def scratch(share: Tensor, size: Size, dice: Dice) -> Tensor:
    """A thin line, straight or slightly bent, tapered to both ends: scratches, cracks, cuts."""
    n = len(share)
    u, v = pixel_frame(n, size, dice)
    half = line_length(share, size, 0.15, 1.0, dice) / 2
    along = (u / half).square()
    v = v - half * dice.uniform(n, 1, 1, low=-0.3, high=0.3) * along
    beyond = (u.abs() - half).clamp_min(0)
    return -(v.abs() + beyond) / (1 - along).clamp_min(0.05)


def thread(share: Tensor, size: Size, dice: Dice) -> Tensor:
    """A long line that wanders and may loop: loose or foreign threads, hairs, pulled yarns."""
    n = len(share)
    u, v = pixel_frame(n, size, dice)
    half = line_length(share, size, 0.5, 1.6, dice) / 2
    wander = smooth_noise(n, 1, size, dice, cells=3, octaves=2)[:, 0]
    v = v + half.clamp_max(min(size) / 3) * dice.uniform(n, 1, 1, low=0.1, high=0.4) * wander
    return -torch.hypot(v, (u.abs() - half).clamp_min(0))


def spots(share: Tensor, size: Size, dice: Dice, dots: int = 9) -> Tensor:
    """A loose cluster of round dots, one of them alone at times: pits, blowholes, splashes, dust."""
    n, (h, w) = len(share), size
    y, x = torch.arange(h, device=dice.device), torch.arange(w, device=dice.device)
    centre = dice.uniform(n, 2) * torch.tensor([h, w], device=dice.device)
    spread = min(size) * dice.uniform(n, 1, low=0.02, high=0.25)
    falloff = dice.uniform(n, low=0.0, high=3.0)  # 0: all dots alike; 3: one large dot with small ones
    nearest = torch.full((n, h, w), math.inf, device=dice.device)
    for dot in range(dots):
        radius = (-falloff * dot / dots).exp() * dice.uniform(n, low=0.5, high=1.0)
        at = (centre + spread * dice.normal(n, 2)) / radius[:, None]
        dy = (y / radius[:, None] - at[:, :1]).square()  # (n, H)
        dx = (x / radius[:, None] - at[:, 1:]).square()  # (n, W)
        nearest = torch.minimum(nearest, dy[:, :, None] + dx[:, None])
    return -nearest


SHAPES: dict[str, Callable[[Tensor, Size, Dice], Tensor]] = {
    "blob": blob,
    "polygon": polygon,
    "scratch": scratch,
    "thread": thread,
    "spots": spots,
}
"""Name -> function ``(share (n,), (H, W), dice) -> field (n, H, W)``."""

LARGEST = {"scratch": 0.015, "thread": 0.02, "spots": 0.03}
"""Largest share of the area for shapes that would no longer be thin or small beyond it."""


def opaque_share(field: Tensor, share: Tensor, edge: Tensor) -> Tensor:
    """Turns a field into opacities: 0 outside the level that encloses ``share``, 1 in the inner part.

    Args:
        field: (n, H, W), larger = deeper inside.
        share: (n,) part of the image's area where the opacity is above 0.
        edge: (n,) part of that area, in [0, 1), which the soft edge takes.

    Returns:
        (n, H, W) in [0, 1], equal to 1 in at least one pixel of each image.
    """
    step = max(1, min(field.shape[1:]) // 128)  # levels are read off a thinned grid: exact enough, faster
    levels = field[:, ::step, ::step].flatten(1)
    count = levels.shape[1]
    outer = (share * count).round().clamp(2, count - 1)
    inner = (outer * (1 - edge)).floor().clamp_min(1)
    top = levels.topk(int(outer.max()) + 1, dim=1).values
    low = top.gather(1, outer.long()[:, None])[..., None]  # the first level outside
    high = top.gather(1, inner.long()[:, None] - 1)[..., None]
    ramp = (field - low) / (high - low).clamp_min(1e-6)
    # Equal levels (a tie) would make the ramp 0 everywhere: the innermost pixels are opaque in any case.
    return torch.where(field >= high, 1.0, ramp.clamp(0, 1))
