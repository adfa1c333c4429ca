"""Fetching public data sets: terms first, resumable, checked, and put in place in one step.

What makes a data set *the* data set is a digest over its extracted files, not over the archive: GitHub packs
archives on demand and does not promise the same bytes twice. Addresses are only places to look.
"""

import hashlib
import os
import re
import shutil
import stat
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pooch
import requests
from tqdm.auto import tqdm


def data_home(root: str | Path | None = None) -> Path:
    """Where data sets lie: ``root``, else the environment variable MSSF_DATA, else the user's cache."""
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("MSSF_DATA") or pooch.os_cache("mssf_lite")).expanduser()


@dataclass(frozen=True)
class Archive:
    """A zip archive on the web that holds a data set.

    Args:
        name: its file name on this machine.
        urls: addresses to try, in this order.
        size: roughly how much there is to download, in words.
        terms: terms of use and what to cite; shown before the download starts.
        members: regular expression for the end of the path of each file to take; what it matches is the
            file's path in the data set's folder, so the archive's own top folder falls away.
        digest: ``tree_digest`` of the extracted files; None if nobody has recorded it yet, which is said.
    """

    name: str
    urls: tuple[str, ...]
    size: str
    terms: str
    members: str
    digest: str | None

    def by_hand(self, target: Path) -> str:
        """What a reader without a working connection can do, as the rest of a sentence."""
        return (
            f"get {self.urls[0]} in a browser and save it as {target.parent / self.name} (then ask for the "
            f"download again: it is only unpacked), or unpack it so that its data folders lie in {target}"
        )

    def fetch(self, target: Path) -> Path:
        """Download, unpack and check the data set; an interrupted download goes on where it stopped.

        Args:
            target: the folder to make. It appears whole or not at all. The archive, if it already lies beside
                it under its name, is not downloaded again.

        Returns:
            ``target``.

        Raises:
            FileExistsError: if ``target`` is there and not empty.
            ConnectionError: if no address works; the message says which file to put where by hand.
            ValueError: if the archive is broken, unsafe, or not the known data set.
        """
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"{target} is there, but is not this data set; move it away and try again")
        archive = target.parent / self.name
        by_us = not archive.exists()
        if by_us:
            print(f"{self.terms}\nDownloading {self.size} to {target.parent}")
            self._download(archive, target)
        try:
            self._unpack(archive, target)
        except (ValueError, zipfile.BadZipFile) as error:
            advice = "try again" if by_us else f"delete {archive} and try again"
            raise ValueError(f"{self.name}: {error}; {advice}") from error
        finally:
            if by_us:
                archive.unlink()
        return target

    def _download(self, archive: Path, target: Path) -> None:
        part, failures = archive.with_name(archive.name + ".part"), []
        for url in self.urls:
            cache = pooch.create(archive.parent, "", registry={self.name: None}, urls={self.name: url})
            try:
                cache.fetch(self.name, downloader=Resume(part))
                return
            except requests.RequestException as error:
                failures.append(f"  {url}: {error}")
        if part.exists():
            failures.append(f"What has come lies in {part}; ask again, and it goes on from there.")
        raise ConnectionError(
            "\n".join([f"{self.name} could not be fetched:", *failures, f"Or {self.by_hand(target)}."])
        )

    def _unpack(self, archive: Path, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as aside:
            tree = Path(aside) / "tree"
            extract(archive, tree, self.members)
            found = tree_digest(tree)
            if self.digest is None:
                print(f"No digest on record for {self.name}: taken on trust. Its files have digest {found}")
            elif found != self.digest:
                raise ValueError(f"not the files we know (digest {found[:12]}..., not {self.digest[:12]}...)")
            if target.exists():
                target.rmdir()  # empty, see fetch; Windows does not replace folders
            os.replace(tree, target)


class Resume:
    """A pooch downloader that keeps what has come in a ``.part`` file and asks only for the rest next time.

    Args:
        part: that file.
    """

    def __init__(self, part: Path):
        self.part = part

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Fetch ``url`` into ``output_file``; requests' exceptions pass through, the part file stays."""
        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"}  # byte positions must be those of the file
        if have:
            headers["Range"] = f"bytes={have}-"
        with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status_code == 416 or (response.status_code == 206 and not goes_on):
                self.part.unlink()  # not the beginning of this file
                return self(url, output_file, pooch)
            response.raise_for_status()
            start = have if response.status_code == 206 else 0  # a server without ranges sends all of it
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else None
            bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=self.part.stem)
            with bar, self.part.open("ab" if start else "wb") as file:
                for block in response.iter_content(1 << 16):
                    file.write(block)
                    bar.update(len(block))
        if total is not None and self.part.stat().st_size != total:
            raise requests.ConnectionError(f"{url} stopped after {self.part.stat().st_size} of {total} bytes")
        os.replace(self.part, output_file)


def extract(archive: Path, folder: Path, members: str) -> None:
    """Unpack some files of a zip archive, and nothing outside the folder.

    Args:
        archive: the zip file.
        folder: where to; made if needed.
        members: as in ``Archive``.

    Raises:
        ValueError: if a member is a link or would land elsewhere, or no member matches.
        zipfile.BadZipFile: if the archive is broken.
    """
    wanted = re.compile(rf"(?:^|/)({members})$")
    found = 0
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            path = PurePosixPath(info.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename:
                raise ValueError(f"unsafe: the archive wants to write to {info.filename!r}")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ValueError(f"unsafe: {info.filename!r} is a link")
            if match := wanted.search(info.filename):
                place = folder / match[1]
                place.parent.mkdir(parents=True, exist_ok=True)
                with file.open(info) as source, place.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
                found += 1
    if not found:
        raise ValueError("the archive holds none of the expected files")


def tree_digest(folder: Path, members: str = ".*") -> str:
    """SHA-256 (hex) over files below a folder: their relative names, sorted, each with its own SHA-256.

    Args:
        folder: where to look.
        members: regular expression; only files whose whole relative path matches count.
    """
    lines = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and re.fullmatch(members, name):
            with path.open("rb") as file:
                lines.append(f"{name}\t{hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
