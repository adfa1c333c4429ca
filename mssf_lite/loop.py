"""What every training here rests on: chance from a seed, a state that survives a killed run, a plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import parallel
from .config import Settings
from .detector import Images, Progress, batches
from .files import written_whole

P = TypeVar("P", bound=Progress)


def seeded(*seed: int) -> torch.Generator:
    """A generator of its own for each tuple of integers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


@torch.no_grad()
def remember(
    see: Callable[[Tensor], list[Tensor]], images: Images, config: Settings, title: str
) -> list[list[Tensor]]:
    """What ``see`` makes of all images: the network is frozen, so one look at each is enough.

    Args:
        see: a batch of images (b, 3, H, W) -> (b, C, h, w) tensors.
        images: those of one size together, see :func:`by_size`, or batches are small.
        config: ``batch`` and ``image_size`` set the size of batches.
        title: of the progress bar.

    Returns:
        For each size of image, in the order in which they come: (N, C, h, w) tensors in half precision, in
        main memory.
    """
    parts: dict[torch.Size, list[list[Tensor]]] = {}
    for batch in batches(images, config, title):
        parts.setdefault(batch.shape[2:], []).append([x.half().cpu() for x in see(batch)])
    return [[torch.cat(kind) for kind in zip(*of_size, strict=True)] for of_size in parts.values()]


def by_size(images: Iterable[Tensor]) -> list[Tensor]:
    """The images (3, H, W) with those of one size together, otherwise in their order."""
    parts: dict[torch.Size, list[Tensor]] = {}
    for image in images:
        parts.setdefault(image.shape, []).append(image)
    return [image for of_size in parts.values() for image in of_size]


def shuffled(counts: Sequence[int], batch: int, rng: torch.Generator) -> list[tuple[int, Tensor]]:
    """An epoch's batches in random order; a batch holds images of one size.

    Args:
        counts: how many images there are of each size.
        batch: the most images of a batch.
        rng: source of chance.

    Returns:
        Which size, and the numbers of its images, a batch.
    """
    found = [
        (size, chosen)
        for size, count in enumerate(counts)
        for chosen in torch.randperm(count, generator=rng).split(batch)
    ]
    if len(counts) == 1:  # in random order already
        return found
    return [found[i] for i in torch.randperm(len(found), generator=rng)]


def fingerprint(images: Sequence[Tensor]) -> str:
    """Words that tell these training images, or their features, from others."""
    bright = sum(image.float().mean().item() for image in images) / len(images)
    return f"{len(images)} images, {bright:.4f} bright"


class State(Generic[P]):
    """The state of a training run between epochs, kept in a file so that a killed run can go on.

    Args:
        path: the file; None keeps nothing.
        config: of the run.
        parts: name -> what is kept (it has ``state_dict`` and ``load_state_dict``); set to what the file
            holds, if it is there.
        data: words that tell the training images from others.
        kind: of progress that the run reports.

    Raises:
        ValueError: the file is not the state of this run.
    """

    def __init__(
        self, path: Path | None, config: Settings, parts: Mapping[str, Any], data: str, kind: type[P]
    ):
        self.path, self.parts = path, parts
        self.run = f"{config.to_dict()}, {data}"
        self.history: list[P] = []
        if path is None or not path.exists():
            return
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            same = kept["run"] == self.run
        except Exception as error:  # whatever a damaged file makes of itself
            raise ValueError(f"{path} is no state of a training run ({error}): delete it") from None
        if not same:
            raise ValueError(f"{path} is of another run: delete it to begin afresh, or name another")
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        self.history = [kind(**epoch) for epoch in kept["history"]]

    def keep(self, done: P) -> None:
        """Write the state after an epoch; of a group only the first process writes."""
        self.history.append(done)
        if self.path is None or parallel.place()[0]:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        history = [asdict(epoch) for epoch in self.history]
        with written_whole(self.path) as aside:
            torch.save(state | {"run": self.run, "history": history}, aside)


@dataclass(frozen=True)
class PlainProgress(Progress):
    """One finished epoch of a detector that learns by one loss."""

    held_out_loss: float  # the same loss on normal images it was not trained on


def train_epochs(
    model: nn.Module,
    config: Settings,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loss_of: Callable[[list[Tensor], torch.Generator], Tensor],
    train: list[Tensor],
    held_out: list[Tensor],
    resume: Path | None = None,
) -> Iterator[PlainProgress]:
    """Train by one loss on features that are kept; yields after every epoch, the schedule steps with it.

    Args:
        model: what is trained; its parameters are the optimizer's.
        config: ``epochs``, ``batch``, ``clip`` and ``seed`` are used.
        optimizer, schedule: of torch.
        loss_of: features of a batch, float32 on the model's device, and a source of chance -> the loss.
        train, held_out: features of all images, (N, C, h, w) tensors of any precision in main memory.
        resume: see :meth:`mssf_lite.detector.Detector.fit`; removed at the end.

    Raises:
        FloatingPointError: the loss is not finite; the message says what to change.
        ValueError: ``resume`` holds the state of another run.
    """
    started = time.perf_counter()
    device = next(model.parameters()).device
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state = State(resume, config, parts, fingerprint(train[0]), PlainProgress)
    yield from state.history
    started -= state.history[-1].seconds if state.history else 0

    def loss(features: list[Tensor], chosen: Tensor, rng: torch.Generator) -> Tensor:
        return loss_of([x[chosen].to(device).float() for x in features], rng)

    for epoch in range(len(state.history) + 1, config.epochs + 1):
        rng = seeded(config.seed, 3, epoch)
        order, total = torch.randperm(len(train[0]), generator=rng).split(config.batch), 0.0
        model.train()
        for chosen in tqdm(order, desc=f"epoch {epoch} of {config.epochs}", leave=False):
            value = loss(train, chosen, rng)
            if not value.isfinite():
                raise FloatingPointError(f"loss is {value.item()} in epoch {epoch}: lower learning_rate")
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            total += value.item() * len(chosen)
        schedule.step()
        model.eval()
        with torch.no_grad():
            parts_of = torch.arange(len(held_out[0])).split(config.batch)
            watched = sum(loss(held_out, c, seeded(config.seed, 4)).item() * len(c) for c in parts_of)
        means = total / len(train[0]), watched / len(held_out[0])
        done = PlainProgress(epoch, config.epochs, time.perf_counter() - started, *means)
        state.keep(done)
        yield done
    if resume:
        resume.unlink(missing_ok=True)
