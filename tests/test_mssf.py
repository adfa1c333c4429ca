"""The detector contract, and that training does what it promises."""

from dataclasses import replace

import pytest
import torch
from weave import weave

from mssf_lite import MSSF, Config, NearestNeighbour, gaussian, load
from mssf_lite.detector import batches
from mssf_lite.device import autocast, precision
from mssf_lite.loop import seeded, shuffled
from mssf_lite.synthesis import MAS
from mssf_lite.training import fit_whitening, synthetic_locations

CHECK = Config.profile(
    "check", stages=("blocks.2", "blocks.3"), image_size=(64, 64), batch=8, zooms=(1.0, 0.5)
)

TRAIN, HELD_OUT, TEST = (weave(n, seed, 64, 64) for seed, n in enumerate((24, 8, 6)))


def trained(config=CHECK, method=MSSF):
    detector = method(config)
    return detector, list(detector.fit(TRAIN, HELD_OUT))


@pytest.fixture(scope="module")
def model():
    return trained(replace(CHECK, epochs=8, hindering="none"))


METHODS = {"MSSF": MSSF, "Gaussian": gaussian, "NearestNeighbour": NearestNeighbour}


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_detectors_give_equal_scores(method, tmp_path):
    detector, _ = trained(method=METHODS[method])
    detector.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    for a, b in zip(detector.predict(TEST), again.predict(TEST), strict=True):
        assert torch.equal(a, b)
    assert again.config == detector.config
    assert not list(tmp_path.glob("*.part"))


def test_two_seeded_runs_give_equal_scores_and_another_seed_does_not():
    scores = [trained(replace(CHECK, epochs=2, seed=s))[0].predict(TEST).scores for s in (3, 3, 4)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_training_lowers_the_negative_log_likelihood(model):
    progress = model[1]
    assert progress[-1].nll < progress[0].nll - 0.02
    assert [p.epoch for p in progress] == list(range(1, 9))


def separation(model):
    """Mean log-likelihood of fresh normal locations minus that of synthetic ones, nats per dimension."""
    images = weave(16, 5, 64, 64)
    twins = MAS()(images, seeded(9))
    with torch.no_grad():
        normal, synthetic = (model.log_likelihood(model.whitened(x)[0], 0) for x in (images, twins.images))
    return (normal.mean() - synthetic[synthetic_locations(twins.masks, synthetic.shape[-2:])].mean()).item()


def test_hindering_lowers_the_likelihood_of_synthetic_locations_that_training_never_saw():
    base = replace(CHECK, epochs=12, margin=4.0)
    hindered = trained(replace(base, hindering_weight=5.0))[0]
    plain = trained(replace(base, hindering="none"))[0]
    assert separation(hindered) > separation(plain) + 0.05


def test_untrained_flow_is_the_gaussian():
    flow = trained(replace(CHECK, epochs=0))[0]
    torch.testing.assert_close(
        flow.predict(TEST).maps, trained(method=gaussian)[0].predict(TEST).maps, atol=1e-3, rtol=1e-3
    )


def test_gaussian_map_is_half_the_squared_norm_of_whitened_features():
    detector, _ = trained(method=gaussian)
    x = detector.whitened(TEST)[0]
    torch.testing.assert_close(detector.scale_maps(detector.features(TEST))[0], x.square().mean(1) / 2)


@pytest.mark.parametrize("score", ["both", "nll", "z2"])
def test_score_is_what_its_name_says(model, score):
    detector = model[0]
    x = detector.whitened(TEST)[0]
    z, log_det = detector.latent(x, 0)
    assert log_det.abs().max() > 1e-3
    half = 0.5 / z.shape[1]
    z2, x2 = half * z.square().sum(1), half * x.square().sum(1)
    nll = z2 - log_det / z.shape[1]
    wanted = {"both": (nll + x2) / 2, "nll": nll, "z2": z2}
    try:
        detector.config = replace(detector.config, score=score)
        torch.testing.assert_close(detector.scale_maps(detector.features(TEST))[0], wanted[score])
    finally:
        detector.config = replace(detector.config, score="both")


def test_a_planted_spot_scores_higher_and_is_found_where_it_is(model):
    spoilt = TEST.clone()
    spoilt[:, :, 24:40, 24:40] = torch.rand(16, 16, generator=seeded(4)).round()
    clean, defect = model[0].predict(TEST), model[0].predict(spoilt)
    assert (defect.scores > clean.scores).all()
    y, x = divmod(int(defect.maps.mean(0).argmax()), 64)
    assert 12 <= y <= 52 and 12 <= x <= 52


def test_score_of_an_image_does_not_depend_on_its_batch(model):
    detector = model[0]
    alone = torch.cat([detector.predict(image[None]).scores for image in TEST])
    torch.testing.assert_close(detector.predict(TEST).scores, alone, rtol=1e-4, atol=1e-4)


def test_other_heights_and_widths_go_through_the_same_model(model):
    prediction = model[0].predict(torch.rand(2, 3, 96, 160))
    assert prediction.maps.shape == (2, 96, 160) and prediction.scores.shape == (2,)


def test_a_strip_of_4096_by_256_pixels_is_scored_whole_and_like_its_middle(model):
    strip = torch.rand(1, 3, 256, 4096, generator=seeded(5))
    whole, middle = (model[0].predict(x) for x in (strip, strip[..., 1024:3072].contiguous()))
    assert whole.maps.shape == (1, 256, 4096) and whole.scores.isfinite().all()
    inside = slice(1024 + 512, 3072 - 512)  # beyond the reach of what lies outside
    torch.testing.assert_close(whole.maps[..., inside], middle.maps[..., 512:-512], rtol=1e-3, atol=1e-3)


def test_unit_of_each_raw_map_is_taken_from_held_out_normals(model):
    for s, raw in enumerate(model[0].scale_maps(model[0].features(HELD_OUT))):
        assert model[0].map_mean[s].item() == pytest.approx(raw.mean().item(), abs=1e-4)
        assert model[0].map_std[s].item() == pytest.approx(raw.std().item(), rel=1e-3)


def test_rings_of_the_border_have_units_of_their_own_where_asked_for():
    model, _ = trained(replace(CHECK, blocks=0, epochs=0, rings=1))
    fine, coarse = model.scale_maps(model.features(HELD_OUT))  # 4 x 4, and 2 x 2 without an inside
    border = torch.cat([fine[:, [0, -1]].flatten(), fine[:, 1:-1, [0, -1]].flatten()])
    for s, places in enumerate([(border, fine[:, 1:-1, 1:-1]), (coarse, coarse)]):
        for place, values in enumerate(places):
            assert model.map_mean[s, place].item() == pytest.approx(values.mean().item(), abs=1e-4)
            assert model.map_std[s, place].item() == pytest.approx(values.std().item(), rel=1e-3)


def test_lists_of_images_do_as_well_as_one_tensor(model):
    assert torch.equal(model[0].predict(list(TEST)).scores, model[0].predict(TEST).scores)


def test_batches_cover_every_image_once():
    assert torch.equal(torch.cat(list(batches(TEST, replace(CHECK, batch=4)))), TEST)


def test_a_batch_of_larger_images_holds_fewer_of_them():
    strips = torch.rand(5, 3, 64, 256)  # four times the area of CHECK's images
    config = replace(CHECK, image_size=(64, 64), batch=8)
    assert [len(batch) for batch in batches(strips, config)] == [2, 2, 1]
    assert [len(batch) for batch in batches(strips[..., :16], config)] == [5]  # never more than asked for


def test_predicting_before_fitting_says_what_to_do():
    with pytest.raises(RuntimeError, match="was not fitted"):
        MSSF(CHECK).predict(TEST)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 1, 64, 64), r"\(B, 3, H, W\), got \(2, 1, 64, 64\)"),
        (torch.rand(3, 64, 64), "got"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "torch.uint8: divide by 255"),
        (torch.full((1, 3, 64, 64), 200.0), r"got \[200, 200\]"),
        (torch.full((1, 3, 64, 64), float("nan")), "nan"),
        (torch.rand(1, 3, 16, 64), "too small: at least 64"),
        (torch.rand(0, 3, 64, 64), "got no images"),
    ],
)
def test_images_that_cannot_be_scored_are_refused(model, images, message):
    with pytest.raises(ValueError, match=message):
        model[0].predict(images)


def test_images_of_several_sizes_are_scored_as_if_alone(model):
    images = [TEST[0], torch.rand(3, 80, 64), TEST[1]]
    maps, scores = model[0].predict(images)
    assert [tuple(m.shape) for m in maps] == [(64, 64), (80, 64), (64, 64)]
    for image, found, score in zip(images, maps, scores, strict=True):
        alone = model[0].predict(image[None])
        torch.testing.assert_close(found, alone.maps[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(score, alone.scores[0], rtol=1e-4, atol=1e-4)


def upright(images):
    """The same weave, 96 pixels high."""
    return torch.cat([images, images[..., :32, :]], dim=2)


@pytest.mark.parametrize("method", METHODS)
def test_training_images_of_several_sizes_are_learned_from_in_any_order(method):
    high, held_out = upright(TRAIN[12:]), [*HELD_OUT[:4], *upright(HELD_OUT[4:])]
    mixed = [image for pair in zip(TRAIN[:12], high, strict=True) for image in pair]
    scores = []
    for images in (mixed, [*TRAIN[:12], *high]):
        detector = METHODS[method](CHECK)
        for _ in detector.fit(images, held_out):
            pass
        scores.append(detector.predict([*TEST, *upright(TEST)]).scores)
    if method == "NearestNeighbour":  # draws by position what it stores
        assert all(score.isfinite().all() for score in scores)
    else:
        torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)


def test_whitening_is_over_the_locations_of_all_sizes():
    model, high = MSSF(CHECK), upright(TRAIN[:6])
    white = fit_whitening(model, [*TRAIN[:6], *high])
    assert [[len(scale) for scale in of_size] for of_size in white] == [[6, 6], [6, 6]]
    for s in range(2):
        rows = torch.cat([of_size[s].float().movedim(1, -1).flatten(0, 2) for of_size in white])
        fused = [model.features(x)[s].movedim(1, -1).flatten(0, 2) for x in (TRAIN[:6], high)]
        mean = torch.cat(fused).double().mean(0)
        torch.testing.assert_close(model.whitening[s].mean, mean.float(), rtol=1e-4, atol=1e-4)
        assert rows.mean(0).abs().max() < 0.05  # kept in half precision


@pytest.mark.parametrize("counts", [[5], [7, 3], [4, 1, 8]])
def test_every_image_comes_once_an_epoch_in_a_batch_of_its_size(counts):
    found = shuffled(counts, 3, seeded(0))
    assert all(1 <= len(chosen) <= 3 for _, chosen in found)
    for size, count in enumerate(counts):
        numbers = torch.cat([chosen for of, chosen in found if of == size])
        assert sorted(numbers.tolist()) == list(range(count))
    assert len(found) == sum(-(-count // 3) for count in counts)


def test_sizes_take_turns_within_an_epoch():
    sizes = [size for size, _ in shuffled([40, 40], 2, seeded(0))]
    assert sizes not in (sorted(sizes), sorted(sizes, reverse=True))


@pytest.mark.parametrize("empty", ["train", "held_out"])
def test_fitting_without_images_names_what_is_missing(empty):
    images = {"train": TRAIN, "held_out": HELD_OUT} | {empty: TRAIN[:0]}
    with pytest.raises(ValueError, match=f"no {empty} images"):
        next(MSSF(CHECK).fit(**images))


def test_a_loss_that_is_not_finite_stops_with_advice():
    detector = MSSF(replace(CHECK, learning_rate=1e30, epochs=3))
    with pytest.raises(FloatingPointError, match=r"lower learning_rate"):
        list(detector.fit(TRAIN, HELD_OUT))


def test_checkpoints_of_others_are_refused(tmp_path, model):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="not a checkpoint of mssf_lite"):
        load(tmp_path / "text.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    with pytest.raises(ValueError, match="not a checkpoint of mssf_lite"):
        load(tmp_path / "pickle.safetensors")


def test_a_checkpoint_does_not_go_with_other_backbone_weights(tmp_path, monkeypatch):
    detector, _ = trained(method=gaussian)
    detector.pyramid.digest = "000000000000"
    detector.save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other weights of tf_efficientnet_lite0"):
        load(tmp_path / "other.safetensors")


def test_components_behind_the_flow_keep_their_gaussian():
    model, _ = trained(replace(CHECK, flow_components=16, epochs=2))
    x = model.whitened(TEST)[0]
    z, log_det = model.latent(x, 0)
    assert torch.equal(z[:, 16:], x[:, 16:]) and not torch.equal(z[:, :16], x[:, :16])
    torch.testing.assert_close((z[:, :16], log_det), model.flow(x[:, :16], c=[0]))


def test_dropped_components_are_not_seen():
    model, _ = trained(replace(CHECK, components=16))
    assert [x.shape[1] for x in model.whitened(TEST)] == [16, 16]
    assert model.predict(TEST).scores.isfinite().all()


@pytest.mark.parametrize("change", [{"siamese": False}, {"components": 16}, {"flow_components": 16}])
def test_variants_are_saved_and_loaded_like_the_model(change, tmp_path):
    detector, _ = trained(replace(CHECK, **change))
    detector.save(tmp_path / "model.safetensors")
    assert torch.equal(
        load(tmp_path / "model.safetensors").predict(TEST).scores, detector.predict(TEST).scores
    )


def test_training_draws_the_named_kinds_of_defect_only(monkeypatch):
    drawn = []
    monkeypatch.setattr("mssf_lite.training.MAS", lambda **options: drawn.append(options) or MAS(**options))
    trained(replace(CHECK, kinds=("stain",)))
    assert drawn and all(options == {"kinds": ("stain",)} for options in drawn)


def test_checkpoint_of_another_recipe_is_refused(tmp_path):
    detector, _ = trained(replace(CHECK, recipe=1))
    detector.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="made by recipe 1"):
        load(tmp_path / "model.safetensors")


def test_frozen_network_keeps_single_precision_unless_asked():
    with precision("default"):
        assert not autocast(torch.device("cpu"), network=True)._enabled
    with precision("bfloat16"):
        assert autocast(torch.device("cpu"), network=True)._enabled


@pytest.mark.parametrize("instructions", [True, False])
def test_bfloat16_is_the_default_where_a_processor_does_not_only_imitate_it(monkeypatch, instructions):
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: instructions)
    with precision("default"):
        assert autocast(torch.device("cpu"))._enabled == instructions


def test_precision_of_a_process_is_set_by_its_environment_and_checked(monkeypatch):
    monkeypatch.setenv("MSSF_PRECISION", "bfloat16")
    assert autocast(torch.device("cpu"), network=True)._enabled
    monkeypatch.setenv("MSSF_PRECISION", "half")
    with pytest.raises(ValueError, match="MSSF_PRECISION is 'half': choose one of default"):
        autocast(torch.device("cpu"))
