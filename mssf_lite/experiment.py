"""From a data set and a configuration to a run record: what the training chapters share.

The order is fixed so that it cannot go wrong: fit on ``train`` and ``held_out``, then look at ``test`` once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .config import Config
from .data import Dataset
from .detector import Detector, Progress
from .metrics import evaluate
from .results import Record, describe_dataset, environment
from .scoring import Prediction


def fit(detector: Detector, dataset: Dataset) -> tuple[list[Progress], float]:
    """Fit on the data set's normals, printing a line an epoch.

    Returns:
        What ``fit`` yielded, and the seconds it took with reading and features.
    """
    size, started, history = detector.config.image_size, time.perf_counter(), []
    for p in detector.fit(dataset.images(dataset.train, size), dataset.images(dataset.held_out, size)):
        history.append(p)
        print(
            f"epoch {p.epoch:2}/{p.epochs}  nll {p.nll:.3f}  held out {p.held_out_nll:.3f}  "
            f"hindering {p.hindering:.3f}  {p.seconds:4.0f} s"
        )
    return history, time.perf_counter() - started


def test(detector: Detector, dataset: Dataset) -> tuple[Prediction, dict[str, Any], float]:
    """Look at the test images once.

    Returns:
        Maps and scores on the CPU, the metrics of :func:`mssf_lite.metrics.evaluate`, and seconds per image with
        reading.
    """
    size, started = detector.config.image_size, time.perf_counter()
    prediction = detector.predict(dataset.images(dataset.test, size), progress=True)
    seconds = (time.perf_counter() - started) / len(dataset.test)
    prediction = Prediction(*(part.cpu() for part in prediction))
    known = [sample for sample in dataset.test if sample.has_mask]
    masks = dataset.masks(known, size)
    return prediction, evaluate(prediction.scores, dataset.test, prediction.maps, masks), seconds


def make_record(
    detector: Detector,
    dataset: Dataset,
    history: Sequence[Progress],
    metrics: Mapping[str, Any],
    yardsticks: Mapping[str, Mapping[str, Any]],
    fit_seconds: float,
    seconds_per_image: float,
) -> Record:
    """The run as :mod:`mssf_lite.results` writes it; arguments are what :func:`fit` and :func:`test` returned.

    Args:
        yardsticks: name of a simpler method -> its metrics on the same features and split.
    """
    config: Config = detector.config
    learned = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    everything = sum(v.numel() for v in [*detector.parameters(), *detector.buffers()])
    return {
        "method": type(detector).__name__.lower(),
        "profile": config.profile_name,
        "seed": config.seed,
        "textures": list(dataset.textures),
        "dataset": describe_dataset(dataset),
        "config": config.to_dict(),
        "environment": environment(detector.device),
        "sizes": {"trainable": learned, "frozen": everything - learned},
        "times": {"fit": fit_seconds, "predict_per_image": seconds_per_image},
        "metrics": metrics,
        "yardsticks": yardsticks,
        "training": [asdict(progress) for progress in history],
    }
