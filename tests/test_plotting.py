"""Figures: what must be true of them without looking. They were looked at, too."""

from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns
import torch
from matplotlib.colors import Normalize, to_rgb

from mssf_lite.plotting import (
    around_peak,
    colour_scale,
    show_losses,
    show_maps,
    show_pairs,
    show_scores,
    show_textures,
    use_style,
)


@pytest.fixture(autouse=True)
def never_shown_nor_saved(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a figure helper only draws")

    monkeypatch.setattr(plt, "show", refuse)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", refuse)
    with matplotlib.rc_context():
        use_style()
        yield
    plt.close("all")


def some(count=3, height=8, width=10):
    rng = np.random.default_rng(0)
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    maps = rng.normal(size=(count, height, width)) * np.arange(1, count + 1)[:, None, None]
    return images, maps, maps > 2


def drawn(figure):
    """Draw for real: warnings and impossible layouts show only now."""
    figure.canvas.draw()
    return figure


# --- style


def test_the_style_is_readable_on_a_phone_and_on_dark_pages():
    sizes = (
        "font.size",
        "axes.labelsize",
        "axes.titlesize",
        "xtick.labelsize",
        "ytick.labelsize",
        "legend.fontsize",
    )
    assert min(plt.rcParams[size] for size in sizes) >= 11
    assert plt.rcParams["figure.figsize"][0] <= 7
    assert plt.rcParams["figure.facecolor"] == plt.rcParams["savefig.facecolor"] == "white"
    assert plt.rcParams["figure.dpi"] == 120


def test_the_palette_is_for_colour_blind_eyes():
    colours = [to_rgb(entry["color"]) for entry in plt.rcParams["axes.prop_cycle"]]
    assert colours == [to_rgb(colour) for colour in sns.color_palette("colorblind")]


# --- colour scale


def test_the_colour_scale_is_that_of_held_out_normals():
    maps = np.arange(1001.0).reshape(7, 11, 13)
    norm = colour_scale(maps, upper=0.9, steps=5)
    assert (norm.vmin, norm.vmax) == (
        500,
        pytest.approx(2500),
    )  # a tenth of the pixels exceed 900
    assert float(norm(900)) == pytest.approx(np.arcsinh(1) / np.arcsinh(5))
    np.testing.assert_allclose(norm.inverse(norm([600, 900, 2000])), [600, 900, 2000])


def test_a_constant_map_still_has_a_scale():
    norm = colour_scale(np.full((1, 2, 2), 3.0))
    assert (norm.vmin, norm.vmax) == (3, 13)


def test_a_scale_from_nothing_is_refused():
    with pytest.raises(ValueError, match="0 maps give no colour scale"):
        colour_scale(np.zeros((0, 4, 4)))
    with pytest.raises(ValueError, match="give no colour scale"):
        colour_scale(np.full((1, 4, 4), np.nan))
    with pytest.raises(ValueError, match=r"upper is a share in \(0.5, 1\), got 99"):
        colour_scale(np.zeros((1, 4, 4)), upper=99)


# --- maps


def test_all_maps_share_one_colour_scale():
    images, maps, masks = some()
    axes = show_maps(images, maps, masks, norm=Normalize(-1, 2.5), label="standard deviations")
    assert axes.shape == (3, 3)
    for i, ax in enumerate(axes[:, -1]):
        (heat,) = ax.get_images()
        assert heat.get_clim() == (-1, 2.5)
        assert heat.get_cmap().name == "cividis"
        np.testing.assert_array_equal(heat.get_array(), maps[i])  # as given, never rescaled
    figure = drawn(axes[0, 0].figure)
    (bar,) = [ax for ax in figure.axes if ax not in axes]
    assert bar.get_xlabel() == "standard deviations"


def test_the_colour_bar_names_both_ends_of_the_scale_in_two_digits():
    images, maps, masks = some()
    figure = drawn(show_maps(images, maps, masks, norm=Normalize(0.0234, 151.7))[0, 0].figure)
    bar = figure.axes[-1]
    assert [label.get_text() for label in bar.get_xticklabels()] == ["0.023", "51", "100", "150"]
    np.testing.assert_allclose(bar.get_xticks()[[0, -1]], [0.0234, 151.7])


def test_images_and_masks_stand_beside_their_maps():
    images, maps, masks = some()
    masks[0] = False
    axes = show_maps(images, maps, masks, norm=Normalize(0, 1), titles=["wood", "tile", "weave"])
    for i, row in enumerate(axes):
        np.testing.assert_allclose(row[0].get_images()[0].get_array(), images[i].permute(1, 2, 0))
        np.testing.assert_array_equal(row[1].get_images()[0].get_array(), masks[i])
        assert row[1].get_images()[0].get_clim() == (0, 1)  # an empty mask is black, a full one white
    assert [ax.get_title(loc="left") for ax in axes[:, 0]] == ["wood", "tile", "weave"]
    assert [ax.get_title(loc="right") for ax in axes[0, 1:]] == ["mask", "map"]
    assert axes[0, 0].figure.get_figwidth() <= 7


def test_masks_may_be_left_out():
    images, maps, _ = some(1)
    axes = show_maps(images, maps, norm=Normalize(0, 1))
    assert [ax.get_title() for ax in axes[0]] == ["image", "map"]


def test_strips_stand_one_below_the_other_over_the_whole_width():
    images, maps, masks = some(2, height=8, width=64)
    axes = show_maps(images, maps, masks, norm=Normalize(0, 1))
    figure = drawn(axes[0, 0].figure)
    boxes = [ax.get_position() for ax in axes.flat]
    assert all(box.width > 0.9 for box in boxes)
    assert [box.y0 for box in boxes] == sorted((box.y0 for box in boxes), reverse=True)
    assert figure.get_figwidth() <= 7


def test_what_does_not_fit_is_named():
    images, maps, masks = some()
    with pytest.raises(ValueError, match=r"maps \(3, 4, 5\) do not fit images \(3, 3, 8, 10\)"):
        show_maps(images, maps[:, ::2, ::2], norm=Normalize(0, 1))
    with pytest.raises(ValueError, match=r"masks \(2, 8, 10\) do not fit"):
        show_maps(images, maps, masks[:2], norm=Normalize(0, 1))
    with pytest.raises(ValueError, match="3 images but 1 titles"):
        show_maps(images, maps, norm=Normalize(0, 1), titles=["wood"])
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\) with N > 0, got \(3, 8, 10, 3\)"):
        show_textures(images.permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match="before normalisation"):
        show_textures(images * 4 - 2)


def test_a_contact_sheet_has_one_axes_per_image():
    images, *_ = some(5)
    axes = show_textures(images, ["a", "b", "c", "d", "e"])
    assert [ax.get_title() for ax in axes] == ["a", "b", "c", "d", "e"]
    assert len(drawn(axes[0].figure).axes) == 5


# --- pairs


def test_each_test_image_stands_above_its_training_image_and_their_correlation():
    images, *_ = some(4)
    pairs = show_pairs(images, images.flip(3), [0.9, 0.5, 0.256, 0.1], ["a", "b", "c", "d"])
    assert pairs.shape == (4, 2)
    for i, (upper, lower) in enumerate(pairs):
        np.testing.assert_allclose(upper.get_images()[0].get_array(), images[i].permute(1, 2, 0))
        np.testing.assert_allclose(lower.get_images()[0].get_array(), images[i].flip(2).permute(1, 2, 0))
    assert [upper.get_title() for upper, _ in pairs] == ["a", "b", "c", "d"]
    assert [lower.get_xlabel() for _, lower in pairs] == [
        f"correlation {c}" for c in ("0.90", "0.50", "0.26", "0.10")
    ]
    assert [ax.get_ylabel() for ax in pairs[[0, 3]].flat] == ["test", "training"] * 2  # of each row of pairs
    figure = drawn(pairs[0, 0].figure)
    assert len(figure.axes) == 8
    for upper, lower in pairs:
        above, below = upper.get_position(), lower.get_position()
        assert above.y0 > below.y1 and above.x0 == pytest.approx(below.x0)


def test_pairs_of_strips_take_the_whole_width():
    images, *_ = some(2, height=8, width=64)
    pairs = show_pairs(images, images, [1.0, 1.0])
    drawn(pairs[0, 0].figure)
    assert all(ax.get_position().width > 0.9 for ax in pairs.flat)


def test_pairs_that_do_not_fit_are_named():
    images, *_ = some(3)
    with pytest.raises(ValueError, match=r"others \(2, 3, 8, 10\), 3 correlations do not fit"):
        show_pairs(images, images[:2], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"2 correlations do not fit"):
        show_pairs(images, images, [1.0, 1.0])


# --- losses


@dataclass
class Progress:
    epoch: int
    nll: float
    held_out: float | None


def test_losses_have_named_axes_with_units():
    history = [Progress(0, 1.0, None), Progress(1, 0.8, 0.9), Progress(2, 0.7, 0.85)]
    ax = show_losses(history, {"nll": "trained on", "held_out": "held out"})
    assert ax.get_xlabel() == "epoch"
    assert "nats per dimension" in ax.get_ylabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["trained on", "held out"]
    assert ax.lines[0].get_xydata().tolist() == [[0, 1.0], [1, 0.8], [2, 0.7]]
    assert ax.lines[1].get_xydata().tolist() == [[1, 0.9], [2, 0.85]]
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()  # not by colour alone
    drawn(ax.figure)


def test_losses_draw_into_given_axes_and_from_mappings():
    _, given = plt.subplots()
    assert show_losses([{"epoch": 0, "nll": 1.0}], {"nll": "normals"}, ax=given) is given
    assert plt.get_fignums() == [given.figure.number]


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="no epoch has a loss 'nil': choose from epoch, nll"):
        show_losses([{"epoch": 0, "nll": 1.0}], {"nil": "normals"})


# --- scores


def heights(ax):
    return [int(patch.get_height()) for patch in ax.containers[0]]


def test_each_texture_has_a_histogram_on_one_axis():
    scores = np.array([0.0, 1, 2, 3, 4, 5])
    is_defect = np.array([False, False, True, False, True, True])
    axes = show_scores(scores, is_defect, ["tile", "tile", "tile", "wood", "wood", "wood"], {"wood": 3.5})
    assert [ax.get_title(loc="left") for ax in axes] == ["tile", "wood"]
    assert sum(heights(axes[0])) == 2 and sum(heights(axes[1])) == 1
    assert axes[0].get_xlim() == axes[1].get_xlim()
    assert axes[-1].get_xlabel() == "image score"
    assert axes[0].figure.get_supylabel() == "images"
    assert not axes[0].lines and axes[1].lines[0].get_xdata()[0] == 3.5
    drawn(axes[0].figure)


def test_scores_without_textures_make_one_histogram_with_a_legend():
    (ax,) = show_scores([0.0, 1.0, 2.0], [False, True, True], threshold=0.5, label="nats per dimension")
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == ["normal", "defect", "threshold"]
    assert ax.get_xlabel() == "nats per dimension"


def test_scores_over_orders_of_magnitude_keep_every_image_and_part_the_small_ones():
    scores = np.array([-0.5, 0.2, 0.9, 2.0, 40.0, 350.0])
    (ax,) = show_scores(scores, scores > 1)
    drawn(ax.figure)
    normal = [bar for bar in ax.containers[0] if bar.get_height()]
    assert [bar.get_height() for bar in normal] == [1, 1, 1]  # a bar of its own for each
    assert ax.get_xscale() == "asinh"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "3", "10", "30", "100", "300"]


def test_a_threshold_beyond_all_scores_is_in_sight_and_has_its_own_name():
    scores = np.array([0.5, 2.0, 40.0])
    axes = show_scores(scores, scores > 1, ["a", "b", "b"], {"a": 90.0}, line_label="level")
    figure = drawn(axes[0].figure)
    assert axes[-1].get_xlim() == pytest.approx((0.5, 90))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["normal", "defect", "level"]


def test_scores_of_normals_alone_can_be_shown():
    axes = show_scores(np.zeros(4), np.zeros(4, bool), ["wood", "wood", "tile", "tile"])
    drawn(axes[0].figure)


def test_scores_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"scores \(2,\), is_defect \(3,\)"):
        show_scores([0.0, 1.0], [True, False, True])


@pytest.mark.parametrize(
    "draw",
    [
        lambda images, maps, masks: show_maps(
            images, maps, masks, norm=Normalize(0, 1), titles=["a", "b", "c"]
        ),
        lambda images, maps, masks: show_textures(images, ["a", "b", "c"]),
        lambda images, maps, masks: show_pairs(images, images, [1.0, 0.5, 0.1], ["mt: blowhole"] * 3),
        lambda images, maps, masks: show_pairs(images[..., :2, :], images[..., :2, :], [1.0, 0.5, 0.1]),
        lambda images, maps, masks: show_losses([{"epoch": 0, "nll": 1.0}], {"nll": "normals"}),
        lambda images, maps, masks: show_scores([0.0, 1.0], [True, False], ["a", "b"], 0.5),
    ],
)
def test_all_letters_are_large_and_inside_the_figure(draw):
    axes = np.atleast_1d(draw(*some()))
    figure = drawn(axes.flat[0].figure)
    shown = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    assert shown
    assert min(text.get_fontsize() for text in shown) >= 11
    ticks = {label for ax in figure.axes for label in (*ax.get_xticklabels(), *ax.get_yticklabels())}
    frame = figure.bbox.padded(2)
    for text in set(shown) - ticks:  # matplotlib keeps tick labels outside the range, undrawn
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


@pytest.mark.parametrize(
    ("peak", "columns"), [((3, 0), (0, 8)), ((0, 20), (16, 24)), ((7, 63), (56, 64)), ((5, 59), (55, 63))]
)
def test_a_strip_is_looked_at_where_its_map_is_highest(peak, columns):
    values = np.zeros((8, 64))
    values[peak] = 1
    assert around_peak(values) == (slice(0, 8), slice(*columns))
    assert around_peak(values.T) == (slice(*columns), slice(0, 8))
