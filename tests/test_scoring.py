"""Maps and scores by hand."""

import torch

from mssf_lite.scoring import add_scales, image_score


def test_scales_are_standardised_by_the_given_moments_before_they_are_averaged():
    maps = [torch.full((1, 2, 2), 5.0), torch.full((1, 1, 1), 30.0)]
    total = add_scales(maps, torch.tensor([1.0, 10.0]), torch.tensor([2.0, 5.0]), (4, 6))
    torch.testing.assert_close(total, torch.full((1, 4, 6), (2.0 + 4.0) / 2))


def test_a_map_does_not_depend_on_the_other_images_of_its_batch():
    maps = torch.randn(3, 4, 4)
    moments = torch.zeros(1), torch.ones(1)
    torch.testing.assert_close(
        add_scales([maps], *moments, (8, 8))[1:2], add_scales([maps[1:2]], *moments, (8, 8))
    )


def test_image_score_is_the_mean_of_the_top_share():
    maps = torch.arange(100.0).view(1, 10, 10)
    assert image_score(maps, 0.03).item() == 98  # mean of 97, 98, 99
    assert image_score(maps, 0.001).item() == 99  # never fewer than one pixel
    assert image_score(maps, 1.0).item() == 49.5
