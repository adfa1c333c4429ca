"""Data sets: samples in three splits, and the pixels behind them.

::

    dataset = open_dataset("mt", root="data")
    dataset.train, dataset.held_out, dataset.test      # lists of samples; each names the item it shows
    image, mask = dataset.read(dataset.test[0])        # (3, H, W) in [0, 1], (H, W) bool
"""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path

from .download import data_home
from .folder import open_folder
from .images import FileReader, read_image, read_mask, resize_mask
from .mt import open_mt
from .samples import Dataset, Images, Sample, leaked

__all__ = [
    "SPLITS",
    "Dataset",
    "FileReader",
    "Images",
    "Sample",
    "data_home",
    "leaked",
    "open_dataset",
    "read_image",
    "read_mask",
    "resize_mask",
]

# of each data set, the ways to split it; the first is the default
SPLITS = {"textures": ("drawn",), "mt": ("tile", "published"), "folder": ("given",)}


def open_dataset(
    name: str,
    root: str | Path | None = None,
    split: str | None = None,
    seed: int = 0,
    textures: Iterable[str] | None = None,
    **options,
) -> Dataset:
    """Open a data set by name.

    Args:
        name: "textures" (procedural, needs no files), "mt" (magnetic tiles) or "folder" (your own images).
        root: where the files lie. For "mt", None means the folder in the environment variable MSSF_DATA, else
            the user's cache folder; "folder" needs it; "textures" has none.
        split: a name from ``SPLITS[name]``; None takes the first.
        seed: seed of every draw: which normals are held out, which recordings train, what is painted.
        textures: which textures to take; None takes all.
        options: what only this data set knows; see ``make_textures``, ``open_mt`` and ``open_folder``.

    Raises:
        ValueError: for an unknown name, split, texture or option; the message lists the known ones.
        FileNotFoundError: if the files are not there; the message says how to get them.
    """
    if name not in SPLITS:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(SPLITS)}")
    if split is not None and split not in SPLITS[name]:
        raise ValueError(f"unknown split {split!r} of {name!r}; choose one of {', '.join(SPLITS[name])}")
    if isinstance(textures, str):
        raise ValueError(f"textures={textures!r}: give a list of names, such as [{textures!r}]")
    if textures is not None and not (textures := tuple(textures)):
        raise ValueError("textures is empty: name some, or leave it out to take all")
    opener = _opener(name)
    common = {"seed": seed, "textures": textures}
    if name == "mt":
        common |= {"root": root, "split": split}
    elif name == "folder":
        if root is None:
            raise ValueError("'folder' needs root=, the folder with your images (see mssf_lite.data.folder)")
        common |= {"root": root}
    elif root is not None:
        raise ValueError(f"'textures' is drawn, not read: leave out root={str(root)!r}, or name another set")
    known = [option for option in inspect.signature(opener).parameters if option not in common]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name!r} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    return opener(**common, **options)


def _opener(name: str) -> Callable[..., Dataset]:
    if name == "textures":
        from .textures import make_textures  # drawing needs more than reading does: only on demand

        return make_textures
    return {"mt": open_mt, "folder": open_folder}[name]
