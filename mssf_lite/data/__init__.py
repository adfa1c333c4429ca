"""Data sets: samples in three splits, and the pixels behind them.

::

    dataset = open_dataset("mt", root="data")
    dataset.train, dataset.held_out, dataset.test      # lists of samples; each names the item it shows
    image, mask = dataset.read(dataset.test[0])        # (3, H, W) in [0, 1], (H, W) bool

    together = open_dataset(["mt", "aitex", "textures"], root="data")   # one set of all their textures

=============  ==========================================================================================
name           what it is
=============  ==========================================================================================
``textures``   drawn by code, needs no files (:mod:`~mssf_lite.data.textures`)
``mvtec``      carpet, grid, leather, tile and wood of MVTec AD (:mod:`~mssf_lite.data.mvtec`)
``ksdd2``      KolektorSDD2 (:mod:`~mssf_lite.data.ksdd2`)
``mt``         magnetic tiles (:mod:`~mssf_lite.data.mt`)
``aitex``      seven woven fabrics of AITEX (:mod:`~mssf_lite.data.aitex`)
``folder``     your own images (:mod:`~mssf_lite.data.folder`)
=============  ==========================================================================================
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .aitex import open_aitex
from .audit import audit
from .download import data_home
from .folder import open_folder
from .images import FileReader, read_image, read_mask, resize_mask
from .join import open_joined
from .ksdd2 import open_ksdd2
from .light import light_scores
from .mt import open_mt
from .mvtec import open_mvtec
from .samples import Dataset, Images, Sample, whole
from .splits import leaked

__all__ = [
    "SPLITS",
    "Dataset",
    "FileReader",
    "Images",
    "Sample",
    "audit",
    "data_home",
    "leaked",
    "light_scores",
    "open_dataset",
    "read_image",
    "read_mask",
    "resize_mask",
    "whole",
]

# of each data set, the ways to split it; the first is the default
SPLITS = {
    "textures": ("drawn",),
    "mvtec": ("official",),
    "ksdd2": ("official",),
    "mt": ("tile", "published", "published-all"),
    "aitex": ("image",),
    "folder": ("given",),
}


def open_dataset(
    name: str | Iterable[str],
    root: str | Path | Mapping[str, str | Path] | None = None,
    split: str | Mapping[str, str] | None = None,
    seed: int = 0,
    textures: Iterable[str] | None = None,
    **options,
) -> Dataset:
    """Open a data set by name, or several as one.

    Args:
        name: a name from ``SPLITS``, or a list of them. A list of several gives a data set called as in
            "mt+aitex", in which keys, groups and textures have their set's name in front
            ("aitex/fabric-03"; "mt" stays "mt").
        root: where the files lie: the set's own folder, or one that has it as a folder of the set's name.
            None means the folder in the environment variable MSSF_DATA, else the user's cache folder;
            "folder" needs it; "textures" has none. Of a list: one folder that has them all, each under its
            name, or a folder for each name.
        split: a name from ``SPLITS[name]``; None takes the first. Of a list: splits by name, for those that
            are not to have their first.
        seed: seed of every draw: which normals are held out, which recordings train, what is painted.
        textures: which textures to take; None takes all. Of a list: names such as "aitex/fabric-03", or a
            set's name for all it has.
        options: what only this data set knows; see ``make_textures``, ``open_mvtec``, ``open_ksdd2``,
            ``open_mt``, ``open_aitex`` and ``open_folder``. Of a list: each set takes those it knows.

    Raises:
        ValueError: for an unknown name, split, texture or option; the message lists the known ones.
        FileNotFoundError: if the files are not there; the message says how to get them.
    """
    names = (name,) if isinstance(name, str) else tuple(name)
    if not names:
        raise ValueError(f"no data set is named; choose from {', '.join(SPLITS)}")
    for one in names:
        if one not in SPLITS:
            raise ValueError(f"unknown data set {one!r}; choose one of {', '.join(SPLITS)}")
    if isinstance(textures, str):
        raise ValueError(f"textures={textures!r}: give a list of names, such as [{textures!r}]")
    if textures is not None and not (textures := tuple(textures)):
        raise ValueError("textures is empty: name some, or leave it out to take all")
    if len(names) > 1:
        return open_joined(names, open_dataset, _arguments, root, split, seed, textures, options)
    root, split = (given.get(names[0]) if isinstance(given, Mapping) else given for given in (root, split))
    return _open_one(names[0], root, split, seed, textures, options)


def _open_one(
    name: str,
    root: str | Path | None,
    split: str | None,
    seed: int,
    textures: tuple[str, ...] | None,
    options: Mapping[str, object],
) -> Dataset:
    """Open a data set of a known name."""
    if split is not None and split not in SPLITS[name]:
        raise ValueError(f"unknown split {split!r} of {name!r}; choose one of {', '.join(SPLITS[name])}")
    common = {"seed": seed, "textures": textures}
    if name == "textures" and root is not None:
        raise ValueError(f"'textures' is drawn, not read: leave out root={str(root)!r}, or name another set")
    if name == "folder" and root is None:
        raise ValueError("'folder' needs root=, the folder with your images (see mssf_lite.data.folder)")
    arguments = _arguments(name)
    common |= {key: value for key, value in (("root", root), ("split", split)) if key in arguments}
    known = [option for option in arguments if option not in common]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name!r} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    return _opener(name)(**common, **options)


def _opener(name: str) -> Callable[..., Dataset]:
    if name == "textures":
        from .textures import make_textures  # drawing needs more than reading does: only on demand

        return make_textures
    known = {"mvtec": open_mvtec, "ksdd2": open_ksdd2, "mt": open_mt, "aitex": open_aitex}
    return (known | {"folder": open_folder})[name]


def _arguments(name: str) -> list[str]:
    """What the function that opens a data set of that name can be told."""
    return list(inspect.signature(_opener(name)).parameters)
