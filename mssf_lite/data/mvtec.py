"""The five textures of MVTec AD: carpet, grid, leather, tile and wood.

One split, ``"official"``: the makers' own training normals, of which a seeded tenth of each texture is held
out, and their test images. The layout is that of :mod:`~mssf_lite.data.folder`. Nothing public says which
images show the same piece of material, so each image is an item of its own.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .download import Archive
from .folder import open_folder
from .images import FileReader
from .official import compare_counts, find_set
from .samples import Dataset
from .splits import SPLITS

HELD_OUT_SHARE = 0.1  # of each texture's training normals: 23 to 28 images
COUNTS = {  # published, of each texture: images in train/good, in test/good, and of each kind of defect
    "carpet": {
        "train": 280, "good": 28,
        "color": 19, "cut": 17, "hole": 17, "metal_contamination": 17, "thread": 19,
    },
    "grid": {
        "train": 264, "good": 21,
        "bent": 12, "broken": 12, "glue": 11, "metal_contamination": 11, "thread": 11,
    },
    "leather": {"train": 245, "good": 32, "color": 19, "cut": 19, "fold": 17, "glue": 19, "poke": 18},
    "tile": {
        "train": 230, "good": 33,
        "crack": 17, "glue_strip": 18, "gray_stroke": 16, "oil": 18, "rough": 15,
    },
    "wood": {"train": 247, "good": 19, "color": 8, "combined": 11, "hole": 10, "liquid": 10, "scratch": 21},
}  # fmt: skip

CITATION = (
    "P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: MVTec AD, a comprehensive real-world dataset for "
    "unsupervised anomaly detection. CVPR 2019"
)
TERMS = f"MVTec AD: CC BY-NC-SA 4.0 (no commercial use). Cite: {CITATION}"

_SHARE = "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f282/download"
_NUMBERS = {
    "carpet": "420937484-1629951672",
    "grid": "420937487-1629951814",
    "leather": "420937607-1629951964",
    "tile": "420938133-1629953189",
    "wood": "420938383-1629953354",
}
ARCHIVES = {
    name: Archive(
        name=f"{name}.tar.xz",
        urls=(f"{_SHARE}/{number}/{name}.tar.xz",),
        size="some hundred MB",
        terms=TERMS,
        members=r"(?:train|test|ground_truth)/[^/]+/[^/]+\.png",
        page="https://www.mvtec.com/company/research/datasets/mvtec-ad",
        holds="its folders train, test and ground_truth",
    )
    for name, number in _NUMBERS.items()
}


def open_mvtec(
    root: str | Path | None = None,
    seed: int = 0,
    textures: Iterable[str] | None = None,
    download: bool = False,
) -> Dataset:
    """The textures of MVTec AD from the official layout, one folder a texture.

    Args:
        root: the folder with ``carpet``, ``grid`` ... in it, or a folder that has it as ``mvtec``. None: the
            folder that the environment variable MSSF_DATA names, else the user's cache folder.
        seed: seed of the draw of held-out normals; the draw of one texture does not depend on the others.
        textures: which of the five; only their folders must be there. None takes all.
        download: fetch the archives of the textures that are not there, one by one.

    Raises:
        FileNotFoundError: if a texture is not there and ``download`` is False; the message says how to get
            it.
        ValueError: for an unknown texture, or a folder that is not in the official layout.

    Warns:
        UserWarning: if the numbers of images are not those of the official set.
    """
    wanted = sorted(COUNTS if textures is None else set(textures))
    if unknown := [name for name in wanted if name not in COUNTS]:
        raise ValueError(f"'mvtec' has no texture {', '.join(unknown)}; it has {', '.join(COUNTS)}")
    archives = {name: ARCHIVES[name] for name in wanted}
    fewer = ". textures= takes fewer"
    folder = find_set("mvtec", "MVTec AD", archives, _is_there, root, download, fewer)
    # each texture is opened by itself, so that its draw is the same in any company
    parts = [open_folder(folder, seed, (name,), held_out=HELD_OUT_SHARE) for name in wanted]
    for name, part in zip(wanted, parts, strict=True):
        found = Counter(sample.defect for sample in part.test)
        found["train"] = len(part.train) + len(part.held_out)
        compare_counts(folder / name, "MVTec AD", found, COUNTS[name])
    lists = {split: tuple(s for part in parts for s in getattr(part, split)) for split in SPLITS}
    facts = {"name": "mvtec", "split": "official", "licence": TERMS, "citation": CITATION}
    return replace(parts[0], reader=FileReader(folder), **facts, **lists)  # its images are squares


def _is_there(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir()
