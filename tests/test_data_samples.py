import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mssf_lite.data import Dataset, Sample, leaked, open_dataset, whole
from mssf_lite.data.splits import draw_groups


def sample(key, split="train", defect="good", group=None, mask=None):
    return Sample(key, "cloth", defect, split, group or key, mask)


class Painted:
    """A reader without files: every pixel of image ``k7`` is 0.07."""

    def read(self, sample, size):
        h, w = size or (4, 5)
        mask = torch.zeros(h, w, dtype=torch.bool)
        if sample.is_defect:
            mask[0, 0] = True
        return torch.full((3, h, w), int(sample.file[1:]) / 100), mask if sample.has_mask else None


def dataset(**changes):
    parts = {
        "train": (sample("k1", group="a"), sample("k2", group="a"), sample("k3", group="b")),
        "held_out": (sample("k4", "held_out", group="c"),),
        "test": (sample("k5", "test", group="d"), sample("k6", "test", "hole", group="e", mask="m6")),
    }
    fixed = dict(name="toy", split="s", seed=0, reader=Painted(), licence="free", citation="none")
    return Dataset(**{**fixed, **parts, **changes})


def test_the_label_makes_a_defect_not_the_mask():
    assert not sample("k", "test").is_defect and sample("k", "test").has_mask
    assert sample("k", "test", "hole").is_defect and not sample("k", "test", "hole").has_mask


def test_a_sample_in_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"k: unknown split 'val'.*train, held_out, test"):
        sample("k", "val")


@pytest.mark.parametrize("one, other", [("train", "held_out"), ("train", "test"), ("held_out", "test")])
def test_a_group_on_two_sides_is_refused(one, other):
    whole = dataset()
    moved = dataclasses.replace(getattr(whole, other)[0], group=getattr(whole, one)[0].group)
    with pytest.raises(ValueError, match=f"'{one}' and in '{other}', for instance '{moved.group}'"):
        dataset(**{other: (moved, *getattr(whole, other)[1:])})


def test_a_split_that_declares_its_leak_may_share_groups_with_the_test_but_not_with_held_out():
    shared = (sample("k5", "test", group="a"), sample("k6", "test", "hole", group="a"), sample("k7", "test"))
    assert leaked(dataset(test=shared, leaks=True)) == 1  # k5; the defect k6 does not count
    assert leaked(dataset(test=(sample("k5", "test", group="c"),), leaks=True)) == 1  # c is held out
    with pytest.raises(ValueError, match="'train' and in 'held_out'"):
        dataset(held_out=(sample("k4", "held_out", group="a"),), leaks=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": (sample("k1"), sample("k1"))}, "k1: comes twice"),
        ({"train": (sample("k5"),)}, "k5: comes twice"),
        ({"train": (sample("k1", "test"),)}, "k1: says 'test' but stands in 'train'"),
        ({"train": (sample("k1", defect="hole"),)}, "k1: 'hole' in 'train'; defects belong in 'test'"),
    ],
)
def test_misplaced_samples_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(**changes)


def test_the_digest_depends_on_who_is_where_and_on_nothing_else():
    whole = dataset()
    assert whole.digest == dataset(train=whole.train[::-1], seed=5, name="other").digest
    for change in ({"group": "z"}, {"defect": "dent"}, {"texture": "silk"}, {"key": "k9"}):
        test = (whole.test[0], dataclasses.replace(whole.test[1], **change))
        assert dataset(test=test).digest != whole.digest, change
    moved = dataclasses.replace(whole.train[2], split="held_out")
    assert dataset(train=whole.train[:2], held_out=(*whole.held_out, moved)).digest != whole.digest


def test_images_batch_in_a_data_loader_and_keep_their_order():
    whole = dataset()
    batches = list(DataLoader(whole.images(whole.samples, (4, 6)), batch_size=4))
    assert [tuple(batch.shape) for batch in batches] == [(4, 3, 4, 6), (2, 3, 4, 6)]
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])


def test_images_are_read_only_when_asked_for():
    class Refuses:
        def read(self, sample, size):
            raise AssertionError("read too early")

    whole = dataset(reader=Refuses())
    assert len(whole.images(whole.samples, (4, 4))) == 6


def test_masks_are_empty_for_normals_and_stand_in_the_order_asked_for():
    whole = dataset()
    masks = whole.masks(whole.test[::-1], (4, 6))
    assert masks.shape == (2, 4, 6) and masks.dtype == bool
    assert masks[0, 0, 0] and masks.sum() == 1
    assert len(whole.masks([], (4, 6))) == 0


def test_a_defect_without_a_mask_gives_an_image_but_no_masks():
    whole = dataset(test=(sample("k6", "test", "hole"),))
    image, mask = whole.read(whole.test[0])
    assert image.shape == (3, 4, 5) and mask is None
    assert whole.images(whole.test, (6, 7))[0].shape == (3, 6, 7)
    with pytest.raises(ValueError, match="k6: this 'hole' image has no mask"):
        whole.masks(whole.test, (4, 6))


def test_parts_of_an_image_are_samples_of_one_item_with_keys_of_their_own():
    one = sample("a#b.png", group="roll 7")
    parts = [one.cut(0, left, 256, 256) for left in (0, 256)]
    assert [part.key for part in parts] == ["a#b.png#xywh=0,0,256,256", "a#b.png#xywh=256,0,256,256"]
    assert {(part.file, part.group, part.texture, part.split) for part in parts} == {
        ("a#b.png", "roll 7", "cloth", "train")
    }
    assert parts[1].cut(1, 2, 3, 4).key == "a#b.png#xywh=2,1,4,3" and one.file == "a#b.png"
    assert dataset(train=tuple(parts)).digest != dataset(train=(one,)).digest


def test_whole_images_are_given_back_once_and_in_order():
    one, two = sample("k1"), sample("k2")
    assert whole([one.cut(0, 0, 1, 1), two, one.cut(1, 0, 1, 1)]) == (one, two)


def test_no_pixel_is_ignored_unless_the_reader_knows_of_some():
    plain = dataset()
    assert plain.ignored(plain.test[0]).shape == (4, 5) and not plain.ignored(plain.test[0], (2, 3)).any()

    class Knows(Painted):
        def ignored(self, sample, size):
            return torch.ones(size, dtype=torch.bool)

    assert dataset(reader=Knows()).ignored(plain.test[0], (2, 3)).all()


def test_long_images_are_seen_with_their_aspect_and_without_bare_ends():
    class Strips(type(dataset().reader)):
        def seen_at(self, sample, size):
            return size[0], 10 * size[0]

        def ignored(self, sample, size):
            bare = torch.zeros(*size, dtype=torch.bool)
            bare[:, :3] = bare[0, 5] = True  # three whole columns, and a single pixel
            return bare

    strips = dataset(reader=Strips())
    image, mask = strips.seen(strips.test[1], (4, 4))
    assert image.shape == (3, 4, 37) and mask.shape == (4, 37)
    torch.testing.assert_close(image, strips.read(strips.test[1], (4, 40))[0][:, :, 3:])
    assert strips.images(strips.test, (4, 4))[0].shape == (3, 4, 37)
    assert strips.masks(strips.test[:1], (4, 4))[0].shape == (4, 37)
    tile = strips.test[1].cut(0, 0, 2, 2)
    assert strips.seen(tile, (4, 4))[0].shape == (3, 4, 40)  # this reader says so; nothing is cut from a part


def test_lists_are_written_whole_and_overwritten(tmp_path):
    paths = dataset().write_lists(tmp_path / "lists")
    assert [path.name for path in paths] == ["train.txt", "held_out.txt", "test.txt"]
    assert [path.read_text() for path in paths] == ["k1\nk2\nk3\n", "k4\n", "k5\nk6\n"]
    dataset(train=(sample("k1"),)).write_lists(tmp_path / "lists")
    assert paths[0].read_text() == "k1\n"
    assert len(list((tmp_path / "lists").iterdir())) == 3  # nothing left aside


def test_a_failed_write_leaves_the_old_list_and_no_rubbish(tmp_path, monkeypatch):
    dataset().write_lists(tmp_path)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        dataset(train=(sample("k1"),)).write_lists(tmp_path)
    assert (tmp_path / "train.txt").read_text() == "k1\nk2\nk3\n"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "names, share, count", [("abcdefghij", 0.2, 2), ("ab", 0.2, 1), ("ab", 0.9, 1), ("a", 0.9, 0)]
)
def test_some_groups_are_drawn_never_all_never_none_of_two(names, share, count):
    drawn = draw_groups(names * 3, share, torch.Generator().manual_seed(0))
    assert len(drawn) == count and drawn <= set(names)


def test_one_seed_gives_one_draw_and_another_another():
    names = [str(i) for i in range(50)]
    draws = [
        draw_groups(names[::step], 0.5, torch.Generator().manual_seed(s))
        for s, step in ((1, 1), (1, -1), (2, 1))
    ]
    assert draws[0] == draws[1] != draws[2]
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        draw_groups(names, 1.5, torch.Generator())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"name": "carpets"},
            "unknown data set 'carpets'; choose one of textures, mvtec, ksdd2, mt, aitex, folder",
        ),
        ({"name": "mt", "split": "random"}, "unknown split 'random' of 'mt'; choose one of tile, published"),
        ({"name": "folder"}, "'folder' needs root="),
        (
            {"name": "folder", "root": ".", "shuffle": 1},
            "'folder' has no option shuffle; it has held_out, group",
        ),
        ({"name": "mt", "root": ".", "held_out": 0.5}, "'mt' has no option held_out; it has download"),
        ({"name": "folder", "root": ".", "textures": []}, "textures is empty"),
        ({"name": "mt", "textures": ["wood"]}, "'mt' has one texture"),
        ({"name": "mt", "textures": "mt"}, r"give a list of names, such as \['mt'\]"),
    ],
)
def test_open_dataset_names_what_it_does_not_know_and_what_it_knows(arguments, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(**arguments)


def test_masks_of_the_dataset_are_numpy_for_the_metrics():
    assert isinstance(dataset().masks(dataset().test, (2, 2)), np.ndarray)
