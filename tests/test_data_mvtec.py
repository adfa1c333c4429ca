import shutil

import pytest
from data_trees import mvtec_texture

from mssf_lite.data import open_dataset
from mssf_lite.data.mvtec import ARCHIVES, COUNTS

NAMES = ("carpet", "grid", "leather", "tile", "wood")
tiny = pytest.mark.filterwarnings("ignore:.*is not the official MVTec AD")


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        mvtec_texture(tmp_path / "mvtec" / name, train=20)
    mvtec_texture(tmp_path / "mvtec" / "bottle")  # no texture: passed over
    return tmp_path / "mvtec"


@tiny
def test_the_five_textures_are_read_and_other_classes_passed_over(root):
    dataset = open_dataset("mvtec", root)
    assert (dataset.name, dataset.split, dataset.textures) == ("mvtec", "official", NAMES)
    assert len(dataset.train) == 5 * 18 and len(dataset.held_out) == 5 * 2 and len(dataset.test) == 5 * 7
    assert dataset.train[0].key == "carpet/train/good/000.png" and "CC BY-NC-SA" in dataset.licence
    assert dataset.masks([s for s in dataset.test if s.is_defect], (12, 16)).any((1, 2)).all()


@tiny
def test_only_the_wanted_textures_must_be_there(root):
    for name in ("carpet", "grid", "leather"):
        shutil.rmtree(root / name)
    assert open_dataset("mvtec", root, textures=["wood", "tile"]).textures == ("tile", "wood")
    with pytest.raises(FileNotFoundError, match="of MVTec AD, carpet, grid, leather are neither in"):
        open_dataset("mvtec", root)


@tiny
def test_the_held_out_normals_of_a_texture_follow_the_seed_and_not_the_company(root):
    def held_out(**options):
        return [s.key for s in open_dataset("mvtec", root, **options).held_out if s.texture == "wood"]

    assert held_out() == held_out(textures=["wood"]) == held_out(textures=["grid", "wood"])
    assert held_out(seed=1) != held_out()


def test_an_absent_texture_says_how_to_get_it_and_how_to_do_without(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        open_dataset("mvtec", tmp_path, textures=["wood"])
    for words in (
        "download=True",
        ARCHIVES["wood"].urls[0],
        "www.mvtec.com/company/research/datasets/mvtec-ad",
        str(tmp_path / "mvtec" / "wood.tar.xz"),
        str(tmp_path / "mvtec" / "wood") + ".",
        "textures=",
    ):
        assert words in str(error.value)


def test_an_unknown_texture_is_refused_with_the_known(root):
    with pytest.raises(ValueError, match="'mvtec' has no texture bottle; it has carpet, grid, leather"):
        open_dataset("mvtec", root, textures=["bottle"])


def test_other_counts_than_the_published_ones_are_said_aloud_texture_by_texture(root):
    with pytest.warns(UserWarning) as said:
        open_dataset("mvtec", root, textures=["tile", "wood"])
    tile, wood = (str(one.message) for one in said)
    assert (
        "tile is not the official MVTec AD" in tile
        and "20 train, not 230" in tile
        and "2 hole, not 0" in tile
    )
    assert "2 hole, not 10" in wood and "2 scratch, not 21" in wood and "3 good, not 19" in wood


def test_the_published_counts_add_up():
    train = sum(kinds["train"] for kinds in COUNTS.values())
    good = sum(kinds["good"] for kinds in COUNTS.values())
    assert (train, good) == (1266, 133)
    assert sum(sum(kinds.values()) for kinds in COUNTS.values()) - train - good == 382
