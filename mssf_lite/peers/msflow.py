"""MSFlow (Zhou et al., TNNLS 2024): a flow of its own for each scale, and a coupling where they all meet.

Written afresh from what is public of the method. ``[MSFlow]`` marks what its paper and its authors say of it,
``[ours]`` what we add or do otherwise::

    images -> frozen stages -> pooling -> MultiScaleFlow -> log p of each scale -> map and score

Three things to know before its numbers are read:

* *Rescaling.* MSFlow divides the likelihoods of an image by the largest in *that* image. A map then tells
  what is odd within its image, not how odd: the most likely location of a spoilt image is as good as that of
  a normal one, and a threshold means "so much less likely than the best location here". With
  ``rescale=False`` [ours] the same likelihoods are read as they are, as -log p in nats, and a threshold means
  the same in every image.
* *The log-determinant* is learned by, but left out of maps and scores [MSFlow]: with 3x3 subnets it belongs
  to no location.
* *The objective* is a sum over all dimensions. Its gradient is far longer than the clip allows, so that every
  step of Adam sees a direction of one length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Settings
from ..device import autocast
from ..scoring import Prediction
from .msflow_flows import NORMS, MultiScaleFlow
from .peer import Peer


@dataclass(frozen=True)
class MSFlowConfig(Settings):
    """All settings of an MSFlow run."""

    stages: tuple[str, ...] = ("blocks.1", "blocks.2", "blocks.4")  # strides 4, 8, 16 as in [MSFlow]
    pool: Literal["avg", "max", "none"] = "avg"  # of the features of each stage, stride 2 [MSFlow]
    pool_kernel: int = 3  # odd [MSFlow]
    standardise: bool = True  # centre channels, bring each stage to variance 1 over training images [ours;
    # MSFlow takes features as they come, but those of lite0 have standard deviations of 4 to 6]
    blocks: tuple[int, ...] = (2, 5, 8)  # of the chain of each stage: as many as there are stages [MSFlow]
    norm: Literal["layer", "batch", "none"] = "layer"  # inside the subnets [MSFlow]
    fusion: bool = True  # whether the scales meet [MSFlow]

    map_combine: Literal["add", "multiply"] = "add"  # likelihoods of the scales, for the map [MSFlow]
    score_combine: Literal["add", "multiply"] = "multiply"  # and for the score [MSFlow]
    top_share: float = 0.03  # the score is the mean of this share of the pixels, the highest [MSFlow]
    rescale: bool = True  # each image's likelihoods by the largest of the image [MSFlow]

    epochs: int = 20  # [ours; MSFlow: 100]
    batch: int = 16  # [MSFlow]
    learning_rate: float = 1e-3  # Adam [ours; MSFlow: 1e-4, over five times as many epochs]
    weight_decay: float = 0.0  # [MSFlow]
    clip: float = 2.0  # of the gradient of the summed objective [MSFlow]

    recipe: int = 1

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "check": {"image_size": (128, 128), "epochs": 2, "blocks": (1, 1, 2)},
        "fast": {"epochs": 4, "learning_rate": 3e-3},  # few images: less to learn, in larger steps
        "full": {},
    }

    def checks(self) -> dict[str, bool]:
        """Name of a field -> whether its value can work."""
        good = super().checks()
        good["pool"] = self.pool in ("avg", "max", "none")
        good["pool_kernel"] = self.pool_kernel % 2 == 1 and self.pool_kernel > 0
        good["blocks"] = len(self.blocks) == len(self.stages) and all(n > 0 for n in self.blocks)
        good["norm"] = self.norm in NORMS
        good |= {n: getattr(self, n) in ("add", "multiply") for n in ("map_combine", "score_combine")}
        good["top_share"] = 0 < self.top_share <= 1
        return good


class MSFlow(Peer):
    """The peer MSFlow; see :class:`mssf_lite.detector.Detector` for its contract.

    Args:
        config: see :class:`MSFlowConfig`.
        pyramid: see :class:`mssf_lite.detector.Detector`.
    """

    config: MSFlowConfig
    settings = MSFlowConfig

    def __init__(self, config: MSFlowConfig | None = None, pyramid: nn.Module | None = None):
        super().__init__(config or MSFlowConfig.profile("full"), pyramid)
        c = self.config
        self.model = MultiScaleFlow(self.pyramid.channels, c.blocks, c.fusion, c.norm, c.seed)
        for k, channels in enumerate(self.pyramid.channels):
            self.register_buffer(f"mean_{k}", torch.zeros(channels, 1, 1))
        self.register_buffer("unit", torch.ones(len(c.stages)))  # standard deviation of each stage

    def see(self, images: Tensor) -> list[Tensor]:
        """Pooled features: images (B, 3, H, W) -> (B, C_k, h_k, w_k) float32 a stage."""
        with autocast(self.device, network=True):
            stages = self.pyramid(images)
        return [self.pooled(x.float()) for x in stages]

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2), rounded up; of the same size without pooling."""
        if self.config.pool == "none":
            return x
        pool = F.avg_pool2d if self.config.pool == "avg" else F.max_pool2d
        return pool(x, self.config.pool_kernel, stride=2, padding=self.config.pool_kernel // 2)

    def prepare(self, features: list[Tensor]) -> None:
        """Centre and unit of the features (N, C_k, h_k, w_k) of each stage, over all training images."""
        if not self.config.standardise:
            return
        for k, stage in enumerate(features):
            parts = stage.split(self.config.batch)  # single precision and the device are for one at a time
            mean = sum(x.to(self.device).float().mean((2, 3)).sum(0) for x in parts) / len(stage)
            mean = mean[:, None, None]
            away = sum((x.to(self.device).float() - mean).square().mean((1, 2, 3)).sum() for x in parts)
            getattr(self, f"mean_{k}").copy_(mean)
            self.unit[k] = (away / len(stage)).sqrt().clamp_min(1e-6)

    def standardised(self, features: list[Tensor]) -> list[Tensor]:
        """What the flow is fed, (B, C_k, h_k, w_k) a stage; the features themselves without standardising."""
        return [(x - getattr(self, f"mean_{k}")) / self.unit[k] for k, x in enumerate(features)]

    def loss(self, features: list[Tensor], rng: torch.Generator) -> Tensor:
        """The objective of MSFlow; it reads in nats per dimension, without the constant.

        MSFlow sums 1/2 z^2 - log det over all dimensions of an image. The gradient given here is that of the
        sum, so that ``clip`` means what it means there; the value is divided by the number of dimensions,
        and so says the same of images of any size [ours].
        """
        with autocast(self.device):
            z, log_det = self.model(self.standardised(features))
        summed = (sum(0.5 * x.float().square().flatten(1).sum(1) for x in z) - log_det).mean()
        dimensions = sum(x[0].numel() for x in z)
        return summed - summed.detach() + summed.detach() / dimensions

    def optimizer(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Adam; the rate rises over the first 12 % of the epochs and falls to a third at 70 % and at 90 %."""
        c = self.config
        optimizer = torch.optim.Adam(self.model.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: rate(n, c.epochs))

    @torch.no_grad()
    def judge(self, features: list[Tensor], size: tuple[int, int]) -> Prediction:
        """Features of images of this size (H, W) -> their maps and scores."""
        c = self.config
        z, _ = self.model(self.standardised(features))
        log_p = [-0.5 * x.square().mean(1) for x in z]
        maps = {how: anomaly_map(log_p, size, how, c.rescale) for how in {c.map_combine, c.score_combine}}
        flat = maps[c.score_combine].flatten(1)
        top = flat.topk(max(1, round(c.top_share * flat.shape[1])), dim=1).values
        return Prediction(maps[c.map_combine], top.mean(1))


def rate(epoch: int, epochs: int) -> float:
    """Share of the learning rate in an epoch, 0 is the first: the schedule of MSFlow's 100 for any number."""
    warm = min(1.0, 0.1 + 0.9 * epoch / (0.12 * max(1, epochs)))
    return warm * 0.33 ** ((epoch >= 0.7 * epochs) + (epoch >= 0.9 * epochs))


def anomaly_map(log_p: Sequence[Tensor], size: tuple[int, int], how: str, rescale: bool) -> Tensor:
    """What all scales say together; higher is more anomalous.

    ``"add"`` adds the likelihoods of the scales. Rescaled, the most likely location of each scale counts 1,
    and the map is what a location lacks to the best sum, at most the number of scales [MSFlow]. Not rescaled,
    it is -log of their mean, in nats [ours].

    ``"multiply"`` multiplies them. Rescaled, the map is 1 minus the product over its largest in the image
    [MSFlow]. Not rescaled, it is -log of the product, in nats [ours].

    The logarithm is there because 1 - p has no digits left for what is very unlikely.

    Args:
        log_p: -1/2 of the mean of z^2 over channels, one (B, h_k, w_k) a scale.
        size: (H, W) of the image.
        how: ``"add"`` or ``"multiply"``.
        rescale: whether likelihoods are divided by the largest of their image.

    Returns:
        (B, H, W).
    """

    def highest(x: Tensor) -> Tensor:
        return x.amax((-2, -1), keepdim=True)

    def large(maps: Sequence[Tensor]) -> Tensor:
        """(scales, B, H, W)."""
        parts = [F.interpolate(x[:, None], size, mode="bilinear", align_corners=True)[:, 0] for x in maps]
        return torch.stack(parts)

    if not rescale:
        likely = large(log_p)
        return -likely.sum(0) if how == "multiply" else math.log(len(log_p)) - likely.logsumexp(0)
    if how == "multiply":
        product = large(log_p).sum(0)
        likely = (product - highest(product)).exp()
    else:
        likely = large([(x - highest(x)).exp() for x in log_p]).sum(0)
    return highest(likely) - likely
