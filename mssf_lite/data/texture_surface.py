"""What every drawn texture is made of: a surface, the tools to draw one, and a camera.

A texture is drawn in two steps. A recipe in ``texture_materials`` draws a piece of material as a
:class:`Surface`, that is colour, relief and gloss; then a :class:`Camera` lights it and takes the picture.
With material and light apart, a defect need only change the *material* (a cut yarn, a dent): the light does
the rest. Lengths are in pixels throughout. All of it is ours.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .samples import Size

Array = np.ndarray
Rng = np.random.Generator


@dataclass
class Surface:
    """A piece of material before light falls on it.

    Args:
        colour: (3, H, W) float32, RGB in [0, 1].
        height: (H, W) float32, relief in pixels; up is positive.
        gloss: how strongly it mirrors the lamp: a number, or (H, W).
        inside: RGB of what comes to light where the surface is opened.
    """

    colour: Array
    height: Array
    gloss: float | Array
    inside: tuple[float, float, float]


@lru_cache(maxsize=256)
def _spline(length: int, cell: float) -> Array:
    """Cubic B-spline weights (length, knots): one product turns noise on a coarse grid into smooth noise."""
    at = np.arange(length) / cell
    distance = np.abs(at[:, None] - np.arange(-1, int(at[-1]) + 3))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def noise(rng: Rng, size: Size, cell: float | tuple[float, float]) -> Array:
    """Smooth random numbers (H, W), mean 0 and variance about 1; ``cell`` is the grain (down, across)."""
    cell_y, cell_x = cell if isinstance(cell, tuple) else (cell, cell)
    down, across = _spline(size[0], cell_y), _spline(size[1], cell_x)
    knots = rng.standard_normal((down.shape[1], across.shape[1]), dtype=np.float32)
    return (down @ knots @ across.T) * np.float32(2.09)  # splines average: 2.09 brings the variance back


def pixels(size: Size, middle: tuple[float, float] = (0.0, 0.0)) -> tuple[Array, Array]:
    """Row (H, 1) and column (1, W) of each pixel, float32, counted from ``middle``."""
    y, x = (np.arange(n, dtype=np.float32) - np.float32(m) for n, m in zip(size, middle, strict=True))
    return y[:, None], x[None, :]


def middle(rng: Rng, size: Size) -> Array:
    """A point (y, x) that keeps away from the edge by a tenth of the image."""
    return rng.uniform(0.1, 0.9, 2) * size


def span(rng: Rng, size: Size, low: float, high: float) -> float:
    """A length between two, even on a log scale; given for 256 by 256 pixels, shorter in a smaller image."""
    scale = min(1.0, math.sqrt(size[0] * size[1]) / 256)
    return scale * math.exp(rng.uniform(math.log(low), math.log(high)))


def step(x: Array, low: float, high: float) -> Array:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def sample(table: Array, y: Array, x: Array) -> Array:
    """Values of a wrapping table (sides are powers of two) between its entries, linearly."""
    rows, columns = table.shape
    top, left = np.floor(y), np.floor(x)
    fy, fx = y - top, x - left
    i, j = top.astype(np.int32) & (rows - 1), left.astype(np.int32) & (columns - 1)
    down, right = (i + 1) & (rows - 1), (j + 1) & (columns - 1)
    flat = table.ravel()
    i, down = i * columns, down * columns
    upper = flat.take(i + j) * (1 - fx) + flat.take(i + right) * fx
    lower = flat.take(down + j) * (1 - fx) + flat.take(down + right) * fx
    return upper * (1 - fy) + lower * fy


def lookup(table: Array, index: Array) -> Array:
    """``table[index]``, wrapping around; the table's length is a power of two."""
    return table.take(index.astype(np.int32) & (len(table) - 1))


def cells(rng: Rng, y: Array, x: Array, jitter: float = 0.42) -> tuple[Array, Array, Array]:
    """Crazy paving: one random point a unit square, every pixel to its nearest point.

    Returns:
        Distance to the nearest point, distance to the second nearest, and the nearest point's number in
        [0, 4096), each (H, W).
    """
    points = rng.uniform(0.5 - jitter, 0.5 + jitter, (2, 4096)).astype(np.float32)
    i, j = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    fy, fx = y - i.astype(np.float32), x - j.astype(np.float32)
    first, second = np.full(y.shape, 9, np.float32), np.full(y.shape, 9, np.float32)
    number = np.zeros(y.shape, np.int32)
    columns = [((j + b) & 63, fx - np.float32(b)) for b in (-1, 0, 1)]
    for a in (-1, 0, 1):
        row, from_y = ((i + a) & 63) << 6, fy - np.float32(a)
        for column, from_x in columns:
            name = row | column
            dy, dx = points[0].take(name), points[1].take(name)
            dy -= from_y
            dx -= from_x
            dy *= dy
            dx *= dx
            dy += dx
            np.copyto(number, name, where=dy < first)
            np.minimum(second, np.maximum(first, dy), out=second)
            np.minimum(first, dy, out=first)
    return np.sqrt(first), np.sqrt(second), number


def shifted(field: Array, by: int) -> Array:
    """A field (H, W) moved down and right, away from the lamp; nothing comes round the edge."""
    return np.pad(field, ((by, 0), (by, 0)), mode="edge")[:-by, :-by]


def mix(under: Array, over: Array, share: Array) -> Array:
    """``over`` laid on ``under``, opaque where ``share`` (H, W) is 1."""
    return under * (1 - share) + over * share


def rgb(*colour: float) -> Array:
    """A colour that broadcasts against (3, H, W)."""
    return np.array(colour, np.float32)[:, None, None]


class Camera:
    """One lamp and one exposure: the same for a piece of material and its damaged twin.

    Args:
        rng: draws the lamp's direction, its fall-off, the exposure and the sensor's noise.
        size: (H, W).
    """

    def __init__(self, rng: Rng, size: Size):
        azimuth, rise = np.radians(rng.normal(225, 9)), np.radians(rng.uniform(44, 54))
        lamp = np.array([np.sin(azimuth), np.cos(azimuth), np.tan(rise)])  # y, x, up: from the upper left
        self.lamp = (lamp / np.linalg.norm(lamp)).astype(np.float32)
        y, x = (at / np.float32(n / 2) - 1 for at, n in zip(pixels(size), size, strict=True))
        slope_y, slope_x = rng.normal(0, 0.045, 2)
        fall = 1 + slope_y * y + slope_x * x - rng.uniform(0.02, 0.06) * (y * y + x * x)
        white = (1 + 0.006 * rng.standard_normal(3)).astype(np.float32)
        self.light = (fall * rng.normal(1, 0.04)).astype(np.float32) * white[:, None, None]
        grain = rng.uniform(0.007, 0.014)
        self.noise = grain * rng.standard_normal((3, *size), dtype=np.float32)

    def shoot(self, surface: Surface) -> Array:
        """The noise-free picture, (3, H, W) float32 in [0, 1]."""
        padded = np.pad(surface.height, 1, mode="edge")
        dy, dx = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2, (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
        upright = 1 / np.sqrt(1 + dy * dy + dx * dx)
        ly, lx, lz = self.lamp
        facing = np.maximum((lz - dy * ly - dx * lx) * upright, 0) / lz
        picture = surface.colour * (0.38 + 0.62 * facing)
        if np.any(surface.gloss):
            half = np.array([ly, lx, lz + 1]) / np.sqrt(2 + 2 * lz)
            mirror = np.maximum((half[2] - dy * half[0] - dx * half[1]) * upright, 0) ** 8
            mirror *= mirror  # to the 32nd power, by squaring
            mirror *= mirror
            picture = picture + surface.gloss * mirror
        return np.clip(soften((picture * self.light).astype(np.float32, copy=False)), 0, 1)


def soften(picture: Array) -> Array:
    """The slight blur of a lens: weights 1, 3, 1 both ways."""
    for axis in (1, 2):
        picture = np.moveaxis(picture, axis, 0)
        wide = 3 * picture
        wide[1:] += picture[:-1]
        wide[:-1] += picture[1:]
        wide[0] += picture[0]
        wide[-1] += picture[-1]
        wide /= 5
        picture = np.moveaxis(wide, 0, axis)
    return picture
