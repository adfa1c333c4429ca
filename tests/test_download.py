import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
from data_trees import aitex, ksdd2, magnetic_tiles, mvtec_texture

from mssf_lite.data import aitex as aitex_module
from mssf_lite.data import data_home, mvtec, open_dataset
from mssf_lite.data import ksdd2 as ksdd2_module
from mssf_lite.data.download import Archive, Resume, tree_digest
from mssf_lite.data.mt import ARCHIVE


class Server:
    """A web server with one file. It can know ranges or not, and break off after some bytes."""

    def __init__(self, content: bytes, ranges: bool = True):
        self.content, self.ranges, self.break_after, self.asked = content, ranges, None, []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.zip"
        self.thread = threading.Thread(target=partial(self.http.serve_forever, poll_interval=0.01))
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    def __init__(self, server, *args):
        self.file = server
        super().__init__(*args)

    def log_message(self, *_):
        pass

    def do_GET(self):
        file, wanted = self.file, self.headers.get("Range")
        file.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and file.ranges else 0
        if start >= len(file.content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(file.content) - 1}/{len(file.content)}")
        self.send_header("Content-Length", str(len(file.content) - start))
        self.end_headers()
        self.wfile.write(file.content[start:][: file.break_after])
        self.close_connection = True


@pytest.fixture
def serve():
    servers = []

    def start(*args, **kwargs):
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The tiny magnetic tiles, zipped as GitHub does it, and the digest of their files."""
    folder = tmp_path_factory.mktemp("packed")
    tree = magnetic_tiles(folder / "mt")
    with zipfile.ZipFile(folder / "mt.zip", "w") as file:
        file.writestr("Magnetic-tile-defect-datasets.-cc4eb53/README.md", "not part of the digest")
        for path in sorted(tree.rglob("*")):
            file.write(path, f"Magnetic-tile-defect-datasets.-cc4eb53/{path.relative_to(tree).as_posix()}")
    return (folder / "mt.zip").read_bytes(), tree_digest(tree)


def archive(*urls, digest=None):
    return Archive("file.zip", urls, "1 MB", "Terms: be kind.", ARCHIVE.members, digest)


DEAD = "http://127.0.0.1:9/file.zip"  # nobody listens on the discard port


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_set_is_fetched_checked_and_put_in_place_without_the_archive_s_top_folder(
    serve, packed, tmp_path, capsys
):
    content, digest = packed
    target = archive(serve(content).url, digest=digest).fetch(tmp_path / "new" / "mt")
    assert tree_digest(target) == digest and names(target) == ["MT_Break", "MT_Crack", "MT_Free", "MT_Uneven"]
    assert names(tmp_path / "new") == ["mt"]  # no archive, no part, nothing aside
    assert "Terms: be kind." in capsys.readouterr().out


def test_terms_are_shown_before_anything_is_asked_of_a_server(serve, packed, tmp_path, monkeypatch):
    server, seen = serve(packed[0]), []
    monkeypatch.setattr("builtins.print", lambda text: seen.append((text.split("\n")[0], len(server.asked))))
    archive(server.url, digest=packed[1]).fetch(tmp_path / "mt")
    assert seen == [("Terms: be kind.", 0)]


def test_an_interrupted_download_goes_on_where_it_stopped(serve, packed, tmp_path):
    content, digest = packed
    server = serve(content)
    server.break_after = 100_000
    what = archive(server.url, digest=digest)
    with pytest.raises(ConnectionError, match=r"What has come lies in .*file\.zip\.part; ask again"):
        what.fetch(tmp_path / "mt")
    have = (tmp_path / "file.zip.part").stat().st_size
    assert 50_000 < have <= 100_000 < len(content)  # whole blocks are kept
    assert not (tmp_path / "mt").exists()
    server.break_after = None
    what.fetch(tmp_path / "mt")
    assert server.asked == [None, f"bytes={have}-"]
    assert tree_digest(tmp_path / "mt") == digest and names(tmp_path) == ["mt"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_is_continued_where_the_server_knows_ranges_and_replaced_where_not(serve, tmp_path, ranges):
    content = bytes(range(256)) * 300
    server, part = serve(content, ranges=ranges), tmp_path / "a.part"
    part.write_bytes(content[:999])
    Resume(part)(server.url, str(tmp_path / "a"), None)  # a zip would forgive bytes too many in front
    assert (tmp_path / "a").read_bytes() == content and not part.exists()
    assert server.asked == ["bytes=999-"]


def test_a_part_longer_than_the_file_is_thrown_away(serve, packed, tmp_path):
    content, digest = packed
    (tmp_path / "file.zip.part").write_bytes(content + b"rest of another file")
    server = serve(content)
    archive(server.url, digest=digest).fetch(tmp_path / "mt")
    assert server.asked == [f"bytes={len(content) + 20}-", None]


def test_the_next_address_helps_when_the_first_is_dead(serve, packed, tmp_path):
    content, digest = packed
    archive(DEAD, serve(content).url, digest=digest).fetch(tmp_path / "mt")
    assert tree_digest(tmp_path / "mt") == digest


def test_dead_addresses_tell_which_file_to_put_where(packed, tmp_path, capsys):
    content, digest = packed
    what = archive(DEAD, DEAD + "2", digest=digest)
    with pytest.raises(ConnectionError) as error:
        what.fetch(tmp_path / "mt")
    for words in (DEAD, DEAD + "2", f"save it as {tmp_path / 'file.zip'}", f"lie in {tmp_path / 'mt'}"):
        assert words in str(error.value)
    capsys.readouterr()
    (tmp_path / "file.zip").write_bytes(content)  # the advice works, and the file is not taken away
    assert tree_digest(what.fetch(tmp_path / "mt")) == digest
    assert capsys.readouterr().out == ""  # nothing is downloaded, so nothing is announced
    assert names(tmp_path) == ["file.zip", "mt"]


def test_other_files_than_the_known_ones_are_not_put_in_place(serve, packed, tmp_path):
    what = archive(serve(packed[0]).url, digest="0" * 64)
    with pytest.raises(
        ValueError, match=r"not the files we know \(digest \w{12}\.\.\., not 000000000000\.\.\.\); try again"
    ):
        what.fetch(tmp_path / "mt")
    assert names(tmp_path) == []
    (tmp_path / "file.zip").write_bytes(packed[0])
    with pytest.raises(ValueError, match=r"delete .*file\.zip and try again"):
        what.fetch(tmp_path / "mt")


def test_an_unknown_digest_is_said_aloud_and_kept_beside_the_files(serve, packed, tmp_path, capsys):
    archive(serve(packed[0]).url).fetch(tmp_path / "mt")
    assert f"taken on trust. Its files have digest {packed[1]}" in capsys.readouterr().out
    assert (tmp_path / "mt.digest.txt").read_text() == f"{packed[1]}  file.zip\n"


def test_a_page_instead_of_an_archive_is_refused(serve, tmp_path):
    with pytest.raises(ValueError, match=r"file\.zip: File is not a zip file; try again"):
        archive(serve(b"<html>please log in</html>").url).fetch(tmp_path / "mt")
    assert names(tmp_path) == []


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "mt").mkdir()
    (tmp_path / "mt" / "thesis.tex").write_text("important")
    with pytest.raises(FileExistsError, match="is not this data set; move it away"):
        archive(DEAD).fetch(tmp_path / "mt")


def test_an_archive_of_something_else_is_refused(serve, packed, tmp_path):
    other = Archive("file.zip", (serve(packed[0]).url,), "1 MB", "Terms.", r"MT_Silk/.*")
    with pytest.raises(
        ValueError, match=r"file\.zip: the archive holds none of the expected files; try again"
    ):
        other.fetch(tmp_path / "mt")
    assert names(tmp_path) == []


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_an_archive_is_checked_by_its_published_checksum(serve, packed, tmp_path, capsys, algorithm):
    content = packed[0]
    right = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    what = replace(archive(serve(content).url), checksum=right)
    what.fetch(tmp_path / "mt")
    assert "taken on trust" not in capsys.readouterr().out
    wrong = replace(what, checksum=right[:-1] + ("0" if right[-1] != "0" else "1"))
    with pytest.raises(
        ValueError, match=rf"not the file we know \({algorithm} \w{{12}}\.\.\., .*; try again"
    ):
        wrong.fetch(tmp_path / "other")
    (tmp_path / "file.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"not the file we know .*; delete .*file\.zip and try again"):
        wrong.fetch(tmp_path / "other")
    assert names(tmp_path) == ["file.zip", "mt"]


def test_advice_names_the_official_page_and_what_the_archive_holds(tmp_path):
    what = replace(archive(DEAD), page="https://data.example", holds="its fish")
    with pytest.raises(ConnectionError) as error:
        what.fetch(tmp_path / "pond")
    assert "(the data set's page is https://data.example)" in str(error.value)
    assert f"its fish lie in {tmp_path / 'pond'}" in str(error.value)


def test_without_py7zr_nothing_is_downloaded_and_the_remedy_is_named(serve, packed, tmp_path, monkeypatch):
    server = serve(packed[0])
    monkeypatch.setattr("mssf_lite.data.unpack.find_spec", lambda name: None)
    what = replace(archive(server.url), name="file.7z")
    with pytest.raises(
        ModuleNotFoundError, match=r"unpacking file\.7z needs .*pip install py7zr.* Or get http"
    ):
        what.fetch(tmp_path / "mt")
    assert server.asked == [] and names(tmp_path) == []


def test_the_digest_sees_names_and_contents_and_only_the_members(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_text("1")
    first = tree_digest(tmp_path, r"a/.*\.jpg")
    (tmp_path / "README.md").write_text("ignored")
    assert tree_digest(tmp_path, r"a/.*\.jpg") == first
    (tmp_path / "a" / "x.jpg").write_text("2")
    second = tree_digest(tmp_path, r"a/.*\.jpg")
    (tmp_path / "a" / "x.jpg").rename(tmp_path / "a" / "y.jpg")
    assert len({first, second, tree_digest(tmp_path, r"a/.*\.jpg")}) == 3


@pytest.mark.filterwarnings("ignore:.*is not the official magnetic-tile set")
def test_open_dataset_downloads_once_and_then_uses_what_is_there(serve, packed, tmp_path, monkeypatch):
    server = serve(packed[0])
    monkeypatch.setattr("mssf_lite.data.mt.ARCHIVE", replace(ARCHIVE, urls=(server.url,), digest=packed[1]))
    first = open_dataset("mt", tmp_path / "data", download=True)
    assert first.root == tmp_path / "data" / "mt" and len(first.samples) == 128
    assert open_dataset("mt", tmp_path / "data", download=True).digest == first.digest
    assert open_dataset("mt", tmp_path / "data").digest == first.digest
    assert len(server.asked) == 1


def test_data_lies_where_root_says_else_mssf_data_else_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MSSF_DATA", str(tmp_path))
    assert data_home("here") == Path("here") and data_home() == tmp_path
    for unset in ("", None):
        monkeypatch.setenv("MSSF_DATA", unset) if unset is not None else monkeypatch.delenv("MSSF_DATA")
        assert data_home() == Path(pooch.os_cache("mssf_lite"))


def tar_of(tree, top):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=0) as file:
        file.add(tree, top)
    return packed.getvalue()


@pytest.mark.filterwarnings("ignore:.*is not the official MVTec AD")
def test_only_the_missing_textures_of_mvtec_are_fetched_and_one_put_there_by_hand_is_unpacked(
    serve, tmp_path, monkeypatch, capsys
):
    made, home = tmp_path / "made", tmp_path / "data" / "mvtec"
    for name in ("grid", "tile", "wood"):
        mvtec_texture(made / name)
    shutil.copytree(made / "grid", home / "grid")
    (home / "tile.tar.xz").write_bytes(tar_of(made / "tile", "tile"))
    server = serve(tar_of(made / "wood", "wood"))
    ours = {
        name: replace(mvtec.ARCHIVES[name], urls=(server.url if name == "wood" else DEAD,))
        for name in ("grid", "tile", "wood")
    }
    monkeypatch.setattr("mssf_lite.data.mvtec.ARCHIVES", ours)
    wanted = ["grid", "tile", "wood"]
    dataset = open_dataset("mvtec", tmp_path / "data", textures=wanted, download=True)
    assert dataset.textures == ("grid", "tile", "wood") and len(server.asked) == 1
    assert dataset.digest == open_dataset("mvtec", made, textures=wanted).digest
    said = capsys.readouterr().out
    assert said.index("CC BY-NC-SA 4.0") < said.index("Downloading wood.tar.xz")
    assert said.count("taken on trust. Its files have digest") == 2  # nobody has recorded one


@pytest.mark.filterwarnings("ignore:.*is not the official KolektorSDD2")
def test_ksdd2_is_fetched_checked_and_its_strays_left_in_the_archive(serve, tmp_path, monkeypatch, capsys):
    tree = ksdd2(tmp_path / "made")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("train/10001_GT (copy).png", "a stray")
        for path in sorted(tree.rglob("*.png")):
            file.write(path, path.relative_to(tree).as_posix())
    server = serve(packed.getvalue())
    checksum = f"md5:{hashlib.md5(packed.getvalue()).hexdigest()}"
    ours = replace(ksdd2_module.ARCHIVE, urls=(server.url,), checksum=checksum)
    monkeypatch.setattr("mssf_lite.data.ksdd2.ARCHIVE", ours)
    dataset = open_dataset("ksdd2", tmp_path / "data", download=True)
    assert dataset.digest == open_dataset("ksdd2", tree).digest
    assert tree_digest(tmp_path / "data" / "ksdd2") == tree_digest(tree)
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*is not the official AITEX set")
def test_aitex_is_fetched_from_three_archives_and_only_what_is_missing(serve, tmp_path, monkeypatch, capsys):
    py7zr = pytest.importorskip("py7zr", reason="py7zr is not installed; 7z archives cannot be made or read")
    tree, home = aitex(tmp_path / "made"), tmp_path / "data" / "aitex"
    shutil.copytree(tree / "Mask_images", home / "Mask_images")
    servers, ours = [], dict(aitex_module.ARCHIVES)
    for name in ("Defect_images", "NODefect_images"):
        with py7zr.SevenZipFile(tmp_path / name, "w") as file:
            file.writeall(tree / name, name)
        content = (tmp_path / name).read_bytes()
        servers.append(serve(content))
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        ours[name] = replace(ours[name], urls=(servers[-1].url,), checksum=checksum)
    monkeypatch.setattr("mssf_lite.data.aitex.ARCHIVES", ours)
    chosen = {"textures": ["fabric-00", "fabric-04", "fabric-05"]}
    dataset = open_dataset("aitex", tmp_path / "data", download=True, **chosen)
    assert tree_digest(home) == tree_digest(tree) and [len(server.asked) for server in servers] == [1, 1]
    assert dataset.digest == open_dataset("aitex", tree, **chosen).digest
    assert "no licence is stated" in capsys.readouterr().out
