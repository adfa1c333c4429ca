"""``python -m book runs``: the long runs that ``runs.yml`` declares, those that are missing or out of date.

A run is the training chapter, executed by papermill. Its record goes to ``records/``, and the executed
chapter of one seed to ``runs/``, where the book prints it. A run is up to date if its record was made with
today's configuration on today's file list. A set whose files are absent is named and passed over.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
import yaml

from book._ext.executed_notebooks import INJECTED
from book.build import ROOT, run_notebook
from book.tidy import strip_run

CHAPTER = ROOT / "notebooks" / "30_train.ipynb"
WORK = ROOT / "_build" / "runs"  # checkpoints, states and executed chapters of unfinished runs
PLACE = "path/to/data"  # what a printed page says instead of somebody's folder


@dataclass(frozen=True)
class Run:
    """One run of the training chapter."""

    dataset: str
    profile: str
    seed: int
    split: str = ""
    printed: bool = False  # as a page of the book

    @property
    def name(self) -> str:
        """Of its files, such as "mt-tile-full-seed0"."""
        return "-".join(filter(None, [self.dataset, self.split, self.profile, f"seed{self.seed}"]))

    @property
    def page(self) -> str:
        """Of its printed page in ``book/runs``, such as "mt_tile_full_seed0.ipynb"."""
        return f"{slug(self.name)}.ipynb"

    def parameters(self, root: str) -> dict[str, Any]:
        """What papermill hands to the chapter."""
        own = {k: v for k, v in asdict(self).items() if v != "" and k != "printed"}
        place = place_of(self.dataset, root)
        return own | {"out": str(WORK.relative_to(ROOT))} | ({"data_root": place} if place else {})


def slug(name: str) -> str:
    """The name of a run or a data set as a file of ``book/runs`` has it: "mt+aitex" -> "mt_aitex"."""
    return re.sub(r"[^a-z0-9]+", "_", name)


def declared(path: Path = ROOT / "book" / "runs.yml") -> list[Run]:
    """Every run of the file, one per seed.

    Raises:
        ValueError: an entry has an unknown name in it, or names no data set, profile or seeds.
    """
    runs = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        wanted, known = {"dataset", "profile", "seeds"}, {"dataset", "profile", "seeds", "split", "print"}
        if not wanted <= entry.keys() <= known:
            raise ValueError(f"{path.name}: {entry} must name {sorted(wanted)} and may name {sorted(known)}")
        one = Run(entry["dataset"], entry["profile"], 0, entry.get("split", ""))
        for seed in entry["seeds"]:
            runs.append(replace(one, seed=seed, printed=seed == entry.get("print")))
    return runs


def place_of(names: str, root: str) -> str | None:
    """Where a declared data set lies; drawn textures lie nowhere."""
    return None if names == "textures" else root or None


def open_declared(names: str, root: str, split: str | None, seed: int):
    """A declared data set, such as "mt" or "mt+aitex+textures"."""
    from mssf_lite.data import open_dataset

    return open_dataset(names.split("+"), root=place_of(names, root), split=split or None, seed=seed)


def up_to_date(run: Run, dataset, records: Path) -> bool:
    """Whether a record of this run with its present configuration and file list is there."""
    from mssf_lite import Config
    from mssf_lite.results import read_records

    wanted = Config.profile(run.profile, seed=run.seed)
    facts = {"dataset": dataset.name, "split": dataset.split, "method": "mssf"}
    for record in read_records(records, **facts, profile=run.profile, seed=run.seed):
        try:
            if record["dataset"]["digest"] == dataset.digest and Config.from_dict(record["config"]) == wanted:
                return True
        except TypeError:  # made with a setting that is no more
            continue
    return False


def execute(run: Run, root: str, book: Path) -> Path:
    """Run the chapter; its record and, where asked for, its page are put in place when it has ended.

    Returns:
        The record.
    """
    executed = WORK / f"{run.name}.ipynb"
    WORK.mkdir(parents=True, exist_ok=True)
    run_notebook(CHAPTER, executed, run.parameters(root), run.name, save_often=True)
    chapter = nbformat.read(executed, as_version=4)
    printed = "".join(o.get("text", "") for c in chapter.cells if c.id == "record-write" for o in c.outputs)
    record = WORK / printed.split(":")[0]  # the chapter says where it wrote
    shutil.copyfile(record, book / "records" / record.name)
    if run.printed:
        nbformat.write(as_page(chapter, run, root), book / "runs" / run.page)
    return record


def as_page(chapter, run: Run, root: str):
    """An executed chapter as a page of the book: with a heading of its own, without folders and dates."""
    what = run.dataset.replace("+", " + ") + (f", split {run.split!r}" if run.split else "")
    first = chapter.cells[0]
    first.source = re.sub(r"\A# .*", f"# Printed run: {what}, seed {run.seed}", first.source)
    for cell in chapter.cells:
        if root and INJECTED in cell.metadata.get("tags", []):
            cell.source = cell.source.replace(root, PLACE)
    strip_run(chapter)
    return chapter


def main(root: str = "", only: str = "") -> int:
    """Run what is missing; returns 1 if a run failed, else 0.

    Args:
        root: where the data sets lie; empty: the environment variable MSSF_DATA, else the user's cache.
        only: a data set's name as in the file; empty: all.
    """
    root = str(Path(root).resolve()) if root else ""
    todo = [run for run in declared() if not only or run.dataset == only]
    failed = 0
    for number, run in enumerate(todo, start=1):
        head = f"[{number}/{len(todo)}] {run.name}"
        try:
            dataset = open_declared(run.dataset, root, run.split, run.seed)
        except FileNotFoundError as error:
            print(f"{head}: absent, passed over ({error})", flush=True)
            continue
        if up_to_date(run, dataset, ROOT / "book" / "records"):
            print(f"{head}: up to date", flush=True)
            continue
        print(head, flush=True)
        started = time.perf_counter()
        try:
            record = execute(run, root, ROOT / "book")
        except Exception as error:  # one run that fails must not cost the others
            print(f"  failed: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        print(f"  {record.name} after {(time.perf_counter() - started) / 60:.1f} min", flush=True)
    return int(failed > 0)
