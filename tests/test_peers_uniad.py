"""UniAD: sizes of the paper, attention that does not see its neighbourhood, training true to its seed."""

import json
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from peer_contract import HELD_OUT, TEST, TRAIN, PeerContract
from weave import weave

from mssf_lite.features import load_backbone
from mssf_lite.loop import seeded
from mssf_lite.peers.uniad import Attention, MaskedTransformer, UniAD, UniADConfig, neighbour_mask

CHECK = UniADConfig.profile("check", dropout=0.1, epochs=4)
PAPER = UniADConfig.profile("paper", weights="random")


@pytest.fixture(scope="module")
def fitted():
    detector = UniAD(CHECK)
    return detector, list(detector.fit(TRAIN, HELD_OUT))


@pytest.fixture
def detector(fitted):
    return fitted[0].eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_at_its_published_setting_it_has_24_and_a_half_million_parameters():
    """Counted as usual: EfficientNet-B4 without the head of its classifier, and the transformer.

    Of the network only what lies before the last used stage runs; the extractor cuts the rest off.
    """
    whole = load_backbone("tf_efficientnet_b4", "random")
    trunk = count(whole.conv_stem) + count(whole.bn1) + count(whole.blocks)
    detector = UniAD(PAPER)
    assert detector.pyramid.channels == [24, 32, 56, 160]
    assert count(detector.model) == 7_717_392
    assert trunk + count(detector.model) == 24_459_608
    assert round((trunk + count(detector.model)) / 1e6, 1) == 24.5
    assert count(detector) == pytest.approx(11.3e6, rel=0.01)  # what is in memory here
    image = torch.rand(1, 3, 224, 224)
    assert detector.features(image)[0].shape == (1, 272, 14, 14)
    assert detector.judge(detector.features(image), (224, 224)).maps.shape == (1, 224, 224)


def test_four_and_four_layers_and_a_query_for_each_of_the_decoder():
    model = MaskedTransformer(8, UniADConfig.profile("full", width=32, hidden=64))
    assert [len(layer.attentions) for layer in model.encoder] == [1] * 4
    assert [len(layer.attentions) for layer in model.decoder] == [2] * 4
    assert model.queries.shape == (4, 1, 256, 32)
    x = torch.randn(1, 8, 16, 16)
    before = model.eval()(x)
    for query in model.queries:  # every layer asks, and its answer is used
        with torch.no_grad():
            query += 1
            after = model(x)
        assert (after - before).abs().max() > 1e-3
        before = after


@pytest.mark.parametrize(("grid", "side"), [((8, 8), 7), ((9, 5), 3), ((2, 12), 5), ((4, 4), 1)])
def test_mask_is_what_a_loop_over_pairs_says(grid, side):
    mask = neighbour_mask(grid, side)
    h, w = grid
    for a in range(h * w):
        for b in range(h * w):
            near = abs(a // w - b // w) <= side // 2 and abs(a % w - b % w) <= side // 2
            assert mask[a, b] == (-torch.inf if near else 0.0)


def plain(q, k, v, attn_mask, dropout_p=0.0):
    """Attention as in the textbook."""
    assert dropout_p == 0
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + attn_mask).softmax(-1) @ v


def test_fused_attention_is_the_plain_formulation():
    torch.manual_seed(0)
    attention = Attention(32, 4, dropout=0.1).eval()
    mask = neighbour_mask((6, 10), 7)
    query, key, value = torch.randn(1, 60, 32), torch.randn(3, 60, 32), torch.randn(3, 60, 32)
    heads = [
        plain(q, k, v, mask)
        for q, k, v in zip(
            attention.query(query).split(8, -1),
            attention.key(key).split(8, -1),
            attention.value(value).split(8, -1),
            strict=True,
        )
    ]
    wanted = attention.out(torch.cat(heads, -1))
    torch.testing.assert_close(attention(query, key, value, mask), wanted, atol=1e-5, rtol=1e-4)


def test_attention_never_sees_a_tokens_neighbourhood():
    torch.manual_seed(0)
    h, w = 9, 10
    attention, mask = Attention(16, 2, dropout=0.0), neighbour_mask((h, w), 7)
    query, x = torch.randn(1, h * w, 16), torch.randn(1, h * w, 16)
    changed = x.clone()
    changed[0, 4 * w + 5] += 10
    far = (attention(query, x, x, mask) != attention(query, changed, changed, mask)).any(-1).view(h, w)
    assert not far[1:8, 2:9].any()
    assert far.sum() == h * w - 49


def test_a_decoder_layer_cannot_copy_what_the_encoder_hands_it():
    model = MaskedTransformer(6, replace(CHECK, image_size=(256, 256))).eval()
    model.encoder = (
        torch.nn.ModuleList()
    )  # which would carry news from afar, and its residual the token itself
    x = torch.randn(1, 6, 16, 16)
    changed = x.clone()
    changed[0, :, 8, 8] += 10
    far = (model(x) != model(changed)).any(1)[0]
    assert not far[5:12, 5:12].any()
    assert far.sum() == 256 - 49


def test_forward_pass_is_not_slower_than_with_plain_attention(monkeypatch):
    model = MaskedTransformer(272, PAPER).eval()
    x, fused = torch.randn(2, 272, 14, 14), F.scaled_dot_product_attention
    seconds = {fused: [], plain: []}  # of all cores: what others do on the machine counts little
    with torch.no_grad():
        for rounds in range(45):  # few will do where nobody else is at work
            for attention in seconds:
                monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
                started = time.process_time()
                model(x)
                seconds[attention].append(time.process_time() - started)
            quick, slow = min(seconds[fused]), min(seconds[plain])
            if rounds >= 4 and quick < 1.1 * slow:
                break
    assert quick < 1.1 * slow


def test_features_are_all_stages_on_one_grid(detector):
    (x,) = detector.features(TEST)
    assert x.shape == (6, 192, 8, 8)
    stages = detector.pyramid(TEST)
    torch.testing.assert_close(x[:, 80:], stages[3])  # that of the deepest
    middle = stages[0].unflatten(3, (8, 8)).unflatten(2, (8, 8))[..., 3:5, :, 3:5].mean((3, 5))
    torch.testing.assert_close(x[:, :16], middle, atol=1e-5, rtol=1e-4)  # bilinear, about the same centres


class Recorder(torch.nn.Module):
    """A model that returns what it gets, and remembers it."""

    def forward(self, x):
        self.seen = x
        return x


@pytest.fixture
def recorded(detector):
    model = detector.model
    detector.model = Recorder()
    yield detector
    detector.model = model


def test_jitter_is_noise_in_proportion_to_the_feature_vector_and_in_training_only(recorded):
    clean = torch.randn(16, 192, 8, 8) * torch.linspace(1, 3, 8)
    recorded.model.eval()
    assert recorded.loss([clean], seeded(0)) == 0 and torch.equal(recorded.model.seen, clean)
    recorded.model.train()
    loss = recorded.loss([clean], seeded(0))
    noise = recorded.model.seen - clean
    torch.testing.assert_close(loss, noise.square().mean())  # the clean features are wanted back
    unit = clean.norm(dim=1, keepdim=True) * 20 / 192
    assert (noise / unit).mean().item() == pytest.approx(0, abs=0.01)
    assert (noise / unit).std().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(recorded.loss([clean], seeded(0)), loss)
    assert not torch.equal(recorded.loss([clean], seeded(1)), loss)


def test_map_is_the_distance_and_score_its_highest_mean_over_16_pixels(detector):
    (x,) = detector.features(TEST)
    maps, scores = detector.judge([x], (128, 128))
    with torch.no_grad():
        distance = (detector.model(x) - x).square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(maps[:, None], F.interpolate(distance, scale_factor=16, mode="bilinear"))
    best = maps.unfold(1, 16, 1).unfold(2, 16, 1).mean((3, 4)).amax((1, 2))
    torch.testing.assert_close(scores, best)


class TestContract(PeerContract):
    """Of a peer of one grid."""


def test_training_lowers_the_loss_on_images_it_does_not_see(fitted):
    history = fitted[1]
    assert [p.epoch for p in history] == [1, 2, 3, 4]
    assert history[-1].held_out_loss < 0.95 * history[0].held_out_loss


def test_channels_begin_in_their_own_unit(detector):
    kept = detector.features(TRAIN)[0]
    torch.testing.assert_close(detector.model.mean[:, 0, 0], kept.mean((0, 2, 3)), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(detector.model.std[:, 0, 0], kept.std((0, 2, 3)), atol=1e-2, rtol=1e-2)


def test_dropout_acts_in_training_only(detector):
    x = detector.features(TEST)
    torch.manual_seed(0)
    detector.model.train()
    assert not torch.equal(detector.model(x[0]), detector.model(x[0]))
    detector.model.eval()
    assert torch.equal(detector.model(x[0]), detector.model(x[0]))


def test_strips_larger_than_the_trained_size_are_judged_in_windows(detector):
    strip = weave(1, 3, 128, 320)
    (x,) = detector.features(strip)
    assert x.shape[2:] == (8, 20)
    prediction = detector.predict(strip)
    assert prediction.maps.shape == (1, 128, 320) and prediction.scores.shape == (1,)
    parts = [detector.judge([x[..., a : a + 8]], (128, 128)).maps for a in (0, 8, 12)]
    inner = slice(8, -8)  # bilinear interpolation looks half a place across the border of a window
    torch.testing.assert_close(prediction.maps[:, :, 8:120], parts[0][..., inner])
    torch.testing.assert_close(prediction.maps[:, :, 200:312], parts[2][..., inner])


def test_images_smaller_than_the_trained_size_are_refused(detector):
    with pytest.raises(ValueError, match="too small: at least 128"):
        detector.predict(TEST[..., :96])
    with pytest.raises(ValueError, match=r"smaller than the one that was trained, \(8, 8\)"):
        detector.judge([detector.features(TEST)[0][..., :6]], (128, 96))


def test_any_timm_network_will_do():
    stages = ("layer1", "layer2", "layer3")
    config = replace(CHECK, backbone="resnet18", weights="random", stages=stages, epochs=1)
    detector = UniAD(config)
    list(detector.fit(TRAIN[:8], HELD_OUT[:2]))
    assert detector.features(TEST)[0].shape == (6, 64 + 128 + 256, 8, 8)
    assert detector.predict(TEST).scores.isfinite().all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("neighbourhood", 6),
        ("width", 100),
        ("heads", 0),
        ("layers", 0),
        ("dropout", 1.0),
        ("jitter", -1),
        ("drop_at", 0),
        ("pool", 0),
        ("image_size", (250, 256)),
        ("image_size", (112, 112)),  # 7 x 7 tokens: the one in the middle would see nothing
        ("epochs", -1),
    ],
)
def test_values_that_cannot_work_are_named(field, value):
    with pytest.raises(ValueError, match=f"UniADConfig.{field} cannot be"):
        UniADConfig(**{field: value})


def test_profiles_and_their_way_through_json():
    assert (PAPER.grid, PAPER.epochs, PAPER.batch) == ((14, 14), 1000, 8)
    assert (PAPER.learning_rate, PAPER.weight_decay, PAPER.clip, PAPER.dropout) == (1e-4, 1e-4, 0.1, 0.1)
    for name in UniADConfig.PROFILES:
        config = UniADConfig.profile(name, seed=3)
        assert UniADConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_learning_rate_falls_to_a_tenth_late_in_training(detector):
    optimizer, schedule = detector.optimizer()
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([2e-3, 2e-3, 2e-3, 2e-4])
