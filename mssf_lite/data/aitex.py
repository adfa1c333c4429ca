"""AITEX: long pictures of woven fabrics, 4096 x 256 pixels (width x height); most defects are tiny.

One split, ``"image"`` [ours]: of each fabric a seeded 70 % of the normal images is for training (15 % of
these, two at least, are held out); the other normals and all defects are the test. Each image is an item of
its own. Papers often cut the images into tiles first and divide the *tiles*; then tiles of one image stand on
both sides. Here an image stays on one side, and only then

* training and held-out images are cut into square tiles of their height. The tiles are spread evenly over
  the cloth: the first begins where it begins, the last ends where it ends, none shows what is beside it;
* test images stay whole. ``dataset.ignored(sample)`` tells which pixels are no cloth.

``whole(dataset.held_out)`` gives the whole images again. :mod:`~mssf_lite.data.cloth` finds the cloth.

The textures are "fabric-00" to "fabric-06", after the fabric code in the file names. Fabric 05 has no
defects, so it has no image metric of its own; it counts in pooled figures. Fabric 08 (one defect, no normals)
is left out: nothing says what is normal there. So is what is not 4096 wide or lies in ``unused/``.

**The light tells, too.** Normals and defects were often recorded under different conditions. Beside the
cloth one sees a grey table in 10 of 12 defects of fabric 01, in 19 of 38 of fabric 02 and in one of fabric
00, where all their normals have white. And the mean grey level of the cloth *alone*, as a distance to the
nearest training image of the fabric, gives an image AUROC of 1.0 on fabric 01, 0.78 to 0.91 on 00 and 02,
0.75 to 0.88 on 03, about chance on 04 and 06, and 0.78 to 0.82 pooled (three seeds). An image AUROC on this
set means little without that figure beside it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image

from .cloth import ClothReader, bare_ends, read_grey, tile_lefts
from .download import Archive
from .official import compare_counts, find_set
from .samples import Dataset, Sample
from .splits import draw_groups

WIDTH = 4096  # of every image that is used
TRAIN_SHARE = 0.7  # of each fabric's normal images; held-out ones included
HELD_OUT_SHARE, HELD_OUT_LEAST = 0.15, 2  # of the training side, a fabric
LEFT_OUT = {"08": "one defect and no normals"}
COUNTS = {  # normals and defects in the archives, by fabric
    "00": (20, 7), "01": (21, 12), "02": (20, 38), "03": (20, 31),
    "04": (20, 10), "05": (20, 0), "06": (20, 6),
}  # fmt: skip
KINDS = {  # the defect codes of the file names
    0: "good", 2: "broken_end", 6: "broken_yarn", 10: "broken_pick", 16: "weft_curling", 19: "fuzzyball",
    22: "cut_selvage", 23: "crease", 25: "warp_ball", 27: "knots", 29: "contamination", 30: "nep",
    36: "weft_crack",
}  # fmt: skip

CITATION = (
    "J. Silvestre-Blanes, T. Albero-Albero, I. Miralles, R. Perez-Llorens, J. Moreno: A public fabric "
    "database for defect detection methods and results. AUTEX Research Journal 19 (2019) 363-374"
)
TERMS = f"AITEX fabric image database: no licence is stated; its makers ask to be cited. Cite: {CITATION}"


def _archive(folder: str, size: str, members: str, sha256: str) -> Archive:
    return Archive(
        name=f"{folder}.7z",
        urls=(f"https://www.aitex.es/wp-content/uploads/2019/07/{folder}.7z",),
        size=size,
        terms=TERMS,
        members=members,
        checksum=f"sha256:{sha256}",
        page="https://www.aitex.es/afid/",
        holds="its images",
    )


ARCHIVES = {
    "Defect_images": _archive(
        "Defect_images",
        "about 75 MB",
        r"(?:unused/)?\d{4}_\d+_\d\d\.png",
        "2153ef691020ce0c6a0acaee2d1de76c75f0784a04b931706de7d5e1df7a1b63",
    ),
    "NODefect_images": _archive(
        "NODefect_images",
        "about 95 MB",
        r"(?:[^/]+/)?\d{4}_0+_\d\d\.png",
        "4409ca615f069e0b92eaf1bd2058c8a37d9cb983f3aad205e7d69f30816f5664",
    ),
    "Mask_images": _archive(
        "Mask_images",
        "less than 1 MB",
        r"\d{4}_\d+_\d\d_mask\d*\.png",
        "2d64486dbb5a2e1aa462b43c0f19e614af5aea6607c11d1a928e4ad9feb558d5",
    ),
}


def open_aitex(
    root: str | Path | None = None,
    seed: int = 0,
    textures: Iterable[str] | None = None,
    download: bool = False,
) -> Dataset:
    """The AITEX fabrics from their official layout: defects, normals and masks in three folders.

    Several masks of an image are joined. An image without a mask, or with an empty one, stays a defect. To
    find the cloth, the training side's images are read, about 20 milliseconds each.

    Args:
        root: the folder with ``Defect_images``, ``NODefect_images`` (or ``NoDefect_images``) and
            ``Mask_images`` in it, or a folder that has it as ``aitex``. None: the folder that the environment
            variable MSSF_DATA names, else the user's cache folder.
        seed: seed of the draws; the draw of one fabric does not depend on the others.
        textures: which fabrics, such as ("fabric-00", "fabric-03"); None takes all seven.
        download: fetch the folders that are not there; unpacking them needs the package py7zr.

    Raises:
        FileNotFoundError: if the set is not there and ``download`` is False; the message says how to get it.
        ValueError: for an unknown texture, a file name without number, defect and fabric, an unknown defect
            code, a mask for no image, or a fabric with less than four normals.

    Warns:
        UserWarning: if the numbers of images are not those of the official set.
    """
    known = {f"fabric-{code}": code for code in COUNTS}
    wanted = sorted(known if textures is None else set(textures))
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"'aitex' has no texture {', '.join(unknown)}; it has {', '.join(known)}")
    folder = find_set("aitex", "the AITEX set", ARCHIVES, _is_there, root, download)
    parts = _parts(folder)
    masks = _masks(parts["mask_images"])
    images = [*_images(parts["nodefect_images"]), *_images(parts["defect_images"])]
    if strays := sorted(masks.keys() - {path.stem for path in images}):
        raise ValueError(
            f"{masks[strays[0]][0]}: a mask for no image; bring {strays[0]}.png, or remove the mask "
            f"({len(strays)} such image(s))"
        )
    used, notes = _used(images)
    samples: list[Sample] = []
    found, published = Counter(), {}
    for name in wanted:
        own = [path for path in used if _codes(path)[1] == known[name]]
        samples += _fabric(name, own, masks, folder, seed)
        found.update(f"{'defects' if _codes(path)[0] else 'normals'} of {name}" for path in own)
        published[f"normals of {name}"], published[f"defects of {name}"] = COUNTS[known[name]]
    compare_counts(folder, "AITEX set", found, published)
    train, held_out, test = (tuple(s for s in samples if s.split == x) for x in ("train", "held_out", "test"))
    return Dataset(
        name="aitex",
        split="image",
        seed=seed,
        train=train,
        held_out=held_out,
        test=test,
        reader=ClothReader(folder),
        licence=TERMS,
        citation=CITATION,
        root=folder,
        notes=notes,
    )


def _fabric(
    name: str, images: list[Path], masks: dict[str, list[Path]], root: Path, seed: int
) -> list[Sample]:
    """All samples of one fabric."""

    def sample(path: Path, split: str) -> Sample:
        key, kind = path.relative_to(root).as_posix(), KINDS[_codes(path)[0]]
        drawn = tuple(mask.relative_to(root).as_posix() for mask in masks.get(path.stem, ()))
        return Sample(key, name, kind, split, key, drawn[0] if len(drawn) == 1 else drawn or None)

    normals = {path.relative_to(root).as_posix(): path for path in images if not _codes(path)[0]}
    if len(normals) < HELD_OUT_LEAST + 2:
        raise ValueError(
            f"{root}: {len(normals)} normal image(s) of {name}, {HELD_OUT_LEAST + 2} are needed at least: "
            "leave it out by textures=, or get the whole set"
        )
    rng = torch.Generator().manual_seed(seed)
    side = draw_groups(normals, TRAIN_SHARE, rng)
    kept = draw_groups(side, max(HELD_OUT_SHARE, HELD_OUT_LEAST / len(side)), rng)
    samples = []
    for path in images:
        key = path.relative_to(root).as_posix()
        if key not in side:
            samples.append(sample(path, "test"))
            continue
        pixels = read_grey(path)
        height = len(pixels)
        one = sample(path, "held_out" if key in kept else "train")
        samples += [one.cut(0, left, height, height) for left in tile_lefts(*bare_ends(pixels), height)]
    return samples


def _codes(path: Path) -> tuple[int, str]:
    """Code of the defect (0: none) and of the fabric, from nnnn_ddd_ff.png; one file has two digits d."""
    match = re.fullmatch(r"\d{4}_(\d{2,3})_(\d\d)", path.stem)
    if match is None:
        raise ValueError(f"{path}: expected <number>_<defect>_<fabric>.png; rename or remove this file")
    if int(match[1]) not in KINDS:
        raise ValueError(f"{path}: unknown defect code {match[1]}; rename or remove this file")
    return int(match[1]), match[2]


def _images(folder: Path) -> list[Path]:
    """All images below a folder, sorted."""
    return sorted(path for path in folder.rglob("*.png") if not path.name.startswith("."))


def _masks(folder: Path) -> dict[str, list[Path]]:
    """The mask files of each image, by its stem: <stem>_mask.png, or <stem>_mask1.png, <stem>_mask2.png."""
    found: dict[str, list[Path]] = {}
    for path in _images(folder):
        found.setdefault(re.sub(r"_mask\d*$", "", path.stem), []).append(path)
    return found


def _used(images: list[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The images to use, and what to say of the others."""
    used, notes = [], []
    for path in images:
        with Image.open(path) as file:  # reads the head of the file only
            width, height = file.size
        fabric = _codes(path)[1]
        if fabric in LEFT_OUT:
            notes.append(f"{path.name} is left out: fabric {fabric} has {LEFT_OUT[fabric]}")
        elif path.parent.name == "unused" or width != WIDTH:
            notes.append(f"{path.name} is left out: {width} x {height} pixels, from {path.parent.name}")
        else:
            used.append(path)
    return used, tuple(notes)


def _is_there(folder: Path) -> bool:
    return folder.name.lower() in _parts(folder.parent)


def _parts(folder: Path) -> dict[str, Path]:
    """The set's three folders by their names in small letters, those that are there."""
    names = {name.lower() for name in ARCHIVES}
    if not folder.is_dir():
        return {}
    return {path.name.lower(): path for path in sorted(folder.iterdir()) if path.name.lower() in names}
