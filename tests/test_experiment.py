"""From data set to record: test images are looked at once, and the record is complete."""

import json

import pytest
import torch
from data_trees import ksdd2, mvtec_texture

from mssf_lite import MSSF, Config, NearestNeighbour, experiment, gaussian_of
from mssf_lite.data import open_dataset
from mssf_lite.data.textures import Counts
from mssf_lite.results import read_records, write_record

CONFIG = Config.profile("check", stages=("blocks.2",), batch=4)
NAMED = ["folder", "ksdd2", "textures/wood"]


class Watched:
    """A reader that notes which samples were read."""

    def __init__(self, reader):
        self.reader, self.seen = reader, []

    def read(self, sample, size):
        self.seen.append(sample)
        return self.reader.read(sample, size)


def small():
    counts = Counts(train=6, held_out=2, test_good=2, test_defect_per_kind=1)
    data = open_dataset("textures", textures=["wood", "metal"], counts=counts)
    object.__setattr__(data, "reader", Watched(data.reader))  # the data set is frozen; the test is not
    return data


def test_fit_reads_no_test_image_and_test_reads_each_of_them():
    data, model = small(), MSSF(CONFIG)
    history, seconds = experiment.fit(model, data)
    assert {s.split for s in data.reader.seen} == {"train", "held_out"}
    assert len(history) == CONFIG.epochs and seconds > 0
    data.reader.seen.clear()
    experiment.test({"model": model}, data)
    assert {s.key for s in data.reader.seen} == {s.key for s in data.test}


def test_a_detector_without_epochs_takes_a_file_to_resume_from_and_leaves_it_alone(tmp_path):
    data, detector = small(), NearestNeighbour(CONFIG)
    history, _ = experiment.fit(detector, data, tmp_path / "run.state")
    assert history == [] and detector.fitted and not list(tmp_path.iterdir())


def test_detectors_on_shared_features_predict_as_they_do_alone():
    data, model = small(), MSSF(CONFIG)
    experiment.fit(model, data)
    start = gaussian_of(model, data.images(data.held_out, CONFIG.image_size))
    results = experiment.test({"model": model, "gaussian": start}, data)
    for name, detector in (("model", model), ("gaussian", start)):
        alone = detector.predict(data.images(data.test, CONFIG.image_size))
        torch.testing.assert_close(results[name].prediction.scores, alone.scores)


def test_record_of_a_run_is_written_and_read_back(tmp_path):
    data, model = small(), MSSF(CONFIG)
    history, seconds = experiment.fit(model, data)
    results = experiment.test({"MSSF": model}, data)
    record = experiment.make_record(
        model, data, history, seconds, results["MSSF"], {"again": results["MSSF"].metrics}
    )
    path = write_record(tmp_path, record)
    (read,) = read_records(tmp_path, dataset="textures", seed=0)
    assert path.name == "textures-drawn-mssf-check-seed0.json"
    assert read == json.loads(path.read_text())
    assert read["metrics"] == read["yardsticks"]["again"]
    assert read["sizes"]["trainable"] == sum(p.numel() for p in model.flow.parameters())
    assert [e["epoch"] for e in read["training"]] == [1]


@pytest.mark.filterwarnings("ignore:.*is not the official")
def test_one_model_learns_from_joined_sets_whose_images_have_different_shapes(tmp_path):
    mvtec_texture(tmp_path / "folder" / "cloth"), ksdd2(tmp_path / "ksdd2")
    counts = Counts(train=4, held_out=2, test_good=2, test_defect_per_kind=1)
    data = open_dataset(["folder", "ksdd2", "textures"], tmp_path, counts=counts, textures=NAMED)
    model = MSSF(CONFIG)
    history, seconds = experiment.fit(model, data)
    detectors = {"model": model, "Gaussian": gaussian_of(model, data.images(data.held_out, (128, 128)))}
    results = experiment.test(detectors, data)
    record = experiment.make_record(model, data, history, seconds, results["model"], {})
    assert set(record["metrics"]["textures"]) == {"folder/cloth", "ksdd2", "textures/wood"}
    seen = {tuple(data.seen_at(s, (128, 128))) for s in data.train}
    assert seen == {(128, 160), (352, 128), (128, 128)}
