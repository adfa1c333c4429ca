import shutil

import pytest
from data_trees import mvtec_texture, save
from PIL import ExifTags, Image

from mssf_lite.data import open_dataset


def keys(samples):
    return [sample.key for sample in samples]


def test_a_folder_of_textures_is_read_whole(tmp_path):
    mvtec_texture(tmp_path / "carpet"), mvtec_texture(tmp_path / "wood", train=5)
    (tmp_path / "notes").mkdir()  # passed over
    dataset = open_dataset("folder", tmp_path)
    assert dataset.textures == ("carpet", "wood")
    assert len(dataset.train) == 8 + 4 and len(dataset.held_out) == 2 + 1 and len(dataset.test) == 2 * 7
    assert {s.defect for s in dataset.test} == {"good", "hole", "scratch"}
    assert sum(s.is_defect for s in dataset.test) == 8
    assert "carpet/test/hole/001.png" in keys(dataset.test)
    image, mask = dataset.read(dataset.train[0], (8, 10))
    assert image.shape == (3, 8, 10) and mask.shape == (8, 10)


def test_one_texture_can_be_the_root_itself(tmp_path):
    dataset = open_dataset("folder", mvtec_texture(tmp_path / "leather"))
    assert dataset.textures == ("leather",)
    assert dataset.test[0].key == "test/good/000.png"


def test_a_root_that_is_the_working_folder_still_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(mvtec_texture(tmp_path / "leather"))
    assert open_dataset("folder", ".").textures == ("leather",)


def test_masks_belong_to_the_image_of_the_same_stem(tmp_path):
    dataset = open_dataset("folder", mvtec_texture(tmp_path / "carpet"))
    holes = [s for s in dataset.test if s.defect == "hole"]
    masks = dataset.masks(holes, (12, 16))
    assert masks.sum((1, 2)).tolist() == [3 * 6, 4 * 6] and masks[0, 2, 3] and not masks[0, 0, 0]
    assert not dataset.masks(dataset.train, (12, 16)).any()


def test_a_mask_may_also_be_called_like_its_image(tmp_path):
    root = mvtec_texture(tmp_path / "carpet")
    (root / "ground_truth/hole/000_mask.png").rename(root / "ground_truth/hole/000.png")
    assert all(sample.has_mask for sample in open_dataset("folder", root).test)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".bmp", ".tif", ".TIFF"])
def test_common_image_formats_are_found(tmp_path, suffix):
    dataset = open_dataset("folder", mvtec_texture(tmp_path / "carpet", suffix=suffix))
    assert len(dataset.samples) == 17
    assert dataset.images(dataset.samples, (4, 4))[16].shape == (3, 4, 4)


def test_other_files_and_hidden_ones_are_passed_over(tmp_path):
    root = mvtec_texture(tmp_path / "carpet")
    before = open_dataset("folder", root).digest
    (root / "train/good/Thumbs.db").write_bytes(b"x")
    (root / "train/good/._000.png").write_bytes(b"x")
    (root / "test/.cache").mkdir()
    assert open_dataset("folder", root).digest == before


def test_without_masks_images_are_there_and_only_masks_are_refused(tmp_path):
    root = mvtec_texture(tmp_path / "carpet")
    shutil.rmtree(root / "ground_truth/hole")
    (root / "ground_truth/scratch/000_mask.png").unlink()
    dataset = open_dataset("folder", root)
    assert [s.key for s in dataset.test if not s.has_mask] == [
        "test/hole/000.png",
        "test/hole/001.png",
        "test/scratch/000.png",
    ]
    assert len(dataset.images(dataset.test, (8, 8))) == 7
    with pytest.raises(ValueError, match=r"test/hole/000\.png: this 'hole' image has no mask"):
        dataset.masks(dataset.test, (8, 8))


def test_good_images_alone_are_enough_to_train(tmp_path):
    root = mvtec_texture(tmp_path / "carpet")
    shutil.rmtree(root / "test"), shutil.rmtree(root / "ground_truth")
    dataset = open_dataset("folder", root)
    assert len(dataset.train) == 8 and dataset.test == ()
    assert len(dataset.masks(dataset.test, (8, 8))) == 0


def test_held_out_normals_follow_the_seed_and_the_share(tmp_path):
    root = mvtec_texture(tmp_path / "carpet", train=30)
    by_seed = [keys(open_dataset("folder", root, seed=seed).held_out) for seed in (0, 0, 1)]
    assert by_seed[0] == by_seed[1] != by_seed[2] and len(by_seed[0]) == 6
    assert len(open_dataset("folder", root, held_out=0.5).held_out) == 15
    for share in (0, 1, -0.2):
        with pytest.raises(ValueError, match=f"held_out.*got {share}"):
            open_dataset("folder", root, held_out=share)


def test_the_draw_of_one_texture_takes_from_each_texture(tmp_path):
    mvtec_texture(tmp_path / "a", train=2), mvtec_texture(tmp_path / "b", train=2)
    held_out = open_dataset("folder", tmp_path).held_out
    assert sorted(sample.texture for sample in held_out) == ["a", "b"]


def test_images_of_one_item_stay_together_when_a_pattern_names_the_item(tmp_path):
    root = tmp_path / "tiles"
    for item in range(6):
        for view in "abc":
            save(root / f"train/good/tile{item}_{view}.png")
    save(root / "test/good/tile9_a.png")
    dataset = open_dataset("folder", root, group=r"(tile\d+)_")
    assert len(dataset.held_out) == 3 and len({s.group for s in dataset.held_out}) == 1
    assert {s.group for s in dataset.samples} == {f"tiles/tile{i}" for i in (0, 1, 2, 3, 4, 5, 9)}
    assert open_dataset("folder", root, group=r"tile\d+").digest == dataset.digest
    save(root / "test/good/tile1_d.png")
    with pytest.raises(
        ValueError, match=r"stand in .* for instance 'tiles/tile1'; keep all pictures of one item"
    ):
        open_dataset("folder", root, group=r"(tile\d+)_")


@pytest.mark.parametrize(
    "group, message",
    [
        ("(", "is no regular expression"),
        ("good_(.)", "names no item in 'train/good/000.png'"),
        ("good", "10 image.s. of a single item; at least two"),
    ],
)
def test_patterns_that_name_no_items_are_refused(tmp_path, group, message):
    with pytest.raises(ValueError, match=message):
        open_dataset("folder", mvtec_texture(tmp_path / "carpet"), group=group)


def test_textures_can_be_chosen_and_unknown_ones_are_refused_with_the_known(tmp_path):
    for name in ("carpet", "wood", "tile"):
        mvtec_texture(tmp_path / name)
    assert open_dataset("folder", tmp_path, textures=["wood", "carpet"]).textures == ("carpet", "wood")
    with pytest.raises(ValueError, match="no texture silk; there are carpet, tile, wood"):
        open_dataset("folder", tmp_path, textures=["wood", "silk"])


def test_missing_folders_are_named_with_the_expected_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected <texture>/train/good"):
        open_dataset("folder", tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no texture; expected <texture>/train/good"):
        open_dataset("folder", tmp_path)
    (tmp_path / "a/test").mkdir()
    with pytest.raises(FileNotFoundError, match=r"a/train/good: no such folder; the normals"):
        open_dataset("folder", tmp_path)


@pytest.mark.parametrize("empty", ["train/good", "test/hole", "test/good", "ground_truth/hole"])
def test_empty_folders_are_refused_by_name(tmp_path, empty):
    root = mvtec_texture(tmp_path / "carpet")
    shutil.rmtree(root / empty), (root / empty).mkdir()
    with pytest.raises(ValueError, match=f"{empty}: no images"):
        open_dataset("folder", root)
    (root / empty / "a.webp").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no images \(\.png, .*of other kinds there is a\.webp"):
        open_dataset("folder", root)


def test_defects_among_the_training_images_are_refused(tmp_path):
    root = mvtec_texture(tmp_path / "carpet")
    save(root / "train/hole/000.png")
    with pytest.raises(
        ValueError, match=r"train/hole: training sees normals only; move this folder to .*test"
    ):
        open_dataset("folder", root)


def test_masks_that_fit_no_image_are_refused(tmp_path):
    root = mvtec_texture(tmp_path / "carpet")
    save(root / "ground_truth/hole/0O1_mask.png", mask_box=())
    with pytest.raises(ValueError, match=r"0O1_mask\.png: a mask for no image"):
        open_dataset("folder", root)
    (root / "ground_truth/hole/0O1_mask.png").unlink()
    (root / "test/scratch").rename(root / "test/scratches")
    with pytest.raises(ValueError, match=r"ground_truth/scratch: masks of a kind that .*test has not"):
        open_dataset("folder", root)


def test_a_single_normal_is_too_few(tmp_path):
    with pytest.raises(ValueError, match=r"1 image\(s\) of a single item; at least two items"):
        open_dataset("folder", mvtec_texture(tmp_path / "carpet", train=1))


def test_detectors_see_each_texture_in_a_shape_of_its_own(tmp_path):
    shapes = {"long": (30, 90), "high": (80, 40), "square": (50, 50)}
    for name, shape in shapes.items():
        for i in range(3):
            save(tmp_path / name / f"train/good/{i}.png", shape)
        save(tmp_path / name / "test/good/0.png", (40, 40))  # unlike those of the training
    dataset = open_dataset("folder", tmp_path)
    seen = {s.texture: dataset.seen(s, (64, 64))[0].shape for s in dataset.train}
    assert seen == {"long": (3, 64, 192), "high": (3, 128, 64), "square": (3, 64, 64)}
    assert {s.texture: dataset.seen(s, (64, 64))[0].shape for s in dataset.test} == seen
    assert {dataset.seen_at(s, (64, 96)) for s in dataset.samples} == {(64, 96)}  # chosen by somebody
    assert {dataset.seen_at(s, (100, 100)) for s in dataset.samples if s.texture == "square"} == {(100, 100)}


def test_the_shape_of_a_texture_is_that_of_its_middle_image(tmp_path):
    for i, width in enumerate((64, 128, 900)):
        save(tmp_path / f"cloth/train/good/{i}.png", (64, width))
    dataset = open_dataset("folder", tmp_path)
    assert {dataset.seen_at(s, (64, 64)) for s in dataset.samples} == {(64, 128)}


def test_a_camera_held_on_its_side_is_known_to_the_shape(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for i in range(2):
        path = save(tmp_path / f"cloth/train/good/{i}.jpg", (32, 64))
        Image.open(path).save(path, exif=exif)
    dataset = open_dataset("folder", tmp_path)
    assert dataset.read(dataset.train[0])[0].shape == (3, 64, 32)
    assert dataset.seen_at(dataset.train[0], (32, 32)) == (64, 32)
