"""KolektorSDD2: surfaces of a product, with and without defects, photographed in a factory.

One split, ``"official"``: the makers' training and test folders. The 246 defective images of the training
folder are never used; of its normals a seeded tenth is held out. Nothing public says which images show the
same piece, so each image is an item of its own.

Images are about 230 wide and 630 high and differ by a few pixels. Detectors see them all at one size that
keeps the aspect, 2.75 times as high as wide: 704 x 256 where other images are 256 x 256.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from .download import Archive
from .images import ShapeReader, decode
from .official import compare_counts, find_set
from .samples import Dataset, Sample
from .splits import draw_groups

ASPECT = 2.75  # height by width at which all images are seen; their own is about 630 by 230
HELD_OUT_SHARE = 0.1  # of the normal training images: 208 or 209 images
COUNTS = {  # published
    "normal train images": 2085, "defective train images": 246,
    "normal test images": 894, "defective test images": 110,
}  # fmt: skip

CITATION = (
    "J. Bozic, D. Tabernik, D. Skocaj: Mixed supervision for surface-defect detection: from weakly to fully "
    "supervised learning. Computers in Industry 129 (2021) 103459"
)
TERMS = f"KolektorSDD2: CC BY-NC-SA 4.0 (no commercial use). Cite: {CITATION}"

ARCHIVE = Archive(
    name="KolektorSDD2.zip",
    urls=("https://go.vicos.si/kolektorsdd2",),
    size="about 1 GB",
    terms=TERMS,
    members=r"(?:train|test)/\d+(?:_GT)?\.png",
    checksum="md5:1ed0f628122776ace4965afa30dfe316",
    page="https://www.vicos.si/resources/kolektorsdd2/",
    holds="its folders train and test",
)


def open_ksdd2(
    root: str | Path | None = None,
    seed: int = 0,
    textures: Iterable[str] | None = None,
    download: bool = False,
) -> Dataset:
    """KolektorSDD2 from its official layout, ``train/ID.png`` with ``train/ID_GT.png``, ``test`` likewise.

    All samples have the texture "ksdd2", all defects the kind "defect": the set names no kinds. An image is
    normal if its ``_GT`` image is all black; to know that, all 3335 are read, about a millisecond each. Files
    of other names are passed over.

    Args:
        root: the folder with ``train`` and ``test`` in it, or a folder that has it as ``ksdd2``. None: the
            folder that the environment variable MSSF_DATA names, else the user's cache folder.
        seed: seed of the draw of held-out normals.
        textures: None or ("ksdd2",).
        download: fetch the set if it is not there.

    Raises:
        FileNotFoundError: if the set is not there and ``download`` is False (the message says how to get it),
            or an image has no ``_GT`` image.
        ValueError: for an unknown texture, or too few normals.

    Warns:
        UserWarning: if the numbers of images are not those of the official set.
    """
    if textures is not None and set(textures) != {"ksdd2"}:
        raise ValueError(f"'ksdd2' has one texture, 'ksdd2'; got {tuple(textures)}")
    folder = find_set("ksdd2", "KolektorSDD2", {"": ARCHIVE}, _is_there, root, download)
    normal, defect = {}, {}
    for part in ("train", "test"):
        images = sorted(p for p in (folder / part).iterdir() if re.fullmatch(r"\d+\.png", p.name))
        marked = {path for path in images if _is_marked(path)}
        normal[part] = [path for path in images if path not in marked]
        defect[part] = [path for path in images if path in marked]
    found = {f"normal {part} images": len(paths) for part, paths in normal.items()}
    found |= {f"defective {part} images": len(paths) for part, paths in defect.items()}
    compare_counts(folder, "KolektorSDD2", found, COUNTS)

    def sample(path: Path, split: str, kind: str = "good") -> Sample:
        key = path.relative_to(folder).as_posix()
        mask = None if kind == "good" else _truth(path).relative_to(folder).as_posix()
        return Sample(key, "ksdd2", kind, split, group=key, mask=mask)

    rng = torch.Generator().manual_seed(seed)
    names = draw_groups((path.name for path in normal["train"]), HELD_OUT_SHARE, rng)
    if not names:
        raise ValueError(
            f"{folder / 'train'}: {len(normal['train'])} normal image(s), two are needed at least"
        )
    tests = [sample(path, "test") for path in normal["test"]]
    tests += [sample(path, "test", "defect") for path in defect["test"]]
    return Dataset(
        name="ksdd2",
        split="official",
        seed=seed,
        train=tuple(sample(path, "train") for path in normal["train"] if path.name not in names),
        held_out=tuple(sample(path, "held_out") for path in normal["train"] if path.name in names),
        test=tuple(sorted(tests, key=lambda s: s.key)),
        reader=ShapeReader(folder, {"ksdd2": ASPECT}),
        licence=TERMS,
        citation=CITATION,
        root=folder,
        notes=(f"{len(defect['train'])} defective training images are left out",),
    )


def _truth(path: Path) -> Path:
    return path.with_name(f"{path.stem}_GT.png")


def _is_marked(path: Path) -> bool:
    """Whether any pixel of the image's ground truth is not black."""
    try:
        ends = decode(_truth(path)).getextrema()  # (low, high), or one such pair a channel
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{_truth(path)}: no such file, so nobody knows whether {path.name} is normal; get the whole set"
        ) from None
    return any(high for _, high in (ends if isinstance(ends[0], tuple) else [ends]))


def _is_there(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "test").is_dir()
