"""Maps and scores by hand."""

import math

import pytest
import torch

from mssf_lite.scoring import add_scales, distance_to_border, image_score, merged, moments, standardised


def test_distance_to_the_border_counts_locations():
    assert distance_to_border((3, 4), 9).tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert distance_to_border((5, 5), 2)[2].tolist() == [0, 1, 2, 1, 0]
    assert distance_to_border((5, 5), 1).max() == 1


def test_each_ring_and_the_inside_come_to_mean_0_and_deviation_1():
    raw = torch.randn(50, 6, 7)
    distance = distance_to_border((6, 7), 2)
    raw = raw * torch.tensor([3.0, 1.0, 0.1])[distance] - distance
    unit = standardised(raw, *moments(raw, 2))
    for ring in range(3):
        assert unit[:, distance == ring].mean().abs() < 1e-5
        assert unit[:, distance == ring].std().item() == pytest.approx(1, abs=1e-4)


def test_without_rings_or_on_a_grid_without_inside_there_is_one_unit():
    for raw, rings in ((torch.randn(4, 5, 5), 0), (torch.randn(4, 2, 5), 2)):
        expected = (raw - raw.mean()) / raw.std()
        torch.testing.assert_close(standardised(raw, *moments(raw, rings)), expected)
        assert all(len(values) == rings + 1 for values in moments(raw, rings))


def test_grids_of_several_shapes_share_their_units():
    wide, high = torch.randn(3, 4, 7), 2 + torch.randn(2, 6, 3)
    values = torch.cat([wide.flatten(), high.flatten()])
    mean, std = moments([wide, high], 0)
    torch.testing.assert_close(torch.cat([mean, std]), torch.stack([values.mean(), values.std()]))
    inside = torch.cat([wide[:, 1:-1, 1:-1].flatten(), high[:, 1:-1, 1:-1].flatten()])
    torch.testing.assert_close(moments([wide, high], 1)[0][1], inside.mean())


def test_scales_are_averaged_by_their_number_of_locations_in_asinh():
    maps = [torch.full((1, 2, 2), 2.0), torch.full((1, 1, 1), 8.0)]
    mean = math.sinh((4 * math.asinh(2) + math.asinh(8)) / 5)  # weights 1 and 1/4
    torch.testing.assert_close(add_scales(maps, (1.0, 0.5), (4, 6)), torch.full((1, 4, 6), mean))


def test_a_single_scale_is_enlarged_and_else_left_alone():
    maps = torch.tensor([[[-3.0, 0.5], [40.0, 1e4]]])
    torch.testing.assert_close(add_scales([maps], [1.0], (2, 2)), maps, rtol=1e-5, atol=1e-5)


def test_order_of_scales_does_not_matter():
    fine, coarse = torch.randn(2, 4, 4), torch.randn(2, 2, 2)
    one = add_scales([fine, coarse], (1.0, 0.5), (8, 8))
    torch.testing.assert_close(one, add_scales([coarse, fine], (0.5, 1.0), (8, 8)))
    assert one.shape == (2, 8, 8)


def test_added_likelihoods_are_minus_log_of_their_weighted_sum():
    one, other = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 5.0])
    expected = -torch.log(0.75 * torch.exp(-one) + 0.25 * torch.exp(-other))
    torch.testing.assert_close(merged([one, other], [3, 1], "add"), expected)
    torch.testing.assert_close(merged([one, other], [3, 1]), torch.tensor([1.5, -0.25]))


def test_a_map_does_not_depend_on_the_other_images_of_its_batch():
    maps = torch.randn(3, 4, 4)
    torch.testing.assert_close(add_scales([maps], [1.0], (8, 8))[1:2], add_scales([maps[1:2]], [1.0], (8, 8)))


def test_image_score_is_the_mean_of_the_top_share():
    maps = torch.arange(100.0).view(1, 10, 10)
    assert image_score([maps], 0.03).item() == 98  # mean of 97, 98, 99
    assert image_score([maps], 0.001).item() == 99  # never fewer than one location
    assert image_score([maps], 1.0).item() == 49.5


def test_image_score_hears_coarse_and_fine_scales_alike():
    fine, coarse = torch.full((1, 8, 8), 1.0), torch.tensor([[[5.0, 0.0]]])
    assert image_score([fine, coarse], 0.5).item() == pytest.approx(3)
