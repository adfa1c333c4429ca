"""Draw the cover picture: ``python -m book.cover`` (inside the environment, about two minutes).

Trains MSSF at the ``fast`` profile on the drawn textures and shows one unseen defect of each of them.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from mssf_lite import MSSF, Config
from mssf_lite.data import open_dataset
from mssf_lite.experiment import fit
from mssf_lite.plotting import MAPS, colour_scale, use_style

COVER = Path(__file__).parent / "_static" / "cover.png"


def main() -> None:
    """Train, draw, write ``_static/cover.png``."""
    use_style()
    data, config = open_dataset("textures"), Config.profile("fast")
    model = MSSF(config)
    fit(model, data)
    samples = [next(s for s in data.test if s.texture == t and s.is_defect) for t in data.textures]
    images, masks = (torch.stack(part) for part in zip(*map(data.read, samples), strict=True))
    maps = model.predict(images).maps
    norm = colour_scale(model.predict(data.images(data.held_out, config.image_size)).maps)
    _, axes = plt.subplots(3, len(samples), figsize=(12, 5.4), layout="constrained")
    for column, sample in zip(range(len(samples)), samples, strict=True):
        axes[0, column].imshow(images[column].permute(1, 2, 0).clamp(0, 1))
        axes[1, column].imshow(masks[column], cmap="gray")
        axes[2, column].imshow(maps[column], cmap=MAPS, norm=norm)
        axes[0, column].set_title(f"{sample.texture}\n{sample.defect}", fontsize=22)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, words in zip(axes[:, 0], ("image", "mask", "map"), strict=True):
        ax.set_ylabel(words, fontsize=22)
    plt.savefig(COVER, dpi=90)


if __name__ == "__main__":
    main()
