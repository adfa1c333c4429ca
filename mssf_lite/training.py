"""Training of the flow: a generator that never sees test data.

The network is frozen, so features of the normal images are computed once and kept in half precision; synthetic
twins are drawn afresh in every epoch, which costs one pass of the network. All chance comes from the seed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm.auto import tqdm

from .detector import Images, Progress, batches, check_images
from .losses import boundary, hindering_loss, hindering_weight
from .scoring import add_scales, image_score
from .synthesis import MAS

if TYPE_CHECKING:
    from .mssf import MSSF

TOUCHED = 0.1  # a location is synthetic if a defect covers at least this share of its cell [ours]


def seeded(*seed: int) -> torch.Generator:
    """A generator of its own for each tuple of integers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


def synthetic_locations(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which cells of a grid a synthetic defect touches, (B, H, W) bool -> (B, h, w) bool."""
    return adaptive_avg_pool2d(masks.float()[:, None], grid)[:, 0] >= TOUCHED


def train_flow(model: MSSF, train: Images, held_out: Images) -> Iterator[Progress]:
    """Train ``model.flow`` with AdamW on likelihood and hindering; yields after every epoch.

    Args:
        model: an MSSF whose whitening is fitted.
        train, held_out: see :meth:`mssf_lite.mssf.MSSF.fit`.

    Raises:
        FloatingPointError: the loss is not finite; the message says what to change.
    """
    c, device = model.config, model.device
    if c.epochs == 0:
        return
    started = time.perf_counter()
    # images are read (or drawn) once: half precision holds their 8 bits exactly enough and halves the memory
    pixels = torch.cat([batch.half() for batch in batches(train, c.batch)])
    normal = cache(model, train, "normal features")
    watch = cache(model, held_out, "held-out features")
    # held-out twins are drawn once, so that epochs compare
    twin_parts, rng = [], seeded(c.seed, 1)
    for batch in batches(held_out, c.batch):
        twin_parts.append([x.half() for x in model.whitened(MAS()(batch, rng).images)])
    watch_twins = [torch.cat(parts) for parts in zip(*twin_parts, strict=True)]

    optimizer = torch.optim.AdamW(model.flow.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay)
    steps = -(-len(train) // c.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=c.learning_rate, total_steps=c.epochs * steps, pct_start=0.2, cycle_momentum=False
    )
    for epoch in range(1, c.epochs + 1):
        rng = seeded(c.seed, 2, epoch)
        order = torch.randperm(len(train), generator=rng)
        sums = np.zeros(3)
        model.train()
        for step, chosen in enumerate(
            tqdm(order.split(c.batch), desc=f"epoch {epoch}/{c.epochs}", leave=False)
        ):
            progress = ((epoch - 1) * steps + step) / (c.epochs * steps)
            weight = hindering_weight(progress, c)
            clean = [x[chosen].to(device).float() for x in normal]
            nll, hindering = losses(model, clean, pixels[chosen].float() if weight else None, rng)
            loss = nll + weight * hindering
            if not loss.isfinite():
                raise FloatingPointError(
                    f"loss is {loss.item()} in epoch {epoch} (nll {nll.item():.3g}, hindering {hindering.item():.3g}): "
                    "lower learning_rate, clamp or hindering_weight"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.flow.parameters(), c.clip)
            optimizer.step()
            schedule.step()
            sums += np.array([loss.item(), nll.item(), hindering.item()]) * len(chosen)
        held_out_nll, held_out_auroc = evaluate_held_out(model, watch, watch_twins)
        loss_mean, nll_mean, hindering_mean = (sums / len(train)).tolist()
        yield Progress(
            epoch, c.epochs, time.perf_counter() - started, loss_mean, nll_mean, hindering_mean, weight,
            held_out_nll, held_out_auroc,
        )  # fmt: skip


def losses(
    model: MSSF, clean: list[Tensor], images: Tensor | None, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of normal locations and hindering loss of their synthetic twins.

    Both branches go through the same flow at every scale; each scale has its own boundary.

    Args:
        model: the model, its flow in training mode.
        clean: whitened features of a batch, one (B, C, h_s, w_s) a scale.
        images: the same batch as images, or None while nothing is hindered.
        rng: where the twins come from.

    Returns:
        Two scalars, averaged over scales, in nats per dimension.
    """
    normal = [model.log_likelihood(x, s) for s, x in enumerate(clean)]
    nll = -torch.stack([value.mean() for value in normal]).mean()
    if images is None:
        return nll, nll.new_zeros(())
    twins = MAS()(images, rng)
    parts = []
    for s, x in enumerate(model.whitened(twins.images)):
        synthetic = model.log_likelihood(x, s)
        touched = synthetic_locations(twins.masks, synthetic.shape[-2:]).to(synthetic.device)
        parts.append(hindering_loss(synthetic[touched], boundary(normal[s], model.config)))
    return nll, torch.stack(parts).mean()


@torch.no_grad()
def cache(model: MSSF, images: Images, title: str) -> list[Tensor]:
    """Whitened features of all images, one (N, C, h_s, w_s) a scale, half precision, in main memory."""
    parts = [
        [x.half().cpu() for x in model.whitened(batch)]
        for batch in batches(images, model.config.batch, title)
    ]
    return [torch.cat(scale) for scale in zip(*parts, strict=True)]


@torch.no_grad()
def evaluate_held_out(model: MSSF, normal: list[Tensor], twins: list[Tensor]) -> tuple[float, float]:
    """Held-out evidence for choosing settings without any test image.

    Returns:
        Negative log-likelihood of held-out normals, nats per dimension, and image AUROC of held-out normals
        against their synthetic twins.
    """
    model.eval()
    c = model.config

    def maps(features: list[Tensor]) -> list[Tensor]:
        return [
            torch.cat([-model.log_likelihood(x.to(model.device).float(), s) for x in scale.split(c.batch)])
            for s, scale in enumerate(features)
        ]

    plain, changed = maps(normal), maps(twins)
    means = torch.stack([m.mean() for m in plain])
    stds = torch.stack([m.std() for m in plain])
    scores = [
        image_score(add_scales(m, means, stds, tuple(plain[0].shape[-2:])), c.top_share)
        for m in (plain, changed)
    ]
    labels = np.repeat([False, True], [len(scores[0]), len(scores[1])])
    return means.mean().item(), float(roc_auc_score(labels, torch.cat(scores).cpu().numpy()))
