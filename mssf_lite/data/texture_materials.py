"""Seven materials, drawn by code.

A recipe takes a generator and a size and returns a ``Surface``. Cloth and wire can also be drawn with damaged
geometry: the whole warped (``bend``), or one yarn missing or bent (``strand``). Chance is drawn in the same
order with and without damage, so the same seed gives the same piece. All of it is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .samples import Size
from .texture_surface import Array, Rng, Surface, cells, lookup, noise, pixels, rgb, sample, step

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Strand:
    """What happened to a stretch of one yarn, wire or column of stitches.

    Args:
        y, x: pixel in the middle of it.
        half: half of its length, in pixels.
        across: True for what runs from left to right, False for what runs up and down.
        push: how far it is bent aside, in pixels; 0 if it is missing.
    """

    y: int
    x: int
    half: float
    across: bool
    push: float = 0.0


def view(rng: Rng, size: Size, bend: Array | None = None, turn: float = 0.05) -> tuple[Array, Array]:
    """Where on the endless material each pixel looks: (y, x), each (H, W), slightly turned and shifted.

    ``bend`` (2, H, W) moves the material by so many pixels, as when cloth is pulled.
    """
    angle, oy, ox = rng.uniform(-turn, turn), *rng.uniform(0, 4000, 2)
    y, x = pixels(size)
    if bend is not None:
        y, x = y - bend[0], x - bend[1]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * y + sin * x + np.float32(oy), cos * x - sin * y + np.float32(ox)


def paint(colour: Colour, tone: Array) -> Array:
    """A colour times a tone (H, W): (3, H, W)."""
    return rgb(*colour) * tone


def dye(rng: Rng, colour: Colour, spread: float = 0.03) -> Colour:
    """The same colour from another dye lot: lighter or darker, and a little warmer or colder."""
    light, warm, green = rng.standard_normal(3) * (spread, spread / 2, spread / 6)
    red, mid, blue = colour
    return (red * (1 + light + warm), mid * (1 + light + green), blue * (1 + light - warm))


def missing(strand: Strand | None, across: bool, index: Array, along: Array) -> Array:
    """Where the strand is missing, bool; ``index`` numbers the yarns, ``along`` is in pixels."""
    if strand is None or strand.across != across or strand.push:
        return np.zeros((1, 1), bool)
    return _same(strand, index) & (np.abs(along - along[strand.y, strand.x]) < strand.half)


def bent(strand: Strand | None, across: bool, index: Array, along: Array) -> Array | float:
    """How far, in pixels, the strand is bent aside."""
    if strand is None or strand.across != across or not strand.push:
        return 0.0
    way = (along - along[strand.y, strand.x]) / strand.half
    return strand.push * np.exp(-way * way) * _same(strand, index)


def _same(strand: Strand, index: Array) -> Array:
    return index == index[strand.y, strand.x]


def weave(rng: Rng, size: Size, bend: Array | None = None, strand: Strand | None = None) -> Surface:
    """Plain-woven linen: uneven yarns over and under each other, twisted fibres, slubs."""
    y, x = view(rng, size, bend)
    pitch = rng.uniform(8.6, 9.8)
    u = x / pitch + 0.10 * noise(rng, size, (45, 11)) + 0.15 * noise(rng, size, 80)
    v = y / pitch + 0.10 * noise(rng, size, (11, 45)) + 0.15 * noise(rng, size, 80)
    i, j = np.floor(u), np.floor(v)
    fu, fv = u - i - 0.5, v - j - 0.5
    slubs = rng.standard_normal((2, 64, 256), dtype=np.float32)
    tones = rng.standard_normal((2, 64), dtype=np.float32)
    odd = 1 - 2 * ((i + j) % 2)  # +1 where the warp is on top
    layers = []
    for index, across, along, over, which in ((i, fu, v, odd, 0), (j, fv, u, -odd, 1)):
        slub = sample(slubs[which], index, along * 0.35)
        width = 0.45 + 0.035 * slub + 0.02 * lookup(tones[which], index)
        inside = 1 - (across / width) ** 2
        other = fv if which == 0 else fu
        lift = over * np.cos(np.pi * np.clip(other, -0.5, 0.5))
        there = (inside > 0) & ~missing(strand, bool(which), index, along * pitch)
        top = np.where(there, 1.1 * np.sqrt(np.maximum(inside, 0)) + 0.9 * lift, np.float32(-2.2))
        twist = np.sin(2 * np.pi * (along * 1.7 + across * 2.2) + 2 * slub)
        tone = 1 + 0.06 * lookup(tones[which], index) + 0.05 * slub + 0.07 * twist
        layers.append((top, tone))
    (warp, warp_tone), (weft, weft_tone) = layers
    above = warp > weft
    height = np.maximum(warp, weft)
    fibres = 0.05 * noise(rng, size, 1.3) + 0.02 * noise(rng, size, 25)
    depth = 0.45 + 0.55 * step(height, -1.6, 1.5)  # light hardly reaches the gaps between yarns
    tone = (np.where(above, warp_tone, weft_tone) + fibres) * depth
    warp_dye, weft_dye = (rgb(*dye(rng, c, 0.02)) for c in ((0.80, 0.73, 0.61), (0.68, 0.62, 0.52)))
    colour = np.where(above, warp_dye, weft_dye) * tone
    return Surface(colour, height * 0.9, 0.0, (0.25, 0.23, 0.22))


def knit(rng: Rng, size: Size, bend: Array | None = None, strand: Strand | None = None) -> Surface:
    """Knitted wool: columns of V-shaped stitches, each leg a twisted, hairy yarn."""
    y, x = view(rng, size, bend)
    pitch = rng.uniform(18.5, 20.5)
    u = x / pitch + 0.05 * noise(rng, size, (60, 20)) + 0.08 * noise(rng, size, 80)
    v = y / (pitch * 0.8) + 0.07 * noise(rng, size, 30) + 0.1 * noise(rng, size, 80)
    i = np.floor(u)
    fu = u - i - 0.5
    side, s = np.sign(fu), np.abs(fu)
    tones = rng.standard_normal((64, 64), dtype=np.float32)
    fuzz = noise(rng, size, 1.4)
    t = v + 2.0 * s + 0.04 * fuzz  # legs climb outwards
    j = np.floor(t)
    best, tone = np.full(size, -1.0, np.float32), np.ones(size, np.float32)
    for k in (0, np.sign(t - j - 0.5)):  # a leg, and the one above or below that lies against it
        ft = t - (j + k) - 0.5
        a, b = (s - 0.25) / 0.245, ft / 0.60
        bulge = 1 - a * a * a * a - b * b
        top = np.where(bulge > 0, np.sqrt(np.maximum(bulge, 0)) - 0.25 * ft - 0.25 * a * a, -1.0)
        twist = np.sin(2 * np.pi * (1.1 * a + 0.8 * b))
        shade = 1 + 0.09 * twist + 0.05 * sample(tones, j + k, i * 2 + side * 0.5)
        nearer = top > best
        best, tone = np.maximum(best, top), np.where(nearer, shade, tone)
    if strand is not None:  # a run: the legs are gone, the bars between the columns stay
        gone = missing(strand, strand.across, i, (v + 0.4 * s) * (0.8 * pitch))  # it always runs up and down
        sag = v + 0.9 * s * s + 0.04 * fuzz
        bar = np.abs(sag - np.floor(sag) - 0.5) / 0.22
        rung = np.where(bar < 1, 0.7 * np.sqrt(np.maximum(1 - bar * bar, 0)) - 0.45, -0.8)
        best = np.where(gone & (s < 0.40 + 0.04 * fuzz), rung, best)
    depth = 0.30 + 0.70 * step(best, -0.9, 0.7)
    tone = (tone + 0.09 * fuzz + 0.03 * noise(rng, size, 6)) * depth
    return Surface(paint(dye(rng, (0.33, 0.47, 0.56)), tone), best * 2.6, 0.0, (0.25, 0.23, 0.22))


def grid(rng: Rng, size: Size, strand: Strand | None = None) -> Surface:
    """Woven steel wire in front of a matt board, on which it casts its shadow."""
    y, x = view(rng, size, turn=0.035)
    pitch, radius = rng.uniform(21.5, 23.5), rng.uniform(2.8, 3.1)
    u = x / pitch + 0.03 * noise(rng, size, (90, 24))
    v = y / pitch + 0.03 * noise(rng, size, (24, 90))
    board = 0.02 * noise(rng, size, 2) + 0.03 * noise(rng, size, 90)
    scratch = noise(rng, size, 1.5)
    i, j = np.round(u), np.round(v)
    odd = 1 - 2 * ((i + j) % 2)
    colour = paint(dye(rng, (0.36, 0.39, 0.43), 0.02), 1 + board)
    height = np.zeros(size, np.float32)
    steel = dye(rng, (0.66, 0.67, 0.68), 0.015)
    gloss = np.zeros(size, np.float32)
    tones = rng.standard_normal((2, 64), dtype=np.float32)
    wires = []
    for index, at, along, over, which in ((i, u, v, odd, 0), (j, v, u, -odd, 1)):
        off = (at - index) * pitch - bent(strand, bool(which), index, along * pitch)
        gone = missing(strand, bool(which), index, along * pitch)
        wires.append((index, off, along, gone, over, which))
    for _, off, _, gone, _, _ in wires:  # the shadow lies down and to the right, and is soft
        shadow = 0.45 * (1 - step(np.abs(off - 4.5), radius * 0.5, radius * 1.9)) * ~gone
        colour = colour * (1 - shadow)
    low = np.full(size, -9, np.float32)
    for index, off, along, gone, over, which in wires:
        lift = 2.2 * over * np.cos(np.pi * (along - np.round(along)))
        inside = np.where(gone, -1, radius**2 - off**2)
        wire = np.where(inside > 0, lift + np.sqrt(np.maximum(inside, 0)), -9)
        seen = (wire > low) & (inside > 0)
        low = np.maximum(low, wire)
        edge = step(inside, 0, 2.5)  # soft edges instead of steps
        tone = 0.45 + 0.55 * edge + 0.04 * scratch + 0.03 * lookup(tones[which], index)
        tone = tone * (0.8 + 0.2 * step(lift, -2.2, 1.0))
        colour = np.where(seen, colour * (1 - edge) + paint(steel, tone) * edge, colour)
        height = np.where(seen, wire, height)
        gloss = np.where(seen, np.float32(0.5), gloss)
    return Surface(colour, height, gloss, (0.05, 0.05, 0.06))


def leather(rng: Rng, size: Size) -> Surface:
    """Grained leather: small swollen cells between creases, a few long wrinkles, pores."""
    y, x = view(rng, size, turn=3.1)
    pitch = rng.uniform(8.0, 9.5)
    wy, wx = noise(rng, size, 14), noise(rng, size, 14)
    first, second, number = cells(rng, (y + 1.6 * wy) / pitch, (x + 1.6 * wx) / (pitch * 1.25))
    grain = step(second - first, -0.04, 0.5)
    swell = lookup(rng.standard_normal(4096, dtype=np.float32), number)
    wrinkle = np.abs(noise(rng, size, (24, 15)) + 0.25 * wy)
    crease = 1 - step(wrinkle, 0.0, 0.16)
    pores = noise(rng, size, 1.6)
    height = 1.25 * grain * (1 + 0.2 * swell) - 0.9 * crease + 0.13 * pores + 0.8 * noise(rng, size, 7)
    tone = (0.76 + 0.24 * grain) * (1 - 0.2 * crease) * (1 + 0.03 * swell)
    tone = tone * (1 + 0.05 * noise(rng, size, 60)) + 0.02 * pores
    return Surface(paint(dye(rng, (0.47, 0.27, 0.16)), tone), height, 0.22, (0.70, 0.56, 0.43))


STONES = ((0.86, 0.84, 0.80), (0.58, 0.57, 0.56), (0.71, 0.60, 0.51), (0.64, 0.64, 0.61), (0.79, 0.73, 0.64))


def tile(rng: Rng, size: Size) -> Surface:
    """Polished terrazzo: chips of several stones in pale cement."""
    y, x = view(rng, size, turn=3.1)
    wobble = noise(rng, size, 5)
    cement = 1 + 0.035 * noise(rng, size, 1.5) + 0.02 * noise(rng, size, 12)
    colour = paint(dye(rng, (0.76, 0.74, 0.70), 0.015), cement)
    stones = np.array([dye(rng, stone) for stone in STONES], np.float32).T
    vein = 1 + 0.05 * noise(rng, size, (3, 7))
    for pitch, kept, gap in ((6.5, 0.6, 0.16), (17.0, 0.45, 0.14)):
        first, second, number = cells(rng, (y + 0.6 * wobble) / pitch, (x + 0.6 * wobble) / pitch)
        chance = rng.random(4096, dtype=np.float32)  # one number a stone: is it there, and how small
        shrink = np.where(chance < kept, gap + 0.25 * chance, 9).astype(np.float32)
        stone = stones[:, rng.integers(0, 5, 4096)] * rng.uniform(0.96, 1.04, 4096).astype(np.float32)
        chip = step(second - first - shrink.take(number), 0, 1.2 / pitch)
        colour += (stone.take(number, axis=1) * vein - colour) * chip
    return Surface(colour, 0.05 * wobble, 0.03, (0.60, 0.58, 0.55))


def wood(rng: Rng, size: Size) -> Surface:
    """A planed softwood board: year rings cut lengthwise, fine fibres, pores."""
    _, x = view(rng, size, turn=0.04)
    across = x + 7 * noise(rng, size, (130, 60)) + 1.2 * noise(rng, size, (50, 14))
    width = rng.uniform(13, 17)
    good_years = sample(rng.random((1, 64), dtype=np.float32), 0 * x, across / 40)
    rings = across / width + 0.25 * np.sin(2 * np.pi * good_years)
    year, age = np.floor(rings), rings - np.floor(rings)
    late = age**3 * (1 - step(age, 0.93, 1.0))  # the summer wood darkens slowly and ends at once
    strength = 0.75 + 0.25 * lookup(rng.standard_normal(64, dtype=np.float32), year)
    fibres = noise(rng, size, (28, 1.2))
    fine = noise(rng, size, (9, 1.0))
    pores = step(noise(rng, size, (7, 1.0)), 1.5, 2.4)
    shades = (dye(rng, shade, 0.015) for shade in ((0.80, 0.62, 0.42), (0.55, 0.34, 0.18)))
    early_wood, late_wood = (rgb(*shade) for shade in shades)
    mix = np.clip(late * strength * 1.1 + 0.07 * fibres + 0.05 * noise(rng, size, (200, 25)), 0, 1)
    tone = 1 + 0.03 * fine - 0.16 * pores
    colour = (early_wood * (1 - mix) + late_wood * mix) * tone
    return Surface(colour, 0.35 * late - 0.3 * pores + 0.06 * fine, 0.05, (0.20, 0.12, 0.07))


def metal(rng: Rng, size: Size) -> Surface:
    """Brushed aluminium: fine parallel strokes and the soft bands of light they make."""
    height, width = size
    slope = rng.uniform(-0.05, 0.05)
    tall = (height + int(0.05 * width) + 2, width)
    strokes = noise(rng, tall, (1.0, 26)) + 0.7 * noise(rng, tall, (1.3, 90))
    strokes = strokes + 1.6 * step(noise(rng, tall, (1.0, 45)), 1.8, 3.0)
    shift = slope * np.arange(width)  # slightly askew: each column a little lower than the one before
    shift -= shift.min()
    rows = np.arange(height)[:, None] + np.floor(shift).astype(int)
    part = (shift - np.floor(shift)).astype(np.float32)
    columns = np.arange(width)
    strokes = strokes[rows, columns] * (1 - part) + strokes[rows + 1, columns] * part
    bands = noise(rng, size, (300, 40)) + 0.5 * noise(rng, size, (300, 90))
    tone = 1 + 0.075 * strokes + 0.04 * bands
    return Surface(paint(dye(rng, (0.60, 0.61, 0.63), 0.01), tone), 0.10 * strokes, 0.15, (0.22, 0.20, 0.19))


MATERIALS: dict[str, Callable[..., Surface]] = {
    recipe.__name__: recipe for recipe in (grid, knit, leather, metal, tile, weave, wood)
}
