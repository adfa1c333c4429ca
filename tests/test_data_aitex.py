import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from data_trees import REAL, aitex, cloth, needs_real_aitex
from PIL import Image

from mssf_lite.data import leaked, open_dataset, read_mask, whole
from mssf_lite.data.aitex import ARCHIVES
from mssf_lite.data.cloth import bare_ends, read_grey, tile_lefts

TINY = ("fabric-00", "fabric-04", "fabric-05")
tiny = pytest.mark.filterwarnings("ignore:.*is not the official AITEX set")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return aitex(tmp_path_factory.mktemp("data") / "aitex")


@pytest.fixture(scope="module")
def dataset(root):
    with warnings.catch_warnings(action="ignore"):
        return opened(root)


@pytest.fixture
def copy(root, tmp_path):
    return shutil.copytree(root, tmp_path / "aitex")


def opened(root, **options):
    return open_dataset("aitex", root, textures=options.pop("textures", TINY), **options)


def named(samples, start):
    (sample,) = (s for s in samples if s.key.rpartition("/")[2].startswith(start))
    return sample


# where the cloth is


def test_white_ends_are_bare_up_to_where_the_ragged_edge_is_cloth():
    pixels = cloth("a", "white", first=700)
    first, last = bare_ends(pixels)
    assert 690 < first <= 700 and last == 4096
    assert (pixels[:, first:] == 255).mean(0).max() < 0.02 < (pixels[:, first - 1] == 255).mean()
    assert bare_ends(pixels[:, ::-1]) == (0, 4096 - first)


def test_black_ends_are_bare():
    pixels = cloth("a", "none")
    pixels[:, -333:] = 0
    assert bare_ends(pixels) == (0, 4096 - 333)


@pytest.mark.parametrize("first", [150, 525, 1184, 1700])
def test_a_grey_table_is_told_from_the_weave(first):
    found, last = bare_ends(cloth(f"b{first}", "table", first=first))
    assert abs(found - first) <= 3 and last == 4096


def test_a_weave_with_its_detail_across_the_picture_is_told_from_a_table_too():
    rows = np.arange(256)[:, None]
    noise = np.random.default_rng(0).normal(0, 6, (256, 4096))
    pixels = np.where(np.arange(4096) < 525, 128, 128 + 15 * np.sin(rows * 2.1)) + noise
    assert abs(bare_ends(pixels.astype(np.uint8))[0] - 525) <= 3


def test_a_striped_selvedge_is_cloth():
    pixels = cloth("c", "table", first=500)
    for stripe in (500, 530, 560):
        pixels[:, stripe : stripe + 16] = 240
    assert abs(bare_ends(pixels)[0] - 500) <= 3


def test_a_picture_full_of_cloth_has_no_bare_ends_and_an_empty_one_no_cloth():
    assert bare_ends(cloth("d", "none")) == (0, 4096)
    assert bare_ends(np.full((256, 4096), 255, np.uint8)) == (0, 0)


def test_tiles_cover_the_cloth_from_end_to_end_and_overlap_least():
    assert tile_lefts(0, 4096, 256) == list(range(0, 4096, 256))
    lefts = tile_lefts(700, 4096, 256)
    assert lefts[0] == 700 and lefts[-1] == 4096 - 256 and len(lefts) == 14
    assert max(np.diff(lefts)) <= 256
    assert tile_lefts(10, 266, 256) == [10] and tile_lefts(10, 265, 256) == []


# the split


@tiny
@pytest.mark.parametrize("seed", [0, 1])
def test_an_image_stays_on_one_side_and_each_fabric_is_divided_by_itself(root, seed):
    dataset = opened(root, seed=seed)
    assert dataset.textures == TINY and dataset.split == "image" and leaked(dataset) == 0
    sides = {
        part: Counter(s.texture for s in whole(getattr(dataset, part)) if not s.is_defect)
        for part in ("train", "held_out", "test")
    }
    assert sides["train"] == {"fabric-00": 5, "fabric-04": 2, "fabric-05": 2}  # 70 % less the held-out ones
    assert sides["held_out"] == {"fabric-00": 2, "fabric-04": 2, "fabric-05": 2}
    assert sides["test"] == {"fabric-00": 3, "fabric-04": 2, "fabric-05": 1}
    files = [{s.file for s in getattr(dataset, part)} for part in sides]
    assert not (files[0] & files[1] | files[0] & files[2] | files[1] & files[2])
    assert all(s.group == s.file for s in dataset.samples)


@tiny
def test_the_seed_moves_the_draw_and_other_fabrics_do_not(root):
    digests = [opened(root, seed=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    alone, together = opened(root, textures=["fabric-04"]), opened(root)
    assert alone.train == tuple(s for s in together.train if s.texture == "fabric-04")


def test_training_images_are_tiles_of_cloth_and_test_images_are_whole(dataset):
    for texture, count, first in (("fabric-00", 14, 699), ("fabric-04", 14, 700), ("fabric-05", 16, 0)):
        own = [s for s in dataset.train if s.texture == texture]
        tiles = [s for s in own if s.file == own[0].file]
        assert len(tiles) == count and abs(tiles[0].crop[1] - first) <= 9
        assert tiles[-1].crop == (0, 4096 - 256, 256, 256)
        assert all(not dataset.ignored(s).any() for s in tiles)
    one = dataset.train[3]
    _, left, _, _ = one.crop
    (uncut,) = whole([one])
    assert torch.equal(dataset.read(one)[0], dataset.read(uncut)[0][:, :, left : left + 256])
    assert dataset.read(one, (64, 64))[0].shape == (3, 64, 64)
    assert {s.crop for s in dataset.test} == {None}
    assert dataset.read(dataset.test[0])[0].shape == (3, 256, 4096)
    assert len(whole(dataset.train)) == 9


def test_pixels_that_are_no_cloth_can_be_ignored_at_any_size(dataset):
    for start in ("0001_002_00", "0062_022_00"):  # white, table
        sample = named(dataset.test, start)
        bare = dataset.ignored(sample)
        assert bare.shape == (256, 4096) and bare.dtype == torch.bool
        assert abs(int(bare[0].sum()) - 700) <= 9 and bare[:, :690].all() and not bare[:, 710:].any()
        assert torch.equal(dataset.ignored(sample, (64, 1024)), bare[::4, 1::4])
        assert not (bare & dataset.read(sample)[1]).any()
    assert not dataset.ignored(next(s for s in dataset.test if s.texture == "fabric-05")).any()


def test_a_strip_is_seen_with_its_aspect_and_only_where_it_is_cloth(dataset):
    sample = named(dataset.test, "0001_002_00")
    image, mask = dataset.seen(sample, (64, 64))
    assert image.shape[:2] == (3, 64) and abs(image.shape[2] - (4096 - 700) / 4) <= 3
    assert mask.shape == image.shape[1:] and mask.any()
    tile = dataset.train[0]
    assert torch.equal(dataset.seen(tile, (64, 64))[0], dataset.read(tile, (64, 64))[0])


@tiny
def test_what_is_beside_the_cloth_at_the_right_is_ignored_too(copy):
    (path,) = copy.glob("NODefect_images/*/0001_000_05.png")
    pixels = np.array(Image.open(path))
    pixels[:, 4000:] = 0
    Image.fromarray(pixels).save(path)
    dataset = opened(copy)
    sample = named(whole(dataset.samples), "0001_000_05")
    assert dataset.ignored(sample).any(0).nonzero().flatten().tolist() == list(range(4000, 4096))


@tiny
def test_no_pixel_is_ignored_in_a_set_that_knows_nothing_of_bare_ends():
    dataset = open_dataset("textures", textures=["wood"])
    assert not dataset.ignored(dataset.test[0], (5, 7)).any() and dataset.ignored(dataset.test[0]).shape == (
        256,
        256,
    )


# the oddities of the files


def test_two_masks_of_an_image_are_joined(dataset):
    sample = named(dataset.test, "0044_019_04")
    assert [name.rpartition("_")[2] for name in sample.mask] == ["mask1.png", "mask2.png"]
    mask = dataset.read(sample)[1]
    assert mask.sum() == 250 and mask[105, 1014] and mask[105, 1109]  # 100 + 200, 50 of them twice
    assert dataset.masks([sample], (256, 4096)).sum() == 250


def test_an_image_without_a_mask_stays_a_defect(dataset):
    sample = named(dataset.test, "0082_030_04")
    assert sample.defect == "nep" and sample.is_defect and sample.mask is None and not sample.has_mask
    assert dataset.read(sample)[1] is None


def test_an_image_with_an_empty_mask_stays_a_defect(dataset):
    sample = named(dataset.test, "0106_010_04")
    assert sample.defect == "broken_pick" and sample.has_mask and not dataset.read(sample)[1].any()


def test_alpha_of_images_and_masks_is_dropped(dataset):
    image, mask = dataset.read(named(dataset.test, "0062_022_00"))
    grey = cloth("0062_022_00", "table")
    np.testing.assert_allclose(image[0], grey / 255, atol=1e-6)
    assert mask.sum() == 100 and mask[105, 1005]


def test_the_short_image_and_fabric_08_are_left_out_and_that_is_said(dataset):
    assert not [s for s in dataset.samples if "0094" in s.key or "_08" in s.key]
    assert [note.partition(":")[0] for note in dataset.notes] == [
        "0100_025_08.png is left out",
        "0094_027_05.png is left out",
    ]
    assert "one defect and no normals" in dataset.notes[0] and "3796 x 256" in dataset.notes[1]


@tiny
def test_an_image_of_another_width_is_left_out_wherever_it_lies(copy):
    (copy / "Defect_images/unused/0094_027_05.png").rename(copy / "Defect_images/0094_027_05.png")
    assert "0094_027_05.png is left out: 3796 x 256 pixels, from Defect_images" in opened(copy).notes


def test_a_fabric_without_defects_has_normals_in_the_test(dataset):
    test = [s for s in dataset.test if s.texture == "fabric-05"]
    assert len(test) == 1 and not test[0].is_defect


@tiny
@pytest.mark.parametrize("spelling", ["NoDefect_images", "nodefect_images"])
def test_the_folder_of_the_normals_may_be_spelt_otherwise(root, copy, spelling):
    (copy / "NODefect_images").rename(copy / spelling)
    assert len(opened(copy).train) == len(opened(root).train)


def test_a_normal_image_whose_name_lacks_a_digit_is_normal(dataset):
    assert named(whole(dataset.samples), "0003_00_00").defect == "good"


@tiny
@pytest.mark.parametrize(
    "name, message",
    [
        ("Defect_images/photo.png", r"photo\.png: expected <number>_<defect>_<fabric>\.png"),
        ("Defect_images/0001_099_00.png", "0001_099_00.png: unknown defect code 099"),
        ("Mask_images/0009_002_00_mask.png", r"a mask for no image; bring 0009_002_00\.png"),
    ],
)
def test_files_that_fit_nowhere_are_refused_by_name(copy, name, message):
    Image.new("L", (4096, 256)).save(copy / name)
    with pytest.raises(ValueError, match=message):
        opened(copy)


@tiny
def test_a_fabric_with_too_few_normals_is_refused(root):
    with pytest.raises(ValueError, match=r"0 normal image\(s\) of fabric-01, 4 are needed.*textures="):
        open_dataset("aitex", root)
    with pytest.raises(ValueError, match="'aitex' has no texture fabric-08; it has fabric-00, "):
        opened(root, textures=["fabric-08"])


def test_other_counts_than_the_official_ones_are_said_aloud(root):
    with pytest.warns(UserWarning, match="6 normals of fabric-04, not 20; 3 defects of fabric-04, not 10"):
        opened(root)


def test_absent_folders_are_named_with_all_ways_to_get_them(copy, tmp_path):
    shutil.rmtree(copy / "Mask_images")
    with pytest.raises(FileNotFoundError) as error:
        opened(copy)
    for words in (
        "of the AITEX set, Mask_images are neither",
        "download=True",
        ARCHIVES["Mask_images"].urls[0],
        "aitex.es/afid",
        "Mask_images.7z",
    ):
        assert words in str(error.value)
    with pytest.raises(FileNotFoundError, match="set, Defect_images, NODefect_images, Mask_images are"):
        opened(tmp_path / "nowhere")


# the real files


@pytest.fixture(scope="module")
def real():
    return open_dataset("aitex", REAL)


@needs_real_aitex
def test_real_set_has_141_normals_and_104_defects_that_are_used(real):
    images = whole(real.samples)
    by_fabric = Counter((s.texture[-2:], s.is_defect) for s in images)
    assert {f: by_fabric[f, True] for f in ("00", "01", "02", "03", "04", "05", "06")} == {
        "00": 7, "01": 12, "02": 38, "03": 31, "04": 10, "05": 0, "06": 6
    }  # fmt: skip
    assert all(by_fabric[f, False] == 20 + (f == "01") for f in ("00", "01", "02", "03", "04", "05", "06"))
    assert len(whole(real.train)) == 85 and len(whole(real.held_out)) == 14 and len(real.test) == 42 + 104
    assert len(real.notes) == 2 and all(s.has_mask for s in real.samples)


@needs_real_aitex
def test_real_split_is_the_one_on_record(real):
    assert len(real.train) == 1196 and len(real.held_out) == 196
    assert real.digest == "04de65c5969271a94d336a76a63f02692fcbc054f30dad79f1793dfb8eb29cf4"


@needs_real_aitex
def test_real_masks_are_read_two_of_them_are_joined_and_one_is_empty(real):
    paths = {s.key: [s.mask] if isinstance(s.mask, str) else s.mask for s in real.test if s.is_defect}
    masks = {key: np.any([read_mask(real.root / p) for p in names], axis=0) for key, names in paths.items()}
    double = [key[-15:-4] for key, names in paths.items() if len(names) == 2]
    assert sorted(double) == ["0044_019_04", "0097_030_03"]
    assert [key[-15:-4] for key, mask in masks.items() if not mask.any()] == ["0106_010_03"]
    assert {mask.shape for mask in masks.values()} == {(256, 4096)}
    # what is ignored hides no defect: only a torn fringe reaches over the cloth's edge, by a thousandth
    hidden = {
        key: mask[:, : bare_ends(read_grey(real.root / key))[0]].sum() / mask.sum()
        for key, mask in masks.items()
        if mask.any()
    }
    assert [key[-15:-4] for key, share in hidden.items() if share] == ["0080_036_01"]
    assert max(hidden.values()) < 0.002


@needs_real_aitex
@pytest.mark.parametrize(
    "stem, first",  # read off the pictures
    [
        ("0001_000_00", 1229), ("0062_022_00", 1184), ("0001_000_01", 441), ("0093_030_01", 237),
        ("0041_019_02", 167), ("0010_006_02", 215), ("0104_022_03", 1156), ("0001_000_04", 525),
        ("0001_000_05", 204), ("0005_000_06", 743),
    ],
)  # fmt: skip
def test_real_cloth_begins_where_one_sees_it_begin(stem, first):
    (path,) = (REAL / "aitex").glob(f"*/**/{stem}.png")
    found, last = bare_ends(read_grey(path))
    assert abs(found - first) <= 5 and last == 4096
