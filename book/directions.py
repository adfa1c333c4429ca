"""``python -m book.directions path/to/data``: what leading directions find on real images, and the others.

The plain Gaussian of the fused features is fitted once; then it is judged with all its directions, with the
leading ones alone and with the others alone. The chapter on feature fusion reads the records.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from book.trials import Remembered, Stages
from mssf_lite import MSSF, Config, gaussian
from mssf_lite.data import Dataset, open_dataset
from mssf_lite.detector import Images
from mssf_lite.experiment import fit, make_record, test
from mssf_lite.features import Pyramid
from mssf_lite.results import Record, write_record

RECORDS = Path(__file__).resolve().parent / "records" / "directions"
SETS = ("mt", "aitex")
SEEDS = (0, 1, 2)
LEADING = 96  # of 744


def hearing(model: MSSF, part: slice, held_out: Images) -> MSSF:
    """The same fitted Gaussian, judging by some directions only.

    Args:
        model: fitted, without couplings; left as it is.
        part: of the directions of every scale, leading first.
        held_out: the held-out normals of its fit; they set the unit of the maps anew.
    """
    heard = gaussian(model.config, model.pyramid)
    heard.load_state_dict(model.state_dict())
    for whitening in heard.whitening:
        others = torch.ones(len(whitening.matrix), dtype=torch.bool)
        others[part] = False
        whitening.matrix[others] = 0
    heard.standardise(held_out)
    return heard


def measure(dataset: Dataset, config: Config, pyramid: nn.Module, leading: int = LEADING) -> Record:
    """A run record of the Gaussian with all directions; the two parts stand among its yardsticks.

    Args:
        dataset: fitted on its normals, judged on its test.
        config: of the detector.
        pyramid: its frozen network.
        leading: how many directions of each scale are the leading ones.
    """
    model = gaussian(config, pyramid)
    history, seconds = fit(model, dataset)
    held_out = dataset.images(dataset.held_out, config.image_size)
    rest = len(model.whitening[0].matrix) - leading
    parts = {f"leading {leading}": slice(leading), f"other {rest}": slice(leading, None)}
    results = test(
        {"all": model} | {name: hearing(model, part, held_out) for name, part in parts.items()}, dataset
    )
    simple = {name: results[name].metrics for name in parts}
    record = make_record(model, dataset, history, seconds, results["all"], simple)
    return record | {"method": f"all {leading + rest}"}


def main(root: str) -> Iterator[Path]:
    """Measure every set and seed; yields the records' paths.

    Args:
        root: where the data sets lie; empty: the environment variable MSSF_DATA, else the user's cache.
    """
    config = Config.profile("full")
    pyramid = Stages(Remembered(Pyramid(config.backbone, config.stages)), config.stages)  # looks once
    for name in SETS:
        for seed in SEEDS:
            dataset = open_dataset(name, root=root or None, seed=seed)
            yield write_record(RECORDS, measure(dataset, replace(config, seed=seed), pyramid))


if __name__ == "__main__":
    for path in main(sys.argv[1] if len(sys.argv) > 1 else ""):
        print(path.name, flush=True)
