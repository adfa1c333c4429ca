"""Run records: one JSON file per run. Tables are made of them in :mod:`mssf_lite.tables`.

A record says what was run, on which images, with what, and how well it went. The book prints no number of
ours that does not stand in a record. Its entries::

    method        "mssf", "msflow" ...
    profile       name of the configuration's base: "check", "fast", "full"
    seed          of the run
    variant       what differs from the profile; empty or left out where nothing does
    textures      names
    dataset       name, split, seed, digest of the file list, counts: see describe_dataset
    config        every setting
    environment   versions, device, commit: see environment; precision of the frozen network, of training
    sizes         parameters: trainable, frozen
    times         seconds: fit, predict_per_image
    metrics       what mssf_lite.metrics.evaluate returns
    yardsticks    name of a simple method -> its metrics on the same features and split
    training      the progress of the training, one entry per epoch
"""

from __future__ import annotations

import json
import math
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .files import written_whole

if TYPE_CHECKING:
    from mssf_lite.data.samples import Dataset

Record = dict[str, Any]

KEYS = {
    "": "method profile seed textures dataset config environment sizes times metrics yardsticks training",
    "dataset": "name split seed digest counts",
    "sizes": "trainable frozen",
    "times": "fit predict_per_image",
}  # part of the record ("" is the record itself) -> what it must have
PACKAGES = ("torch", "torchvision", "timm", "FrEIA", "numpy", "scikit-learn")
NAMES = ("dataset", "split", "method", "profile", "variant", "seed")  # what tells one record from another


def environment(device: torch.device | str | None = None) -> dict[str, str | int]:
    """What a reader must know to judge a number. Never fails: what cannot be found out reads "unknown".

    Args:
        device: what the run computed on; None means the GPU if there is one, else the CPU.

    Returns:
        ``python``, the version of each package, ``device`` (the model of GPU or CPU), ``threads`` of the CPU,
        ``commit`` (``-dirty`` if files differed from it) and ``platform``.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = torch.device(device).type == "cuda"
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "device": torch.cuda.get_device_name(device) if on_gpu else _cpu_model(),
        "threads": torch.get_num_threads(),
        "commit": _commit(Path(__file__).parent),
        "platform": f"{platform.system()} {platform.machine()}",  # no host name, no kernel
    }


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """The ``dataset`` entry of a record: ``name``, ``split``, ``seed``, ``digest`` of the list, ``counts``.

    ``counts`` holds the images of ``train``, ``held_out``, ``test_normal`` and ``test_defect``.
    """
    defects = sum(sample.is_defect for sample in dataset.test)
    return {
        "name": dataset.name,
        "split": dataset.split,
        "seed": dataset.seed,
        "digest": dataset.digest,
        "counts": {
            "train": len(dataset.train),
            "held_out": len(dataset.held_out),
            "test_normal": len(dataset.test) - defects,
            "test_defect": defects,
        },
    }


def write_record(folder: str | Path, record: Mapping[str, Any]) -> Path:
    """Write a record as ``<dataset>-<split>-<method>-<profile>-seed<k>.json``; a rerun replaces its own file.

    A variant's name stands behind the profile's. The file appears whole or not at all. NumPy numbers, tuples
    and dataclasses become plain JSON.

    Args:
        folder: where to; made if it is not there.
        record: with the entries in this module's head.

    Returns:
        The path of the file.

    Raises:
        ValueError: if an entry is missing, or a number is NaN or infinite.
        TypeError: if a value has no place in JSON.
    """
    folder = Path(folder)
    record = _plain(record, "record")
    _check(record, "this record")
    words = [str(value) for name, value in facts_of(record).items() if name != "seed" and value != ""]
    slugs = [re.sub(r"[^\w.]+", "_", word) for word in [*words, f"seed{record['seed']}"]]
    path = folder / f"{'-'.join(slugs)}.json"
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")
    return path


def read_records(folder: str | Path, **filters: Any) -> list[Record]:
    """The records in a folder, in the order of their file names.

    Args:
        folder: where :func:`write_record` wrote them.
        filters: any of ``dataset``, ``split``, ``method``, ``profile``, ``variant``, ``seed``, with the value
            asked for.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: for an unknown filter, and for a file that is not a whole record.
    """
    folder = Path(folder)
    if unknown := filters.keys() - set(NAMES):
        raise ValueError(f"cannot filter records by {', '.join(sorted(unknown))}: use {', '.join(NAMES)}")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: run a training chapter first, it writes records"
        )
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # bad JSON or bad UTF-8
            raise ValueError(f"{path} is not readable JSON ({error}): delete it and run again") from error
        _check(record, str(path))
        facts = facts_of(record)
        if all(facts[name] == value for name, value in filters.items()):
            records.append(record)
    return records


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one record from another."""
    data = {"dataset": record["dataset"]["name"], "split": record["dataset"]["split"]}
    return {name: data[name] if name in data else record.get(name, "") for name in NAMES}


def _check(record: Any, what: str) -> None:
    for part, keys in KEYS.items():
        entry = record[part] if part else record
        missing = [key for key in keys.split() if not isinstance(entry, Mapping) or key not in entry]
        if missing:
            raise ValueError(
                f"{what} lacks {', '.join(missing)}{f' in {part!r}' if part else ''}: add what is missing"
            )


def _plain(value: Any, where: str) -> Any:
    """The value in JSON's own types; errors name the place."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{where} is {value}: leave out what could not be measured, a record holds numbers only"
        )
    if value is not None and not isinstance(value, str | int | float | bool):
        raise TypeError(
            f"{where} is a {type(value).__name__}, which has no place in JSON: make it a number or text"
        )
    return value


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown"


def _commit(folder: Path) -> str:
    """The commit that holds this package; "unknown" for a copy that merely lies in some repository."""
    try:
        for command in ("ls-files --error-unmatch results.py", "describe --always --dirty"):
            done = subprocess.run(
                ["git", *command.split()], cwd=folder, capture_output=True, text=True, check=True, timeout=30
            )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
