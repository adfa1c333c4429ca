"""Leading and other directions of a fitted Gaussian, each heard alone."""

import pytest
import torch

from book import directions
from mssf_lite import Config, gaussian
from mssf_lite.data import open_dataset
from mssf_lite.data.textures import Counts
from mssf_lite.features import Pyramid
from mssf_lite.results import read_records, write_record

CONFIG = Config.profile("check", stages=("blocks.2",), image_size=(64, 64), zooms=(1.0, 0.5))


@pytest.fixture(scope="module")
def data():
    counts = Counts(train=4, held_out=3, test_good=2, test_defect_per_kind=1)
    return open_dataset("textures", textures=["wood"], counts=counts, size=(64, 64))


def test_the_parts_add_up_to_the_whole_and_leave_it_alone(data):
    held_out = data.images(data.held_out, CONFIG.image_size)
    model = gaussian(CONFIG)
    list(model.fit(data.images(data.train, CONFIG.image_size), held_out))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = [directions.hearing(model, part, held_out) for part in (slice(8), slice(8, None))]
    features = model.features(torch.stack([data.read(sample)[0] for sample in data.test]))
    for whole, *halves in zip(*(m.scale_maps(features) for m in (model, *parts)), strict=True):
        torch.testing.assert_close(sum(halves), whole)  # squares of independent directions
        assert all(half.mean() > 0 for half in halves)
    assert not torch.equal(parts[0].map_mean, model.map_mean)  # a unit of its own
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_record_holds_the_whole_and_its_parts(data, tmp_path):
    record = directions.measure(data, CONFIG, Pyramid(CONFIG.backbone, CONFIG.stages), leading=8)
    write_record(tmp_path, record)
    (found,) = read_records(tmp_path, dataset="textures", method="all 40")
    assert list(found["yardsticks"]) == ["leading 8", "other 32"]
    of = [m["pooled"]["image_auroc"] for m in (found["metrics"], *found["yardsticks"].values())]
    assert len(set(of)) > 1 and all(0 <= value <= 1 for value in of)
