"""Scales: which grids there are, which stages stand on each, and what they show."""

from dataclasses import replace

import pytest
import torch

from mssf_lite import MSSF, Config, NearestNeighbour, load
from mssf_lite.fusion import fuse

CONFIG = Config.profile(
    "check", stages=("blocks.2", "blocks.4", "blocks.5"), image_size=(64, 64), siamese=False, grids=2
)
IMAGES = torch.rand(6, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_a_fine_grid_has_no_stage_coarser_than_itself_and_the_coarsest_has_all():
    model = MSSF(replace(CONFIG, zooms=(1.0,)))
    assert model.pyramid.strides == [8, 16, 32]
    assert [(s.stride, s.stages) for s in model.scales] == [(16, (0, 1)), (32, (0, 1, 2))]
    three = MSSF(replace(CONFIG, zooms=(1.0,), stride=8, grids=3))
    assert [s.stages for s in three.scales] == [(0,), (0, 1), (0, 1, 2)]
    one = MSSF(replace(CONFIG, zooms=(1.0,), grids=1))
    assert [(s.stride, s.stages) for s in one.scales] == [(16, (0, 1, 2))]


def test_features_of_a_scale_are_its_stages_fused_on_its_grid():
    model = MSSF(replace(CONFIG, zooms=(1.0,)))
    seen = model.pyramid(IMAGES)
    fine, coarse = model.features(IMAGES)
    torch.testing.assert_close(fine, fuse(seen[:2], (4, 6), CONFIG.neighbourhood))
    torch.testing.assert_close(coarse, fuse(seen, (2, 3), CONFIG.neighbourhood))


def test_every_zoom_has_every_grid():
    model = MSSF(replace(CONFIG, zooms=(1.0, 0.5)))
    images = torch.rand(1, 3, 128, 192)
    grids = [(8, 12), (4, 6), (4, 6), (2, 3)]
    assert [tuple(x.shape[2:]) for x in model.features(images)] == grids
    assert [x.shape[1] for x in model.features(images)] == [scale.channels for scale in model.scales]


@pytest.mark.parametrize("kind", [MSSF, NearestNeighbour])
def test_detectors_on_several_grids_are_trained_saved_and_loaded(kind, tmp_path):
    detector = kind(replace(CONFIG, zooms=(1.0,), batch=3))
    list(detector.fit(IMAGES[:, :, :, :64], IMAGES[:2]))
    detector.save(tmp_path / "it.safetensors")
    again = load(tmp_path / "it.safetensors")
    assert torch.equal(again.predict(IMAGES).scores, detector.predict(IMAGES).scores)
    assert detector.predict(IMAGES).maps.shape == (6, 64, 96)


def test_grids_without_a_stage_are_refused():
    with pytest.raises(ValueError, match=r"strides \[16\], none fits a grid of 8 pixels"):
        MSSF(replace(CONFIG, stages=("blocks.4",), stride=8, zooms=(1.0,)))


def test_one_flow_for_grids_of_different_channels_is_refused():
    with pytest.raises(ValueError, match="siamese cannot be True"):
        replace(CONFIG, siamese=True)


def test_settings_from_before_there_were_grids_mean_one():
    values = replace(CONFIG, grids=1).to_dict()
    del values["grids"]
    assert Config.from_dict(values) == replace(CONFIG, grids=1)
