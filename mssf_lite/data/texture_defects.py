"""Eleven kinds of damage for the procedural textures.

Each kind happens to the *material*, the way it does in a workshop: a yarn is missing, a wire is bent,
something wet dries with a rim. The light then falls on the damaged piece as it fell on the sound one, and
comparing the two pictures gives the mask. A kind is a function::

    damaged = kind(surface, rng, redraw)

``surface`` is the sound piece (left as it is) and ``redraw(bend=...)`` or ``redraw(strand=...)`` draws it
again with another geometry, which only ``thread`` and ``pulled`` need. Lengths are in pixels.

These defects are for testing. They share no code with the synthetic defects of training, so that a good
result is not a matter of having seen the answer. All of this is ours.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from .texture_materials import Strand
from .texture_shapes import distance_to, patch, walk
from .texture_surface import Rng, Surface, middle, mix, noise, pixels, rgb, shifted, span, step


def hole(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """Torn open, chipped or pitted: the inside shows, its rim throws a shadow on it."""
    size = surface.height.shape
    depth = patch(rng, size, (0.0007, 0.02), ragged=0.25).depth
    relief = surface.height - ndimage.uniform_filter(surface.height, 9)
    depth = depth - 1.2 * relief + 0.5 * noise(rng, size, 3)  # the tear follows yarns and grain
    open_ = step(depth, -0.7, 0.9)
    lit = shifted(open_, 2) * (0.5 + 0.5 * shifted(open_, 4))
    rough = noise(rng, size, 2.2)
    floor = rgb(*surface.inside) * (0.45 + 0.55 * lit) * (1 + 0.12 * rough)
    lip = rng.uniform(0.3, 1.2) * np.exp(-(((depth + 1.5) / 1.8) ** 2))
    return replace(
        surface,
        colour=mix(surface.colour, floor, open_),
        height=mix(surface.height + lip, 0.25 * rough - 2, open_),
        gloss=surface.gloss * (1 - open_),
    )


def thread(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """A piece of one yarn or wire, or of one column of stitches, is missing."""
    size = surface.height.shape
    y, x = middle(rng, size).astype(int)
    half = span(rng, size, 12, 55)
    return redraw(strand=Strand(int(y), int(x), half, across=bool(rng.random() < 0.5)))


def pulled(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """A bent wire; or yarns pushed aside around one spot, and the cloth puckered by it."""
    size = surface.height.shape
    centre, across, side = middle(rng, size), bool(rng.random() < 0.5), rng.choice([-1.0, 1.0])
    if np.ndim(surface.gloss):  # wire on a board
        y, x = centre.astype(int)
        push = float(side * rng.uniform(4.5, 8.0))
        return redraw(strand=Strand(int(y), int(x), span(rng, size, 16, 38), across, push))
    wide, long = span(rng, size, 9, 14), span(rng, size, 12, 30)
    y, x = pixels(size, centre)
    a, b = (y, x) if across else (x, y)
    bump = np.exp(-((a / wide) ** 2) - (b / long) ** 2)
    bend = np.zeros((2, *size), np.float32)
    bend[0 if across else 1] = float(side * rng.uniform(0.6, 1.0)) * wide * bump
    moved = redraw(bend=bend)
    return replace(moved, height=moved.height + rng.uniform(2.0, 5.0) * bump)


def crack(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """A branching crack, thin at its ends; it follows the grain where relief runs one way, as in wood."""
    size = surface.height.shape
    dy, dx = (np.abs(np.diff(surface.height, axis=a)).mean() for a in (0, 1))
    grain = dx > 2 * dy
    heading = np.pi / 2 + rng.normal(0, 0.06) if grain else rng.uniform(0, 2 * np.pi)
    length = span(rng, size, 25, 130)
    curl, kink = (0.004, 0.06) if grain else (0.03, 0.45)
    trunk = walk(rng, heading, length, curl, kink)
    trunk = trunk - trunk[len(trunk) // 2] + middle(rng, size)
    branches = [trunk]
    for _ in range(rng.integers(0, 2 if grain else 4)):
        root = trunk[rng.integers(len(trunk) // 5, len(trunk))]
        turn = heading + rng.choice([-1, 1]) * (0.15 if grain else rng.uniform(0.4, 1.1))
        branches.append(root + walk(rng, turn, length * rng.uniform(0.15, 0.45), curl, kink))
    width = rng.uniform(0.7, 1.7) * (1 + 0.5 * float(surface.height.std()))  # else a rough surface hides it
    widths = [width if branch is trunk else 0.7 * width for branch in branches]
    tapered = [w * np.linspace(1, 0.35, len(b)) for w, b in zip(widths, branches, strict=True)]
    thick = np.concatenate(tapered).astype(np.float32)
    distance, number = distance_to(np.concatenate(branches), size)
    gap = (1 - step(distance / thick[number], 0.5, 1.25)).astype(np.float32)
    lips = np.exp(-((distance - 1.3 * thick[number] - 0.8) ** 2)).astype(np.float32)
    pale = (
        np.mean(surface.inside) > surface.colour.mean()
    )  # the raw flesh of leather is lighter than its face
    raw = rgb(*surface.inside) * (0.95 if pale else rng.uniform(0.25, 0.5))
    colour = mix(surface.colour, raw, gap * rng.uniform(0.6, 0.95))
    height = surface.height - 1.2 * gap + rng.uniform(0.0, 0.8) * lips
    return replace(surface, colour=colour, height=height, gloss=surface.gloss * (1 - gap))


def stain(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """Coffee, oil, ink or water that crept along the relief and dried darker at its rim."""
    size = surface.height.shape
    spot = patch(rng, size, (0.003, 0.06), ragged=0.3)
    depth, radius = spot.depth, spot.radius
    depth = depth + 0.6 * surface.height + (0.06 * radius + 0.5) * noise(rng, size, 6)
    soft = rng.uniform(0.08, 0.35) * radius + 1
    wet = step(depth, -soft, soft)
    rim = np.exp(-(((depth - 0.5 * soft) / (0.35 * soft + 0.8)) ** 2))
    tints = ((0.62, 0.45, 0.28), (0.70, 0.66, 0.52), (0.42, 0.48, 0.72), (0.74, 0.75, 0.76))
    tint, strength = rgb(*tints[rng.integers(4)]), rng.uniform(0.35, 0.9)
    share = strength * np.clip(wet * rng.uniform(0.3, 0.9) + rim * rng.uniform(0.0, 0.6), 0, 1)
    return replace(surface, colour=surface.colour * (1 - share * (1 - tint)))


def burn(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """Scorched: brown around, charred and shrunk in the middle when it was hot enough."""
    size = surface.height.shape
    spot = patch(rng, size, (0.003, 0.05), ragged=0.12)
    depth, radius = spot.depth, spot.radius
    depth = depth + (0.05 * radius + 0.4) * noise(rng, size, 4)
    heat = rng.uniform(0.3, 1.0)
    brown = heat * step(depth, -0.35 * radius, 0.6 * radius)
    char = float(step(heat, 0.5, 1.0)) * step(depth, 0.15 * radius, 0.75 * radius)
    colour = surface.colour * (1 - brown * (1 - rgb(0.50, 0.33, 0.20)))
    colour = mix(colour, rgb(0.05, 0.045, 0.04), 0.85 * char)
    return replace(surface, colour=colour, height=surface.height * (1 - 0.5 * char))


def fade(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """Bleached: the colour is gone, the relief is as it was."""
    size = surface.height.shape
    spot = patch(rng, size, (0.004, 0.07), ragged=0.25)
    depth, radius = spot.depth, spot.radius
    lost = rng.uniform(0.25, 0.7) * step(
        depth + 0.08 * radius * noise(rng, size, 8), -0.3 * radius, 0.5 * radius
    )
    pale = 0.55 * surface.colour.mean(0) + 0.38
    return replace(surface, colour=mix(surface.colour, pale, lost))


def dent(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """A knock: a hollow with a raised rim, told only by its shading."""
    knock = patch(rng, surface.height.shape, (0.0025, 0.03), ragged=0.1)
    t = knock.ring
    deep = rng.uniform(0.08, 0.30) * knock.radius
    hollow = np.maximum(1 - t * t, 0) ** 2
    rim = 0.2 * np.exp(-(((t - 1.1) / 0.2) ** 2))
    flattened = 1 - rng.uniform(0.1, 0.9) * (1 - step(t, 0.5, 1.0))  # what was pressed is smooth
    height = surface.height * flattened + deep * (rim - hollow)
    return replace(surface, height=height)


def fibre(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """A hair or a piece of lint that lies on top and throws a thin shadow."""
    size = surface.height.shape
    length = span(rng, size, 28, 150)
    points = walk(rng, rng.uniform(0, 2 * np.pi), length, rng.uniform(0.02, 0.10))
    points = points - points.mean(0) + middle(rng, size)
    width = rng.uniform(0.6, 1.2)
    distance, number = distance_to(points, size)
    lies = (1 - step(distance, width - 0.6, width + 0.5)).astype(np.float32) * np.float32(
        rng.uniform(0.65, 1.0)
    )
    shadow = 0.4 * (1 - step(distance, 0.3 * width, width + 2.2))
    shadow = shifted(shadow, 2).astype(np.float32)
    colours = (
        (0.90, 0.89, 0.86),
        (0.12, 0.11, 0.11),
        (0.66, 0.16, 0.14),
        (0.20, 0.28, 0.52),
        (0.75, 0.68, 0.52),
    )
    tone = 0.92 + 0.08 * np.sin(number * rng.uniform(0.05, 0.2)) - 0.25 * np.clip(distance / width, 0, 1) ** 2
    colour = mix(
        surface.colour * (1 - shadow), rgb(*colours[rng.integers(5)]) * tone.astype(np.float32), lies
    )
    return replace(surface, colour=colour, height=mix(surface.height, surface.height + 1, lies))


def drop(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """A drop of glue or resin: clear or yellowish, standing up, with the lamp's reflection on it."""
    size = surface.height.shape
    blob = patch(rng, size, (0.002, 0.02), ragged=0.07)
    depth = blob.depth
    covers = step(depth, -0.5, 0.8)
    dome = blob.radius * np.maximum(1 - blob.ring**2, 0)
    tilt_y, tilt_x = np.gradient(
        dome
    )  # 2 at the outline: the lamp mirrors half-way up, its light leaves opposite
    glint = np.exp(-((tilt_y - 0.7) ** 2 + (tilt_x - 0.7) ** 2) / 0.08)
    glow = np.exp(-((tilt_y + 1.0) ** 2 + (tilt_x + 1.0) ** 2) / 0.5)
    tint = rgb(*((0.92, 0.80, 0.50), (0.86, 0.88, 0.88), (0.72, 0.52, 0.25))[rng.integers(3)])
    milky = rng.uniform(0.04, 0.35)
    soft = ndimage.uniform_filter(surface.colour, (0, 3, 3))  # seen through the drop
    shadow = 0.3 * shifted(step(depth, -3, 1), 2)
    body = (
        mix(soft * (0.2 + 0.75 * tint), tint * 0.75, milky) * (1 + 0.45 * glow)
        + rng.uniform(0.5, 1.0) * glint
    )
    return replace(
        surface,
        colour=mix(surface.colour * (1 - shadow), body, covers),
        height=mix(surface.height, rng.uniform(0.10, 0.22) * dome, covers),
        gloss=surface.gloss * (1 - covers),
    )


def rust(surface: Surface, rng: Rng, redraw: Callable[..., Surface]) -> Surface:
    """A swarm of rust spots; they sit on metal only, so not on the board behind a wire."""
    size = surface.height.shape
    centre, spread = middle(rng, size), rng.uniform(6, 22)
    y, x = pixels(size)
    near = np.zeros(size, np.float32)
    for _ in range(rng.integers(5, 18)):
        at, radius = centre + spread * rng.standard_normal(2), float(np.exp(rng.uniform(0.5, 1.9)))
        away = (y - np.float32(at[0])) ** 2 + (x - np.float32(at[1])) ** 2
        near = np.maximum(near, 1.5 - away / radius**2)
    rough = noise(rng, size, 1.8)
    share = rng.uniform(0.35, 0.9) * step(near + 0.25 * rough * (near > 0), 0.2, 1.2)
    share = share * (np.asarray(surface.gloss) > 0)
    return replace(
        surface,
        colour=mix(surface.colour, rgb(0.42, 0.24, 0.13) * (1 + 0.25 * rough), share),
        height=surface.height + 0.5 * rough * share,
        gloss=surface.gloss * (1 - share),
    )


DEFECTS: dict[str, Callable[[Surface, Rng, Callable[..., Surface]], Surface]] = {
    kind.__name__: kind for kind in (burn, crack, dent, drop, fade, fibre, hole, pulled, rust, stain, thread)
}
