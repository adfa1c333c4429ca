"""ST-MAE: halves that share nothing, one encoder for both, and no patch that is made from itself."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from peer_contract import HELD_OUT, TEST, TRAIN, PeerContract
from weave import weave

from mssf_lite.loop import seeded
from mssf_lite.peers.stmae import STMAE, STMAEConfig, TransitionAutoencoder, place_codes, take

CHECK = STMAEConfig.profile("check", epochs=6, learning_rate=3e-3)


@pytest.fixture(scope="module")
def fitted():
    detector = STMAE(CHECK)
    return detector, list(detector.fit(TRAIN, HELD_OUT))


@pytest.fixture
def detector(fitted):
    return fitted[0].eval()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TransitionAutoencoder(6, CHECK).eval()


def in_patches(places):
    """(B, h, w) -> (B, N, 4), patch by patch."""
    return F.pixel_unshuffle(places[:, None], 2).flatten(2).transpose(1, 2)


def test_a_cut_is_two_disjoint_halves_that_make_up_the_image_and_every_image_has_its_own(detector):
    cuts = detector.cuts(5, seeded(0))
    assert cuts.shape == (5, 64)
    for cut in cuts:
        first, second = set(cut[:32].tolist()), set(cut[32:].tolist())
        assert not first & second and first | second == set(range(64))
    assert len({frozenset(cut[:32].tolist()) for cut in cuts}) == 5
    assert torch.equal(cuts, detector.cuts(5, seeded(0)))


@torch.no_grad()
def test_no_patch_is_made_from_its_own_half(detector, model):
    x, order = torch.randn(2, 6, 16, 16), detector.cuts(2, seeded(1))
    changed = x.clone()
    number = int(order[0, 3])  # a patch of the first half of the first image
    y, z = divmod(number, 8)
    changed[0, :, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2] += 5
    moved = in_patches((model(x, order) != model(changed, order)).any(1).float())
    assert not moved[0, order[0, :32]].any()  # among them the patch itself
    assert moved[0, order[0, 32:]].all()
    assert not moved[1].any()


@torch.no_grad()
def test_the_encoder_is_siamese_so_the_names_of_the_halves_do_not_matter(detector, model):
    x, order = torch.randn(2, 6, 16, 16), detector.cuts(2, seeded(1))
    torch.testing.assert_close(model(x, order), model(x, order.roll(32, 1)), atol=1e-5, rtol=1e-4)
    other = model(x, detector.cuts(2, seeded(2)))
    assert (model(x, order) - other).abs().max() > 1e-2


def test_the_encoder_reads_half_the_patches_at_a_time(model, detector):
    shapes = []
    model.encoder.register_forward_pre_hook(lambda _module, inputs: shapes.append(tuple(inputs[0].shape)))
    model(torch.randn(3, 6, 16, 16), detector.cuts(3, seeded(0)))
    assert shapes == [(6, 32, CHECK.width)]


@torch.no_grad()
def test_what_is_expected_lands_where_it_was_expected(model, detector):
    """With an encoder that says nothing, all that is left are the codes of the places carried to."""
    model.carry.weight.zero_()
    model.carry.bias.zero_()
    model.decoder = torch.nn.Identity()
    patches = model.leave(model.decoder_places).T.unflatten(1, (8, 8))
    wanted = F.pixel_shuffle(patches, 2).expand(3, -1, -1, -1)
    torch.testing.assert_close(model(torch.randn(3, 6, 16, 16), detector.cuts(3, seeded(3))), wanted)


def test_take_reorders_tokens_and_its_inverse_puts_them_back():
    tokens, order = torch.randn(2, 5, 3), torch.stack([torch.tensor([4, 2, 0, 1, 3]), torch.arange(5)])
    assert torch.equal(take(tokens, order)[0, 0], tokens[0, 4])
    assert torch.equal(take(take(tokens, order), order.argsort(1)), tokens)


def test_codes_tell_places_apart_and_the_nearer_the_more_alike():
    codes = place_codes((6, 9), 32)
    assert codes.shape == (54, 32) and codes.abs().max() <= 1
    distance = torch.cdist(codes, codes)
    assert (distance + 9 * torch.eye(54)).min() > 0.3
    assert distance[0, 1] < distance[0, 2] < distance[0, 3]  # along the row
    assert distance[0, 9] < distance[0, 18] < distance[0, 27]  # down the column


def test_layers_begin_with_weights_of_their_own():
    first, second = TransitionAutoencoder(6, replace(CHECK, layers=2)).encoder[:2]
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_features_are_all_stages_on_one_grid(detector):
    (x,) = detector.features(TEST)
    assert x.shape == (6, 24 + 40 + 112, 16, 16)
    torch.testing.assert_close(x[:, 24:64], detector.pyramid(TEST)[1])  # that of stride 8 is left as it is


@torch.no_grad()
def test_loss_is_squared_error_plus_five_times_one_minus_cosine(detector):
    (features,) = detector.features(TEST)
    x = (features - detector.mean) / detector.std
    expected = detector.model(x, detector.cuts(6, seeded(7)))
    cosine = (expected * x).sum(1) / expected.norm(dim=1) / x.norm(dim=1)
    wanted = (expected - x).square().mean() + 5 * (1 - cosine).mean()
    torch.testing.assert_close(detector.loss([features], seeded(7)), wanted)
    assert detector.loss([features], seeded(8)) != wanted


@torch.no_grad()
def test_map_is_the_residual_times_one_minus_cosine_averaged_over_the_same_cuts_for_all(detector):
    (features,) = detector.features(TEST)
    x = (features - detector.mean) / detector.std
    assert len(detector.orders) == 2
    raw = 0
    for order in detector.orders:
        expected = detector.model(x, order.repeat(6, 1))
        cosine = (expected * x).sum(1) / expected.norm(dim=1) / x.norm(dim=1)
        raw += (expected - x).square().sum(1) / x.shape[1] * (1 - cosine) / 2
    maps, scores = detector.judge([features], (128, 128))
    torch.testing.assert_close(
        maps[:, None], F.interpolate(raw[:, None], scale_factor=8, mode="bilinear"), atol=1e-5, rtol=1e-3
    )
    top = raw.flatten(1).sort(dim=1).values[:, -round(CHECK.top_share * 256) :].mean(1)
    torch.testing.assert_close(scores, top, atol=1e-5, rtol=1e-3)


class TestContract(PeerContract):
    """Of a peer of one grid; its score is a mean over many passes."""

    rtol = 1e-3


def test_training_lowers_the_loss_on_images_it_does_not_see(fitted):
    history = fitted[1]
    assert [p.epoch for p in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1].held_out_loss < 0.9 * history[0].held_out_loss


def test_channels_are_heard_in_a_unit_of_their_own(detector):
    kept = (detector.features(TRAIN)[0] - detector.mean) / detector.std
    torch.testing.assert_close(kept.mean((0, 2, 3)), torch.zeros(176), atol=1e-2, rtol=0)
    torch.testing.assert_close(kept.std((0, 2, 3)), torch.ones(176), atol=1e-2, rtol=0)


def test_strips_larger_than_the_trained_size_are_judged_in_windows(detector):
    (x,) = detector.features(weave(1, 3, 128, 320))
    assert x.shape[2:] == (16, 40)
    maps, scores = detector.judge([x], (128, 320))
    assert maps.shape == (1, 128, 320) and scores.shape == (1,)
    parts = [detector.judge([x[..., a : a + 16]], (128, 128)).maps for a in (0, 24)]
    inner = slice(8, -8)  # bilinear interpolation looks half a place across the border of a window
    torch.testing.assert_close(maps[:, :, 8:120], parts[0][..., inner])
    torch.testing.assert_close(maps[:, :, 200:312], parts[1][..., inner])


def test_images_smaller_than_the_trained_size_are_refused(detector):
    with pytest.raises(ValueError, match="too small: at least 128"):
        detector.predict(TEST[..., :96])
    with pytest.raises(ValueError, match=r"smaller than the one that was trained, \(16, 16\)"):
        detector.judge([detector.features(TEST)[0][..., :12]], (128, 96))


def test_any_timm_network_will_do():
    stages = ("layer1", "layer2", "layer3")
    detector = STMAE(replace(CHECK, backbone="resnet18", weights="random", stages=stages, epochs=1))
    list(detector.fit(TRAIN[:8], HELD_OUT[:2]))
    assert detector.features(TEST)[0].shape == (6, 64 + 128 + 256, 16, 16)
    assert detector.predict(TEST).scores.isfinite().all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 100),
        ("decoder_width", 0),
        ("heads", 0),
        ("layers", 0),
        ("maskings", 0),
        ("patch", 0),
        ("top_share", 0),
        ("cosine_weight", -1),
        ("image_size", (250, 256)),
        ("image_size", (48, 48)),  # nine patches have no halves
    ],
)
def test_values_that_cannot_work_are_named(field, value):
    with pytest.raises(ValueError, match=f"STMAEConfig.{field} cannot be"):
        STMAEConfig(**{field: value})


def test_profiles_go_through_json():
    for name in STMAEConfig.PROFILES:
        config = STMAEConfig.profile(name, seed=3)
        assert STMAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_learning_rate_falls_to_nothing_along_a_cosine(detector):
    optimizer, schedule = detector.optimizer()
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == 3e-3 and rates[3] == pytest.approx(1.5e-3) and rates[6] == pytest.approx(0, abs=1e-9)
