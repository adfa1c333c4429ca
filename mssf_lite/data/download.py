"""Fetching public data sets: terms first, resumable, checked, and put in place in one step.

What makes a data set *the* data set is a digest: of its extracted files where archives are packed on demand
(GitHub does not promise the same bytes twice), of the archive where one was published. Addresses are only
places to look.
"""

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from tqdm.auto import tqdm

from ..files import written_whole
from .unpack import can_unpack, extract


def data_home(root: str | Path | None = None) -> Path:
    """Where data sets lie: ``root``, else the environment variable MSSF_DATA, else the user's cache."""
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("MSSF_DATA") or pooch.os_cache("mssf_lite")).expanduser()


@dataclass(frozen=True)
class Archive:
    """An archive on the web that holds a data set or one of its folders.

    Args:
        name: its file name on this machine; the ending says of what kind it is (.zip, .tar.xz, .7z ...).
        urls: addresses to try, in this order.
        size: roughly how much there is to download, in words.
        terms: terms of use and what to cite; shown before the download starts.
        members: regular expression for the end of the path of each file to take; what it matches is the
            file's path in the data set's folder, so the archive's own top folder falls away.
        digest: ``tree_digest`` of the extracted files, if it is on record.
        checksum: of the archive itself, as "sha256:..." or "md5:...", if it is on record. Without this and
            ``digest`` the files are taken on trust, which is said, and the digest found is kept beside them.
        page: the official page of the data set, for readers who fetch it by hand.
        holds: what is in it, in words.
    """

    name: str
    urls: tuple[str, ...]
    size: str
    terms: str
    members: str
    digest: str | None = None
    checksum: str | None = None
    page: str | None = None
    holds: str = "its data folders"

    def by_hand(self, target: Path) -> str:
        """What a reader without a working connection can do, as the rest of a sentence."""
        page = f" (the data set's page is {self.page})" if self.page else ""
        return (
            f"get {self.urls[0]} in a browser{page} and save it as {target.parent / self.name} (then ask for "
            f"the download again: it is only unpacked), or unpack it so that {self.holds} lie in {target}"
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
            ModuleNotFoundError: if the archive is of a kind that needs a package which is not installed.
            ValueError: if the archive is broken, unsafe, or not the known data set.
        """
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"{target} is there, but is not this data set; move it away and try again")
        if not can_unpack(self.name):  # before anything is downloaded
            raise ModuleNotFoundError(
                f"unpacking {self.name} needs a package: pip install py7zr, then try again. "
                f"Or {self.by_hand(target)}"
            )
        archive = target.parent / self.name
        by_us = not archive.exists()
        if by_us:
            print(f"{self.terms}\nDownloading {self.name} ({self.size}) to {target.parent}")
            self._download(archive, target)
        try:
            self._check(archive)
            self._unpack(archive, target)
        except ValueError as error:
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

    def _check(self, archive: Path) -> None:
        if self.checksum is None:
            return
        algorithm, known = self.checksum.split(":")
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != known:
            raise ValueError(f"not the file we know ({algorithm} {found[:12]}..., not {known[:12]}...)")

    def _unpack(self, archive: Path, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as aside:
            tree = Path(aside) / "tree"
            extract(archive, tree, self.members)
            found = tree_digest(tree)
            if self.digest is None and self.checksum is None:
                print(f"No digest on record for {self.name}: taken on trust. Its files have digest {found}")
                with written_whole(target.with_name(f"{target.name}.digest.txt")) as beside:
                    beside.write_text(f"{found}  {self.name}\n", encoding="utf-8")
            elif self.digest not in (None, found):
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
