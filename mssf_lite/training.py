"""Training of the flow: a generator that never sees test data.

The network is frozen, so the features of normal images and of their synthetic twins are computed once and
kept in half precision; an epoch costs no pass of the network. All chance comes from the seed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm.auto import tqdm

from . import parallel
from .detector import Images, Progress
from .device import autocast
from .loop import State, fingerprint, remember, seeded, shuffled
from .losses import boundary, hindering_loss, hindering_weight, log_likelihood
from .scoring import image_score, moments, standardised
from .synthesis import MAS

if TYPE_CHECKING:
    from .mssf import MSSF

TOUCHED = 0.1  # a location is synthetic if a defect covers at least this share of its cell [ours]
SAMPLED = (
    0.25  # share of an image's normal locations that one step looks at; neighbours are much alike [ours]
)


@dataclass(frozen=True)
class FlowProgress(Progress):
    """One finished epoch of the flow. Likelihoods are in nats per dimension, without the constant."""

    nll: float  # of normal training locations
    hindering: float  # mean excess of synthetic locations over the boundary, before its weight
    weight: float  # lambda(t)
    held_out_nll: float  # of normal images the flow was not trained on
    held_out_auroc: float  # held-out normals against synthetic twins of them, by image score


def synthetic_locations(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which cells of a grid a synthetic defect touches, (B, H, W) bool -> (B, h, w) bool."""
    return adaptive_avg_pool2d(masks.float()[:, None], grid)[:, 0] >= TOUCHED


@torch.no_grad()
def fit_whitening(model: MSSF, train: Images) -> list[list[Tensor]]:
    """Fit the whitening of every scale in closed form, in one pass over the images.

    Returns:
        The whitened features of all images: for each size of image one (N, C, h_s, w_s) a scale, half
        precision, in main memory.
    """

    def see(batch: Tensor) -> list[Tensor]:
        fused = model.features(batch)
        for whitening, x in zip(model.whitening, fused, strict=True):
            whitening.update(x)
        return fused

    kept = remember(see, train, model.config, "features of normal images")
    for s, whitening in enumerate(model.whitening):
        whitening.solve()
        for of_size in kept:
            parts = of_size[s].split(model.config.batch)
            of_size[s] = torch.cat([whitening(x.to(model.device).float()).half().cpu() for x in parts])
    return kept


def train_flow(
    model: MSSF,
    normal: list[list[Tensor]],
    train: Sequence[Tensor],
    held_out: Images,
    resume: Path | None = None,
) -> Iterator[FlowProgress]:
    """Train ``model.flow`` with AdamW on likelihood and hindering; yields after every epoch.

    In a group of processes each takes its share of every batch, see :mod:`mssf_lite.parallel`.

    Args:
        model: an MSSF whose whitening is fitted.
        normal: whitened features of ``train``, see :func:`fit_whitening`.
        train: the normal images (3, H, W), those of one size together; twins are made of them.
        held_out: see :meth:`mssf_lite.mssf.MSSF.fit`.
        resume: see :meth:`mssf_lite.mssf.MSSF.fit`.

    Raises:
        FloatingPointError: the loss is not finite; the message says what to change.
        ValueError: ``resume`` holds the state of another run.
    """
    c = model.config
    if c.epochs == 0:
        return
    started = time.perf_counter()
    rank, world = parallel.place()
    twins, touched = draw_twins(model, train, seeded(c.seed, 1), "synthetic twins")
    watched_twins, _ = draw_twins(model, held_out, seeded(c.seed, 2), "held-out twins")
    watched = remember(model.whitened, held_out, c, "held-out images")

    optimizer = torch.optim.AdamW(model.flow.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay)
    counts = [len(of_size[0]) for of_size in normal]
    steps = sum(-(-count // c.batch) for count in counts)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=c.learning_rate, total_steps=c.epochs * steps, pct_start=0.2, cycle_momentum=False
    )
    parts = {"flow": model.flow, "optimizer": optimizer, "schedule": schedule}
    state = State(resume, c, parts, fingerprint(train), FlowProgress)
    yield from state.history
    started -= state.history[-1].seconds if state.history else 0
    loss_of = parallel.spread(model.flow, partial(losses, model))
    for epoch in range(len(state.history) + 1, c.epochs + 1):
        rng = seeded(c.seed, 3, epoch)
        order = shuffled(counts, c.batch, rng)
        sums = torch.zeros(3, device=model.device)
        model.train()
        for step, (size, chosen) in enumerate(tqdm(order, desc=f"epoch {epoch} of {c.epochs}", leave=False)):
            progress = ((epoch - 1) * steps + step) / (c.epochs * steps)
            weight = hindering_weight(progress, c)
            keep = [sampled(len(chosen), tuple(x.shape[2:]), rng)[rank::world] for x in normal[size]]
            own = chosen[rank::world]
            clean = [x[own].to(model.device).float() for x in normal[size]]
            spoilt = [x[own].to(model.device).float() for x in twins[size]] if weight else []
            with autocast(model.device):
                nll, hindering = loss_of(clean, spoilt, keep, [x[own] for x in touched[size]])
            loss = nll + weight * hindering
            terms = parallel.total(torch.stack([loss, nll, hindering]))
            if not terms.isfinite().all():
                raise FloatingPointError(
                    f"loss is {terms[0].item()} in epoch {epoch} (nll {terms[1].item():.3g}, hindering "
                    f"{terms[2].item():.3g}): lower learning_rate, clamp or hindering_weight"
                )
            optimizer.zero_grad(set_to_none=True)
            (world * loss).backward()  # each process has a part of the mean: parts are added, not averaged
            torch.nn.utils.clip_grad_norm_(model.flow.parameters(), c.clip)
            optimizer.step()
            schedule.step()
            sums += terms * len(chosen)
        means = (sums / len(train)).tolist()
        judged = judge_held_out(model, watched, watched_twins)
        done = FlowProgress(epoch, c.epochs, time.perf_counter() - started, *means, weight, *judged)
        state.keep(done)
        yield done


def sampled(images: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Which locations of a batch one step looks at, (images, h, w) bool: one at least."""
    keep = torch.rand(images, *grid, generator=rng) < SAMPLED
    keep[0, 0, 0] = True  # on the smallest of grids too
    return keep


@torch.no_grad()
def draw_twins(
    model: MSSF, images: Images, rng: torch.Generator, title: str
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """A synthetic twin of every image, as the flow sees it.

    Returns:
        For each size of image: whitened features, one (N, C, h_s, w_s) half-precision tensor a scale; and
        which of their locations are synthetic, one (N, h_s, w_s) bool a scale; both in main memory.
    """

    def see(batch: Tensor) -> list[Tensor]:
        twins = MAS(kinds=model.config.kinds)(batch, rng)
        features = model.whitened(twins.images)
        return features + [synthetic_locations(twins.masks, tuple(x.shape[-2:])) for x in features]

    kept, scales = remember(see, images, model.config, title), len(model.scales)
    touched = [[x.bool() for x in of_size[scales:]] for of_size in kept]
    return [of_size[:scales] for of_size in kept], touched


def losses(
    model: MSSF, clean: list[Tensor], twins: list[Tensor], keep: list[Tensor], touched: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of normal locations and hindering loss of their synthetic twins.

    Both branches go through the same flow at every scale; each scale has its own boundary.

    Args:
        model: the model, its flow in training mode.
        clean: whitened features of a batch, one (B, C, h_s, w_s) a scale.
        twins: the same of its twins; empty while nothing is hindered.
        keep: the normal locations to look at, one (B, h_s, w_s) bool a scale.
        touched: the synthetic locations, likewise.

    Returns:
        Two scalars, averaged over scales, in nats per dimension; in a group, this process's parts of them.
    """
    normal = [model.log_likelihood_at(x, s, keep[s].to(x.device)) for s, x in enumerate(clean)]
    nll = -torch.stack([parallel.mean(value) for value in normal]).mean()
    parts = [
        hindering_loss(
            model.log_likelihood_at(x, s, touched[s].to(x.device)), boundary(normal[s], model.config)
        )
        for s, x in enumerate(twins)
    ]
    return nll, torch.stack(parts).mean() if parts else nll.new_zeros(())


@torch.no_grad()
def judge_held_out(model: MSSF, normal: list[list[Tensor]], twins: list[list[Tensor]]) -> tuple[float, float]:
    """Held-out evidence for choosing settings without any test image.

    Args:
        model: the model.
        normal, twins: whitened features of held-out images and of their twins, for each size of image one
            (N, C, h_s, w_s) a scale.

    Returns:
        Negative log-likelihood of held-out normals, nats per dimension, and image AUROC of held-out normals
        against their synthetic twins.
    """
    model.eval()
    c = model.config

    def through(stored: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Raw maps of every scale, batch by batch, and log-likelihoods of every scale."""
        maps, likelihoods = [], []
        for s in range(len(model.scales)):
            rows = []
            for part in (part for of_size in stored for part in of_size[s].split(c.batch)):
                x = part.to(model.device).float()
                z, log_det = model.latent(x, s)
                rows.append((model.raw_map_of(x, z, log_det), log_likelihood(z, log_det).flatten()))
            of_scale, likelihood = zip(*rows, strict=True)
            maps.append(list(of_scale))
            likelihoods.append(torch.cat(likelihood))
        return maps, likelihoods

    (plain, likelihoods), (changed, _) = through(normal), through(twins)
    units = [moments(raw, c.rings) for raw in plain]
    scores = []
    for maps in (plain, changed):
        scaled = [[standardised(raw, *unit) for raw in of] for of, unit in zip(maps, units, strict=True)]
        scores.append(torch.cat([image_score(batch, c.top_share) for batch in zip(*scaled, strict=True)]))
    labels = np.repeat([False, True], [len(scores[0]), len(scores[1])])
    auroc = float(roc_auc_score(labels, torch.cat(scores).cpu().numpy()))
    return -torch.stack([value.mean() for value in likelihoods]).mean().item(), auroc
