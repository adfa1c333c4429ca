"""``python -m book ablations`` (or another of the plans): runs what is missing of a plan.

A plan, such as ``ablations.yml``, is of many small runs. It names variants of detectors, and data sets with
splits and seeds. They are trained outside the chapters, for they share work: the network is frozen, so its
answers to an image are remembered and serve all variants. Each record goes to ``records/<plan>/`` as its run
ends.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import mssf_lite.peers  # noqa: F401 (a plan may name its detectors)
from book.runs import open_declared, slug
from mssf_lite.config import Settings
from mssf_lite.data import Dataset
from mssf_lite.data.samples import Sample, Size
from mssf_lite.detector import Detector
from mssf_lite.experiment import fit, make_record, reread, test
from mssf_lite.features import Pyramid
from mssf_lite.results import describe_dataset, read_records, write_record

HERE = Path(__file__).resolve().parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = 3 * 512 * 512  # numbers in an image that is kept


@dataclass(frozen=True)
class Trial:
    """One variant on one split and seed."""

    variant: str
    method: str  # the detector's class
    config: Settings
    dataset: str
    split: str | None = None
    of: str = ""  # the variant whose trained model is read in another way; empty: it is trained

    def has_record(self, dataset: Dataset, records: Path) -> bool:
        """Whether its record with this configuration and file list is there."""
        facts = describe_dataset(dataset)
        wanted = without_path(self.config)
        named = {"variant": self.variant, "method": self.method.lower(), "seed": self.config.seed}
        for record in read_records(records, **named) if records.is_dir() else []:
            same = all(record["dataset"][key] == facts[key] for key in ("name", "split", "digest"))
            if same and type(wanted).from_dict(record["config"]) == wanted:
                return True
        return False


def without_path(config: Settings) -> Settings:
    """As a record holds it: of a weight file only the name."""
    return replace(config, weights=config.weights and Path(config.weights).name)


def declared(plan: Path, weights: Mapping[str, str | Path] | None = None) -> list[Trial]:
    """Every trial of a plan, in the order in which they are run: a variant on all splits and seeds.

    A variant is a profile of its detector's settings with some fields changed. ``schedule`` holds what all
    share, ``trained`` and ``rescored`` name the variants; a rescored one says by ``of`` whose model it reads.

    Args:
        plan: the file.
        weights: network -> weight file; a network without one takes timm's.

    Raises:
        ValueError: a variant names an unknown detector, or one that is not trained.
    """
    text = yaml.safe_load(plan.read_text(encoding="utf-8"))
    variants = text["trained"] | text.get("rescored", {})
    found = []
    for name, changes in variants.items():
        of = changes.get("of", "")
        if of and of not in text["trained"]:
            raise ValueError(f"{plan.name}: {name!r} reads {of!r}, which is not trained")
        values = text.get("schedule", {}) | (variants[of] if of else {}) | changes
        method, profile = values.pop("method"), values.pop("profile")
        values.pop("of", None)
        if method not in Detector.registry:
            raise ValueError(f"{plan.name}: {name!r} names {method!r}, not {sorted(Detector.registry)}")
        if values.get("backbone") in (weights or {}):
            values["weights"] = str(weights[values["backbone"]])
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        config = Detector.registry[method].settings.profile(profile, **values)
        for place in text["splits"]:
            own = {"dataset": place["dataset"], "split": place.get("split"), "of": of}
            found += [Trial(name, method, replace(config, seed=seed), **own) for seed in place["seeds"]]
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
        keys = [hashlib.blake2b(image.contiguous().numpy()).digest() for image in images.cpu()]
        new = [i for i, key in enumerate(keys) if key not in self.answers]
        if new:
            for i, *answer in zip(new, *self.pyramid(images[new]), strict=True):
                self.answers[keys[i]] = [f.half() for f in answer]
        for key in keys:
            self.answers.move_to_end(key)
        batch = [
            torch.stack([one.float() for one in stage])  # before: autocast does not stack half precision
            for stage in zip(*(self.answers[key] for key in keys), strict=True)
        ]
        while len(self.answers) > self.room:
            self.answers.popitem(last=False)
        return batch


class RememberedPixels:
    """A data set's reader that keeps what it has read: all variants look at the same images.

    Args:
        reader: of a data set.
        room: how many small images are kept; large ones, such as strips of fabric, are read anew.
    """

    def __init__(self, reader: Any, room: int = 2500):
        self.reader, self.room = reader, room
        self.kept: dict[tuple[Sample, Size | None], tuple[Tensor, Tensor | None]] = {}

    def read(self, sample: Sample, size: Size | None = None) -> tuple[Tensor, Tensor | None]:
        """As the data set's reader does."""
        key = (replace(sample, split="test"), size)  # an image is the same on either side
        if key in self.kept:
            return self.kept[key]
        found = self.reader.read(sample, size)
        if len(self.kept) < self.room and found[0].numel() <= SMALL:
            self.kept[key] = found
        return found

    def __getattr__(self, name: str) -> Any:
        """What else the reader can do."""
        return getattr(self.reader, name)


class Stages(nn.Module):
    """Some stages of a remembered pyramid, in the place of a detector's own pyramid."""

    def __init__(self, remembered: Remembered, stages: tuple[str, ...]):
        super().__init__()
        self.remembered = [remembered]  # in a list: not a part of the detector, nor of its parameters
        whole = remembered.pyramid
        self.chosen = [whole.stages.index(stage) for stage in stages]
        self.channels, self.strides = ([of[i] for i in self.chosen] for of in (whole.channels, whole.strides))
        self.digest = whole.digest

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> one (B, C_s, H_s, W_s) a stage."""
        found = self.remembered[0](images)
        return [found[i] for i in self.chosen]


def run(trials: list[Trial], dataset: Dataset, pyramid: nn.Module, records: Path) -> Iterator[Path]:
    """Train the first trial, read its model as the others say, and write their records.

    A training that was killed goes on from its last epoch: its state lies beside the records until it ends.
    """
    model = Detector.registry[trials[0].method](trials[0].config, pyramid).to(DEVICE)
    first = trials[0]
    name = slug(f"{first.variant} {first.dataset} {first.split or ''} seed{first.config.seed}".lower())
    records.mkdir(parents=True, exist_ok=True)
    history, seconds = fit(model, dataset, resume=records / f"{name}.state")
    detectors = {t.variant: reread(model, t.config, dataset) if t.of else model for t in trials}
    for name, result in test(detectors, dataset).items():
        record = make_record(detectors[name], dataset, history, seconds, result, {})
        yield write_record(records, record | {"variant": name})


def main(
    plan: str,
    root: str = "",
    only: str = "",
    part: str = "1/1",
    weights: Mapping[str, Path] | None = None,
) -> int:
    """Run what is missing or out of date; returns 1 if a trial failed, else 0.

    Args:
        plan: one of ``PLANS`` in ``book/__main__.py``, such as "ablations".
        root: where the data sets lie; empty: the environment variable MSSF_DATA, else the user's cache.
        only: one variant, or one data set; empty: all.
        part: such as "2/4", the second of four shares of the trials, for several processes side by side.
        weights: see :func:`declared`.
    """
    trials, records = declared(HERE / f"{plan}.yml", weights), HERE / "records" / plan
    share, shares = map(int, part.split("/"))
    if not 1 <= share <= shares:
        raise ValueError(f"part {part!r} is none: of four shares they are 1/4, 2/4, 3/4 and 4/4")
    trained = [t for t in trials if not t.of and only in ("", t.variant, t.dataset)][share - 1 :: shares]
    networks: dict[str, Remembered] = {}
    opened: dict[tuple, Dataset] = {}
    failed = 0
    for number, trial in enumerate(trained, start=1):
        c, which = trial.config, (trial.dataset, trial.split, trial.config.seed)
        head = f"[{number}/{len(trained)}] {trial.variant}: {trial.dataset} {trial.split or ''} seed {c.seed}"
        try:
            if which not in opened:
                dataset = open_declared(trial.dataset, root, trial.split, c.seed)
                known = [d.reader for d in opened.values() if d.reader.reader == dataset.reader]
                opened[which] = replace(dataset, reader=(known or [RememberedPixels(dataset.reader)])[0])
            dataset = opened[which]
        except FileNotFoundError as error:
            print(f"{head}: absent, passed over ({error})", flush=True)
            continue
        here = (trial.variant, trial.dataset, trial.split, c.seed)
        wanted = [trial, *(t for t in trials if (t.of, t.dataset, t.split, t.config.seed) == here)]
        if all(t.has_record(dataset, records) for t in wanted):
            print(f"{head}: up to date", flush=True)
            continue
        started = time.perf_counter()
        try:
            if c.backbone not in networks:
                stages = [s for t in trained if t.config.backbone == c.backbone for s in t.config.stages]
                networks[c.backbone] = Remembered(
                    Pyramid(c.backbone, sorted(set(stages)), c.weights).to(DEVICE)
                )
            for path in run(wanted, dataset, Stages(networks[c.backbone], c.stages), records):
                print(f"  {path.name}", flush=True)
        except Exception as error:  # one trial that fails must not cost the others
            print(f"{head}: failed: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        print(f"{head}: {time.perf_counter() - started:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":  # started by book/__main__.py: plan, folder, variant, part, then network=file
    given = (word.split("=", 1) for word in sys.argv[5:])
    files = {network: Path(file).resolve() for network, file in given}
    sys.exit(main(*sys.argv[1:5], files))
