"""What the audit found on the magnetic tiles: ``python -m book.tiles --data FOLDER`` (four minutes).

The images are not part of the project, and a reader need not have them. So this writes what the chapter on
the audit shows of them: two small pictures, ``_static/tiles_recordings.png`` and ``_static/tiles_pairs.png``,
and ``tiles.json`` with what was counted and measured on the two splits. Run it again when the splits
(``mssf_lite/data/mt.py``) or the audit change; ``tests/test_tiles.py`` tells when they have.

``tiles.json`` holds::

    digests      split -> digest of its file list, as in a run record
    recordings   one [training, test] for each group with normal images on ``published``: how many of them
    likeness     name of an audit -> {"normal": [...], "defect": [...], "level": ...}: the highest correlation
                 of each test image, and what strangers stay below
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mssf_lite.data import Dataset, Sample, audit, open_dataset
from mssf_lite.data.audit import Audit
from mssf_lite.plotting import DEFECT, NORMAL, use_style

FACTS = Path(__file__).parent / "tiles.json"
PICTURES = Path(__file__).parent / "_static"
SHOWN = {  # recording -> what is to be said of it
    "mt-154549": "a tile, normal: five of its photographs on the list, one not",
    "mt-276985": "another, normal: three and three",
    "mt-249594": "a tile with a crack: none on the list",
}
QUANTILES = 0.9, 0.5, 0.1  # of the correlation of normal test images: which of them the second picture shows


def frame(sample: Sample) -> int:
    """The number of its frame, from the file name."""
    return int(sample.key.rpartition("_")[2].partition(".")[0])


def recordings(published: Dataset) -> list[list[int]]:
    """How many normal images of each group are in training, held-out ones included, and in the test."""
    training = Counter(sample.group for sample in published.train + published.held_out)
    test = Counter(sample.group for sample in published.test if not sample.is_defect)
    return [[training[group], test[group]] for group in sorted(training | test)]


def likeness(found: Audit) -> dict[str, Any]:
    """Highest correlation of each test image, of the normal and of the defective ones, and the level."""
    rows = {"normal": False, "defect": True}
    alike = {
        kind: [round(match.correlation, 3) for match in found.matches if match.is_defect == is_defect]
        for kind, is_defect in rows.items()
    }
    return alike | {"level": round(found.matches[0].level, 3)}


def facts(published: Dataset, tile: Dataset, audits: dict[str, Audit]) -> dict[str, Any]:
    """The content of ``tiles.json``; the module's head describes it.

    Args:
        published, tile: the magnetic-tile set in its two splits.
        audits: name -> what was found.
    """
    return {
        "digests": {data.split: data.digest for data in (published, tile)},
        "recordings": recordings(published),
        "likeness": {name: likeness(found) for name, found in audits.items()},
    }


def draw_recordings(published: Dataset) -> Figure:
    """A row of six photographs for each recording of :data:`SHOWN`, framed by the side they stand on."""
    rows = {name: sorted((s for s in published.samples if s.group == name), key=frame) for name in SHOWN}
    pictures = {s.key: published.read(s)[0].mean(0).numpy() for row in rows.values() for s in row}
    tall = [max(np.divide(*pictures[s.key].shape) for s in row) + 0.75 for row in rows.values()]  # inches
    fig = plt.figure(figsize=(6, sum(tall)), layout="constrained")
    for part, (name, row) in zip(fig.subfigures(len(rows), 1, height_ratios=tall), rows.items(), strict=True):
        part.suptitle(SHOWN[name], x=0.01, ha="left", fontsize=12)
        for ax, sample in zip(part.subplots(1, len(row)), row, strict=True):
            trained = sample.split != "test"
            colour, style = (NORMAL, "-") if trained else (DEFECT, (0, (3, 2)))
            ax.imshow(pictures[sample.key], cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.set_title(str(frame(sample)), fontsize=10, pad=3)
            ax.set_anchor("S")
            ax.set_xlabel("training" if trained else "test", fontsize=11, fontweight="bold", labelpad=4)
            ax.spines[:].set(visible=True, color=colour, linewidth=3, linestyle=style, capstyle="butt")
    fig.get_layout_engine().set(w_pad=0.025, wspace=0.02)
    return fig


def draw_pairs(data: dict[str, tuple[Dataset, Audit]]) -> Figure:
    """Normal test images above the training images most like them, three of each split.

    Args:
        data: split -> the data set and its audit. Shown are the images at :data:`QUANTILES`.
    """
    fig = plt.figure(figsize=(6, 9.4), layout="constrained")
    parts = fig.subfigures(len(data), 1)
    for part, (split, (dataset, found)) in zip(parts, data.items(), strict=True):
        known = {sample.key: sample for sample in dataset.samples}
        matches = sorted((m for m in found.matches if not m.is_defect), key=lambda m: m.correlation)
        axes = part.subplots(2, len(QUANTILES))
        for column, share in zip(axes.T, QUANTILES, strict=True):
            match = matches[round(share * (len(matches) - 1))]
            for ax, key in zip(column, (match.test, match.training), strict=True):
                # squares, as the audit compares them; light is no part of the comparison
                picture = dataset.read(known[key], (160, 160))[0].mean(0).numpy()
                low, high = np.quantile(picture, (0.01, 0.99))
                ax.imshow(picture, cmap="gray", vmin=low, vmax=high)
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set(visible=True, color="grey", linewidth=0.8)
                ax.set_title(str(frame(known[key])), fontsize=10, pad=3)
            column[1].set_xlabel(f"correlation {match.correlation:.2f}")
        for ax, words in zip(axes[:, 0], ("test", "training"), strict=True):
            ax.set_ylabel(words)
        part.suptitle(f"split '{split}'", fontsize=12, fontweight="bold")
    return fig


def write_facts(found: dict[str, Any], path: Path = FACTS) -> None:
    """As JSON, one line for each entry."""
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(found.items())]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")


def save(fig: Figure, path: Path) -> None:
    """Write a figure in 32 colours: grey pictures and two frames need no more, and the file stays small."""
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", dpi=130)
    plt.close(fig)
    Image.open(drawn).convert("RGB").quantize(32, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Audit both splits, draw, write."""
    parser = argparse.ArgumentParser(prog="python -m book.tiles", description=__doc__.partition(":")[0])
    parser.add_argument("--data", required=True, help="the folder that holds the magnetic-tile set")
    root = parser.parse_args().data
    use_style()
    published, tile = (open_dataset("mt", root=root, split=split) for split in ("published", "tile"))
    audits = {
        "published": audit(published),
        "tile": audit(tile),
        "published, not whitened": audit(published, whitening=0),
        "published, own group left out": audit(published, leave_out_groups=True),
    }
    write_facts(facts(published, tile, audits))
    save(draw_recordings(published), PICTURES / "tiles_recordings.png")
    both = {data.split: (data, audits[data.split]) for data in (published, tile)}
    save(draw_pairs(both), PICTURES / "tiles_pairs.png")


if __name__ == "__main__":
    main()
