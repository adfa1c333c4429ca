"""Metrics, against hand-worked cases, scikit-learn, and a slow implementation that shares no code."""

import json
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from skimage.measure import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from mssf_lite.metrics import aupro, bootstrap_auroc, evaluate, f1_max, image_metrics, pixel_metrics


def slow_aupro(maps, masks, max_fpr):
    """One threshold at a time, one region at a time; the integral by walking along the curve."""
    regions = []
    for n, mask in enumerate(masks):
        labelled = label(mask, connectivity=2)
        regions += [(n, labelled == k) for k in range(1, labelled.max() + 1)]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        hit = maps >= threshold
        overlap = np.mean([(hit[n] & region).sum() / region.sum() for n, region in regions])
        points.append(((hit & ~masks).sum() / (~masks).sum(), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            y1 = y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
            x1 = max_fpr
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


def random_case(seed, levels):
    """Maps with many ties (``levels`` values) and random, touching, nested and missing regions."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(3, 13)), int(rng.integers(3, 13)))
    masks = rng.random(shape) < rng.uniform(0.05, 0.5)
    masks[0, 0, 0], masks[0, 0, 1] = True, False
    maps = rng.integers(0, levels, shape) + 0.5 * masks * rng.integers(0, levels, shape)
    return maps.astype(np.float32), masks


@pytest.mark.parametrize("levels", [2, 5, 10**6])
@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
def test_aupro_is_that_of_the_slow_definition(levels, max_fpr):
    for seed in range(15):
        maps, masks = random_case(seed, levels)
        assert aupro(maps, masks, max_fpr) == pytest.approx(slow_aupro(maps, masks, max_fpr), abs=1e-9)


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_pixel_metrics_are_those_of_scikit_learn(levels):
    for seed in range(15):
        maps, masks = random_case(seed, levels)
        found, y, s = pixel_metrics(maps, masks), masks.ravel(), maps.ravel()
        precision, recall, _ = precision_recall_curve(y, s)
        with np.errstate(invalid="ignore"):
            f1 = np.nanmax(2 * precision * recall / (precision + recall))
        assert found["pixel_auroc"] == pytest.approx(roc_auc_score(y, s))
        assert found["pixel_ap"] == pytest.approx(average_precision_score(y, s))
        assert found["pixel_f1max"] == pytest.approx(f1)
        assert found["aupro"] == aupro(maps, masks)


def test_small_and_large_defects_count_alike():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, 0, 0] = masks[0, 5:9, 5:9] = True  # 1 pixel and 16 pixels
    only_large, only_small = np.zeros((2, 1, 10, 10))
    only_large[0, 5:9, 5:9] = only_small[0, 0, 0] = 1
    # found at FPR 0: one region of two; the rest comes with every other pixel at FPR 1
    assert aupro(only_large, masks) == pytest.approx(0.5 + 0.5 * 0.3 / 2)
    assert aupro(only_small, masks) == pytest.approx(0.5 + 0.5 * 0.3 / 2)


def test_diagonal_neighbours_are_one_defect():
    masks = np.zeros((1, 4, 5), bool)
    masks[0, [0, 1, 3], [0, 1, 4]] = True  # a diagonal pair, and one pixel apart from it
    maps = np.zeros((1, 4, 5))
    maps[0, 3, 4] = 1
    # found at FPR 0: one region of two (of three, were the pair two regions); the rest at FPR 1
    assert aupro(maps, masks, max_fpr=1) == pytest.approx(0.5 + 0.5 / 2)


def test_a_hole_in_a_defect_is_normal():
    masks = np.ones((1, 3, 3), bool)
    masks[0, 1, 1] = False  # the only normal pixel
    maps = np.zeros((1, 3, 3))
    maps[0, 1, 1] = 1
    assert aupro(maps, masks, max_fpr=1) == 0


def test_regions_of_different_images_are_different_defects():
    masks = np.zeros((2, 3, 4), bool)
    masks[0, 0, 0] = masks[1, 0, 0] = True
    maps = np.zeros((2, 3, 4))
    maps[0, 0, 0] = 1
    assert aupro(maps, masks, max_fpr=1) == pytest.approx(0.5 + 0.5 / 2)


def test_the_curve_is_interpolated_at_the_limit():
    # two normal pixels at the defect's own value, eight below: straight from (0, 0) to (0.2, 1), then flat
    maps = np.array([[[1.0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]])
    masks = np.zeros(maps.shape, bool)
    masks[0, 0, 0] = True
    assert aupro(maps, masks, max_fpr=0.1) == pytest.approx(0.25)  # triangle: 0.1 wide, 0.5 high
    assert aupro(maps, masks, max_fpr=0.2) == pytest.approx(0.5)
    assert aupro(maps, masks, max_fpr=0.3) == pytest.approx((0.1 + 0.1) / 0.3)


def test_a_step_at_the_limit_adds_nothing():
    maps = np.array([[[3.0, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1]]])
    masks = maps == 2  # found only after exactly 3 of 10 normal pixels
    assert aupro(maps, masks, max_fpr=0.3) == 0
    assert aupro(maps, masks, max_fpr=0.6) == pytest.approx(0.5)


def test_false_positives_count_in_normal_images_too():
    masks = np.zeros((2, 2, 5), bool)
    masks[0, 0, 0] = True
    maps = np.zeros((2, 2, 5))
    maps[1] = 2  # all 10 pixels of the normal image come first, of 19 normal ones
    maps[0, 0, 0] = 1
    assert aupro(maps, masks, max_fpr=1) == pytest.approx(9 / 19)


def test_perfect_worst_and_constant_maps():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 2:5, 2:5] = True
    assert pixel_metrics(masks.astype(float), masks) == pytest.approx(
        {"pixel_auroc": 1, "pixel_ap": 1, "pixel_f1max": 1, "aupro": 1}
    )
    prevalence = 9 / 128
    f1 = 2 * prevalence / (prevalence + 1)  # of calling every pixel a defect
    worst, constant = pixel_metrics(-masks.astype(float), masks), pixel_metrics(masks * 0.0, masks)
    assert worst == pytest.approx({"pixel_auroc": 0, "pixel_ap": prevalence, "pixel_f1max": f1, "aupro": 0})
    assert constant == pytest.approx(
        {"pixel_auroc": 0.5, "pixel_ap": prevalence, "pixel_f1max": f1, "aupro": 0.15}
    )


def test_only_the_order_of_the_values_matters():
    maps, masks = random_case(3, levels=7)
    assert pixel_metrics(np.exp(maps.astype(float) / 3) - 5, masks) == pixel_metrics(maps, masks)


def test_integer_maps_and_views_are_welcome_and_left_as_they_are():
    maps, masks = random_case(4, levels=9)
    whole = np.moveaxis((2 * maps).astype(np.int16), 1, 2)
    before = whole.copy()
    assert pixel_metrics(whole, np.moveaxis(masks, 1, 2)) == pytest.approx(pixel_metrics(maps, masks))
    np.testing.assert_array_equal(whole, before)


def test_millions_of_pixels_take_seconds_not_minutes():
    rng = np.random.default_rng(0)
    maps, masks = rng.random((10, 512, 512), np.float32), np.zeros((10, 512, 512), bool)
    masks[:, 100:150, 100:150] = True
    start = time.perf_counter()
    assert aupro(maps, masks) == pytest.approx(0.15, abs=0.02)  # chance: half of the limit
    assert time.perf_counter() - start < 5  # about 0.1 s; a loop over thresholds takes minutes


def test_image_metrics_by_hand():
    found = image_metrics([3.0, 2.0, 1.0, 0.0], np.array([True, False, True, False]))
    # pairs won: 3>2, 3>0, 1>0 of four; hits at rank 1 (precision 1) and rank 3 (2/3); best F1 at rank 3
    assert found == pytest.approx({"image_auroc": 3 / 4, "image_ap": (1 + 2 / 3) / 2, "image_f1max": 4 / 5})


def test_f1_survives_a_threshold_without_any_hit():
    # at the highest threshold precision and recall are both 0
    assert f1_max(np.array([2.0, 1.0]), np.array([False, True])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", [True, False])
def test_one_kind_alone_has_no_metrics_and_does_not_crash(kind):
    assert image_metrics(np.arange(3.0), np.full(3, kind)) == {}
    assert pixel_metrics(np.zeros((2, 3, 3)), np.full((2, 3, 3), kind)) == {}
    with pytest.raises(ValueError, match="AUPRO needs defect and normal pixels"):
        aupro(np.zeros((2, 3, 3)), np.full((2, 3, 3), kind))


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.array([0, np.nan, np.inf]), np.zeros(3, bool), r"2 of 3 scores .* nan at index \(1,\)"),
        (np.zeros(3), np.zeros(4, bool), r"scores \(3,\) and is_defect \(4,\)"),
        (np.zeros((3, 1)), np.zeros((3, 1), bool), "with 1 dimension"),
        (np.zeros(3), np.array([0, 0, 255], np.uint8), "must be bool, got uint8: pass is_defect > 0"),
    ],
)
def test_bad_input_is_named(values, labels, message):
    with pytest.raises(ValueError, match=message):
        image_metrics(values, labels)


def test_bad_maps_and_limits_are_named():
    maps, masks = np.zeros((1, 4, 4)), np.eye(4, dtype=bool)[None]
    with pytest.raises(ValueError, match=r"max_fpr is a rate in \(0, 1\], got 30"):
        aupro(maps, masks, max_fpr=30)
    with pytest.raises(ValueError, match=r"maps \(4, 4\) and masks \(8, 8\)"):
        pixel_metrics(maps, np.eye(8, dtype=bool)[None])
    maps[0, 2, 3] = np.inf
    with pytest.raises(ValueError, match=r"first inf at index \(2, 3\)"):
        pixel_metrics(maps, masks)


# --- intervals


def exposures(seed, items=20, each=6):
    """Scores of ``items`` things photographed ``each`` times: the pictures of one thing hardly differ."""
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(items), each)
    is_defect = item % 2 == 0
    scores = rng.normal(size=items)[item] + is_defect + 0.01 * rng.normal(size=item.size)
    return scores, is_defect, [f"item {i}" for i in item]


def test_the_interval_is_wider_by_item_than_by_image():
    scores, is_defect, items = exposures(0)
    low, high = bootstrap_auroc(scores, is_defect, items)
    image_low, image_high = bootstrap_auroc(scores, is_defect, [str(i) for i in range(len(scores))])
    assert high - low > 1.5 * (image_high - image_low)
    assert low < roc_auc_score(is_defect, scores) < high


def test_the_interval_is_that_of_explicit_resampling():
    scores, is_defect, items = exposures(1, items=12, each=2)
    rows, rng, aurocs = {}, np.random.default_rng(1), []
    for i, item in enumerate(items):
        rows.setdefault(item, []).append(i)
    for _ in range(2000):
        drawn = np.concatenate([rows[name] for name in rng.choice(list(rows), len(rows))])
        if 0 < is_defect[drawn].sum() < len(drawn):
            defects, normals = scores[drawn][is_defect[drawn]], scores[drawn][~is_defect[drawn]]
            aurocs.append(np.mean(defects[:, None] > normals))  # no ties here
    ours = bootstrap_auroc(scores, is_defect, items, repeats=4000, level=0.8)
    assert ours == pytest.approx(np.quantile(aurocs, [0.1, 0.9]), abs=0.03)


def test_the_interval_repeats_by_seed_and_grows_with_its_level():
    scores, is_defect, items = exposures(2)
    low, high = bootstrap_auroc(scores, is_defect, items, seed=5)
    assert (low, high) == bootstrap_auroc(scores, is_defect, items, seed=5)
    assert (low, high) != bootstrap_auroc(scores, is_defect, items, seed=6)
    inner = bootstrap_auroc(scores, is_defect, items, seed=5, level=0.5)
    assert low < inner[0] < inner[1] < high


def test_draws_of_one_kind_are_skipped():
    # of two groups, half of the draws hold one kind only; the others separate the kinds fully
    assert bootstrap_auroc([0.0, 1.0], np.array([False, True]), ["a", "b"]) == (1, 1)


def test_equal_scores_win_half():
    assert bootstrap_auroc([1.0, 1.0], np.array([False, True]), ["a", "b"]) == (0.5, 0.5)


def test_an_interval_that_cannot_be_had_is_refused():
    with pytest.raises(ValueError, match="all 2 images are normal"):
        bootstrap_auroc([0.0, 1.0], np.array([False, False]), ["a", "b"])
    with pytest.raises(ValueError, match="2 scores but 1 groups"):
        bootstrap_auroc([0.0, 1.0], np.array([False, True]), ["a"])
    with pytest.raises(ValueError, match=r"level is a share in \(0, 1\), got 95"):
        bootstrap_auroc([0.0, 1.0], np.array([False, True]), ["a", "b"], level=95)


# --- a whole test set


@dataclass
class Picture:
    """What ``evaluate`` asks of a sample."""

    texture: str
    defect: str = "good"
    group: str = "item"
    has_mask: bool = True

    @property
    def is_defect(self):
        return self.defect != "good"


WOOD_AND_TILE = [
    Picture("wood"),
    Picture("wood", "knot"),
    Picture("tile"),
    Picture("tile", "crack"),
    Picture("tile", "knot"),
]


def test_the_mean_over_textures_is_not_the_pooled_metric():
    found = evaluate(np.array([0.0, 1.0, 10.0, 11.0, 12.0]), WOOD_AND_TILE)
    assert found["textures"]["wood"]["image_auroc"] == found["textures"]["tile"]["image_auroc"] == 1
    assert found["mean"]["image_auroc"] == 1
    # one threshold for both: wood's defect lies below tile's normal, so 5 of 6 pairs are in order
    assert found["pooled"]["image_auroc"] == pytest.approx(5 / 6)


def test_each_kind_of_defect_is_held_against_the_normals():
    found = evaluate(np.array([0.0, 1.0, 10.0, 9.0, 12.0]), WOOD_AND_TILE)
    assert found["defects"]["tile"] == {
        "crack": {"image_auroc": 0, "images": 1},
        "knot": {"image_auroc": 1, "images": 1},
    }
    assert found["defects"]["wood"]["knot"] == {"image_auroc": 1, "images": 1}
    # knots 1 and 12 against the normals 0 and 10
    assert found["defects_pooled"]["knot"] == {"image_auroc": 3 / 4, "images": 2}


def test_items_of_different_textures_are_different_items():
    pictures = [Picture(t, d, "1") for t in ("wood", "tile") for d in ("good", "knot")]
    # as one item they would always be drawn together and the interval would have no width
    low, high = evaluate(np.array([0.0, 1.0, 2.0, 1.5]), pictures)["pooled"]["interval"]
    assert low < high


def test_pixel_metrics_leave_out_unknown_masks_and_count_them():
    pictures = [
        Picture("wood"),
        Picture("wood", "knot", has_mask=False),
        Picture("wood", "crack"),
        Picture("tile"),
        Picture("tile", "crack"),
    ]
    maps = np.random.default_rng(0).random((5, 6, 6))
    masks = np.zeros((4, 6, 6), bool)
    masks[1, 2:4, 2:4] = masks[3, 0] = True
    found = evaluate(np.arange(5.0), pictures, maps, masks)
    assert found["textures"]["wood"]["masks_unknown"] == found["pooled"]["masks_unknown"] == 1
    assert found["textures"]["tile"]["masks_unknown"] == 0
    assert found["textures"]["wood"]["aupro"] == aupro(maps[[0, 2]], masks[[0, 1]])
    assert found["textures"]["tile"]["pixel_ap"] == pixel_metrics(maps[3:], masks[2:])["pixel_ap"]
    assert found["pooled"]["aupro"] == aupro(maps[[0, 2, 3, 4]], masks)
    assert found["mean"]["aupro"] == pytest.approx(
        (found["textures"]["wood"]["aupro"] + found["textures"]["tile"]["aupro"]) / 2
    )
    assert found["pooled"]["defects"] == 3  # the image label counts, mask or not


def test_a_defect_with_an_empty_mask_stays_a_defect():
    found = evaluate(np.array([0.0, 1.0]), WOOD_AND_TILE[:2], np.zeros((2, 4, 4)), np.zeros((2, 4, 4), bool))
    assert found["pooled"]["image_auroc"] == 1
    assert "aupro" not in found["pooled"]


def test_one_texture_pooled_is_itself():
    found = evaluate(np.array([0.0, 1.0]), WOOD_AND_TILE[:2])
    assert found["pooled"] == found["textures"]["wood"]


def test_a_test_set_of_normals_gives_counts_only():
    found = evaluate(np.array([0.0, 1.0]), [Picture("wood"), Picture("tile")])
    assert found["mean"] == found["defects"] == found["defects_pooled"] == {}
    assert found["pooled"] == {"normals": 2, "defects": 0}


def test_an_evaluation_fits_into_json():
    maps, masks = np.random.default_rng(0).random((5, 4, 4), np.float32), np.zeros((5, 4, 4), bool)
    masks[[1, 3], :2] = True
    found = evaluate(np.arange(5, dtype=np.float32), WOOD_AND_TILE, maps, masks)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_counts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="5 samples, 5 of them with a known mask, but 5 maps and 0 masks"):
        evaluate(np.arange(5.0), WOOD_AND_TILE, np.zeros((5, 4, 4)))
    with pytest.raises(ValueError, match=r"scores \(4,\) and samples \(5,\)"):
        evaluate(np.arange(4.0), WOOD_AND_TILE)
