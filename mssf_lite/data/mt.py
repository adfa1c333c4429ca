"""The magnetic-tile set: real tiles, five kinds of defect, three ways to split them.

Huang, Qiu and Yuan photographed each tile at several exposures, mostly six. The file names tell:
``exp<exposure>_num_<frame>``, and the frames of one tile lie close together. A *recording* is a run of frames
without a jump of more than 300 (184 recordings over 1344 images). Most hold one tile, some hold several that
took turns before the camera. A few tiles came back in a later recording, which frame numbers do not tell;
the audit (:mod:`mssf_lite.data.audit`) showed them, and :data:`SAME` names them. Recordings that show one
tile are one *group* (174 groups).

``"tile"``
    The default [ours]. Groups that hold normal *and* defective images go to the test; of the other normals'
    groups a seeded 80 % is for training, the rest for the test. No group is on both sides.
``"published"``
    The 761 training names that published results use (from DifferNet's repository). All 191 normal test
    images of that split have another image of their own recording in training: a method may recognise the
    tile instead of the absence of defects. Use it to stand beside published numbers, and for nothing else.
``"published-all"``
    The same names, nearly all of them for training, as published results have it: two groups alone are held
    out. It asks how far memory gets; where more is held out, a sixth of the normal test images has lost its
    siblings.

In all of them, held-out normals are whole groups taken from the training side.
"""

import re
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import torch

from .download import Archive
from .images import FileReader
from .official import compare_counts, find_set
from .samples import Dataset, Sample
from .splits import draw_groups

SPLITS = ("tile", "published", "published-all")
COUNTS = {"blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103, "good": 952}
JUMP = 300  # frames; a larger step between neighbours starts a new recording
SAME = {  # recording -> an earlier one that shows the same tile, found by the audit and checked by eye
    "mt-013526": "mt-005874",
    "mt-009196": "mt-008676",
    "mt-010181": "mt-008676",
    "mt-065001": "mt-052659",
    "mt-309352": "mt-306425",
    "mt-358102": "mt-355636",
    "mt-086828": "mt-085602",  # a crack
    "mt-088149": "mt-085602",
    "mt-136676": "mt-136254",  # a fray
    "mt-124592": "mt-124236",  # an uneven tile
}
TRAIN_SHARE = 0.8  # of the groups that hold only normals, for split "tile"; held-out ones included
HELD_OUT_SHARE = 0.15  # of the training side's groups: about 100 images
FEW_HELD_OUT = 0.015  # the same for "published-all": about a dozen images

CITATION = (
    "Y. Huang, C. Qiu, K. Yuan: Surface defect saliency of magnetic tile. Visual Computer 36 (2020) 85-96"
)
TERMS = (
    f"Magnetic tile defects: the authors welcome use and ask to be cited; no licence file. Cite: {CITATION}"
)

_COMMIT = "cc4eb530b57b9cb7225bf76023873043ffd50655"
ARCHIVE = Archive(
    name=f"magnetic-tile-{_COMMIT[:8]}.zip",
    urls=(
        f"https://github.com/abin24/Magnetic-tile-defect-datasets./archive/{_COMMIT}.zip",
        f"https://codeload.github.com/abin24/Magnetic-tile-defect-datasets./zip/{_COMMIT}",
    ),
    size="53 MB",
    terms=TERMS,
    members=r"MT_[A-Z][a-z]+/Imgs/[^/]+\.(jpg|png)",
    holds="its folders MT_Free, MT_Crack and so on",
    digest="038726ddab8cca0d1003b5ff27b97bbd76ce2a94a331af33b6dbf303086dbcb1",
)


def open_mt(
    root: str | Path | None = None,
    split: str | None = None,
    seed: int = 0,
    textures: Iterable[str] | None = None,
    download: bool = False,
) -> Dataset:
    """The magnetic-tile set from its official layout, ``MT_<kind>/Imgs/*.jpg`` with a PNG mask beside each.

    All samples have the texture "mt". Four masks of MT_Uneven are empty; those images stay defects.

    Args:
        root: the folder with ``MT_Free`` in it, or a folder that has it as ``mt``. None: the folder that the
            environment variable MSSF_DATA names, else the user's cache folder.
        split: "tile" (default), "published" or "published-all".
        seed: seed of the draw of training recordings ("tile") and held-out recordings (all).
        textures: None or ("mt",).
        download: fetch the set (53 MB, from GitHub) if it is not there.

    Raises:
        FileNotFoundError: if the set is not there and ``download`` is False; the message says how to get it.
        ValueError: for an unknown split or texture, a file whose name holds no frame number, or a published
            training image that is missing.

    Warns:
        UserWarning: if the numbers of images are not those of the official set.
    """
    split = SPLITS[0] if split is None else split
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of 'mt'; choose one of {', '.join(SPLITS)}")
    if textures is not None and set(textures) != {"mt"}:
        raise ValueError(f"'mt' has one texture, 'mt'; got {tuple(textures)}")
    folder = find_set("mt", "the magnetic-tile set", {"": ARCHIVE}, _is_there, root, download)
    images = {path: _kind(path) for path in folder.glob("MT_*/Imgs/*.jpg") if not path.name.startswith(".")}
    if unknown := set(images.values()) - COUNTS.keys():
        raise ValueError(f"{folder}: unknown kind MT_{min(unknown).title()}; remove that folder")
    compare_counts(folder, "magnetic-tile set", Counter(images.values()), COUNTS)
    group = {name: SAME.get(found, found) for name, found in recordings(path.name for path in images).items()}
    rng = torch.Generator().manual_seed(seed)
    normals = {path.name: group[path.name] for path, kind in images.items() if kind == "good"}
    mixed = {group[path.name] for path, kind in images.items() if kind != "good"}
    if split == "tile":
        chosen = draw_groups(set(normals.values()) - mixed, TRAIN_SHARE, rng)
        side = {name for name, recording in normals.items() if recording in chosen}
    else:
        side = _published_names()
        if missing := sorted(side - normals.keys()):
            raise ValueError(
                f"{folder}: {len(missing)} of the {len(side)} published training images are missing, such as "
                f"{missing[0]}; get the whole set, or use split='tile'"
            )
    share = FEW_HELD_OUT if split == "published-all" else HELD_OUT_SHARE
    kept = draw_groups((normals[name] for name in side), share, rng)
    samples: dict[str, list[Sample]] = {"train": [], "held_out": [], "test": []}
    for path, kind in sorted(images.items()):
        part = "test" if path.name not in side else "held_out" if group[path.name] in kept else "train"
        mask = path.with_suffix(".png")
        samples[part].append(
            Sample(
                key=path.relative_to(folder).as_posix(),
                texture="mt",
                defect=kind,
                split=part,
                group=group[path.name],
                mask=mask.relative_to(folder).as_posix() if kind != "good" and mask.exists() else None,
            )
        )
    return Dataset(
        name="mt",
        split=split,
        seed=seed,
        train=tuple(samples["train"]),
        held_out=tuple(samples["held_out"]),
        test=tuple(samples["test"]),
        reader=FileReader(folder),
        licence=TERMS,
        citation=CITATION,
        root=folder,
        leaks=split != "tile",
    )


def recordings(names: Iterable[str]) -> dict[str, str]:
    """Which recording each image belongs to, from the frame numbers in the file names.

    Args:
        names: file names, ``exp<exposure>_num_<frame>.jpg``, of *all* images, defective ones too.

    Returns:
        Name of the recording for each file name; it holds the recording's first frame number.
    """
    frames = {}
    for name in names:
        match = re.fullmatch(r"exp\d+_num_(\d+)\.jpg", name)
        if match is None:
            raise ValueError(f"{name}: expected exp<exposure>_num_<frame>.jpg; rename or remove this file")
        frames[name] = int(match[1])
    found: dict[str, str] = {}
    last, recording = None, ""
    for name, frame in sorted(frames.items(), key=lambda item: (item[1], item[0])):
        if last is None or frame - last > JUMP:
            recording = f"mt-{frame:06d}"
        found[name], last = recording, frame
    return found


def _is_there(folder: Path) -> bool:
    return (folder / "MT_Free").is_dir()


def _kind(path: Path) -> str:
    kind = path.parts[-3].removeprefix("MT_").lower()
    return "good" if kind == "free" else kind


def _published_names() -> set[str]:
    text = resources.files(__package__).joinpath("lists/mt_published_train.txt").read_text(encoding="utf-8")
    return {line for line in text.splitlines() if line and not line.startswith("#")}
