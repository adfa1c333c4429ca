"""How fast detectors are, measured so that the comparison is fair; ``python -m mssf_lite.benchmark`` runs it.

All detectors take turns in one process, call by call: what disturbs the machine disturbs all alike, and
ratios hold where absolute times do not. Calls that warm up are not counted; a GPU is waited for. Images are
noise, for no detector's time depends on what it sees, and nothing is trained, for no time depends on that.

Taught in the chapter on speed, whose tables come from the record that this module writes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from . import MSSF, Config, NearestNeighbour, gaussian
from .detector import Detector
from .device import autocast, precision
from .files import written_whole
from .inference import Captured, Folded
from .packing import unpacked
from .peers.msflow import MSFlow, MSFlowConfig
from .peers.stmae import STMAE, STMAEConfig
from .peers.uniad import UniAD, UniADConfig
from .results import environment

Row = dict[str, Any]


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    rounds: int = 11,
    warm_up: int = 2,
    device: torch.device | str = "cpu",
) -> dict[str, list[float]]:
    """Seconds of every call, all cases taking turns.

    Args:
        cases: name -> what is timed.
        rounds: calls of each case that count.
        warm_up: calls of each case before those.
        device: what the cases compute on; a GPU's work is waited for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warm_up + rounds):
        for name, call in cases.items():
            _wait(device)
            started = time.perf_counter()
            call()
            _wait(device)
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def whole(detector: Detector, images: Tensor) -> Callable[[], object]:
    """From images to maps and scores."""
    size = (images.shape[-2], images.shape[-1])
    return lambda: detector.judge(detector.features(images), size)


def backbone(detector: Detector, images: Tensor) -> Callable[[], object]:
    """Only the frozen network's passes that :func:`whole` makes."""
    seen = detector.views(images)

    def call() -> None:
        with autocast(detector.device, network=True):
            for view in seen:
                detector.pyramid(view)

    return call


def captured(detector: Detector, images: Tensor) -> Callable[[], object]:
    """As :func:`whole`, launched at once; on a GPU."""
    graph = Captured(detector, images)
    return lambda: graph(images)


def summary(seconds: Sequence[float], images: int) -> Row:
    """Milliseconds an image: median, and the range of the middle half; images a second at the median."""
    each = sorted(1000 * s / images for s in seconds)
    low, _, high = statistics.quantiles(each, n=4)
    middle = statistics.median(each)
    return {"ms": middle, "ms_low": low, "ms_high": high, "images_per_second": 1000 / middle}


@torch.no_grad()
def costs(detector: Detector) -> Row:
    """Size and work of a detector on one image of its own size.

    Returns:
        ``trainable`` and ``frozen`` (numbers), ``gmac`` of :func:`whole` and ``gmac_backbone`` (10^9
        multiply-adds), ``peak_mb`` (memory that scoring one image takes on top, on a GPU).
    """
    image = torch.rand(1, 3, *detector.config.image_size, device=detector.device)
    trainable = [p for p in detector.parameters() if p.requires_grad]
    counted = {}
    for parameter in trainable:  # else PyTorch's counter stumbles over those that are handed to a module
        parameter.requires_grad_(False)
    try:
        for name, part in (("gmac", whole), ("gmac_backbone", backbone)):
            with unpacked(), FlopCounterMode(display=False) as counter:  # it knows plain operators only
                part(detector, image)()
            counted[name] = counter.get_total_flops() / 2e9
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    with peak_memory(detector.device) as peak:
        whole(detector, image)()
    return {**detector.sizes(), **counted, "peak_mb": peak[0]}


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float | None]]:
    """A list whose one entry is, afterwards, the highest memory that was in use on top of that before, in MB.

    Known of a GPU only. On a CPU it stays None: a process that has scored before keeps what it freed.
    """
    found: list[float | None] = [None]
    if device.type != "cuda":
        yield found
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield found
    found[0] = (torch.cuda.max_memory_allocated(device) - before) / 1e6


def rivals(weights: str | None = "random") -> dict[str, Detector]:
    """The detectors of the speed comparison, untrained: MSSF in three profiles, yardsticks, and peers twice.

    Once as published in backbone and image size, as far as that is known, and once with MSSF's.

    Args:
        weights: of backbones other than the packaged one; no time depends on them.
    """
    config = Config()
    detectors: dict[str, Detector] = {
        "MSSF": MSSF(config),
        "MSSF, fine": MSSF(Config.profile("fine")),
        "MSSF, light": MSSF(Config.profile("light")),
        "Gaussian": gaussian(config),
        "nearest neighbour": NearestNeighbour(config),
        "UniAD, same backbone": UniAD(UniADConfig()),
        "MSFlow, same backbone": MSFlow(MSFlowConfig()),
        "ST-MAE, same backbone": STMAE(STMAEConfig()),
        "UniAD, EfficientNet-B4": UniAD(UniADConfig.profile("paper", weights=weights)),
    }
    for detector in detectors.values():
        detector.eval().fitted.fill_(True)
    for name in ("MSSF", "MSSF, fine", "MSSF, light"):
        detectors[f"{name}, folded"] = Folded(detectors[name])
    detectors["Gaussian, folded"] = Folded(detectors["Gaussian"])
    return detectors


@torch.no_grad()
def measure(
    detectors: Mapping[str, Detector],
    batches: Sequence[int] = (1, 8, 32),
    threads: Sequence[int] = (1, 2),
    precisions: Sequence[str] = ("default", "float32", "bfloat16"),
    rounds: int = 11,
    device: torch.device | str = "cpu",
) -> list[Row]:
    """Time all detectors in every setting.

    Args:
        detectors: from :func:`rivals`; they are moved to the device.
        batches: images in a call.
        threads: of the CPU; of no meaning on a GPU.
        precisions: any of these, see :func:`mssf_lite.device.precision`.
        rounds: see :func:`interleaved`.
        device: of torch.

    Returns:
        One row a detector, part ("whole", "backbone", on a GPU also "captured") and setting, see
        :func:`summary`.
    """
    device, before, rows = torch.device(device), torch.get_num_threads(), []
    settings = [(t, p, b) for t in threads for p in precisions for b in batches]
    parts = (whole, backbone, captured) if device.type == "cuda" else (whole, backbone)
    try:
        for count, digits, batch in tqdm(settings, desc="settings", leave=False):
            torch.set_num_threads(count)
            cases = {}
            for name, detector in detectors.items():
                images = torch.rand(batch, 3, *detector.to(device).config.image_size, device=device)
                with precision(digits):
                    cases |= {(name, part.__name__): part(detector, images) for part in parts}
            with precision(digits):
                found = interleaved(cases, rounds, device=device)
            setting = {"threads": count, "precision": digits, "batch": batch}
            for (name, part), seconds in found.items():
                rows.append({"detector": name, "part": part, **setting, **summary(seconds, batch)})
    finally:
        torch.set_num_threads(before)
    return rows


def record(detectors: Mapping[str, Detector], **settings: Any) -> Row:
    """Environment, costs and times; ``settings`` are those of :func:`measure`."""
    device = settings.get("device", "cpu")
    counted = {name: costs(detector.to(device)) for name, detector in detectors.items()}
    return {"environment": environment(device), "costs": counted, "rows": measure(detectors, **settings)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m mssf_lite.benchmark", description=__doc__)
    parser.add_argument("out", help="the record, a JSON file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precisions", nargs="+", default=["default", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=11)
    settings = vars(parser.parse_args(arguments))
    with written_whole(settings.pop("out")) as aside:
        aside.write_text(json.dumps(record(rivals(), **settings), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
