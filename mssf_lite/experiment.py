"""From a data set and a configuration to a run record: what the training chapters share.

The order is fixed so that it cannot go wrong: fit on ``train`` and ``held_out``, then look at ``test`` once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .config import Settings
from .data import Dataset
from .detector import Detector, Progress, batches, together
from .device import autocast
from .fused import FusedDetector
from .metrics import evaluate
from .results import Record, describe_dataset, environment
from .scoring import Prediction


def fit(detector: Detector, dataset: Dataset, resume: Path | None = None) -> tuple[list[Progress], float]:
    """Fit on the data set's normals, printing a line an epoch.

    Args:
        detector: fitted in place.
        dataset: only its ``train`` and ``held_out`` are read.
        resume: see :meth:`mssf_lite.detector.Detector.fit`.

    Returns:
        What ``fit`` yielded, and the seconds it took with reading and features.
    """
    size, started, history = detector.config.image_size, time.perf_counter(), []
    images = dataset.images(dataset.train, size), dataset.images(dataset.held_out, size)
    for p in detector.fit(*images, resume=resume):
        history.append(p)
        print(p)
    return history, time.perf_counter() - started


def reread(detector: Detector, config: Settings, dataset: Dataset) -> Detector:
    """The same trained detector, scored as another configuration says.

    Args:
        detector: fitted; it stays as it is.
        config: differs in how maps and scores are read, not in what is trained.
        dataset: of the fit; its held-out normals set the units of the maps anew.
    """
    again = type(detector)(config, detector.pyramid).to(detector.device)
    units = {k: v for k, v in again.state_dict().items() if k in ("map_mean", "map_std")}  # set anew below
    again.load_state_dict(detector.state_dict() | units)
    if isinstance(again, FusedDetector):
        again.standardise(dataset.images(dataset.held_out, config.image_size))
    return again


class Result(NamedTuple):
    """What one detector did on the test images."""

    prediction: Prediction  # on the CPU
    metrics: dict[str, Any]  # see mssf_lite.metrics.evaluate
    seconds: float  # per image, from image to map, without reading the file


def test(detectors: Mapping[str, Detector], dataset: Dataset) -> dict[str, Result]:
    """Look at the test images once, with all detectors on the same features.

    Args:
        detectors: name -> fitted detector; several must look at the same (:meth:`Detector.features`).
        dataset: only its ``test`` is read.

    Returns:
        Name -> what it did.
    """
    first = next(iter(detectors.values()))
    size = first.config.image_size
    found: dict[str, list[Prediction]] = {name: [] for name in detectors}
    seconds = dict.fromkeys(detectors, 0.0)
    for batch in batches(dataset.images(dataset.test, size), first.config, "test images"):
        started = time.perf_counter()
        features = first.features(batch)
        shared = time.perf_counter() - started
        for name, detector in detectors.items():
            started = time.perf_counter()
            with torch.no_grad():
                maps, scores = detector.eval().judge(features, tuple(batch.shape[-2:]))
                found[name].append(Prediction(maps.cpu(), scores.cpu()))
            seconds[name] += shared + time.perf_counter() - started
    masks = dataset.masks([sample for sample in dataset.test if sample.has_mask], size)
    results = {}
    for name in detectors:
        maps, scores = zip(*found[name], strict=True)
        prediction = Prediction(together(maps), torch.cat(scores))
        metrics = evaluate(prediction.scores, dataset.test, prediction.maps, masks)
        results[name] = Result(prediction, metrics, seconds[name] / len(dataset.test))
    return results


def make_record(
    detector: Detector,
    dataset: Dataset,
    history: Sequence[Progress],
    fit_seconds: float,
    result: Result,
    yardsticks: Mapping[str, Mapping[str, Any]],
) -> Record:
    """The run as :mod:`mssf_lite.results` writes it.

    Args:
        detector, dataset: what was run on what.
        history, fit_seconds: from :func:`fit`.
        result: of the detector, from :func:`test`.
        yardsticks: name of a simpler method -> its metrics on the same split.
    """
    config: Settings = detector.config
    return {
        "method": type(detector).__name__.lower(),
        "profile": config.profile_name,
        "seed": config.seed,
        "textures": list(dataset.textures),
        "dataset": describe_dataset(dataset),
        # of a weight file only the name: no record holds a path of somebody's disk
        "config": config.to_dict() | {"weights": config.weights and Path(config.weights).name},
        "environment": environment(detector.device) | {"precision": precision_on(detector.device)},
        "sizes": detector.sizes(),
        "times": {"fit": fit_seconds, "predict_per_image": result.seconds},
        "metrics": result.metrics,
        "yardsticks": dict(yardsticks),
        "training": [asdict(progress) for progress in history],
    }


def precision_on(device: torch.device) -> str:
    """Of the frozen network and of the training on a device, such as "float32, bfloat16"."""
    asked = [autocast(device, network) for network in (True, False)]
    return ", ".join("bfloat16" if one._enabled else "float32" for one in asked)
