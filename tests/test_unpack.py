import io
import stat
import tarfile
import zipfile

import pytest

from mssf_lite.data.unpack import can_unpack, extract

MEMBERS = r"MT_Free/Imgs/[^/]+\.jpg"
needs_py7zr = pytest.mark.skipif(not can_unpack("a.7z"), reason="py7zr is not installed")
KINDS = ["a.zip", "a.tar", "a.tar.xz", "a.tgz", pytest.param("a.7z", marks=needs_py7zr)]


def packed(path, **files):
    """An archive of the kind that its name says; ``files`` are contents by name, "__" meaning "/"."""
    contents = {name.replace("__", "/"): content for name, content in files.items()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("top/", "")
            for name, content in contents.items():
                file.writestr(name, content)
    elif path.suffix == ".7z":
        import py7zr

        with py7zr.SevenZipFile(path, "w") as file:
            for name, content in contents.items():
                file.writestr(content.encode(), name)
    else:
        mode = {".tar": "w", ".xz": "w:xz", ".tgz": "w:gz"}[path.suffix]
        with tarfile.open(path, mode) as file:
            folder = tarfile.TarInfo("top")
            folder.type = tarfile.DIRTYPE
            file.addfile(folder)
            for name, content in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content.encode()))
    return path


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_wanted_files_are_taken_and_the_top_folder_falls_away(tmp_path, kind):
    files = {"top__MT_Free__Imgs__a.jpg": "1", "top__MT_Free__Imgs__b.jpg": "22", "top__README.md": "no"}
    extract(packed(tmp_path / kind, **files), tmp_path / "out", MEMBERS)
    assert files_below(tmp_path / "out") == ["MT_Free/Imgs/a.jpg", "MT_Free/Imgs/b.jpg"]
    assert (tmp_path / "out/MT_Free/Imgs/b.jpg").read_text() == "22"
    assert sorted(path.name for path in tmp_path.iterdir()) == [kind, "out"]  # nothing left aside


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize(
    "name", ["../MT_Free/Imgs/a.jpg", "/MT_Free/Imgs/a.jpg", "x/../../MT_Free/Imgs/a.jpg", "C:/a", "..\\a"]
)
def test_members_that_would_land_elsewhere_are_refused(tmp_path, kind, name):
    bad = packed(tmp_path / kind, **{"top/MT_Free/Imgs/fine.jpg": "x", name: "x"})
    with pytest.raises(ValueError, match="unsafe"):
        extract(bad, tmp_path / "in" / "side", ".*")
    assert not (tmp_path / "MT_Free").exists() and not (tmp_path / "in" / "MT_Free").exists()


@needs_py7zr
def test_members_of_a_7z_that_would_land_elsewhere_are_refused(tmp_path, monkeypatch):
    import py7zr

    bad = packed(tmp_path / "a.7z", **{"top/a.jpg": "x"})
    listed = py7zr.SevenZipFile.list

    def lying(file):  # py7zr itself does not write such names
        found = listed(file)
        found[0].filename = "../a.jpg"
        return found

    monkeypatch.setattr(py7zr.SevenZipFile, "list", lying)
    with pytest.raises(ValueError, match=r"unsafe: the archive wants to write to '\.\./a\.jpg'"):
        extract(bad, tmp_path / "out", ".*")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_links_are_refused(tmp_path, kind):
    name = "top/MT_Free/Imgs/a.jpg"
    if kind == "a.zip":
        link = zipfile.ZipInfo(name)
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / kind, "w") as file:
            file.writestr(link, "/etc/passwd")
    else:
        with tarfile.open(tmp_path / kind, "w") as file:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            file.addfile(info)
    with pytest.raises(ValueError, match=r"unsafe: 'top/MT_Free/Imgs/a\.jpg' is a link"):
        extract(tmp_path / kind, tmp_path / "out", MEMBERS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_hard_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        info = tarfile.TarInfo("top/a")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(ValueError, match="unsafe: 'top/a' is a link or no ordinary file"):
        extract(tmp_path / "a.tar", tmp_path / "out", ".*")


@needs_py7zr
def test_links_in_a_7z_are_refused(tmp_path):
    import py7zr

    (tmp_path / "link").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as file:
        file.write(tmp_path / "link", "top/link")
    with pytest.raises(ValueError, match="unsafe: 'top/link' is a link"):
        extract(tmp_path / "a.7z", tmp_path / "out", ".*")


@pytest.mark.parametrize("kind", KINDS)
def test_two_files_for_one_place_are_refused(tmp_path, kind):
    twice = packed(tmp_path / kind, **{"one/MT_Free/Imgs/a.jpg": "1", "two/MT_Free/Imgs/a.jpg": "2"})
    with pytest.raises(ValueError, match=r"unsafe: two files want to be 'MT_Free/Imgs/a\.jpg'"):
        extract(twice, tmp_path / "out", MEMBERS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_of_something_else_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match="none of the expected files"):
        extract(packed(tmp_path / kind, top__readme="x"), tmp_path / "out", MEMBERS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.15, None])
def test_broken_archives_are_refused(tmp_path, kind, keep):
    content = packed(tmp_path / kind, **{"top__MT_Free__Imgs__a.jpg": "some words " * 99}).read_bytes()
    page = b"<html>please log in</html>"
    (tmp_path / kind).write_bytes(page if keep is None else content[: int(keep * len(content))])
    with pytest.raises(ValueError):
        extract(tmp_path / kind, tmp_path / "out", MEMBERS)
