"""Your own images, in the layout of MVTec AD.

::

    carpet/
        train/good/*.png                        normals to learn from; nothing else belongs into train/
        test/good/*.png                         normals of the test
        test/<kind of defect>/*.png             defects, one folder a kind
        ground_truth/<kind>/<stem>_mask.png     masks, white where the defect is; as many as you have
                                                (<stem>.png is understood too)

``root`` is one such folder or a folder of several, each a texture. PNG, JPEG, BMP and TIFF are read; other
files and hidden ones are passed over. Only ``train/good`` must be there: without ``test`` there is nothing to
test, without masks there are no pixel metrics.

Detectors see all images of a texture in one shape, which has the aspect of its middle training image.
"""

import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from .images import SUFFIXES, ShapeReader, shape_of
from .samples import Dataset, Sample
from .splits import SPLITS, draw_groups

LAYOUT = "expected <texture>/train/good/*.png, test/<kind>/*.png, ground_truth/<kind>/<stem>_mask.png"


def open_folder(
    root: str | Path,
    seed: int = 0,
    textures: Iterable[str] | None = None,
    held_out: float = 0.2,
    group: str | None = None,
) -> Dataset:
    """A data set from a folder in MVTec layout.

    Args:
        root: one texture's folder, or a folder of several (those with neither ``train`` nor ``test`` in them
            are passed over).
        seed: seed of the draw of held-out normals.
        textures: which textures to take, by folder name; None takes all.
        held_out: share of each texture's training items to keep from training, in (0, 1); at least one.
        group: regular expression, searched in the path inside the texture's folder, such as
            "train/good/tile07_b.png"; its first bracketed part (or all of it) names the physical item, and
            images of one item stay on one side. None: every image is an item of its own.

    Returns:
        The data set. A defect without a mask file has ``mask=None``; a kind may have masks for some images
        only.

    Raises:
        FileNotFoundError: if ``root``, textures in it, or a texture's ``train/good`` do not exist.
        ValueError: for empty folders, defects in ``train``, masks that fit no image, unknown textures, a
            ``group`` that does not match a path, fewer than two items to learn from, or an item in both
            ``train`` and ``test``.
    """
    root = Path(root)
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is the share of normals kept from training, in (0, 1); got {held_out}")
    folders = _texture_folders(root)
    wanted = sorted(folders if textures is None else set(textures))
    if unknown := [name for name in wanted if name not in folders]:
        raise ValueError(f"{root}: no texture {', '.join(unknown)}; there are {', '.join(sorted(folders))}")
    rng = torch.Generator().manual_seed(seed)
    samples: list[Sample] = []
    for name in wanted:
        samples += _texture(name, folders[name], root, held_out, group, rng)
    train, kept, test = (tuple(s for s in samples if s.split == split) for split in SPLITS)
    return Dataset(
        name="folder",
        split="given",
        seed=seed,
        train=train,
        held_out=kept,
        test=test,
        reader=ShapeReader(root, {name: _aspect(_normals(folders[name])) for name in wanted}),
        licence="Your own images: you know their terms.",
        citation="",
        root=root,
    )


def _texture(
    name: str, folder: Path, root: Path, held_out: float, group: str | None, rng: torch.Generator
) -> list[Sample]:
    """All samples of one texture."""
    item = _item_namer(name, folder, group)
    normals = _normals(folder)
    kept = draw_groups(map(item, normals), held_out, rng)
    if not kept:
        raise ValueError(
            f"{folder / 'train' / 'good'}: {len(normals)} image(s) of a single item; at least two items are "
            "needed, because some are kept from training"
        )
    samples = []
    for path in normals:
        split = "held_out" if item(path) in kept else "train"
        samples.append(Sample(_key(path, root), name, "good", split, item(path)))
    for kind in _subfolders(folder / "test"):
        images, masks = _images(kind), _masks(folder, kind.name)
        if strays := sorted(masks.keys() - {path.stem for path in images}):
            raise ValueError(
                f"{masks[strays[0]]}: a mask for no image, {kind} holds no {strays[0]!r}; rename it, bring "
                f"the image, or remove it ({len(strays)} such mask(s))"
            )
        for path in images:
            mask = _key(masks[path.stem], root) if path.stem in masks else None
            samples.append(Sample(_key(path, root), name, kind.name, "test", item(path), mask))
    known = {kind.name for kind in _subfolders(folder / "test")}
    for kind in _subfolders(folder / "ground_truth"):
        if kind.name not in known:
            raise ValueError(f"{kind}: masks of a kind that {folder / 'test'} has not; rename or remove it")
    return samples


def _texture_folders(root: Path) -> dict[str, Path]:
    """Folder of each texture, by name."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; {LAYOUT}")
    if (root / "train").is_dir() or (root / "test").is_dir():
        return {root.resolve().name: root}
    found = {p.name: p for p in _subfolders(root) if (p / "train").is_dir() or (p / "test").is_dir()}
    if not found:
        raise FileNotFoundError(f"{root}: holds no texture; {LAYOUT}")
    return found


def _normals(folder: Path) -> list[Path]:
    """The training images of a texture, after a look at what stands beside them."""
    good = folder / "train" / "good"
    if not good.is_dir():
        raise FileNotFoundError(f"{good}: no such folder; the normals to learn from belong there ({LAYOUT})")
    for other in _subfolders(folder / "train"):
        if other != good:
            raise ValueError(f"{other}: training sees normals only; move this folder to {folder / 'test'}")
    return _images(good)


def _aspect(paths: list[Path]) -> float:
    """Height by width of the middle one of these images; of many, some fifty are looked at."""
    shapes = [shape_of(path) for path in paths[:: max(1, len(paths) // 50)]]
    return statistics.median(height / width for height, width in shapes)


def _images(folder: Path) -> list[Path]:
    """The image files right in a folder, sorted; an error if there are none."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    images = [p for p in files if p.suffix.lower() in SUFFIXES]
    if not images:
        other = f"; of other kinds there is {files[0].name}" if files else ""
        raise ValueError(f"{folder}: no images ({', '.join(SUFFIXES)}){other}. Fill or remove this folder")
    return images


def _masks(folder: Path, kind: str) -> dict[str, Path]:
    """The mask files of a kind of defect, by the stem of their image; normal images need none."""
    masks = folder / "ground_truth" / kind
    if kind == "good" or not masks.is_dir():
        return {}
    return {path.stem.removesuffix("_mask"): path for path in _images(masks)}


def _item_namer(texture: str, folder: Path, group: str | None) -> Callable[[Path], str]:
    """A function from an image's path to the name of the item it shows."""
    try:
        pattern = re.compile(group) if group is not None else None
    except re.error as error:
        raise ValueError(f"group={group!r} is no regular expression: {error}") from error

    def item(path: Path) -> str:
        inside = _key(path, folder)
        if pattern is None:
            return f"{texture}/{inside}"
        match = pattern.search(inside)
        name = match and match.group(min(1, pattern.groups))
        if not name:
            raise ValueError(f"group={group!r} names no item in {inside!r}; it must match every image's path")
        return f"{texture}/{name}"

    return item


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _key(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
