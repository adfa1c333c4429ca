"""What the chapter on the audit shows of the magnetic tiles belongs to today's splits and records."""

import json
from importlib import resources

import pytest
from data_trees import REAL, magnetic_tiles, needs_real_mt

from book import tiles
from mssf_lite.data import open_dataset
from mssf_lite.data.audit import Audit, Match
from mssf_lite.results import read_records

FACTS = json.loads(tiles.FACTS.read_text(encoding="utf-8"))


def test_facts_count_the_published_list():
    names = resources.files("mssf_lite.data").joinpath("lists/mt_published_train.txt").read_text("utf-8")
    listed = sum(line.endswith(".jpg") for line in names.splitlines())
    training, test = (sum(side) for side in zip(*FACTS["recordings"], strict=True))
    assert (training, test) == (listed, len(FACTS["likeness"]["published"]["normal"]))


def test_facts_and_records_rest_on_the_same_lists():
    records = read_records(tiles.FACTS.parent / "records", dataset="mt", profile="full", seed=0)
    found = {record["dataset"]["split"]: record["dataset"]["digest"] for record in records}
    assert found == FACTS["digests"]


def test_pictures_are_small():
    for name in ("tiles_recordings.png", "tiles_pairs.png"):
        assert (tiles.PICTURES / name).stat().st_size < 300_000, name


def test_likeness_keeps_normals_and_defects_apart():
    rows = [(False, 0.81234), (True, 0.1), (False, 0.4)]
    matches = tuple(Match("a", "b", "mt", bad, value, 0.15678, (0, 0)) for bad, value in rows)
    assert tiles.likeness(Audit(matches, {"mt": (128, 128)})) == {
        "normal": [0.812, 0.4],
        "defect": [0.1],
        "level": 0.157,
    }


@pytest.mark.filterwarnings("ignore:.*is not the official magnetic-tile set")
def test_recordings_count_the_normal_images_of_each_group(tmp_path):
    data = open_dataset("mt", root=magnetic_tiles(tmp_path), split="tile")
    counted = tiles.recordings(data)
    normals = [sample for sample in data.samples if not sample.is_defect]
    assert sum(map(sum, counted)) == len(normals)
    assert len(counted) == len({sample.group for sample in normals})
    assert all(training == 0 or test == 0 for training, test in counted)  # this split does not leak


def test_entries_stand_on_lines_of_their_own(tmp_path):
    path = tmp_path / "facts.json"
    tiles.write_facts({"b": [1, 2], "a": {"x": 1}}, path)
    assert json.loads(path.read_text()) == {"a": {"x": 1}, "b": [1, 2]}
    assert len(path.read_text().splitlines()) == 4


@needs_real_mt
def test_facts_are_those_of_the_real_tiles():
    published, tile = (open_dataset("mt", root=REAL, split=split) for split in ("published", "tile"))
    assert FACTS["digests"] == {data.split: data.digest for data in (published, tile)}
    assert FACTS["recordings"] == tiles.recordings(published)
    fig = tiles.draw_recordings(published)  # refuses recordings that are no longer there
    assert len(fig.axes) == 6 * len(tiles.SHOWN)
