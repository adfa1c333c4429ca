"""The light yardstick by hand."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mssf_lite.data import light_scores, open_dataset
from mssf_lite.data.textures import Counts


@dataclass(frozen=True)
class Flat:
    """A reader of even pictures, whose grey level is told by the sample's key."""

    levels: dict

    def read(self, sample, size=None):
        return torch.full((3, *(size or (32, 32))), self.levels[sample.key]), None


@pytest.fixture
def data():
    counts = Counts(train=2, held_out=1, test_good=2, test_defect_per_kind=1)
    return open_dataset("textures", textures=["wood", "metal"], counts=counts)


def test_score_is_the_distance_to_the_nearest_training_image_of_the_texture(data):
    levels = {s.key: {"wood": 0.2, "metal": 0.8}[s.texture] for s in data.samples}
    levels |= {s.key: 0.5 for s in data.held_out if s.texture == "wood"}
    levels |= {s.key: 0.45 for s in data.test}
    found = light_scores(replace(data, reader=Flat(levels)))
    expected = [{"wood": 0.05, "metal": 0.35}[s.texture] for s in data.test]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_texture_without_training_images_has_the_largest_score(data):
    known = {side: [s for s in getattr(data, side) if s.texture == "wood"] for side in ("train", "held_out")}
    lonely = replace(data, **known)
    found = light_scores(lonely)
    assert {score == 1 for s, score in zip(lonely.test, found, strict=True) if s.texture == "metal"} == {True}


def test_defects_recorded_in_another_light_are_told_by_it_alone(data):
    rng = np.random.default_rng(0)
    levels = {s.key: (0.7 if s.is_defect else 0.4) + 0.05 * rng.random() for s in data.samples}
    found = light_scores(replace(data, reader=Flat(levels)))
    assert roc_auc_score([s.is_defect for s in data.test], found) == 1


def test_every_image_is_read_once(data):
    read = []

    class Watched(Flat):
        def read(self, sample, size=None):
            read.append(sample.key)
            return super().read(sample, size)

    light_scores(replace(data, reader=Watched({s.key: 0.5 for s in data.samples})))
    assert sorted(read) == sorted(s.key for s in data.samples)
