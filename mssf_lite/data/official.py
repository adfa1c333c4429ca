"""Finding a public data set on this machine, and telling whether it is the whole official one."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from .download import Archive, data_home


def find_set(
    name: str,
    title: str,
    archives: Mapping[str, Archive],
    is_there: Callable[[Path], bool],
    root: str | Path | None,
    download: bool,
    advice: str = "",
) -> Path:
    """The folder of a data set; what is missing of it is fetched if it may be.

    Looked at are the folder of the set's name in :func:`~mssf_lite.data.download.data_home`, and that folder
    itself; taken is the one that holds more, the first if they are alike.

    Args:
        name: of the set, as ``open_dataset`` knows it.
        title: of the set in messages, as in "of the magnetic-tile set".
        archives: which archive holds which folder of the set; "" is the set's own folder.
        is_there: whether a folder named by ``archives`` is there, from its path.
        root: as for ``open_dataset``.
        download: fetch what is missing.
        advice: what else can be done, as the end of the message.

    Raises:
        FileNotFoundError: if something is missing and ``download`` is False; the message says how to get it.
        ValueError, ConnectionError, FileExistsError, ModuleNotFoundError: see ``Archive.fetch``.
    """
    home = data_home(root)

    def missing(folder: Path) -> list[str]:
        return [part for part in archives if not is_there(folder / part)]

    folder = min((home / name, home), key=lambda place: len(missing(place)))
    parts = missing(folder)
    if parts and not download:
        first, others = parts[0], " (and the others likewise)" if len(parts) > 1 else ""
        sizes = "; ".join(f"{archives[part].name}, {archives[part].size}" for part in parts)
        raise FileNotFoundError(
            f"of {title}, {', '.join(parts) or archives[first].holds} are neither in {home / name} nor in "
            f"{home}. Either open_dataset({name!r}, download=True) fetches what is missing ({sizes}), or "
            f"{archives[first].by_hand(folder / first)}{others}{advice}"
        )
    for part in parts:
        archives[part].fetch(folder / part)
    return folder


def compare_counts(folder: Path, title: str, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Say aloud if a set does not hold the published numbers of images.

    Args:
        folder: where it lies.
        title: of the set, as in "the official magnetic-tile set".
        found: kind of image -> how many there are; none if it is left out.
        published: kind of image -> how many there should be.

    Warns:
        UserWarning: names every kind whose number differs.
    """
    kinds = [*published, *sorted(found.keys() - published.keys())]
    counts = [(kind, found.get(kind, 0), published.get(kind, 0)) for kind in kinds]
    if odd := [f"{here} {kind}, not {there}" for kind, here, there in counts if here != there]:
        warnings.warn(
            f"{folder} is not the official {title}: {'; '.join(odd)}. Numbers from it stand for themselves",
            stacklevel=3,  # whoever opened the set
        )
