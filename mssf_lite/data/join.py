"""Several data sets as one, for one model on all their textures.

Keys, groups and textures get the name of their set in front, as in "aitex/fabric-03", so that nothing
collides; a texture that is called like its set ("mt", "ksdd2") stays as it is. Everything else of a sample is
unchanged, and each set's own reader still reads it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .samples import Dataset, Sample, Size
from .splits import SPLITS


def join(parts: Sequence[Dataset], seed: int) -> Dataset:
    """One data set of several.

    Args:
        parts: data sets of different names.
        seed: the seed they were opened with.

    Returns:
        The data set: name and split are those of the parts with a "+" between, notes say of which set they
        are, ``root`` is None, and it leaks if a part does.
    """
    return Dataset(
        name="+".join(part.name for part in parts),
        split="+".join(part.split for part in parts),
        seed=seed,
        **{x: tuple(_joined(s, part.name) for part in parts for s in getattr(part, x)) for x in SPLITS},
        reader=JoinedReader({part.name: part for part in parts}),
        licence="\n".join(part.licence for part in parts),
        citation="\n".join(part.citation for part in parts if part.citation),
        leaks=any(part.leaks for part in parts),
        notes=tuple(f"{part.name}: {note}" for part in parts for note in part.notes),
    )


@dataclass(frozen=True)
class JoinedReader:
    """Reads each sample with the data set that it comes from.

    Args:
        parts: the data sets by name.
    """

    parts: Mapping[str, Dataset]

    def read(self, sample: Sample, size: Size | None = None) -> tuple[Tensor, Tensor | None]:
        """As ``read`` of the sample's own data set."""
        part, own = self._own(sample)
        return part.read(own, size)

    def ignored(self, sample: Sample, size: Size | None = None) -> Tensor:
        """As ``ignored`` of the sample's own data set."""
        part, own = self._own(sample)
        return part.ignored(own, size)

    def seen_at(self, sample: Sample, size: Size) -> Size:
        """As ``seen_at`` of the sample's own data set."""
        part, own = self._own(sample)
        return part.seen_at(own, size)

    def _own(self, sample: Sample) -> tuple[Dataset, Sample]:
        """The data set a sample comes from, and the sample as it is there."""
        name = sample.key.partition("/")[0]
        start = f"{name}/"
        own = replace(
            sample,
            key=sample.key.removeprefix(start),
            texture=sample.texture.removeprefix(start),
            group=sample.group.removeprefix(start),
        )
        return self.parts[name], own


def _joined(sample: Sample, name: str) -> Sample:
    """A sample of the set of that name as a sample of the joined set."""
    texture = name if sample.texture == name else f"{name}/{sample.texture}"
    return replace(sample, key=f"{name}/{sample.key}", texture=texture, group=f"{name}/{sample.group}")


def open_joined(
    names: Sequence[str],
    open_one: Callable[..., Dataset],
    options_of: Callable[[str], Iterable[str]],
    root: str | Path | Mapping[str, str | Path] | None,
    split: Mapping[str, str] | None,
    seed: int,
    textures: Iterable[str] | None,
    options: Mapping[str, Any],
) -> Dataset:
    """Open data sets by name and join them; see :func:`~mssf_lite.data.open_dataset` for what they mean.

    Args:
        names: of the data sets.
        open_one: opens one of them, with the arguments of ``open_dataset``.
        options_of: the arguments that a data set of that name knows.
        root, split, seed, textures, options: as for ``open_dataset``.

    Raises:
        ValueError: for a set named twice, a split that is not given by set, a set, texture or option that is
            none of them.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"a set stands twice in {', '.join(names)}; name each once")
    if isinstance(split, str):
        raise ValueError(
            f"split={split!r}: for several sets give a mapping, such as {{{names[0]!r}: {split!r}}}"
        )
    roots = root if isinstance(root, Mapping) else _roots(names, options_of, root)
    for what, given in (("root", roots), ("split", split or {})):
        if strangers := [name for name in given if name not in names]:
            raise ValueError(f"{what}= names {strangers[0]!r}, which is not among {', '.join(names)}")
    if unknown := [o for o in options if not any(o in options_of(name) for name in names)]:
        raise ValueError(f"none of {', '.join(names)} has an option {', '.join(unknown)}")
    wanted = _by_set(names, textures)
    parts = [
        open_one(
            name,
            root=roots.get(name),
            split=(split or {}).get(name),
            seed=seed,
            textures=wanted[name],
            **{option: value for option, value in options.items() if option in options_of(name)},
        )
        for name in names
    ]
    return join(parts, seed)


def _roots(
    names: Sequence[str], options_of: Callable[[str], Iterable[str]], root: str | Path | None
) -> dict[str, str | Path]:
    """Where each set that has files is looked for, below one folder."""
    if root is None:
        return {}
    # the other sets find the folder of their name by themselves; of "folder" every sub-folder is a texture
    return {
        name: Path(root) / name if name == "folder" else root for name in names if "root" in options_of(name)
    }


def _by_set(names: Sequence[str], textures: Iterable[str] | None) -> dict[str, list[str] | None]:
    """The textures of each set, without the set's name in front; None for all."""
    if textures is None:
        return dict.fromkeys(names)
    wanted: dict[str, list[str]] = {}
    for texture in textures:
        name, _, own = texture.partition("/")
        if name not in names:
            raise ValueError(
                f"texture {texture!r} is of none of {', '.join(names)}; name textures as in "
                "'aitex/fabric-03', or a set for all of its textures"
            )
        wanted.setdefault(name, []).append(own)
    if without := [name for name in names if name not in wanted]:
        raise ValueError(f"textures= names none of {without[0]!r}; name some, or leave that set out")
    return {name: None if "" in own else own for name, own in wanted.items()}
