"""Mixed anomalies synthesis: exact masks, never empty, one source of chance, grey stays grey."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from mssf_lite.synthesis import KINDS, MAS, SHAPES, VISIBLE
from mssf_lite.synthesis_kinds import Points, look
from mssf_lite.synthesis_masks import LARGEST, Dice, opaque_share, smooth_noise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weave(batch: int, height: int, width: int, grey: bool = False) -> Tensor:
    """Coloured or grey stripes with some noise, another phase for each image: (B, 3, H, W)."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    phase = torch.arange(float(batch))[:, None, None]
    wave = 0.5 + 0.15 * torch.sin(x / 3 + phase) + 0.1 * torch.sin(y / 5 - phase)
    wave = wave + 0.03 * torch.randn(batch, height, width, generator=seeded(99))
    colour = torch.ones(3) if grey else torch.tensor([1.2, 0.9, 0.5])
    return (wave[:, None] * colour[:, None, None]).clamp(0, 1)


def hostile() -> list[Tensor]:
    """Inputs on which a careless synthesis changes nothing: plain, black and white, tiny, long, alone."""
    halves = torch.zeros(2, 3, 40, 40)
    halves[..., 20:] = 1
    checks = torch.zeros(2, 3, 32, 32)
    checks[..., ::2, ::2] = checks[..., 1::2, 1::2] = 1
    plain = [torch.full((3, 3, 32, 32), level) for level in (0.0, 1.0, 0.5, 0.499, 1 / 255)]
    alone = [torch.zeros(1, 3, 16, 16), torch.full((1, 3, 17, 64), 0.5), weave(1, 33, 48)]
    noise = torch.rand(2, 3, 32, 32, generator=seeded())
    return [*plain, *alone, halves, checks, torch.ones(2, 3, 16, 300), noise]


def test_mask_is_exactly_the_visible_change():
    images = weave(6, 64, 80)
    for seed in range(20):
        twins, masks = MAS()(images, seeded(seed))
        change = (twins - images).abs().amax(1)
        assert torch.equal(twins.movedim(1, 3)[~masks], images.movedim(1, 3)[~masks])
        assert change[masks].min() >= VISIBLE
        assert masks.shape == (6, 64, 80) and masks.dtype == torch.bool and twins.dtype == torch.float32


@pytest.mark.parametrize("number", range(len(hostile())))
def test_no_mask_is_empty_and_twins_stay_in_range(number):
    images = hostile()[number]
    for seed, opacity in itertools.product(range(12), ((0.35, 1.0), (0.001, 0.01))):
        twins, masks = MAS(opacity=opacity)(images, seeded(seed))
        assert masks.flatten(1).any(1).all()
        assert twins.min() >= 0 and twins.max() <= 1
        assert torch.equal(masks, (twins - images).abs().amax(1) >= VISIBLE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_every_kind_is_seen_even_on_a_plain_grey_image(shape, kind):
    mas = MAS(shapes=shape, kinds=kind, defects=(1, 1))
    for images in (torch.full((2, 3, 48, 48), 0.5), weave(2, 48, 48)):
        twins, masks = mas(images, seeded())
        assert masks.flatten(1).any(1).all()
        assert (twins - images).abs().flatten(1).amax(1).min() > 3 * VISIBLE


def test_one_seed_gives_one_result_and_another_seed_another():
    images = weave(4, 64, 64)
    first, again, other = (MAS()(images, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images) and torch.equal(first.masks, again.masks)
    assert not torch.equal(first.images, other.images)


def test_the_generator_is_the_only_source_of_chance():
    images, generator = weave(4, 64, 64), seeded()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = MAS()(images, generator)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(MAS()(images, seeded()).images, first.images)
    assert not torch.equal(MAS()(images, generator).images, first.images)  # the generator has moved on


def test_input_is_left_as_it_was():
    images = weave(4, 64, 64)
    before = images.clone()
    twins, _ = MAS()(images, seeded())
    assert torch.equal(images, before) and twins.data_ptr() != images.data_ptr()


def test_a_view_of_other_memory_order_gives_the_same_twins():
    images = weave(4, 48, 64)
    turned = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(MAS()(turned, seeded()).images, MAS()(images, seeded()).images)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_chosen_kinds_and_shapes_are_used(kind, monkeypatch):
    def forbidden(*_):
        raise AssertionError("this one was not chosen")

    for name in KINDS.keys() - {kind}:
        monkeypatch.setitem(KINDS, name, forbidden)
    for name in SHAPES.keys() - {"blob", "spots"}:
        monkeypatch.setitem(SHAPES, name, forbidden)
    MAS(kinds=(kind,), shapes=("blob", "spots"))(weave(8, 32, 32), seeded())


def test_all_kinds_and_shapes_are_used_by_default(monkeypatch):
    used = set()

    def noting(name, function):
        return lambda *args: used.add(name) or function(*args)

    for registry in (KINDS, SHAPES):
        for name, function in list(registry.items()):
            monkeypatch.setitem(registry, name, noting(name, function))
    for seed in range(4):
        MAS()(weave(16, 32, 32), seeded(seed))
    assert used == {*KINDS, *SHAPES}


def test_kinds_do_what_they_are_called():
    images = weave(8, 64, 64)
    change = {}
    for kind in KINDS:
        mas = MAS(kinds=kind, shapes="polygon", defects=(1, 1), size=(0.05, 0.1), opacity=(1, 1))
        twins, masks = mas(images, seeded())
        change[kind] = (twins - images).movedim(1, 3)[masks]
    assert change["stain"].max() < 0 < change["gloss"].max()
    assert change["gloss"].min() >= 0
    for kind in ("texture", "paste", "shuffle", "warp", "smear", "noise"):  # these move pixels both ways
        assert change[kind].min() < -0.02 and change[kind].max() > 0.02


def test_texture_shows_another_image_of_the_batch():
    plain, busy = torch.full((1, 3, 64, 64), 0.5), torch.rand(1, 1, 64, 64, generator=seeded()).round()
    images = torch.cat([plain, busy.expand(1, 3, 64, 64)])
    mas = MAS(kinds="texture", defects=(1, 1), opacity=(1, 1), size=(0.05, 0.1), shapes="polygon")
    for seed in range(10):
        twins, masks = mas(images, seeded(seed))
        assert twins[0, 0][masks[0]].std() > 0.15  # a stain would be nearly even
        assert twins[1, 0][masks[1]].std() < 0.35  # plain in the middle of black and white (0.5)


def test_texture_of_a_lone_image_is_its_inverse():
    bright_dots = torch.full((1, 3, 64, 64), 0.5)
    bright_dots[..., ::4, ::4] = 0.9
    mas = MAS(kinds="texture", defects=(1, 1), opacity=(1, 1), size=(0.05, 0.1), shapes="polygon")
    darkest = [mas(bright_dots, seeded(seed)).images.min() for seed in range(10)]
    assert max(darkest) < 0.4


def test_number_of_defects_is_kept():
    images = torch.full((64, 3, 64, 64), 0.5)
    area = [
        MAS(defects=(n, n), size=(0.01, 0.01), shapes="polygon")(images, seeded()).masks.float().mean().item()
        for n in (1, 2, 4)
    ]
    assert area[1] / area[0] == pytest.approx(2, rel=0.15)
    assert area[2] / area[0] == pytest.approx(4, rel=0.2)


def test_sizes_run_from_tiny_to_a_tenth_with_a_median_near_one_percent():
    images = torch.full((200, 3, 64, 64), 0.4)
    one = MAS(shapes=("blob", "polygon"), kinds="gloss", defects=(1, 1))
    share = one(images, seeded()).masks.float().mean((1, 2))
    assert 0.0005 < share.min() < 0.003
    assert 0.06 < share.max() < 0.105
    assert 0.006 < share.median() < 0.016
    mixed = MAS()(images, seeded()).masks.float().mean((1, 2))
    assert 0.006 < mixed.median() < 0.03


@pytest.mark.parametrize("shape", LARGEST)
def test_thin_shapes_stay_thin(shape):
    images = torch.full((32, 3, 128, 128), 0.4)
    mas = MAS(shapes=shape, kinds="gloss", defects=(1, 1), size=(0.001, 0.5))
    assert mas(images, seeded()).masks.float().mean((1, 2)).max() <= 1.15 * LARGEST[shape]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(64, 64), (40, 160)])
def test_a_shape_covers_the_share_it_was_asked_for(shape, size):
    dice, share = Dice(seeded(), torch.device("cpu")), torch.tensor([0.004, 0.01, 0.03] * 5)
    alpha = opaque_share(SHAPES[shape](share, size, dice), share, torch.full_like(share, 0.3))
    covered = (alpha > 0).float().mean((1, 2))
    torch.testing.assert_close(covered, share, rtol=0.2, atol=0.001)
    assert alpha.amax((1, 2)).eq(1).all() and alpha.min() == 0


def test_a_flat_field_still_has_an_opaque_core():
    alpha = opaque_share(torch.zeros(2, 32, 32), torch.tensor([0.01, 0.1]), torch.tensor([0.0, 0.7]))
    assert alpha.amax((1, 2)).eq(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_grey_images_stay_grey_beside_coloured_ones(kind):
    images = torch.cat([weave(4, 48, 48, grey=True), weave(4, 48, 48)])
    for seed in range(5):
        twins, _ = MAS(kinds=kind)(images, seeded(seed))
        assert (twins[:4].amax(1) - twins[:4].amin(1)).max() < 1e-5


def test_opacity_makes_defects_stronger():
    images = weave(32, 48, 48)
    changes = []
    for opacity in (0.3, 0.6, 1.0):
        mas = MAS(kinds="gloss", shapes="polygon", opacity=(opacity, opacity), size=(0.05, 0.05))
        twins, masks = mas(images, seeded())
        changes.append((twins - images).abs().amax(1)[masks].mean())
    assert changes[0] < changes[1] < changes[2]


def test_borders_are_blended_inside_the_mask():
    images = torch.full((16, 3, 128, 128), 0.4)
    twins, masks = MAS(kinds="gloss", shapes="blob", defects=(1, 1), size=(0.05, 0.1))(images, seeded())
    change = (twins - images)[:, 0]
    for one, mask in zip(change, masks, strict=True):
        assert len(one[mask].unique()) > 20  # many steps between untouched and full strength
        assert one[mask].min() < 0.5 * one.max()


def test_look_reads_pixels_between_them_and_reflects_beyond():
    images = torch.arange(12.0).view(1, 1, 3, 4).expand(1, 3, 3, 4)
    y = torch.tensor([0.0, 2.0, 0.5, -1.0, 3.0, 1.0])
    x = torch.tensor([0.0, 3.0, 0.5, 0.0, 3.0, 4.0])
    seen = look(images, torch.zeros(6, dtype=torch.long), y, x)
    torch.testing.assert_close(seen[:, 0], torch.tensor([0.0, 11.0, 2.5, 4.0, 7.0, 6.0]))


def test_points_of_chosen_defects_are_counted_anew():
    points = Points(torch.tensor([5, 6, 7]), torch.tensor([0, 1, 1, 2]), torch.arange(4), torch.arange(4))
    own, inside = points.only(torch.tensor([2, 1]))
    assert own.rows.tolist() == [7, 6] and own.defect.tolist() == [1, 1, 0] and own.y.tolist() == [1, 2, 3]
    assert inside.tolist() == [False, True, True, True]


def test_smooth_noise_is_standardised_and_smoother_with_fewer_cells():
    dice = Dice(seeded(), torch.device("cpu"))
    coarse, fine = (smooth_noise(8, 2, (64, 96), dice, cells, octaves=2) for cells in (3, 20))
    for noise in (coarse, fine):
        assert noise.shape == (8, 2, 64, 96)
        assert abs(noise.mean()) < 0.15 and 0.6 < noise.std() < 1.2
    assert coarse.diff(dim=3).abs().mean() < 0.5 * fine.diff(dim=3).abs().mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": ("stain", "dragon")}, r"dragon.*texture, paste"),
        ({"shapes": "banana"}, r"banana.*blob, polygon"),
        ({"shapes": ()}, "none at all"),
        ({"defects": (0, 3)}, r"defects is \(0, 3\)"),
        ({"defects": (3, 1)}, r"defects is \(3, 1\)"),
        ({"opacity": (0.0, 1.0)}, "opacity"),
        ({"opacity": (0.5, 1.5)}, "opacity"),
        ({"size": (0.0, 0.1)}, "size"),
        ({"size": (0.1, 0.9)}, "size"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        MAS(**change)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "uint8.*float32"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.float64), "float64.*float32"),
        (torch.zeros(3, 32, 32), r"\(3, 32, 32\).*images\[None\]"),
        (torch.zeros(2, 1, 32, 32), r"\(2, 1, 32, 32\).*three channels"),
        (torch.zeros(0, 3, 32, 32), r"\(0, 3, 32, 32\)"),
        (torch.zeros(2, 3, 8, 32), "16 pixels"),
        (torch.full((2, 3, 32, 32), 200.0), "200.*before normalisation"),
        (torch.full((2, 3, 32, 32), -1.0), "-1"),
        (torch.full((2, 3, 32, 32), math.nan), "nan"),
    ],
)
def test_wrong_images_are_refused_with_the_remedy(images, message):
    with pytest.raises(ValueError, match=message):
        MAS()(images, seeded())


def test_registries_themselves_serve_as_choices():
    assert MAS(shapes=SHAPES, kinds=KINDS) == MAS()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_draws_the_same_defects_on_a_gpu():
    images = weave(8, 96, 96)
    here, there = MAS()(images, seeded()), MAS()(images.cuda(), seeded())
    assert there.images.device.type == "cuda"
    assert (here.masks == there.masks.cpu()).float().mean() > 0.995  # rounding may move single border pixels
    own = torch.Generator("cuda").manual_seed(0)
    assert MAS()(images.cuda(), own).masks.flatten(1).any(1).all()
