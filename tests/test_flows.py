"""Flow layers: inverse and per-location log-determinant against autograd, with perturbed parameters."""

import pytest
import torch
from FrEIA.framework import SequenceINN

from mssf_lite.flows import ActNorm, Coupling, Permutation, Rotation, SeparateFlows, siamese_flow

C, H, W = 6, 2, 3
CLOSE = {"atol": 1e-5, "rtol": 1e-5}  # rotations are orthogonal to single precision


def chain(*layers):
    flow = SequenceINN(C, 1, 1)
    for layer, options in layers:
        flow.append(layer, **options)
    return flow


SCALED = {"cond": 0, "cond_shape": (1,), "scales": 2}
FLOWS = {
    "actnorm": lambda: chain((ActNorm, SCALED)),
    "rotation": lambda: chain((Rotation, {"seed": 3})),
    "permutation": lambda: chain((Permutation, {"seed": 3})),
    "coupling": lambda: chain((Coupling, {"hidden": 8})),
    "coupling 3x3": lambda: chain((Coupling, {"hidden": 8, "kernel": 3})),
    "siamese": lambda: siamese_flow(C, 2, blocks=3, hidden=8),
    "separate": lambda: SeparateFlows(C, 2, blocks=3, hidden=8),
}


@pytest.fixture(params=FLOWS)
def flow(request):
    torch.manual_seed(0)
    flow = FLOWS[request.param]().double()
    for p in flow.parameters():  # fresh layers are the identity, on which any test would pass
        torch.nn.init.normal_(p, std=0.3)
    return flow


@pytest.fixture
def x():
    return torch.randn(2, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [0, 1])
def test_inverse_undoes_forward_and_negates_the_log_determinant(flow, x, scale):
    z, log_det = flow(x, c=[scale])
    back, log_det_back = flow(z, c=[scale], rev=True)
    torch.testing.assert_close(back, x, **CLOSE)
    torch.testing.assert_close(log_det_back, -log_det, **CLOSE)


def test_log_determinant_summed_over_locations_is_that_of_the_whole_jacobian(flow, x):
    log_det = flow(x, c=[1])[1]
    for image, claimed in zip(x, log_det.sum((1, 2)), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None], c=[1])[0].flatten(), image)
        torch.testing.assert_close(jacobian.reshape(C * H * W, -1).slogdet().logabsdet, claimed, **CLOSE)


@pytest.mark.parametrize("name", ["actnorm", "permutation", "rotation", "coupling", "siamese", "separate"])
def test_log_determinant_of_one_location_is_that_of_its_own_jacobian(name, x):
    torch.manual_seed(0)
    flow = FLOWS[name]().double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.3)
    log_det = flow(x, c=[0])[1]
    here = x[:1, :, 1:2, 2:3]
    jacobian = torch.autograd.functional.jacobian(
        lambda v: flow(v.view(1, C, 1, 1), c=[0])[0].flatten(), here.flatten()
    )
    torch.testing.assert_close(jacobian.slogdet().logabsdet, log_det[0, 1, 2], **CLOSE)


def test_log_determinant_has_one_value_a_location(flow, x):
    assert flow(x, c=[0])[1].shape == (2, H, W)


def test_one_flow_takes_any_height_and_width():
    flow = siamese_flow(C, 1, blocks=2, hidden=8)
    for size in [(1, 1), (3, 9), (16, 4)]:
        z, log_det = flow(torch.zeros(2, C, *size), c=[0])
        assert z.shape == (2, C, *size) and log_det.shape == (2, *size)


def test_fresh_flow_keeps_the_norm_and_has_log_determinant_zero():
    x = torch.randn(2, C, H, W)
    z, log_det = siamese_flow(C, 2, blocks=4, hidden=8)(x, c=[1])
    torch.testing.assert_close(z.norm(dim=1), x.norm(dim=1))  # mixing only: the Gaussian
    assert log_det.abs().max() == 0


def test_scales_differ_only_by_actnorm(x):
    flow = siamese_flow(C, 2, blocks=2, hidden=8)
    rows = {n for n, p in flow.named_parameters() if p.shape[0] == 2}
    norms = {f"module_list.{i}.{p}" for i in (1, 4, 6) for p in ("log_scale", "shift")}
    assert rows == norms
    x = x.float()
    torch.testing.assert_close(flow(x, c=[0]), flow(x, c=[1]))
    torch.nn.init.normal_(flow.module_list[1].shift)
    assert not torch.allclose(flow(x, c=[0])[0], flow(x, c=[1])[0])


def test_separate_flows_share_nothing():
    flow = SeparateFlows(C, 2, blocks=2, hidden=8)
    one = sum(p.numel() for p in siamese_flow(C, 1, blocks=2, hidden=8).parameters())
    assert sum(p.numel() for p in flow.parameters()) == 2 * one
    x = torch.randn(1, C, H, W)
    before = flow(x, c=[1])[0]
    for p in flow[0].parameters():
        torch.nn.init.normal_(p)
    torch.testing.assert_close(flow(x, c=[1])[0], before)
    assert not torch.equal(flow[0].module_list[0].matrix, flow[1].module_list[0].matrix)


def test_log_scale_stays_within_the_clamp():
    coupling = Coupling([(C, 1, 1)], hidden=8, clamp=0.5)
    torch.nn.init.normal_(coupling.subnet[-1].weight, std=100)
    s, _ = coupling.scale_and_shift(torch.randn(4, C // 2, H, W))
    assert 0.45 < s.abs().max() <= 0.5


def test_odd_channels_are_refused_by_name():
    with pytest.raises(ValueError, match="even number of channels, got 5"):
        siamese_flow(5, 1, blocks=1, hidden=8)


def test_building_a_flow_is_seeded_and_leaves_global_chance_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = (siamese_flow(C, 1, blocks=1, hidden=8, seed=s) for s in (0, 0, 1))
    torch.testing.assert_close(torch.rand(3), expected)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.module_list[0].matrix, other.module_list[0].matrix)
