"""``python -m book ablations``: what each part of MSSF is worth. Runs what is missing of ``ablations.yml``.

Variants are trained outside the chapters, for they share work: the network is frozen, so its answers to an
image are remembered and serve all variants. Each record goes to ``records/ablations/`` as its run ends.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from mssf_lite import MSSF, Config
from mssf_lite.data import Dataset, open_dataset
from mssf_lite.experiment import fit, make_record, test
from mssf_lite.features import Pyramid
from mssf_lite.results import describe_dataset, read_records, write_record

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records" / "ablations"
BASE = "as it is"  # the variant without changes: the others are compared with it


@dataclass(frozen=True)
class Trial:
    """One variant on one split and seed."""

    variant: str
    config: Config
    dataset: str
    split: str
    rescored: bool = False  # the model of BASE, read in another way

    def has_record(self, dataset: Dataset) -> bool:
        """Whether its record with this configuration and file list is there."""
        facts = describe_dataset(dataset)
        for record in (
            read_records(RECORDS, variant=self.variant, seed=self.config.seed) if RECORDS.is_dir() else []
        ):
            wanted = without_path(self.config) == Config.from_dict(record["config"])
            if wanted and all(record["dataset"][key] == facts[key] for key in ("name", "split", "digest")):
                return True
        return False


def without_path(config: Config) -> Config:
    """As a record holds it: of a weight file only the name."""
    return replace(config, weights=config.weights and Path(config.weights).name)


def declared(path: Path = HERE / "ablations.yml", weights: dict[str, Path] | None = None) -> list[Trial]:
    """Every trial of the file, in the order in which they are run: a variant on all splits and seeds.

    Args:
        path: of the file.
        weights: network -> weight file; a network without one takes timm's.
    """
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = []
    for rescored, variants in ((False, plan["trained"]), (True, plan["rescored"])):
        for name, changes in variants.items():
            values = plan["schedule"] | changes
            values |= (
                {"weights": str(weights[values["backbone"]])}
                if values.get("backbone") in (weights or {})
                else {}
            )
            config = Config.from_dict(
                {"recipe": Config.recipe, "profile_name": values.pop("profile")} | values
            )
            for part in plan["splits"]:
                for seed in part["seeds"]:
                    found.append(
                        Trial(name, replace(config, seed=seed), part["dataset"], part["split"], rescored)
                    )
    return found


class Remembered(nn.Module):
    """A pyramid that answers from memory where it has seen an image before.

    Args:
        pyramid: the frozen network.
        room: how many answers are kept, in half precision; the one unused longest goes first.
    """

    def __init__(self, pyramid: Pyramid, room: int = 9000):
        super().__init__()
        self.pyramid, self.room = pyramid, room
        self.answers: OrderedDict[bytes, list[Tensor]] = OrderedDict()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> one (B, C_s, H_s, W_s) a stage."""
        keys = [hashlib.blake2b(image.contiguous().numpy()).digest() for image in images]
        new = [i for i, key in enumerate(keys) if key not in self.answers]
        if new:
            for i, *answer in zip(new, *self.pyramid(images[new]), strict=True):
                self.answers[keys[i]] = [f.half() for f in answer]
        for key in keys:
            self.answers.move_to_end(key)
        batch = [
            torch.stack(stage).float() for stage in zip(*(self.answers[key] for key in keys), strict=True)
        ]
        while len(self.answers) > self.room:
            self.answers.popitem(last=False)
        return batch


class Stages(nn.Module):
    """Some stages of a remembered pyramid, in the place of a detector's own pyramid."""

    def __init__(self, remembered: Remembered, stages: tuple[str, ...]):
        super().__init__()
        self.remembered = [remembered]  # in a list: not a part of the detector, nor of its parameters
        whole = remembered.pyramid
        self.chosen = [whole.stages.index(stage) for stage in stages]
        self.channels, self.digest = [whole.channels[i] for i in self.chosen], whole.digest

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> one (B, C_s, H_s, W_s) a stage."""
        found = self.remembered[0](images)
        return [found[i] for i in self.chosen]


def reread(model: MSSF, config: Config, dataset: Dataset) -> MSSF:
    """The same trained model, scored as another configuration says."""
    again = MSSF(config)
    again.pyramid = model.pyramid
    again.load_state_dict(model.state_dict())
    again.standardise(dataset.images(dataset.held_out, config.image_size))
    return again


def run(trials: list[Trial], dataset: Dataset, pyramid: nn.Module) -> Iterator[Path]:
    """Train the first trial, read its model as the others say, and write their records."""
    model = MSSF(trials[0].config)
    model.pyramid = pyramid
    history, seconds = fit(model, dataset)
    detectors = {t.variant: reread(model, t.config, dataset) if t.rescored else model for t in trials}
    for name, result in test(detectors, dataset).items():
        record = make_record(detectors[name], dataset, history, seconds, result, {})
        yield write_record(RECORDS, record | {"variant": name})


def main(root: str = "", only: str = "", weights: dict[str, Path] | None = None) -> int:
    """Run what is missing or out of date; returns 1 if a trial failed, else 0.

    Args:
        root: where the data sets lie; empty: the environment variable MSSF_DATA, else the user's cache.
        only: one variant; empty: all.
        weights: see :func:`declared`.
    """
    trials = declared(weights=weights)
    trained = [t for t in trials if not t.rescored and only in ("", t.variant)]
    networks: dict[str, Remembered] = {}
    failed = 0
    for number, trial in enumerate(trained, start=1):
        c = trial.config
        head = f"[{number}/{len(trained)}] {trial.variant}: {trial.dataset} {trial.split} seed {c.seed}"
        try:
            dataset = open_dataset(trial.dataset, root=root or None, split=trial.split, seed=c.seed)
        except FileNotFoundError as error:
            print(f"{head}: absent, passed over ({error})", flush=True)
            continue
        alike = [t for t in trials if t.rescored and (t.split, t.config.seed) == (trial.split, c.seed)]
        wanted = [trial, *(alike if trial.variant == BASE else [])]
        if all(t.has_record(dataset) for t in wanted):
            print(f"{head}: up to date", flush=True)
            continue
        started = time.perf_counter()
        try:
            if c.backbone not in networks:
                stages = [s for t in trials if t.config.backbone == c.backbone for s in t.config.stages]
                networks[c.backbone] = Remembered(Pyramid(c.backbone, sorted(set(stages)), c.weights))
            for path in run(wanted, dataset, Stages(networks[c.backbone], c.stages)):
                print(f"  {path.name}", flush=True)
        except Exception as error:  # one trial that fails must not cost the others
            print(f"{head}: failed: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        print(f"{head}: {time.perf_counter() - started:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":  # started by book/__main__.py: folder, variant, then network=file
    given = (word.split("=", 1) for word in sys.argv[3:])
    sys.exit(main(sys.argv[1], sys.argv[2], {network: Path(file).resolve() for network, file in given}))
