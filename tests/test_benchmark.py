"""The benchmark measures what it says: turns, counts by hand, memory, and a record that reads back."""

import json
import time

import pytest
import torch

from mssf_lite import MSSF, Config, benchmark
from mssf_lite.device import precision
from mssf_lite.inference import Folded
from mssf_lite.peers import UniAD, UniADConfig

CONFIG = Config.profile("check", stages=("blocks.2",), image_size=(64, 64), zooms=(1.0, 0.5))


@pytest.fixture(scope="module")
def detectors():
    model = MSSF(CONFIG).eval()
    model.fitted.fill_(True)
    return {"readable": model, "folded": Folded(model)}


def test_cases_take_turns_and_warm_up_is_not_counted():
    calls = []
    cases = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = benchmark.interleaved(cases, rounds=3, warm_up=1)
    assert calls == ["a", "b"] * 4
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}


def test_a_slower_case_is_seen_to_be_slower():
    cases = {"quick": lambda: None, "slow": lambda: time.sleep(0.01)}
    seconds = benchmark.interleaved(cases, rounds=3)
    assert min(seconds["slow"]) >= 0.01 > max(seconds["quick"])


def test_summary_is_the_median_and_the_middle_half_in_milliseconds_an_image():
    found = benchmark.summary([0.01, 0.02, 0.04, 0.03, 9.0], images=10)
    assert found["ms"] == pytest.approx(3) and found["images_per_second"] == pytest.approx(1000 / 3)
    assert found["ms_low"] <= found["ms"] <= found["ms_high"]


def test_work_behind_the_network_is_that_of_its_matrix_products(detectors):
    found = {name: benchmark.costs(detector) for name, detector in detectors.items()}
    C, m, K, places = 40, CONFIG.hidden, CONFIG.blocks, 4 * 4 + 2 * 2
    couplings = K * (C // 2 * m + m * C)
    for name, affine in (("readable", 2 * C**2), ("folded", C**2)):  # whitening and rotation, or both in one
        behind = found[name]["gmac"] - found[name]["gmac_backbone"]
        assert behind * 1e9 == pytest.approx(places * (affine + couplings))
    assert found["readable"]["trainable"] == sum(p.numel() for p in detectors["readable"].flow.parameters())
    assert all(p.requires_grad for p in detectors["readable"].flow.parameters())  # as it was before


def test_peers_are_counted_too():
    found = benchmark.costs(UniAD(UniADConfig.profile("check")).eval())
    assert found["gmac"] > found["gmac_backbone"] > 0 and found["trainable"] > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is known of a GPU only")
def test_memory_that_was_used_in_between_is_seen():
    with benchmark.peak_memory(torch.device("cuda")) as peak:
        torch.ones(50_000_000, device="cuda").sum()  # 200 MB, gone afterwards
    assert 190 < peak[0] < 220


def test_memory_of_a_processor_is_left_blank():
    with benchmark.peak_memory(torch.device("cpu")) as peak:
        torch.ones(10)
    assert peak == [None]


def test_every_setting_gives_a_row_and_threads_are_put_back(detectors):
    before = torch.get_num_threads()
    rows = benchmark.measure(detectors, batches=(1, 2), threads=(1,), rounds=2)
    keys = ("detector", "part", "precision", "batch")
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows) == 2 * 2 * 3 * 2
    assert all(row["ms"] > 0 for row in rows) and torch.get_num_threads() == before


def test_record_is_written_and_reads_back(tmp_path, monkeypatch, detectors):
    monkeypatch.setattr(benchmark, "rivals", lambda: detectors)
    small = [
        "--batches",
        "1",
        "--threads",
        "1",
        "--precisions",
        "float32",
        "--rounds",
        "2",
        "--device",
        "cpu",
    ]
    benchmark.main([str(tmp_path / "speed.json"), *small])
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["costs"].keys() == detectors.keys() and len(found["rows"]) == 4
    assert "torch" in found["environment"]


def test_precision_by_name_reaches_the_network(detectors):
    images = torch.rand(1, 3, 64, 64)
    seen = {}
    for name in ("float32", "bfloat16"):
        with precision(name), torch.no_grad():
            seen[name] = detectors["readable"].features(images)[0]
    error = (seen["float32"] - seen["bfloat16"]).abs().max() / seen["float32"].abs().max()
    assert 1e-5 < error < 0.1
