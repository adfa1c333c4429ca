"""Unpacking archives: some of their files, and nothing outside the folder.

Zip and tar (any compression) need nothing but Python; 7z needs the package py7zr.
"""

import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import BinaryIO

BROKEN = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError)


def can_unpack(archive: str | Path) -> bool:
    """Whether what this kind of archive needs is installed."""
    return Path(archive).suffix != ".7z" or find_spec("py7zr") is not None


def extract(archive: Path, folder: Path, members: str) -> None:
    """Unpack some files of an archive.

    Args:
        archive: a file that ends in .zip, .7z, or as tar files do (.tar.xz, .tgz ...).
        folder: where to; made if needed.
        members: regular expression for the end of the path of each file to take; what it matches is the
            file's path in ``folder``, so the archive's own top folder falls away.

    Raises:
        ValueError: if the archive is broken, a member is a link or would land elsewhere, two files would land
            in one place, or no member matches.
        ModuleNotFoundError: for a 7z archive without py7zr.
    """
    into = _Into(folder, members)
    read = {".zip": _zip, ".7z": _seven}.get(archive.suffix, _tar)
    try:
        read(archive, into)
    except BROKEN as error:
        raise ValueError(str(error) or f"broken ({type(error).__name__})") from error
    if not into.taken:
        raise ValueError("the archive holds none of the expected files")


class _Into:
    """Decides where a member goes, and puts it there.

    Args:
        folder, members: as in :func:`extract`.
    """

    def __init__(self, folder: Path, members: str):
        self.folder, self.wanted, self.taken = folder, re.compile(rf"(?:^|/)({members})$"), set[str]()

    def place(self, name: str, is_file: bool, is_folder: bool) -> str | None:
        """Where a member goes, relative to the folder; None if it is not wanted."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise ValueError(f"unsafe: the archive wants to write to {name!r}")
        if not (is_file or is_folder):
            raise ValueError(f"unsafe: {name!r} is a link or no ordinary file")
        match = self.wanted.search(name)
        if is_folder or not match:
            return None
        if match[1] in self.taken:
            raise ValueError(f"unsafe: two files want to be {match[1]!r}")
        self.taken.add(match[1])
        return match[1]

    def put(self, source: BinaryIO, place: str) -> None:
        """Write what ``source`` holds."""
        target = self.folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy)


def _zip(archive: Path, into: _Into) -> None:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            place = into.place(info.filename, not (is_link or info.is_dir()), info.is_dir())
            if place is not None:
                into.put(file.open(info), place)


def _tar(archive: Path, into: _Into) -> None:
    with tarfile.open(archive) as file:
        for info in file:
            place = into.place(info.name, info.isfile(), info.isdir())
            if place is not None:
                into.put(file.extractfile(info), place)


def _seven(archive: Path, into: _Into) -> None:
    import py7zr  # an extra: only those who fetch such an archive need it

    into.folder.mkdir(parents=True, exist_ok=True)
    try:
        with (
            py7zr.SevenZipFile(archive) as file,
            tempfile.TemporaryDirectory(dir=into.folder.parent, prefix=".7z-") as aside,
        ):
            places = {
                info.filename: into.place(info.filename, info.is_file, info.is_directory)
                for info in file.list()
            }
            places = {name: place for name, place in places.items() if place is not None}
            file.extract(aside, list(places))  # all at once: one stream holds them all
            for name, place in places.items():
                into.put((Path(aside) / name).open("rb"), place)
    except py7zr.exceptions.ArchiveError as error:
        raise ValueError(str(error) or "File is not a 7z file") from error
