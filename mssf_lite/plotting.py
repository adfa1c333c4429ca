"""Figures in one style: functions take data, return axes, and never show or save.

The book is read on phones too, about 390 px wide, and on dark pages. So a figure is at most 6 inches wide
with letters of 12 points, stands on its own white ground, and tells its groups apart by colours that
colour-blind readers can tell apart as well, never by colour alone.

Maps share ONE colour scale, taken from held-out normals (:func:`colour_scale`). Scaled each by itself, a
normal image's map looks as alarming as a defect's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm, Normalize
from matplotlib.image import AxesImage
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike
from torch import Tensor

WIDTH = 6.0  # inches
MAPS = "cividis"  # even steps of lightness, the same for colour-blind eyes
NORMAL, DEFECT = (sns.color_palette("colorblind")[i] for i in (0, 1))  # blue, orange


def use_style() -> None:
    """Set matplotlib's defaults for every figure that follows; call it once, after the imports."""
    sns.set_theme(
        style="ticks",
        palette="colorblind",
        rc={
            "figure.figsize": (WIDTH, 3.5),
            "figure.dpi": 120,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",  # a transparent figure loses its black letters on a dark page
            "font.size": 12,
            "axes.titlesize": 12,
            "axes.labelsize": 12,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.fontsize": 11,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 2,
        },
    )


def colour_scale(held_out_maps: Sequence[ArrayLike], upper: float = 0.999, steps: float = 10) -> FuncNorm:
    """The colour scale for all maps of one model, from normals that it was not trained on.

    It begins at their median. A *step* leads from there to the value that a share of only ``1 - upper`` of
    their pixels exceeds, and the scale ends ``steps`` steps above the median. In between, colour follows
    asinh: about evenly over the first step, where normal pixels are, and by orders of magnitude beyond it,
    where defects are. So normal pixels stay in the dark third, and strong defects do not all look alike.

    Args:
        held_out_maps: (N, H, W) maps of held-out normals, or N of different sizes; any units.
        upper: share of their pixels that lie within the first step, in (0.5, 1).
        steps: where the scale ends, above 1.

    Returns:
        A norm for :func:`show_maps` and matplotlib's ``imshow``, in the units of the maps; a step of one unit
        if all values are equal.
    """
    if not 0.5 < upper < 1:
        raise ValueError(f"upper is a share in (0.5, 1), got {upper}: the usual one is 0.999")
    maps = np.concatenate([np.ravel(one) for one in held_out_maps] or [[]])
    if not (maps.size and np.isfinite(maps).all()):
        raise ValueError(
            f"{len(held_out_maps)} maps give no colour scale: it needs at least one, and finite values only"
        )
    median, end = (float(value) for value in np.quantile(maps, [0.5, upper]))
    step = end - median or 1.0
    ways = (lambda v: np.arcsinh((v - median) / step), lambda c: median + step * np.sinh(c))
    return FuncNorm(ways, vmin=median, vmax=median + steps * step)


def show_maps(
    images: Tensor,
    maps: ArrayLike,
    masks: ArrayLike | None = None,
    *,
    norm: Normalize,
    titles: Sequence[str] | None = None,
    label: str = "standard deviations of normals",
) -> np.ndarray:
    """Image, mask and map side by side, one row per image, on ONE colour scale.

    Pictures more than twice as wide as high, strips of fabric for instance, stand one below the other.

    Args:
        images: (N, 3, H, W) in [0, 1].
        maps: (N, H, W).
        masks: (N, H, W) bool; None leaves them out.
        norm: the colour scale of every map, from :func:`colour_scale`.
        titles: (N,), one for each image; up to about 32 letters stay clear of the next heading.
        label: what the maps measure, with its unit, as in "standard deviations" or "nats per dimension".

    Returns:
        (N, 2) or (N, 3) axes.
    """
    pictures, maps = _pictures(images), np.asarray(maps)
    masks = None if masks is None else np.asarray(masks)
    for name, given in {"maps": maps, "masks": masks}.items():
        if given is not None and given.shape != pictures.shape[:3]:
            raise ValueError(
                f"{name} {given.shape} do not fit images {tuple(images.shape)}: need {pictures.shape[:3]}"
            )
    _fits(titles, len(pictures))
    count, height, width = maps.shape
    heads = ["image", "map"] if masks is None else ["image", "mask", "map"]
    stacked = width > 2 * height
    columns = 1 if stacked else len(heads)
    rows = count * len(heads) // columns
    tall = WIDTH / columns * height / width  # of one panel, in inches
    words = 0.05 if titles is None and not stacked else 0.3  # room for a title above each row, in inches
    inches = rows * (tall + words) + 0.85
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, inches), squeeze=False, layout="constrained")
    axes = axes.reshape(count, len(heads))
    for i, row in enumerate(axes):
        _draw(row[0], pictures[i])
        if masks is not None:
            _draw(row[1], masks[i], cmap="gray", vmin=0, vmax=1)
        drawn = _draw(row[-1], maps[i], cmap=MAPS, norm=norm)
        for ax, head in zip(row, heads, strict=True):
            if ax is row[0] and titles is not None:
                ax.set_title(titles[i], loc="left")
            elif i == 0 or stacked:
                ax.set_title(head, loc="left" if stacked else "center" if titles is None else "right")
    across = {"orientation": "horizontal", "extend": "both", "aspect": 30, "extendfrac": 0.03}
    bar = fig.colorbar(drawn, ax=axes, fraction=0.2 / inches, pad=0.1 / inches, label=label, **across)
    ticks = norm.inverse(np.linspace(0, 1, 4))
    bar.set_ticks(ticks, labels=[f"{float(f'{value:.2g}'):g}" for value in ticks])  # two digits are enough
    return axes


def around_peak(values: ArrayLike) -> tuple[slice, slice]:
    """Where to look in a long picture: the square of full height (or width) about its highest value.

    Args:
        values: (H, W), a map or a mask.

    Returns:
        Rows and columns; all of them if the picture is a square.
    """
    values = np.asarray(values)
    side = min(values.shape)
    peak = np.unravel_index(values.argmax(), values.shape)
    starts = [
        min(max(int(p) - side // 2, 0), length - side) for p, length in zip(peak, values.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def show_textures(images: Tensor, titles: Sequence[str] | None = None, columns: int = 3) -> np.ndarray:
    """A contact sheet.

    Args:
        images: (N, 3, H, W) in [0, 1].
        titles: (N,), one for each image.
        columns: images in a row; more than 3 are hard to read on a phone.

    Returns:
        (N,) axes.
    """
    pictures = _pictures(images)
    _fits(titles, len(pictures))
    rows = -(-len(pictures) // columns)
    tall = WIDTH / columns * pictures.shape[1] / pictures.shape[2]
    _, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, rows * (tall + 0.35)), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(pictures) :]:
        ax.remove()
    for i, picture in enumerate(pictures):
        _draw(axes.flat[i], picture)
        if titles is not None:
            axes.flat[i].set_title(titles[i])
    return axes.flat[: len(pictures)]


def show_pairs(
    images: Tensor,
    others: Tensor,
    correlations: Sequence[float],
    titles: Sequence[str] | None = None,
    columns: int = 3,
) -> np.ndarray:
    """Test images above training images, with their correlation below: do they show one thing or two?

    Pairs of pictures more than twice as wide as high stand one below the other.

    Args:
        images: (N, 3, H, W) in [0, 1], of the test.
        others: (N, 3, H, W), of the training.
        correlations: (N,), one for each pair.
        titles: (N,), one for each pair; up to about 18 letters stay clear of the next pair.
        columns: pairs side by side.

    Returns:
        (N, 2) axes.
    """
    pictures = _pictures(images), _pictures(others)
    if not pictures[0].shape == pictures[1].shape == (len(correlations), *pictures[0].shape[1:]):
        raise ValueError(
            f"images {tuple(images.shape)}, others {tuple(others.shape)}, {len(correlations)} correlations "
            "do not fit: give two images of one size and a correlation for every pair"
        )
    _fits(titles, len(correlations))
    count, height, width, _ = pictures[0].shape
    stacked = width > 2 * height
    columns = 1 if stacked else min(columns, count)
    rows = -(-count // columns)
    tall = (WIDTH - (0 if stacked else 0.35)) / columns * height / width
    words = 0.3 if titles is None else 0.55  # room above and below each pair, in inches
    inches = rows * (2 * tall + words)
    fig, grid = plt.subplots(2 * rows, columns, figsize=(WIDTH, inches), squeeze=False, layout="constrained")
    fig.get_layout_engine().set(h_pad=0.02, hspace=0)
    pairs = grid.reshape(rows, 2, columns).swapaxes(1, 2).reshape(-1, 2)
    for ax in pairs[count:].flat:
        ax.remove()
    for i, pair in enumerate(pairs[:count]):
        for ax, picture, head in zip(pair, pictures, ("test", "training"), strict=True):
            _draw(ax, picture[i])
            if i % columns == 0 and not stacked:  # beside a strip there is no room for words
                ax.set_ylabel(head)
        if titles is not None:
            pair[0].set_title(titles[i])
        pair[1].set_xlabel(f"correlation {correlations[i]:.2f}")
    return pairs[:count]


def show_losses(history: Sequence[Any], lines: Mapping[str, str], ax: Axes | None = None) -> Axes:
    """Losses over the epochs.

    Args:
        history: what ``fit`` yielded: mappings or dataclasses with ``epoch`` and the losses, in nats per
            dimension. A loss may be missing or None in some epochs.
        lines: name of a loss in the history -> words for it, as in ``{"held_out": "held-out normals"}``.
        ax: where to draw; None makes a figure.
    """
    ax = ax or plt.subplots(layout="constrained")[1]
    rows = [asdict(item) if is_dataclass(item) else item for item in history]
    for name, words in lines.items():
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        if not points:
            known = sorted({key for row in rows for key in row})
            raise ValueError(
                f"no epoch has a loss {name!r}: choose from {', '.join(known) or 'an empty history'}"
            )
        style = ["-", "--", ":", "-."][len(ax.lines) % 4]  # for eyes and printers that see no colour
        ax.plot(*zip(*points, strict=True), style, marker="o" if len(points) < 15 else None, label=words)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="epoch", ylabel="loss (nats per dimension)")
    ax.legend()
    return ax


def show_scores(
    scores: ArrayLike,
    is_defect: ArrayLike,
    textures: Sequence[str] | None = None,
    threshold: float | Mapping[str, float] | None = None,
    label: str = "image score",
    line_label: str = "threshold",
) -> np.ndarray:
    """How well scores keep normal and defective images apart: a histogram for each texture, on one axis.

    Scores far above one, such as those in standard deviations of normals, stand on an axis that is even up to
    about one and logarithmic beyond: on an even one, all normals and many defects would share a bar.

    Args:
        scores: (N,), higher is more anomalous.
        is_defect: (N,) bool.
        textures: (N,) names; None puts all images into one histogram.
        threshold: drawn as a line: one for all, or texture -> its own.
        label: what the scores measure.
        line_label: what the threshold is called.

    Returns:
        (T,) axes, one for each texture in the order of their names.
    """
    scores, is_defect = np.asarray(scores), np.asarray(is_defect, dtype=bool)
    textures = np.asarray([""] * len(scores) if textures is None else textures)
    if not (scores.shape == is_defect.shape == textures.shape and len(scores)):
        raise ValueError(
            f"scores {scores.shape}, is_defect {is_defect.shape} and textures {textures.shape} must be "
            "of one length, with at least one image"
        )
    names = sorted(set(textures.tolist()))
    inches = (0.75 * WIDTH, 1.2 + 1.1 * len(names))  # narrow, or letters are small on a phone
    fig, axes = plt.subplots(len(names), 1, sharex=True, squeeze=False, figsize=inches, layout="constrained")
    far = scores.max() > 10
    # the same bins for all, or heights could not be compared
    bins = np.histogram_bin_edges(np.arcsinh(scores) if far else scores, bins=30)
    bins = np.sinh(bins) if far else bins
    for ax, name in zip(axes[:, 0], names, strict=True):
        chosen = textures == name
        normal, defect = scores[chosen & ~is_defect], scores[chosen & is_defect]
        ax.hist(normal, bins, color=NORMAL, alpha=0.75, label="normal")
        ax.hist(defect, bins, histtype="step", hatch="///", color=DEFECT, linewidth=1.5, label="defect")
        line = threshold.get(name) if isinstance(threshold, Mapping) else threshold
        if line is not None:
            ax.axvline(line, color="black", linestyle="--", linewidth=1.5, label=line_label)
        ax.set_title(name, loc="left")
        ax.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    last = axes[-1, 0]  # all share its axis
    if far:
        steps = [-3, -1, 0, 1, 3, 10, 30, 100, 300, 1000, 3000]
        last.set_xscale("asinh", linear_width=1.0)
        last.margins(x=0)  # below zero, a twentieth of the range is half of the axis
        last.set_xticks([x for x in steps if bins[0] <= x <= bins[-1]])
        last.xaxis.set_major_formatter("{x:g}")
        last.xaxis.set_minor_locator(NullLocator())
    last.set_xlabel(label)
    fig.supylabel("images", fontsize=plt.rcParams["axes.labelsize"])
    close = {"columnspacing": 1, "handlelength": 1.5, "handletextpad": 0.5}
    handles, words = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, words, loc="outside upper center", ncols=len(words), **close)
    return axes[:, 0]


def _pictures(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [0, 1] as the (N, H, W, 3) that matplotlib draws."""
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(
            f"images must be (N, 3, H, W) with N > 0, got {tuple(images.shape)}: permute or unsqueeze"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images lie in [0, 1], got {low:.3g} to {high:.3g}: show them before normalisation")
    return images.detach().cpu().float().permute(0, 2, 3, 1).numpy()


def _fits(titles: Sequence[str] | None, count: int) -> None:
    if titles is not None and len(titles) != count:
        raise ValueError(f"{count} images but {len(titles)} titles: give one for each image, or none")


def _draw(ax: Axes, picture: np.ndarray, **scale: Any) -> AxesImage:
    """A picture without ticks, in a thin frame that shows where a black mask or a white image ends."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color="grey", linewidth=0.8)
    return ax.imshow(picture, **scale)
