"""The procedural textures: seeded, exact, clearly different, and strangers to training's synthesis."""

import ast
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import mssf_lite.data.textures as module
from mssf_lite.data.texture_defects import DEFECTS
from mssf_lite.data.texture_materials import MATERIALS
from mssf_lite.data.texture_surface import shifted
from mssf_lite.data.textures import CLEAR, KINDS, VISIBLE, Counts, changed, draw, make_textures

SMALL = (96, 96)
FEW = Counts(train=2, held_out=1, test_good=1, test_defect_per_kind=1)
PAIRS = [(texture, kind) for texture, kinds in KINDS.items() for kind in kinds]


@pytest.fixture(scope="module")
def dataset():
    return make_textures(counts=FEW, size=SMALL)


def digest(picture):
    return hashlib.sha256(picture.image.tobytes() + picture.mask.tobytes()).hexdigest()


def test_another_process_and_another_order_draw_the_same_pixels():
    wanted = [("weave/test/hole/000", "weave", "hole"), ("metal/test/good/001", "metal", "good")]
    here = [digest(draw(*arguments, seed=3, size=SMALL)) for arguments in wanted]
    code = (
        "import hashlib\nfrom mssf_lite.data.textures import draw\n"
        f"for arguments in {wanted[::-1]}:\n"
        f"    p = draw(*arguments, seed=3, size={SMALL})\n"
        "    print(hashlib.sha256(p.image.tobytes() + p.mask.tobytes()).hexdigest())\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONHASHSEED": "7"},  # a seed from hash() would show
    )
    assert there.stdout.split() == here[::-1]


def test_a_texture_looks_the_same_whether_or_not_others_are_taken(dataset):
    alone = make_textures(textures=["tile"], counts=FEW, size=SMALL)
    assert alone.textures == ("tile",)
    same = next(s for s in dataset.train if s.key == alone.train[1].key)
    assert torch.equal(alone.read(alone.train[1])[0], dataset.read(same)[0])


@pytest.mark.parametrize("texture", MATERIALS)
def test_every_seed_and_every_key_is_another_image(texture):
    one = draw("a", texture, seed=0, size=SMALL).image
    for other in (draw("a", texture, seed=1, size=SMALL).image, draw("b", texture, seed=0, size=SMALL).image):
        assert np.corrcoef(one.mean(0).ravel(), other.mean(0).ravel())[0, 1] < 0.8  # not the same piece relit


def test_there_are_enough_textures_and_kinds_of_defect_and_each_kind_is_used():
    assert len(MATERIALS) >= 6 and KINDS.keys() == MATERIALS.keys()
    assert len(DEFECTS) >= 6 and {kind for _, kind in PAIRS} == DEFECTS.keys()
    assert min(len(kinds) for kinds in KINDS.values()) >= 5


def test_splits_hold_what_was_ordered_and_share_no_item(dataset):
    assert dataset.name == "textures" and dataset.licence == "Apache-2.0 (drawn by code)"
    assert len(dataset.train) == 2 * len(MATERIALS) and len(dataset.held_out) == len(MATERIALS)
    assert len(dataset.test) == len(MATERIALS) + len(PAIRS)
    assert sum(s.is_defect for s in dataset.test) == len(PAIRS)
    assert "weave/test/hole/000" in {s.key for s in dataset.test}
    groups = [s.group for s in dataset.samples]
    assert len(set(groups)) == len(groups)
    images = {dataset.read(s)[0].numpy().tobytes() for s in dataset.samples if s.texture == "wood"}
    assert len(images) == 2 + 1 + 1 + len(KINDS["wood"])


def test_normals_have_empty_masks_and_defects_name_theirs(dataset):
    for sample in dataset.samples:
        assert (sample.mask is not None) == sample.is_defect
    assert not dataset.read(dataset.train[0])[1].any()
    masks = dataset.masks([s for s in dataset.test if s.texture == "grid"], SMALL)
    assert masks.any((1, 2)).tolist() == [False] + [True] * len(KINDS["grid"])


@pytest.mark.parametrize(("texture", "kind"), PAIRS)
def test_a_defect_changes_the_image_on_its_mask_and_nowhere_else(texture, kind):
    for key in "ab":
        picture = draw(key, texture, kind, size=SMALL)
        sound = draw(key, texture, "good", size=SMALL).image
        assert np.array_equal(picture.twin, sound)
        assert np.array_equal(picture.image[:, ~picture.mask], sound[:, ~picture.mask])
        assert 0.001 <= picture.mask.mean() <= 0.09
        change = np.abs(picture.image - sound).max(0)[picture.mask]
        assert change.mean() > 0.9 * CLEAR
        assert (change > 0.9 * VISIBLE).mean() > 0.4  # the rest are gaps that were closed


def test_defects_come_in_all_sizes():
    shares = np.array([draw("c", texture, kind).mask.mean() for texture, kind in PAIRS])
    assert (shares < 0.006).mean() > 0.1 and (shares > 0.015).mean() > 0.1 and shares.max() > 0.03


def test_a_mask_holds_visible_change_without_specks_and_pinholes():
    clean = np.full((3, 60, 60), 0.5, np.float32)
    damaged = clean.copy()
    damaged[1, 5:30, 5:30] += 0.1  # one colour is enough
    damaged[:, 10:16, 10:16] = 0.5  # 36 pixels inside that did not change: nobody would outline them
    damaged[:, 32:58, 32:58] -= 0.1
    damaged[:, 38:52, 38:52] = 0.5  # 196 pixels: a real hole in the defect
    damaged[:, 50, 5:7] = 0.9  # a speck
    damaged[:, 35:45, 5:15] += 0.01  # too weak to be seen
    expected = np.zeros((60, 60), bool)
    expected[5:30, 5:30] = expected[32:58, 32:58] = True
    expected[38:52, 38:52] = False
    mask = changed(clean, damaged)
    corners = mask ^ expected  # closing may round off the corners of the hole
    assert corners.sum() <= 12 and not corners[:36].any() and not corners[:, :36].any()
    assert not changed(clean, clean).any()


def test_a_shadow_does_not_come_round_the_edge():
    field = np.zeros((8, 8), np.float32)
    field[6:, 6:] = 1
    moved = shifted(field, 2)
    assert not moved.any() and shifted(field, 1).sum() == 1


def test_a_defect_leaves_the_sound_piece_as_it_is():
    for texture, kind in PAIRS:

        def redraw(texture=texture, **geometry):
            return MATERIALS[texture](np.random.default_rng(0), SMALL, **geometry)

        surface = redraw()
        DEFECTS[kind](surface, np.random.default_rng(1), redraw)
        assert np.array_equal(surface.colour, redraw().colour)
        assert np.array_equal(surface.height, redraw().height)


@pytest.mark.parametrize("size", [(64, 150), (130, 64)])
def test_any_size_gives_pixels_in_range(size):
    made = make_textures(counts=FEW, size=size)
    for sample in (*made.train[::2], *made.test[::3]):
        image, mask = made.read(sample)
        assert image.shape == (3, *size) and image.dtype == torch.float32
        assert mask.shape == size and mask.dtype == torch.bool
        assert image.min() >= 0 and image.max() <= 1 and image.std() > 0.03
        assert mask.any() == sample.is_defect


def test_reading_at_another_size_scales_the_same_picture(dataset):
    sample = next(s for s in dataset.test if s.defect == "drop")
    image, mask = dataset.read(sample)
    small, small_mask = dataset.read(sample, (48, 64))
    assert small.shape == (3, 48, 64) and small_mask.shape == (48, 64) and small_mask.any()
    torch.testing.assert_close(small.mean((1, 2)), image.mean((1, 2)), atol=0.01, rtol=0)
    assert abs(small_mask.double().mean() - mask.double().mean()) < 0.01
    assert torch.equal(dataset.images([sample], (48, 64))[0], small)


def structure(image):
    """Grey-level spectrum in rings and directions: knows nothing of colour or brightness."""
    grey = image.mean(0)
    power = np.abs(np.fft.fft2((grey - grey.mean()) / grey.std())) ** 2
    fy, fx = np.fft.fftfreq(grey.shape[0])[:, None], np.fft.fftfreq(grey.shape[1])[None]
    ring = np.digitize(np.hypot(fy, fx), (0.02, 0.06, 0.1, 0.16, 0.25))
    direction = np.digitize(np.abs(np.arctan2(fy, fx)) % np.pi, np.pi * np.array([1, 3, 5, 7]) / 8) % 4
    sums = np.bincount((4 * ring + direction).ravel(), power.ravel(), minlength=24)
    return np.log(sums / power.sum() + 1e-4)


def test_textures_are_told_apart_by_structure_alone():
    names, size = list(MATERIALS), (128, 128)
    seen = {t: np.array([structure(draw(f"a{n}", t, size=size).image) for n in range(8)]) for t in names}
    spread = np.sqrt(np.mean([s.var(0) for s in seen.values()], 0))
    centres = np.array([s.mean(0) for s in seen.values()]) / spread
    right = [
        names[np.square(structure(draw(f"b{n}", t, size=size).image) / spread - centres).sum(1).argmin()] == t
        for t in names
        for n in range(6)
    ]
    assert np.mean(right) > 0.95


def test_wrong_names_sizes_and_counts_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"unknown texture 'carpet'.*weave"):
        make_textures(textures=["carpet", "weave"])
    with pytest.raises(ValueError, match="empty"):
        make_textures(textures=[])
    with pytest.raises(ValueError, match=r"\(32, 256\).*64"):
        make_textures(size=(32, 256))
    with pytest.raises(ValueError, match=r"train must be .* got -1"):
        Counts(train=-1)


def test_the_drawing_code_knows_nothing_of_training():
    for path in Path(module.__file__).parent.glob("texture*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                inside = node.level == 1 or not (node.module or "").startswith("mssf_lite")
                assert inside and node.level < 2, f"{path.name} imports {node.module}"
            elif isinstance(node, ast.Import):
                assert not any(name.name.startswith("mssf_lite") for name in node.names)


@pytest.mark.parametrize("texture", MATERIALS)
def test_an_image_takes_milliseconds(texture):
    draw("warm", texture)  # fills the spline tables
    start = time.process_time()
    for n in range(3):
        draw(str(n), texture)
    assert (time.process_time() - start) / 3 < 0.2  # about 0.015 alone; a busy machine may be slower


def test_a_drawing_that_was_written_to_is_read_unchanged_again():
    data = make_textures(seed=5, textures=["wood"])
    image, mask = data.read(data.test[-1])
    kept = image.clone(), mask.clone()
    image.zero_()
    mask.fill_(True)
    again = data.read(data.test[-1])
    assert torch.equal(again[0], kept[0]) and torch.equal(again[1], kept[1])
