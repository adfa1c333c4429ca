"""The folded form gives the scores of the readable one, for every variant that it takes."""

from dataclasses import replace

import pytest
import torch

from mssf_lite import MSSF, Config, load
from mssf_lite.device import precision
from mssf_lite.inference import Captured, Folded

CONFIG = Config.profile("check", stages=("blocks.2",), image_size=(64, 64), zooms=(1.0, 0.5), blocks=3)
IMAGES = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def perturbed(**changes) -> MSSF:
    """A model whose every parameter and statistic differs from where it starts."""
    model = MSSF(replace(CONFIG, **changes)).eval()
    rng = torch.Generator().manual_seed(1)
    for value in [*model.flow.parameters(), model.map_mean, *(w.mean for w in model.whitening)]:
        value.data += 0.2 * torch.randn(value.shape, generator=rng)
    for whitening in model.whitening:
        whitening.matrix += 0.05 * torch.randn(whitening.matrix.shape, generator=rng)
    model.map_std.fill_(0.7)
    model.fitted.fill_(True)
    return model


VARIANTS = {
    "as it is": {},
    "flow alone": {"score": "nll"},
    "z2": {"score": "z2"},
    "a flow for each scale": {"siamese": False},
    "leading components": {"components": 20},
    "rest Gaussian": {"flow_components": 20},
    "leading components, rest Gaussian": {"components": 30, "flow_components": 20},
    "subnets of 3x3": {"kernel": 3},
    "subnets of 3x3, a flow for each scale": {"kernel": 3, "siamese": False},
    "two grids": {"stages": ("blocks.2", "blocks.5"), "grids": 2, "zooms": (1.0,), "siamese": False},
    "one block": {"blocks": 1},
    "no coupling": {"blocks": 0},
    "other clamp": {"clamp": 0.5},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_folded_model_gives_the_maps_and_scores_of_the_readable_one(variant):
    model = perturbed(**VARIANTS[variant])
    folded = Folded(model)
    for found, wanted in zip(folded.predict(IMAGES), model.predict(IMAGES), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    raw = model.scale_maps(model.features(IMAGES))
    assert all(values.std() > 0 for values in raw)  # maps without detail would be equal too easily


@pytest.mark.parametrize("variant", ["as it is", "subnets of 3x3, a flow for each scale"])
def test_in_half_precision_only_the_subnets_lose_digits(variant):
    folded = Folded(perturbed(**VARIANTS[variant]))
    features = folded.features(IMAGES)
    exact = folded.scale_maps(features)
    with precision("bfloat16"):
        half = folded.scale_maps(features)
    for a, b in zip(half, exact, strict=True):
        assert a.dtype == torch.float32 and not torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_folding_leaves_the_model_as_it_was():
    model = perturbed()
    before, scores = {k: v.clone() for k, v in model.state_dict().items()}, model.predict(IMAGES).scores
    Folded(model).predict(IMAGES)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(model.predict(IMAGES).scores, scores)


def test_a_batch_is_judged_as_its_images_alone():
    folded = Folded(perturbed())
    alone = torch.cat([folded.predict(image[None]).scores for image in IMAGES])
    torch.testing.assert_close(folded.predict(IMAGES).scores, alone, rtol=1e-4, atol=1e-4)


def test_what_was_not_fitted_is_not_folded():
    with pytest.raises(RuntimeError, match="was not fitted"):
        Folded(MSSF(CONFIG))


def test_folded_model_neither_learns_nor_saves(tmp_path):
    folded = Folded(perturbed())
    with pytest.raises(TypeError, match="fit an MSSF and fold that"):
        folded.fit(IMAGES, IMAGES)
    with pytest.raises(TypeError, match="save the MSSF"):
        folded.save(tmp_path / "model.safetensors")


def test_folding_after_loading_changes_nothing(tmp_path):
    model = perturbed()
    model.save(tmp_path / "model.safetensors")
    again = Folded(load(tmp_path / "model.safetensors"))
    torch.testing.assert_close(again.predict(IMAGES).scores, Folded(model).predict(IMAGES).scores)


def test_only_a_fitted_detector_on_a_gpu_is_captured():
    with pytest.raises(ValueError, match="graphs are a GPU's, this detector is on cpu"):
        Captured(perturbed(), IMAGES)
    with pytest.raises(RuntimeError, match="this MSSF was not fitted"):
        Captured(MSSF(CONFIG), IMAGES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are a GPU's")
def test_captured_detector_gives_the_scores_of_the_detector():
    folded = Folded(perturbed()).to("cuda")
    captured = Captured(folded, IMAGES.flip(0))
    for found, wanted in zip(captured(IMAGES), folded.predict(IMAGES), strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="captured for images"):
        captured(IMAGES[:1])
