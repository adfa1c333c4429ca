"""Likelihood and hindering loss against torch.distributions and by hand."""

import math

import pytest
import torch

from mssf_lite.config import Config
from mssf_lite.losses import boundary, hindering_loss, hindering_weight, log_likelihood


def test_log_likelihood_is_the_normal_density_per_dimension_without_its_constant():
    z = torch.randn(2, 5, 3, 4)
    expected = torch.distributions.Normal(0, 1).log_prob(z).mean(1) + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(log_likelihood(z, torch.zeros(2, 3, 4)), expected)


def test_log_determinant_is_divided_by_the_dimensions():
    z = torch.zeros(1, 4, 1, 1)
    assert log_likelihood(z, torch.full((1, 1, 1), 8.0)).item() == 2


def test_changeable_boundary_follows_the_normal_likelihoods():
    config = Config(margin=0.1, boundary_quantile=0.5)
    normal = torch.tensor([-1.0, -2.0, -3.0])
    assert boundary(normal, config).item() == pytest.approx(-2.1)
    assert boundary(normal + 5, config).item() == pytest.approx(2.9)


def test_fixed_boundary_stays_where_a_whitened_gaussian_is():
    config = Config(hindering="fixed", margin=0.1)
    assert boundary(torch.tensor([9.0, 8.0]), config).item() == pytest.approx(-0.6)


def test_boundary_hands_no_gradient_to_normal_locations():
    normal = torch.randn(10, requires_grad=True)
    assert not boundary(normal, Config()).requires_grad


def test_only_synthetic_locations_above_the_boundary_are_pushed():
    synthetic = torch.tensor([-3.0, -1.0, 0.0], requires_grad=True)
    loss = hindering_loss(synthetic, torch.tensor(-2.0))
    loss.backward()
    assert loss.item() == pytest.approx((0 + 1 + 2) / 3)
    torch.testing.assert_close(synthetic.grad, torch.tensor([0, 1 / 3, 1 / 3]))


@pytest.mark.parametrize("b", [None, torch.tensor(0.0)])
def test_nothing_to_push_gives_zero_and_not_nan(b):
    assert hindering_loss(torch.zeros(0), b).item() == 0


def test_weight_is_zero_in_the_warm_up_and_full_after_the_ramp():
    config = Config(hindering_weight=2.0, ramp=0.3)
    assert [hindering_weight(t, config) for t in (0, 0.1, 0.3, 1)] == pytest.approx([0, 0, 2, 2])
    assert hindering_weight(0.2, config) == pytest.approx(1)
    assert hindering_weight(1, Config(hindering="none")) == 0
