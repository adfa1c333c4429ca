"""MSFlow: its size, its flow against autograd, its objective, maps and scores by hand, its switches."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode
from torch import nn
from weave import weave

from mssf_lite import load
from mssf_lite.peers.msflow import MSFlow, MSFlowConfig, anomaly_map, rate
from mssf_lite.peers.msflow_flows import (
    CLAMP,
    POSITION,
    FusionFlow,
    FusionSubnet,
    MultiScaleFlow,
    PositionSubnet,
    SoftScale,
    parallel_flow,
    position_code,
)

CHANNELS = (12, 20)  # less would leave the fusion's bottleneck no room for another scale
GRIDS = ((3, 2), (2, 1))
EXACT = {"atol": 1e-9, "rtol": 1e-9}
CHECK = MSFlowConfig.profile("check", image_size=(64, 64), batch=8, blocks=(1, 1, 1))


def size_of(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_on_wide_resnet_are_those_of_the_published_design():
    with torch.device("meta"):
        flow = MultiScaleFlow((256, 512, 1024))
    assert [size_of(chain) for chain in flow.parallel] == [1_550_976, 11_993_280, 66_393_600]
    assert f"{size_of(flow.parallel) / 1e6:.2f}" == "79.94"
    assert f"{size_of(flow.fusion) / 1e6:.2f}" == "19.62"


# the flow


def perturbed(module):
    """In double precision, in evaluation mode; fresh layers are nearly the identity: much would pass."""
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p.data, mean=p.data.mean().item(), std=0.3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module.double().eval()


def maps(batch=2):
    rng = torch.Generator().manual_seed(1)
    pairs = zip(CHANNELS, GRIDS, strict=True)
    return [torch.randn(batch, c, *grid, dtype=torch.float64, generator=rng) for c, grid in pairs]


FLOWS = {
    "as published": {},
    "without fusion": {"fusion": False},
    "batch norm": {"norm": "batch"},
    "no norm": {"norm": "none"},
}


@pytest.fixture(params=FLOWS)
def flow(request):
    return perturbed(MultiScaleFlow(CHANNELS, (1, 2), **FLOWS[request.param]))


def test_inverse_undoes_forward_and_negates_the_log_determinant(flow):
    z, log_det = flow(maps())
    back, log_det_back = flow(z, rev=True)
    assert [one.shape for one in z] == [one.shape for one in maps()] and log_det.shape == (2,)
    for one, other in zip(back, maps(), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    torch.testing.assert_close(log_det_back, -log_det, **EXACT)
    assert log_det.abs().min() > 0.1


def joined(function, like):
    """A function of lists of maps as one of a vector."""
    shapes = [one.shape[1:] for one in like]

    def of_vector(v):
        parts = v.split([shape.numel() for shape in shapes])
        found = function([part.view(1, *shape) for part, shape in zip(parts, shapes, strict=True)])
        return torch.cat([one.flatten() for one in found])

    return of_vector


def log_determinant(function, at):
    vector = torch.cat([one.flatten() for one in at])
    return torch.autograd.functional.jacobian(joined(function, at), vector).slogdet().logabsdet


def test_log_determinant_of_an_image_is_that_of_the_whole_jacobian(flow):
    claimed = flow(maps())[1]
    for n in range(2):
        exact = log_determinant(lambda x: flow(x)[0], [one[n : n + 1] for one in maps()])
        torch.testing.assert_close(claimed[n], exact, **EXACT)


def test_log_determinant_of_a_chain_has_one_value_a_location_and_only_their_sum_is_exact():
    chain, x = perturbed(parallel_flow(CHANNELS[0], 3)), maps(1)[0]
    code = position_code(GRIDS[0]).double()
    log_det = chain(x, c=[code])[1]
    assert log_det.shape == (1, *GRIDS[0])
    torch.testing.assert_close(
        log_determinant(lambda v: [chain(v[0], c=[code])[0]], [x]), log_det.sum(), **EXACT
    )
    here = x[..., 1:2, 1:2]  # a location without its neighbours is another sample
    alone = log_determinant(lambda v: [chain(v[0], c=[code[..., 1:2, 1:2]])[0]], [here])
    assert (alone - log_det[0, 1, 1]).abs() > 0.01


def test_fusion_is_a_module_of_freia_for_its_graphs():
    nodes = [InputNode(c, *grid) for c, grid in zip(CHANNELS, GRIDS, strict=True)]
    fusion = Node([node.out0 for node in nodes], FusionFlow, {"seed": 5})
    ends = [OutputNode(out) for out in (fusion.out0, fusion.out1)]
    graph = perturbed(GraphINN([*nodes, fusion, *ends]))
    z, log_det = graph(maps())
    back, _ = graph(z, rev=True)
    for one, other in zip(back, maps(), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    torch.testing.assert_close(log_det, graph.module_list[0](maps())[1])


@pytest.mark.parametrize("fusion", [True, False])
def test_scales_meet_in_the_fusion_and_nowhere_else(fusion):
    flow = perturbed(MultiScaleFlow(CHANNELS, (1, 1), fusion=fusion))
    one, other = maps(), maps()
    other[1] = other[1] + 1
    change = (flow(one)[0][0] - flow(other)[0][0]).abs().max().item()
    assert change > 1e-3 if fusion else change == 0


def test_fusion_moves_both_halves_of_every_scale():
    fusion = perturbed(FusionFlow([(c, 1, 1) for c in CHANNELS]))
    x = maps()
    for mix, before, after in zip(fusion.mix, x, fusion(x)[0], strict=True):
        assert (after - before[:, mix.order]).abs().amin((0, 2, 3)).min() > 0


def test_log_scales_stay_within_the_clamp():
    subnet = FusionSubnet([2, 3])
    for head in subnet.scale:
        nn.init.normal_(head.weight, std=1000)
    s = torch.cat([s.flatten() for s, _ in subnet([torch.randn(2, 2, 4, 4), torch.randn(2, 3, 2, 2)])])
    assert 0.99 * CLAMP < s.abs().max() < CLAMP


def test_fresh_blocks_are_nearly_the_identity_and_fresh_scales_are():
    x = maps()[0].float()
    (z,), log_det = SoftScale([(CHANNELS[0], 1, 1)])((x,))
    torch.testing.assert_close(z, x)
    assert log_det.abs().max() < 1e-5
    chain = parallel_flow(CHANNELS[0], 1)
    z, _ = chain(x, c=[position_code(GRIDS[0])])
    assert 0 < (z - x[:, chain[-1].order]).abs().max() < 0.3


def test_subnet_is_one_convolution_over_features_and_code():
    subnet, x, code = PositionSubnet(2, 4), torch.randn(3, 2, 5, 6), position_code((5, 6))
    whole = subnet.first(torch.cat([x, code.expand(3, -1, -1, -1)], dim=1))
    torch.testing.assert_close(subnet(x, code), subnet.last(subnet.norm(whole).relu()), atol=1e-5, rtol=1e-5)


def test_position_code_says_column_and_row():
    code = position_code((5, 7))
    assert code.shape == (1, POSITION, 5, 7)
    columns, rows = code[0].chunk(2)
    assert (columns == columns[:, :1]).all() and (rows == rows[:, :, :1]).all()
    torch.testing.assert_close(columns[0, 0], torch.arange(7.0).sin())
    torch.testing.assert_close(rows[-1, :, 0], (torch.arange(5) * 1e4 ** (-15 / 16)).cos())
    assert len(code[0].flatten(1).T.unique(dim=0)) == 5 * 7
    with pytest.raises(ValueError, match="multiple of 4 channels, got 6"):
        position_code((5, 7), 6)


def test_odd_channels_are_refused_by_number():
    with pytest.raises(ValueError, match="two halves, and 5 is odd"):
        MultiScaleFlow((4, 5), (1, 1))


def test_building_is_seeded_and_leaves_global_chance_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = (MultiScaleFlow(CHANNELS, (1, 1), seed=s).state_dict() for s in (0, 0, 1))
    torch.testing.assert_close(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


# settings, objective, schedule


@pytest.mark.parametrize(
    "change",
    [
        {"pool": "mean"},
        {"pool_kernel": 2},
        {"blocks": (2, 5)},
        {"blocks": (2, 5, 0)},
        {"norm": "group"},
        {"map_combine": "mean"},
        {"score_combine": "max"},
        {"top_share": 0.0},
        {"clip": 0.0},
    ],
)
def test_settings_that_cannot_work_are_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"MSFlowConfig\.{name} cannot be"):
        MSFlowConfig.profile("full", **change)


def test_rate_over_the_published_hundred_epochs():
    rates = [rate(epoch, 100) for epoch in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[6] == pytest.approx(0.55)
    assert set(rates[12:70]) == {1.0}
    assert set(rates[70:90]) == {0.33} and set(rates[90:]) == {0.33**2}
    assert all(rate(epoch, n) / 0.33**2 >= 0.1 for n in (1, 2, 5) for epoch in range(n))


@pytest.fixture(scope="module")
def fresh():
    return MSFlow(CHECK)


def test_optimizer_is_adam_and_its_schedule_steps_once_an_epoch(fresh):
    optimizer, schedule = fresh.optimizer()
    assert type(optimizer) is torch.optim.Adam
    used = []
    for _ in range(CHECK.epochs):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert used == [CHECK.learning_rate * rate(epoch, CHECK.epochs) for epoch in range(CHECK.epochs)]


def test_loss_reads_in_nats_per_dimension_and_has_the_gradient_of_the_sum(fresh):
    x = fresh.features(torch.rand(3, 3, 64, 64))
    z, log_det = fresh.model(x)
    of_images = [sum(0.5 * one[n].square().sum() for one in z) - log_det[n] for n in range(3)]
    published = torch.stack(of_images).mean()
    parameters = list(fresh.model.parameters())
    loss = fresh.loss(x, torch.Generator())
    torch.testing.assert_close(loss, published / sum(one[0].numel() for one in x))
    for one, other in zip(*(torch.autograd.grad(v, parameters) for v in (loss, published)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


# features


@pytest.mark.parametrize(
    ("change", "pooling"),
    [
        ({}, nn.AvgPool2d(3, stride=2, padding=1)),
        ({"pool_kernel": 5}, nn.AvgPool2d(5, stride=2, padding=2)),
        ({"pool": "max"}, nn.MaxPool2d(3, stride=2, padding=1)),
        ({"pool": "none"}, nn.Identity()),
    ],
)
def test_features_are_pooled_stages(fresh, monkeypatch, change, pooling):
    monkeypatch.setattr(fresh, "config", replace(CHECK, **change))
    images = torch.rand(2, 3, 64, 64)
    for found, stage in zip(fresh.features(images), fresh.pyramid(images), strict=True):
        torch.testing.assert_close(found, pooling(stage))


def test_standardised_stages_have_centred_channels_and_variance_one():
    images = torch.rand(12, 3, 64, 64)
    detector = MSFlow(CHECK)
    features = detector.features(images)
    detector.prepare([x.half() for x in features])
    for x in detector.standardised(features):
        assert x.mean((0, 2, 3)).abs().max() < 1e-2 and x.var().item() == pytest.approx(1, abs=1e-2)
    detector = MSFlow(replace(CHECK, standardise=False))
    detector.prepare([x.half() for x in features])
    for x, same in zip(detector.standardised(features), features, strict=True):
        assert torch.equal(x, same)


# maps and scores


@pytest.fixture
def log_p():
    rng = torch.Generator().manual_seed(3)
    return [-2 * torch.rand(2, *grid, generator=rng) for grid in ((8, 6), (4, 3))]


SIZE = (16, 12)


def by_hand(log_p, how, rescale):
    """One image after the other, as the dossier's formulas say."""
    found = []
    for image in zip(*log_p, strict=True):
        if how == "add" and rescale:
            parts = [enlarge((one - one.max()).exp()) for one in image]
            found.append(sum(parts).max() - sum(parts))
        elif how == "add":
            found.append(-(sum(enlarge(one).exp() for one in image) / len(image)).log())
        else:
            product = sum(enlarge(one) for one in image)
            found.append(1 - (product - product.max()).exp() if rescale else -product)
    return torch.stack(found)


def enlarge(one):
    return F.interpolate(one[None, None], SIZE, mode="bilinear", align_corners=True)[0, 0]


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("how", ["add", "multiply"])
def test_map_is_what_its_formula_says(log_p, how, rescale):
    found = anomaly_map(log_p, SIZE, how, rescale)
    assert found.shape == (2, *SIZE)
    torch.testing.assert_close(found, by_hand(log_p, how, rescale))


@pytest.mark.parametrize("how", ["add", "multiply"])
def test_a_rescaled_map_does_not_know_how_odd_its_image_is(log_p, how):
    odder = [one - torch.tensor([0.0, 5.0])[:, None, None] for one in log_p]  # only the second image
    torch.testing.assert_close(anomaly_map(odder, SIZE, how, True), anomaly_map(log_p, SIZE, how, True))
    rise = anomaly_map(odder, SIZE, how, False) - anomaly_map(log_p, SIZE, how, False)
    expected = torch.tensor([0.0, 5.0 if how == "add" else 10.0])
    torch.testing.assert_close(rise.mean((1, 2)), expected, atol=1e-5, rtol=1e-5)


def test_very_unlikely_locations_are_told_apart_only_without_rescaling():
    log_p = [torch.tensor([[[0.0, -100.0], [-200.0, -1000.0]]])]
    for how in ("add", "multiply"):
        assert anomaly_map(log_p, (2, 2), how, True).unique().tolist() == [0, 1]
        assert anomaly_map(log_p, (2, 2), how, False).flatten().tolist() == [0, 100, 200, 1000]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"map_combine": "multiply"},
        {"score_combine": "add"},
        {"top_share": 0.5},
        {"top_share": 1e-6},
        {"rescale": False},
    ],
)
def test_judge_combines_the_scales_as_set_and_averages_the_highest_pixels(fresh, monkeypatch, change):
    config = replace(CHECK, **change)
    monkeypatch.setattr(fresh, "config", config)
    features = fresh.features(torch.rand(2, 3, 64, 64))
    with torch.no_grad():
        z, _ = fresh.model(features)
    log_p = [-0.5 * one.square().mean(1) for one in z]
    found = fresh.judge(features, (64, 64))
    wanted = anomaly_map(log_p, (64, 64), config.map_combine, config.rescale)
    torch.testing.assert_close(found.maps, wanted)
    ranked = anomaly_map(log_p, (64, 64), config.score_combine, config.rescale).flatten(1).sort().values
    torch.testing.assert_close(found.scores, ranked[:, -max(1, round(config.top_share * 4096)) :].mean(1))
    assert found.maps.dtype == found.scores.dtype == torch.float32


# the detector


TRAIN, HELD_OUT, TEST = (weave(n, seed, 64, 64) for seed, n in enumerate((20, 4, 4)))


def trained(config, resume=None):
    detector = MSFlow(config)
    return detector, list(detector.fit(TRAIN, HELD_OUT, resume=resume))


@pytest.fixture(scope="module")
def model():
    return trained(replace(CHECK, epochs=6))


def test_training_lowers_the_loss_of_normals_it_never_saw(model):
    history = model[1]
    assert [p.epoch for p in history] == list(range(1, 7))
    assert history[-1].held_out_loss < history[0].held_out_loss - 0.1
    assert history[-1].loss < history[0].loss - 0.1


@pytest.mark.parametrize("rescale", [True, False])
def test_a_planted_spot_scores_higher_and_is_found_where_it_is(model, monkeypatch, rescale):
    monkeypatch.setattr(model[0], "config", replace(model[0].config, rescale=rescale))
    spoilt = TEST.clone()
    spoilt[:, :, 24:40, 24:40] = torch.rand(16, 16, generator=torch.Generator().manual_seed(4)).round()
    clean, defect = model[0].predict(TEST), model[0].predict(spoilt)
    assert (defect.scores > clean.scores).all()
    y, x = divmod(int(defect.maps.mean(0).argmax()), 64)
    assert 12 <= y <= 52 and 12 <= x <= 52


def test_score_of_an_image_does_not_depend_on_its_batch(model):
    alone = torch.cat([model[0].predict(image[None]).scores for image in TEST])
    torch.testing.assert_close(model[0].predict(TEST).scores, alone, rtol=1e-4, atol=1e-4)


def test_strips_and_images_of_several_sizes_go_through_one_model(model):
    images = [TEST[0], torch.rand(3, 64, 1024), torch.rand(3, 70, 33)]
    found, scores = model[0].predict(images)
    assert [tuple(m.shape) for m in found] == [(64, 64), (64, 1024), (70, 33)]
    assert scores.isfinite().all()


def test_saved_and_loaded_detectors_give_equal_scores(model, tmp_path):
    model[0].save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.config == model[0].config
    for a, b in zip(model[0].predict(TEST), again.predict(TEST), strict=True):
        assert torch.equal(a, b)


def test_a_killed_run_goes_on_to_the_same_scores(tmp_path):
    config = replace(CHECK, epochs=2)
    whole, history = trained(config)
    next(MSFlow(config).fit(TRAIN, HELD_OUT, resume=tmp_path / "state.pt"))
    assert (tmp_path / "state.pt").exists()
    resumed, again = trained(config, resume=tmp_path / "state.pt")
    assert torch.equal(whole.predict(TEST).scores, resumed.predict(TEST).scores)
    assert [p.loss for p in history] == [p.loss for p in again]


def test_chance_comes_from_the_seed():
    scores = [trained(replace(CHECK, epochs=1, seed=s))[0].predict(TEST).scores for s in (3, 3, 4)]
    assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])


VARIANTS = {
    "one stage": {"stages": ("blocks.2",), "blocks": (1,)},
    "stage 4 added": {"stages": (*CHECK.stages, "blocks.6"), "blocks": (1, 1, 1, 1)},
    "no fusion, no norm, no pooling": {"fusion": False, "norm": "none", "pool": "none"},
    "batch norm, largest pooled": {"norm": "batch", "pool": "max"},
    "another network": {
        "backbone": "resnet18",
        "weights": "random",
        "stages": ("layer1", "layer2", "layer3"),
        "blocks": (1, 1, 1),
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_trained_and_loaded_like_the_model(name, tmp_path, monkeypatch):
    config = replace(CHECK, epochs=1, **VARIANTS[name])
    if config.weights == "random":
        torch.manual_seed(0)
    detector, _ = trained(config)
    scores = detector.predict(TEST).scores
    assert scores.isfinite().all() and len(scores.unique()) == len(TEST)
    if config.weights == "random":
        return  # another random network is refused by load(), as it should be
    detector.save(tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path / "model.safetensors").predict(TEST).scores, scores)


def test_switches_change_the_flow_that_is_built(fresh):
    size = size_of(fresh.model)
    assert size_of(MSFlow(replace(CHECK, fusion=False)).model) == size - size_of(fresh.model.fusion)
    assert size_of(MSFlow(replace(CHECK, norm="none")).model) < size
    assert size_of(MSFlow(replace(CHECK, blocks=(1, 1, 2))).model) > size
