import numpy as np
import pytest
from data_trees import ksdd2, save
from PIL import Image

from mssf_lite.data import open_dataset
from mssf_lite.data.ksdd2 import ARCHIVE

tiny = pytest.mark.filterwarnings("ignore:.*is not the official KolektorSDD2")


@pytest.fixture
def root(tmp_path):
    return ksdd2(tmp_path / "ksdd2")


@tiny
def test_defective_training_images_are_never_used_and_that_is_said(root):
    dataset = open_dataset("ksdd2", root)
    assert (dataset.name, dataset.split, dataset.textures) == ("ksdd2", "official", ("ksdd2",))
    assert len(dataset.train) == 18 and len(dataset.held_out) == 2 and len(dataset.test) == 7
    assert all(s.key.startswith("train/") for s in dataset.train + dataset.held_out)
    assert not {f"train/{n}.png" for n in (10021, 10022, 10023)} & {s.key for s in dataset.samples}
    assert dataset.notes == ("3 defective training images are left out",)


@tiny
def test_an_image_is_a_defect_if_any_pixel_of_its_truth_is_not_black(root):
    dataset = open_dataset("ksdd2", root)
    assert [s.key for s in dataset.test if s.is_defect] == ["test/10029.png", "test/10030.png"]
    assert {s.defect for s in dataset.test} == {"good", "defect"}
    assert [dataset.read(s)[1].sum().item() for s in dataset.test] == [0, 0, 0, 0, 0, 30, 30]


@tiny
@pytest.mark.parametrize("mode", ["RGB", "LA"])
def test_truth_images_of_other_modes_are_understood(root, mode):
    for path in (root / "test").glob("*_GT.png"):
        Image.open(path).convert(mode).save(path)  # LA: opaque everywhere, which is no defect
    assert sum(s.is_defect for s in open_dataset("ksdd2", root).test) == 2


@tiny
def test_upright_images_keep_their_aspect_at_one_size_for_all(root):
    dataset = open_dataset("ksdd2", root)
    images = dataset.images(dataset.test, (24, 24))
    assert {image.shape for image in images} == {(3, 64, 24)}  # 2.75 times 24, in steps of 32
    assert dataset.read(dataset.test[1])[0].shape == (3, 64, 23)  # as it is
    assert dataset.masks(dataset.test, (24, 24)).shape == (7, 64, 24)
    assert dataset.seen_at(dataset.test[0], (256, 256)) == (704, 256)
    assert dataset.seen_at(dataset.test[0], (320, 256)) == (320, 256)  # chosen for these images


@tiny
def test_files_of_other_names_are_passed_over(root):
    digest = open_dataset("ksdd2", root).digest
    save(root / "train/10001 (copy).png"), save(root / "train/10001_GT (copy).png")
    assert open_dataset("ksdd2", root).digest == digest


@tiny
def test_the_seed_moves_the_held_out_normals(root):
    digests = [open_dataset("ksdd2", root, seed=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@tiny
def test_an_image_without_truth_is_refused_by_name(root):
    (root / "test/10025_GT.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"10025_GT\.png: no such file, so nobody knows whether 10025"
    ):
        open_dataset("ksdd2", root)
    (root / "test/10025_GT.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"10025_GT\.png: an empty file"):
        open_dataset("ksdd2", root)


@tiny
def test_a_faint_truth_is_a_defect_whose_mask_is_refused_and_not_read_as_empty(root):
    pixels = np.zeros((63, 23), np.uint8)
    pixels[3, 3] = 9
    Image.fromarray(pixels).save(root / "test/10024_GT.png")
    dataset = open_dataset("ksdd2", root)
    assert dataset.test[0].is_defect
    with pytest.raises(ValueError, match="from 0 to 9"):
        dataset.read(dataset.test[0])


def test_an_absent_set_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        open_dataset("ksdd2", tmp_path)
    for words in ("download=True", ARCHIVE.urls[0], "vicos.si/resources/kolektorsdd2", "KolektorSDD2.zip"):
        assert words in str(error.value)
    with pytest.raises(ValueError, match="'ksdd2' has one texture, 'ksdd2'"):
        open_dataset("ksdd2", tmp_path, textures=["wood"])


def test_other_counts_than_the_published_ones_are_said_aloud(root):
    with pytest.warns(
        UserWarning,
        match="20 normal train images, not 2085; 3 defective train images, not 246; 5 normal test",
    ):
        open_dataset("ksdd2", root)
