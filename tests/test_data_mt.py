from collections import Counter

import pytest
import torch
from data_trees import REAL, magnetic_tiles, needs_real_mt, save

from mssf_lite.data import SPLITS, leaked, open_dataset
from mssf_lite.data.download import tree_digest
from mssf_lite.data.mt import ARCHIVE, _published_names, recordings

tiny = pytest.mark.filterwarnings("ignore:.*is not the official magnetic-tile set")


@pytest.fixture
def root(tmp_path):
    return magnetic_tiles(tmp_path / "mt")


@pytest.fixture
def published(root, monkeypatch):
    """The tiny set's own published list: one exposure of each normal recording stays for the test."""
    names = {path.name for path in root.glob("MT_Free/Imgs/*.jpg") if not path.name.startswith("exp3")}
    monkeypatch.setattr("mssf_lite.data.mt._published_names", lambda: names)
    return names


def normals(samples):
    return [sample for sample in samples if not sample.is_defect]


def test_a_jump_of_more_than_300_frames_starts_a_new_recording():
    names = [
        "exp1_num_1000.jpg",
        "exp2_num_1300.jpg",
        "exp1_num_1601.jpg",
        "exp5_num_99.jpg",
        "exp6_num_1580.jpg",
    ]
    found = recordings(names)  # sorted frames: 99 | 1000 1300 1580 1601
    assert found["exp5_num_99.jpg"] == "mt-000099"
    assert {found[name] for name in names[:3]} == {"mt-001000"}
    assert recordings(["exp1_num_0.jpg", "exp2_num_301.jpg"]) == {
        "exp1_num_0.jpg": "mt-000000",
        "exp2_num_301.jpg": "mt-000301",
    }


@tiny
def test_a_name_without_a_frame_number_is_refused(root):
    save(root / "MT_Free/Imgs/tile7.jpg")
    with pytest.raises(ValueError, match=r"tile7\.jpg: expected exp<exposure>_num_<frame>\.jpg"):
        open_dataset("mt", root)


@tiny
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tile_split_keeps_recordings_whole_and_mixed_recordings_in_the_test(root, seed):
    dataset = open_dataset("mt", root, seed=seed)
    assert dataset.split == "tile" and not dataset.leaks and leaked(dataset) == 0
    sizes = Counter(sample.group for sample in dataset.samples)
    for side in (dataset.train, dataset.held_out):
        assert all(count == sizes[group] for group, count in Counter(s.group for s in side).items())
    # 16 of 20 recordings of normals are for training, 2 of these held out; the mixed one is tested
    assert len(dataset.train) == 14 * 6 and len(dataset.held_out) == 2 * 6
    assert len(normals(dataset.test)) == 4 * 6 + 3
    assert {s.group for s in dataset.test if s.defect == "crack"} == {"mt-021020"}
    assert "mt-021020" in {s.group for s in normals(dataset.test)}


@tiny
def test_published_split_leaks_on_purpose_but_holds_out_whole_recordings(root, published):
    dataset = open_dataset("mt", root, split="published")
    assert dataset.leaks
    assert {s.key.split("/")[-1] for s in dataset.train + dataset.held_out} == published
    assert {s.group for s in dataset.held_out}.isdisjoint(s.group for s in dataset.train)
    assert len({s.group for s in dataset.held_out}) == 3  # of 21
    assert leaked(dataset) == len(normals(dataset.test)) == 21


@tiny
def test_published_all_holds_out_one_recording_of_the_list_and_tests_the_same_images(root, published):
    dataset, less = (open_dataset("mt", root, split=split) for split in ("published-all", "published"))
    assert dataset.leaks and dataset.test == less.test
    assert {s.key.split("/")[-1] for s in dataset.train + dataset.held_out} == published
    held_out = {s.group for s in dataset.held_out}
    assert len(held_out) == 1 and held_out < {s.group for s in less.held_out}
    assert held_out.isdisjoint(s.group for s in dataset.train)


@tiny
def test_published_split_needs_every_published_image(root):
    with pytest.raises(
        ValueError, match=r"761 of the 761 published training images are missing, such as exp.*tile"
    ):
        open_dataset("mt", root, split="published")


@tiny
def test_the_seed_moves_the_draw_and_repeats_it(root, published):
    for split in SPLITS["mt"]:
        digests = [open_dataset("mt", root, split=split, seed=seed).digest for seed in (0, 0, 1)]
        assert digests[0] == digests[1] != digests[2]


@tiny
def test_a_defect_with_an_empty_mask_stays_a_defect(root):
    dataset = open_dataset("mt", root)
    (uneven,) = (s for s in dataset.test if s.defect == "uneven")
    assert uneven.is_defect and uneven.has_mask and not dataset.read(uneven)[1].any()
    (broken,) = (s for s in dataset.test if s.defect == "break")
    assert dataset.read(broken)[1].sum() == 9


def test_an_absent_set_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MSSF_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError) as error:
        open_dataset("mt")
    for word in (str(tmp_path / "data"), "download=True", "53 MB", "https://github.com/abin24", ARCHIVE.name):
        assert word in str(error.value)


def test_other_counts_than_the_official_ones_are_said_aloud(root):
    with pytest.warns(UserWarning, match="0 blowhole, not 115.*3 crack, not 57.*123 good, not 952"):
        open_dataset("mt", root)


@tiny
def test_an_unknown_kind_of_surface_is_refused(root):
    save(root / "MT_Scratch/Imgs/exp1_num_5.jpg")
    with pytest.raises(ValueError, match="unknown kind MT_Scratch"):
        open_dataset("mt", root)


def test_the_published_list_ships_with_the_package():
    names = _published_names()
    assert len(names) == 761 and all(name.startswith("exp") and name.endswith(".jpg") for name in names)


@pytest.fixture(scope="module")
def real():
    return {split: open_dataset("mt", REAL, split=split) for split in SPLITS["mt"]}


@needs_real_mt
def test_real_set_has_1344_images_392_defects_174_groups_19_of_them_mixed(real):
    for dataset in real.values():
        kinds = Counter(sample.defect for sample in dataset.samples)
        assert kinds == {"good": 952, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103}
        both = Counter(g for g, _ in {(s.group, s.is_defect) for s in dataset.samples})
        assert len(both) == 174 and sum(count == 2 for count in both.values()) == 19
        assert all(sample.has_mask for sample in dataset.samples)
        assert len(dataset.samples) == 1344


@needs_real_mt
def test_real_published_split_leaks_191_of_191_normal_test_images(real):
    dataset = real["published"]
    assert len(dataset.train) + len(dataset.held_out) == 761
    assert len(normals(dataset.test)) == 191 and leaked(dataset) == 191
    assert 80 < len(dataset.held_out) < 160


@needs_real_mt
def test_real_published_all_trains_on_siblings_of_nearly_all_normal_test_images_published_of_160(real):
    def known(dataset):
        trained = {s.group for s in dataset.train}
        return sum(s.group in trained for s in normals(dataset.test))

    assert known(real["published"]) == 160
    assert known(real["published-all"]) >= 187


@needs_real_mt
def test_real_tile_split_leaks_nothing_and_trains_on_about_620_images(real):
    for dataset in (real["tile"], *(open_dataset("mt", REAL, seed=seed) for seed in range(1, 5))):
        assert leaked(dataset) == 0
        side = len(dataset.train) + len(dataset.held_out)
        assert 600 <= side <= 640 and side + len(normals(dataset.test)) == 952
        assert 60 <= len(dataset.held_out) <= 130
        mixed = {s.group for s in dataset.test if s.is_defect}
        assert sum(s.group in mixed for s in normals(dataset.test)) == 169


@needs_real_mt
def test_real_files_are_those_of_the_pinned_commit():
    assert tree_digest(REAL / "mt", ARCHIVE.members) == ARCHIVE.digest


@needs_real_mt
def test_real_masks_are_as_large_as_their_images_and_four_uneven_ones_are_empty(real):
    dataset = real["tile"]
    masks = dataset.masks([s for s in dataset.test if s.defect == "uneven"], (64, 64))
    assert (~masks.any((1, 2))).sum() == 4
    image, mask = dataset.read(next(s for s in dataset.test if s.defect == "blowhole"))
    assert image.shape[1:] == mask.shape and 0 < mask.float().mean() < 0.2
    assert torch.equal(image[0], image[1]) and 0 <= image.min() < image.max() <= 1
