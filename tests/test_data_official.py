from pathlib import Path

import pytest
from data_trees import aitex, ksdd2, magnetic_tiles, mvtec_texture

from mssf_lite.data import open_dataset
from mssf_lite.data.download import Archive
from mssf_lite.data.official import compare_counts, find_set

PARTS = {part: Archive(f"{part}.zip", (f"https://x.example/{part}",), "1 MB", "", ".*") for part in "abc"}


def find(root, parts="abc", **options):
    return find_set("toy", "the toy set", {p: PARTS[p] for p in parts}, Path.is_dir, root, False, **options)


def mvtec(folder):
    mvtec_texture(folder / "tile"), mvtec_texture(folder / "wood")
    return folder


@pytest.mark.filterwarnings("ignore:.*is not the official")
@pytest.mark.parametrize(
    "name, tree, textures",
    [
        ("mt", magnetic_tiles, None),
        ("ksdd2", ksdd2, None),
        ("mvtec", mvtec, ["tile", "wood"]),
        ("aitex", aitex, ["fabric-00"]),
    ],
)
def test_the_folder_is_found_by_root_by_parent_and_by_environment(
    name, tree, textures, tmp_path, monkeypatch
):
    root = tree(tmp_path / name)
    digest = open_dataset(name, root, textures=textures).digest
    assert open_dataset(name, tmp_path, textures=textures).digest == digest
    monkeypatch.setenv("MSSF_DATA", str(tmp_path))
    found = open_dataset(name, textures=textures)
    assert found.digest == digest and found.root == root


def test_the_folder_that_holds_more_is_taken_and_of_two_alike_the_one_of_the_set_s_name(tmp_path):
    for part in ("a", "toy/b", "toy/c"):
        (tmp_path / part).mkdir(parents=True)
    assert find(tmp_path, "bc") == tmp_path / "toy" and find(tmp_path, "a") == tmp_path
    (tmp_path / "b").mkdir()
    assert find(tmp_path, "b") == tmp_path / "toy"


def test_what_is_missing_is_named_with_its_size_and_where_to_put_it(tmp_path):
    (tmp_path / "toy" / "a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        find(tmp_path, advice=". Or play with something else")
    for words in (
        f"of the toy set, b, c are neither in {tmp_path / 'toy'} nor in {tmp_path}.",
        "open_dataset('toy', download=True) fetches what is missing (b.zip, 1 MB; c.zip, 1 MB)",
        f"save it as {tmp_path / 'toy' / 'b.zip'}",
        "(and the others likewise). Or play with something else",
    ):
        assert words in str(error.value)
    with pytest.raises(FileNotFoundError, match="of the toy set, d are"):
        find_set("toy", "the toy set", {"d": PARTS["a"]}, lambda _: False, tmp_path, False)


def test_other_counts_than_the_published_are_said_aloud_and_equal_ones_are_not(tmp_path):
    compare_counts(tmp_path, "toy set", {"good": 3}, {"good": 3, "hole": 0})
    with pytest.warns(UserWarning, match="official toy set: 2 good, not 3; 0 hole, not 1; 4 dent, not 0"):
        compare_counts(tmp_path, "toy set", {"good": 2, "dent": 4}, {"good": 3, "hole": 1})
