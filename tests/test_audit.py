"""The audit finds planted twins, is not fooled by a period, and says how likely it errs."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_trees import REAL, mvtec_texture, needs_real_aitex, needs_real_mt, save
from scipy import fft, ndimage

from mssf_lite.data import Dataset, Sample, open_dataset, whole
from mssf_lite.data.audit import Audit, Match, _correlate, _spectrum, audit
from mssf_lite.data.mt import SAME, recordings
from mssf_lite.data.textures import Counts


@dataclass
class Pictures:
    """A reader of pictures in memory; ``bare`` is what to ignore in all of them."""

    pixels: dict[str, np.ndarray]
    bare: np.ndarray | None = None
    read_keys: list[str] = field(default_factory=list)

    def read(self, sample, size):
        assert sample.crop is None, "a part was read where the whole image was meant"
        self.read_keys.append(sample.key)
        image = torch.from_numpy(self.pixels[sample.key]).float().expand(3, -1, -1)
        if size is not None and tuple(size) != image.shape[1:]:
            image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        return image, torch.zeros(image.shape[1:], dtype=torch.bool)

    def ignored(self, sample, size):
        return torch.zeros(*size, dtype=torch.bool) if self.bare is None else torch.from_numpy(self.bare)


def noise(rng, height=64, width=64, grain=1.5):
    """A piece of material with nothing but its own irregularities, around 0.5."""
    field = ndimage.gaussian_filter(rng.normal(size=(height, width)), grain, mode="wrap")
    return np.clip(0.5 + 0.15 * field / field.std(), 0, 1)


def weave(rng, height=64, width=64, own=0.03):
    """A piece of a weave of exact period, cut anywhere: what it has of its own is faint."""
    y, x = np.mgrid[:height, :width]
    down, right = rng.uniform(0, 2 * np.pi, 2)
    pattern = np.sin(2 * np.pi * y / 5.3 + down) * np.sin(2 * np.pi * x / 4.7 + right)
    return np.clip(0.5 + 0.25 * pattern + own * (noise(rng, height, width) - 0.5) / 0.15, 0, 1)


def again(picture, rng, down=0, right=0):
    """A second photograph: moved, darker, of less contrast, noisier."""
    moved = np.pad(picture, 2 * [(32, 32)], mode="reflect")
    height, width = picture.shape
    moved = moved[32 - down : 32 - down + height, 32 - right : 32 - right + width]
    return np.clip(0.6 * moved**1.3 + 0.05 + 0.02 * rng.normal(size=picture.shape), 0, 1)


def made(train, test, defects=(), groups=None, texture="cloth", **reader):
    """A data set of pictures in memory: key -> picture; ``defects`` are keys of the test."""
    groups = groups or {}

    def samples(keys, split):
        return tuple(
            Sample(key, texture, "hole" if key in defects else "good", split, groups.get(key, key))
            for key in keys
        )

    leaks = bool({groups.get(k, k) for k in train} & {groups.get(k, k) for k in test})
    return Dataset(
        name="made",
        split="given",
        seed=0,
        train=samples(train, "train"),
        held_out=(),
        test=samples(test, "test"),
        reader=Pictures({**train, **test}, **reader),
        licence="",
        citation="",
        leaks=leaks,
    )


def strangers(count, name, rng, draw=noise, **options):
    return {f"{name}{i}": draw(rng, **options) for i in range(count)}


def found(dataset, **options):
    return {match.test: match for match in audit(dataset, **options).matches}


def test_moved_dimmed_and_noisy_copies_are_found_with_their_shift():
    rng = np.random.default_rng(0)
    train, test = strangers(20, "train", rng), strangers(20, "test", rng)
    shifts = {"test3": (7, -12), "test11": (0, 5), "test19": (-9, 0)}
    for key, (down, right) in shifts.items():
        test[key] = again(train[key.replace("test", "train")], rng, down, right)
    result = audit(made(train, test), size=(64, 64))
    assert [match.test for match in result.matches] == list(test)
    assert {match.test for match in result.twins} == set(shifts)
    assert result.share == 3 / 20
    for match in result.twins:
        assert match.training == match.test.replace("test", "train")
        down, right = shifts[match.test]
        assert match.shift == (-down, -right)  # move the test picture back, and it lies on the other


@pytest.mark.parametrize("seed", range(3))
def test_pieces_of_one_periodic_weave_are_no_twins_but_a_copy_is(seed):
    rng = np.random.default_rng(seed)
    train, test = (strangers(20, name, rng, weave) for name in ("train", "test"))
    test["test7"] = again(train["train4"], rng, 10, 10)
    dataset = made(train, test)
    (twin,) = audit(dataset, size=(64, 64)).twins
    assert (twin.test, twin.training, twin.shift) == ("test7", "train4", (-10, -10))
    plain = found(dataset, size=(64, 64), whitening=0.0)  # where yarns fall into step, strangers look alike
    assert max(plain.values(), key=lambda match: match.correlation).test != "test7"
    assert min(match.correlation for match in plain.values()) > 0.75


def test_strangers_exceed_the_level_about_as_seldom_as_it_says():
    audits = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        train, test = (strangers(12, name, rng, height=32, width=32, grain=1) for name in ("a", "b"))
        audits.append(audit(made(train, test), size=(32, 32)))
    assert sum(bool(a.twins) for a in audits) <= 5  # 2 of 40 are expected
    highest = [max(match.correlation for match in a.matches) for a in audits]
    levels = [a.matches[0].level for a in audits]
    assert np.mean(highest) < np.mean(levels) < 1.35 * np.mean(highest)  # nor is the level out of reach


def test_the_search_equals_correlation_by_hand_over_all_shifts():
    rng = np.random.default_rng(0)
    for size in ((16, 18), (17, 21)):  # even and odd widths are stored differently
        pictures = strangers(4, "a", rng, height=size[0], width=size[1])
        dataset = made(pictures, {"b": noise(rng, *size)})
        for whitening in (0.0, 1.0):
            spectra = np.stack([_spectrum(dataset, s, size, whitening) for s in dataset.train])
            one, *others = (fft.irfft2(spectrum, size) for spectrum in spectra)
            np.testing.assert_allclose([(x**2).sum() for x in (one, *others)], 1, rtol=1e-5)
            values, places = _correlate(spectra[0], spectra[1:], size)
            for other, value, place in zip(others, values, places, strict=True):
                table = [
                    [(np.roll(one, (down, right), (0, 1)) * other).sum() for right in range(size[1])]
                    for down in range(size[0])
                ]
                assert value == pytest.approx(np.max(table), abs=1e-5) and place == np.argmax(table)


def test_whitened_spectra_are_flat_but_for_the_low_pass_and_plain_ones_are_not():
    rng = np.random.default_rng(0)
    dataset = made({"a": weave(rng)}, {"b": weave(rng)})
    magnitude = {w: np.abs(_spectrum(dataset, dataset.train[0], (64, 64), w)) for w in (0.0, 0.5, 1.0)}
    ring = np.abs(np.hypot(fft.fftfreq(64)[:, None], fft.rfftfreq(64)) - 0.2) < 0.02
    spread = {w: float(m[ring].max() / np.median(m[ring])) for w, m in magnitude.items()}
    assert spread[1.0] < 1.2 < spread[0.5] < spread[0.0]
    assert magnitude[1.0][0, 0] == 0


def match(correlation, is_defect, texture="a", level=0.5):
    return Match("test", "training", texture, is_defect, correlation, level, (0, 0))


def test_image_auroc_is_the_share_of_pairs_in_order():
    values = {
        "a": ([0.9, 0.2], [0.3, 0.1]),
        "b": ([0.8], [0.85, 0.05, 0.8]),
    }  # correlations: normals, defects
    matches = [
        match(c, kind == 1, name) for name, both in values.items() for kind in (0, 1) for c in both[kind]
    ]

    def by_hand(normals, defects):
        wins = [(d < n) + 0.5 * (d == n) for d in defects for n in normals]
        return sum(wins) / len(wins)

    result = Audit(tuple(matches), {"a": (8, 8), "b": (8, 8)})
    np.testing.assert_allclose(result.scores, [1 - m.correlation for m in matches])
    everything = by_hand([0.9, 0.2, 0.8], [0.3, 0.1, 0.85, 0.05, 0.8])
    assert result.image_auroc() == {
        "pooled": pytest.approx(everything),
        "mean": pytest.approx((by_hand(*values["a"]) + by_hand(*values["b"])) / 2),
    }
    assert result.metrics()["pooled"] == {"image_auroc": pytest.approx(everything)}  # as records have it
    assert by_hand(*values["a"]) == 3 / 4 and by_hand(*values["b"]) == 1.5 / 3


def test_an_auroc_that_cannot_be_had_is_absent_and_no_normals_have_no_share():
    sizes = {"a": (8, 8), "b": (8, 8)}
    assert Audit((match(0.9, False), match(0.1, False)), sizes).image_auroc() == {}
    apart = Audit((match(0.9, False, "a"), match(0.1, True, "b")), sizes)
    assert apart.image_auroc() == {"pooled": 1.0}
    assert Audit((match(0.9, True),), sizes).share == 0
    assert Audit((match(0.9, True), match(0.9, False), match(0.1, False)), sizes).share == 0.5


def test_labels_change_no_match():
    rng = np.random.default_rng(0)
    train, test = strangers(8, "train", rng), strangers(8, "test", rng)
    test["test2"] = again(train["train5"], rng)
    plain, labelled = (
        audit(made(train, test, defects), size=(32, 32)) for defects in ((), ("test2", "test3"))
    )
    assert [replaced._replace(is_defect=False) for replaced in labelled.matches] == list(plain.matches)
    assert plain.share == 1 / 8 and labelled.share == 0 and labelled.twins[0].is_defect


def test_own_groups_can_be_left_out_and_never_set_the_level():
    rng = np.random.default_rng(0)
    train, test = strangers(12, "train", rng), strangers(12, "test", rng)
    groups = {}
    for i in range(12):  # each item was photographed three times, once for the test
        train[f"again{i}"] = again(train[f"train{i}"], rng)
        test[f"test{i}"] = again(train[f"train{i}"], rng, 3, 3)
        groups |= dict.fromkeys((f"train{i}", f"again{i}", f"test{i}"), f"item{i}")
    dataset = made(train, test, groups=groups)
    known = audit(dataset, size=(64, 64))
    assert known.share == 1 and all(groups[m.training] == groups[m.test] for m in known.matches)
    other = audit(dataset, size=(64, 64), leave_out_groups=True)
    assert other.share == 0 and not any(groups[m.training] == groups[m.test] for m in other.matches)
    unknown = audit(made(train, test), size=(64, 64))
    assert unknown.share == 1  # a twelfth of all pairs are twins: the level rises, and holds
    assert known.matches[0].level < unknown.matches[0].level


def photographs(rng, items, of_each, name):
    return {f"{name}{i}-{n}": again(item, rng) for i, item in enumerate(items) for n in range(of_each)}


def test_few_items_photographed_often_are_found_without_naming_groups():
    rng = np.random.default_rng(0)
    items = list(strangers(6, "", rng).values())  # so a sixth of all pairs are twins
    dataset = made(photographs(rng, items, 4, "train"), photographs(rng, items, 2, "test"))
    result = audit(dataset, size=(64, 64))
    assert result.share == 1
    assert all(m.training[5] == m.test[4] for m in result.matches)


def test_where_twins_are_too_many_to_be_told_the_audit_says_so():
    rng = np.random.default_rng(0)
    items = list(strangers(2, "", rng).values())
    dataset = made(photographs(rng, items, 6, "train"), photographs(rng, items, 3, "test"))
    with pytest.warns(
        UserWarning, match=r"'cloth': its pairs are too alike .*level \d\.\d\d.* name the groups"
    ):
        assert audit(dataset, size=(64, 64)).share == 0


def test_what_half_of_the_pictures_share_makes_them_no_twins():
    rng = np.random.default_rng(0)
    frame = noise(rng, grain=1)  # a clamp at the left of every other picture
    train, test = (strangers(20, name, rng, grain=1) for name in ("train", "test"))
    for picture in [*train.values(), *test.values()][::2]:
        picture[:, :24] = frame[:, :24]
    assert not audit(made(train, test), size=(64, 64)).twins


def test_pictures_are_compared_within_their_texture():
    rng = np.random.default_rng(0)
    one, other = (strangers(6, name, rng) for name in ("one", "other"))
    first = made(dict(list(one.items())[:3]), {"test0": again(one["one4"], rng)}, texture="x")
    second = made({"one4": one["one4"], **other}, {"test1": noise(rng)}, texture="y")
    reader = Pictures(first.reader.pixels | second.reader.pixels)
    both = replace(first, train=first.train + second.train, test=second.test + first.test, reader=reader)
    result = audit(both, size=(32, 32))
    assert [m.test for m in result.matches] == ["test1", "test0"]  # in the order of the test
    assert [m.texture for m in result.matches] == ["y", "x"]
    assert result.matches[1].training in first.reader.pixels and not result.twins
    assert result.matches[0].level != result.matches[1].level


def test_held_out_images_are_compared_too():
    rng = np.random.default_rng(0)
    dataset = made(strangers(6, "train", rng), {"test": again(picture := noise(rng), rng)})
    dataset.reader.pixels["kept"] = picture
    kept = (Sample("kept", "cloth", "good", "held_out", "kept"),)
    (result,) = audit(replace(dataset, held_out=kept), size=(64, 64)).matches
    assert result.training == "kept" and result.correlation > 0.7


def test_of_training_tiles_the_whole_image_is_compared():
    rng = np.random.default_rng(0)
    dataset = made(strangers(4, "train", rng), strangers(4, "test", rng))
    tiles = tuple(s.cut(0, left, 64, 32) for s in dataset.train for left in (0, 32))
    tiled = replace(dataset, train=tiles)
    assert audit(tiled, size=(32, 32)) == audit(dataset, size=(32, 32))


def test_what_is_ignored_makes_no_twins():
    rng = np.random.default_rng(0)
    frame = noise(rng, grain=1)  # the same clamp holds every piece
    bare = np.zeros((64, 64), bool)
    bare[:, :40] = True
    train, test = strangers(10, "train", rng), strangers(10, "test", rng)
    for picture in (*train.values(), *test.values()):
        picture[bare] = frame[bare]
    with_frame, without = (found(made(train, test, bare=ignored), size=(64, 64)) for ignored in (None, bare))
    assert min(m.correlation for m in with_frame.values()) > 2 * max(m.correlation for m in without.values())


def test_flat_and_wholly_ignored_pictures_match_nothing():
    rng = np.random.default_rng(0)
    train, test = strangers(4, "train", rng), strangers(2, "test", rng)
    train["train0"] = test["test0"] = np.full((64, 64), 0.3)
    result = found(made(train, test), size=(32, 32))
    assert result["test0"].correlation == 0 and not result["test0"].is_twin
    assert 0 < result["test1"].correlation < 0.5
    everything = np.ones((32, 32), bool)
    ignored = audit(made(train, test, bare=everything), size=(32, 32))
    assert [m.correlation for m in ignored.matches] == [0, 0] and not ignored.twins


@pytest.mark.parametrize(
    "shape, small",
    [((64, 64), (128, 128)), ((40, 80), (128, 128)), ((32, 512), (64, 1024)), ((90, 30), (192, 64))],
)
def test_small_pictures_keep_the_shape_of_long_ones(shape, small):
    rng = np.random.default_rng(0)
    train, test = strangers(2, "train", rng, noise), strangers(1, "test", rng)
    pictures = {key: noise(rng, *shape) for key in (*train, *test)}
    dataset = made({k: pictures[k] for k in train}, {k: pictures[k] for k in test})
    assert audit(dataset).sizes == {"cloth": small}


def test_what_cannot_be_audited_is_named():
    rng = np.random.default_rng(0)
    dataset = made(strangers(2, "train", rng), strangers(2, "test", rng))
    with pytest.raises(ValueError, match=r"power in \[0, 1\], got 2"):
        audit(dataset, whitening=2)
    with pytest.raises(ValueError, match=r"size \(128, 8\) shows too little"):
        audit(dataset, size=(128, 8))
    with pytest.raises(ValueError, match="'made' has no test images"):
        audit(replace(dataset, test=()))
    other = replace(dataset, test=tuple(replace(s, texture="silk") for s in dataset.test))
    with pytest.raises(
        ValueError, match=r"test0: no training or held-out image of texture 'silk' .* with; take"
    ):
        audit(other)
    groups = {"test1": "train0", "train0": "train0", "train1": "train0"}
    one_item = made(strangers(2, "train", rng), strangers(2, "test", rng), groups=groups)
    with pytest.raises(ValueError, match=r"test1: no training or held-out image .* outside its own group"):
        audit(one_item, leave_out_groups=True)


def test_a_copied_file_in_a_folder_is_found(tmp_path):
    root = mvtec_texture(tmp_path / "carpet")
    for name in ("train/good/004.png", "test/good/000.png"):
        save(root / name).write_bytes((root / "train/good/004.png").read_bytes())
    dataset = open_dataset("folder", tmp_path)
    result = found(dataset, size=(16, 16))
    copy = result["carpet/test/good/000.png"]
    assert (copy.training, copy.shift) == ("carpet/train/good/004.png", (0, 0))
    assert copy.correlation == pytest.approx(1, abs=1e-5)
    assert max(m.correlation for m in result.values() if m is not copy) < 0.9


@dataclass(frozen=True)
class SecondPhotographs:
    """A reader in which some test images show the items of other samples once more, moved to the right."""

    dataset: Dataset
    planted: dict[str, Sample]

    def read(self, sample, size=None):
        if sample.key not in self.planted:
            return self.dataset.read(sample, size)
        image, mask = self.dataset.read(self.planted[sample.key])
        width = image.shape[2]
        moved = F.pad(image[None], (width // 8, 0, 0, 0), mode="reflect")[..., :width]
        noisy = (
            0.7 * moved + 0.1 + 0.02 * torch.randn(moved.shape, generator=torch.Generator().manual_seed(0))
        )
        return F.interpolate(noisy, size, mode="bilinear", antialias=True)[0], mask

    def ignored(self, sample, size=None):
        return self.dataset.ignored(self.planted.get(sample.key, sample), size)


def planted(dataset, each=1):
    """The data set with second photographs of training images among each texture's test, and of whom."""
    shows = {}
    for texture in dataset.textures:
        normals = (s for s in dataset.test if s.texture == texture and not s.is_defect)
        training = (s for s in whole(dataset.train) if s.texture == texture)
        shows |= {new.key: old for new, old, _ in zip(normals, training, range(each), strict=False)}
    return replace(dataset, reader=SecondPhotographs(dataset, shows)), shows


def test_planted_photographs_of_drawn_textures_are_found_and_no_others():
    counts = Counts(train=10, held_out=2, test_good=5, test_defect_per_kind=1)
    names = ["grid", "leather", "weave"]
    dataset, shows = planted(open_dataset("textures", textures=names, counts=counts))
    twins = audit(dataset).twins
    assert {m.test: m.training for m in twins} == {key: sample.key for key, sample in shows.items()}
    assert [m.shift for m in twins] == [(0, -16)] * 3


def of_recordings(dataset, training, test):
    """The normal images of some recordings as a data set, whose groups they are, without joining any."""
    recording = recordings(s.key.split("/")[-1] for s in dataset.samples)

    def those(names, split):
        normals = (
            replace(s, group=recording[s.key.split("/")[-1]]) for s in dataset.samples if not s.is_defect
        )
        return tuple(replace(s, split=split) for s in normals if s.group in names)

    return replace(dataset, train=those(training, "train"), held_out=(), test=those(test, "test"))


@needs_real_mt
def test_real_recordings_that_show_one_tile_are_found_among_others():
    dataset = open_dataset("mt", REAL)
    pairs = {
        "mt-052659": "mt-065001",
        "mt-355636": "mt-358102",
        "mt-005874": "mt-013526",
        "mt-309352": "mt-306425",
        "mt-009196": "mt-010181",  # one of its seven images; the others show another tile
        "mt-008676": "mt-010181",
    }
    assert all(SAME.get(one, one) == SAME.get(other, other) for one, other in pairs.items())
    normal = sorted({s.group for s in dataset.samples if not s.is_defect} - {*SAME, *SAME.values()})
    some = of_recordings(dataset, {*pairs.values(), *normal[10:22]}, {*pairs, *normal[:10]})
    group = {s.key: s.group for s in some.samples}
    twins = audit(some, size=(64, 64)).twins
    assert {(group[m.test], group[m.training]) for m in twins} == set(pairs.items())
    assert sum(group[m.test] == "mt-009196" for m in twins) == 1


@needs_real_mt
def test_on_real_tiles_picture_matching_shines_on_the_published_split_only():
    def some(split):
        """Normals of every third recording, every fourth defect."""
        dataset = open_dataset("mt", REAL, split=split)
        recordings = sorted({s.group for s in dataset.samples if not s.is_defect})[::3]
        normals = [
            tuple(s for s in side if s.group in recordings and not s.is_defect)
            for side in (dataset.train, dataset.held_out, dataset.test)
        ]
        defects = tuple(s for s in dataset.test if s.is_defect)[::4]
        return replace(dataset, train=normals[0], held_out=normals[1], test=normals[2] + defects)

    results = [audit(some(split), size=(64, 64)) for split in ("published", "tile")]
    assert results[0].share == 1 and results[1].share < 0.1
    assert results[0].image_auroc()["pooled"] > 0.97
    assert 0.35 < results[1].image_auroc()["pooled"] < 0.65


@needs_real_aitex
def test_real_fabric_has_no_twin_but_the_planted_one():
    fabric = open_dataset("aitex", REAL, textures=["fabric-04"])
    with_copy, shows = planted(replace(fabric, test=fabric.test[::2]))
    (twin,) = audit(with_copy).twins
    assert (twin.training, twin.shift) == (shows[twin.test].key, (0, -128))
