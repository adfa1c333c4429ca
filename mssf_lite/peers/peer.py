"""What the peers share: learning by one loss on remembered features, looking at larger images in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Settings
from ..detector import Detector, Images, check_given
from ..device import autocast
from ..loop import PlainProgress, remember, train_epochs


@dataclass(frozen=True)
class GridSettings(Settings):
    """What a peer that knows one grid only has to say beside the rest."""

    stride: int = 16  # of the grid that all stages are brought to, in pixels

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the features of an image of ``image_size``."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride


class Peer(Detector):
    """A detector whose one trainable part, ``self.model``, learns by one loss on features that are kept.

    A subclass sets ``self.model`` and gives ``see``, ``loss``, ``optimizer`` and ``judge``; also ``prepare``
    if something has to be read off the training features first.
    """

    model: nn.Module

    def prepare(self, features: list[Tensor]) -> None:
        """Set what is not learned step by step, such as the unit of a channel; by default nothing.

        Args:
            features: of all training images, as from :meth:`see`, in half precision and main memory.
        """

    def loss(self, features: list[Tensor], rng: torch.Generator) -> Tensor:
        """Features of a batch, as from :meth:`see` -> a scalar."""
        raise TypeError(f"{type(self).__name__} does not say what it learns by: give it loss()")

    def optimizer(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Of ``self.model``; the schedule steps once an epoch."""
        raise TypeError(f"{type(self).__name__} does not say how it is optimised: give it optimizer()")

    def fit(
        self, train: Images, held_out: Images, resume: str | Path | None = None
    ) -> Iterator[PlainProgress]:
        """Learn what is normal; yields after every epoch. See :meth:`mssf_lite.detector.Detector.fit`.

        Raises:
            ValueError: besides, images of several sizes: a peer learns from one.
        """
        check_given(train, held_out)
        self.fitted.fill_(False)
        kept = []
        for images, title in ((train, "features of normal images"), (held_out, "held-out images")):
            first, *others = remember(self.features, images, self.config, title)
            if others:
                name = type(self).__name__
                raise ValueError(f"{name} learns from images of one size, got several: resize or tile them")
            kept.append(first)
        self.prepare(kept[0])
        resume = Path(resume) if resume else None
        yield from train_epochs(self.model, self.config, *self.optimizer(), self.loss, *kept, resume)
        self.fitted.fill_(True)


class GridPeer(Peer):
    """A peer that reconstructs features on one grid: it refuses images smaller than those of training.

    Larger ones are looked at in windows, see :func:`in_windows`.
    """

    config: GridSettings

    def __init__(self, config: GridSettings, pyramid: nn.Module | None = None):
        super().__init__(config, pyramid)
        self.least = min(config.image_size)

    def fit(
        self, train: Images, held_out: Images, resume: str | Path | None = None
    ) -> Iterator[PlainProgress]:
        """See :meth:`Peer.fit`.

        Raises:
            ValueError: besides, images that are not of the config's ``image_size``.
        """
        for image in (images[0] for images in (train, held_out) if len(images)):
            size, own = tuple(image.shape[-2:]), tuple(self.config.image_size)
            if size != own:
                raise ValueError(
                    f"{type(self).__name__} knows images of one size, its image_size {own}, and got {size}: "
                    f"set image_size={size}"
                )
        yield from super().fit(train, held_out, resume)

    def see(self, images: Tensor) -> list[Tensor]:
        """All stages on one grid, bilinear: one (B, C, H // stride, W // stride)."""
        grid = tuple(side // self.config.stride for side in images.shape[-2:])
        with autocast(self.device, network=True):
            stages = [stage.float() for stage in self.pyramid(images)]
        # the rule of pixel centres: a texture looks the same in an image of any size [ours]
        return [torch.cat([F.interpolate(x, grid, mode="bilinear", align_corners=False) for x in stages], 1)]


def channel_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel over some 500 images, (N, C, h, w) -> two of (C, 1, 1)."""
    some = features[:: max(1, len(features) // 500)].float()
    return some.mean((0, 2, 3))[:, None, None], some.std((0, 2, 3)).clamp_min(1e-6)[:, None, None]


def in_windows(function: Callable[[Tensor], Tensor], x: Tensor, window: tuple[int, int]) -> Tensor:
    """Apply a function that knows one grid only to a larger one, window by window.

    Args:
        function: (B, C, h, w) -> (B, D, h, w), for (h, w) = ``window``.
        x: (B, C, H, W), H >= h and W >= w.
        window: (h, w). Windows do not overlap, but the last of a row or column ends with x; what it repeats
            is overwritten.

    Returns:
        (B, D, H, W).

    Raises:
        ValueError: x is smaller than the window.
    """
    (H, W), (h, w) = x.shape[-2:], window
    if h > H or w > W:
        raise ValueError(
            f"a grid of {(H, W)} is smaller than the one that was trained, {(h, w)}: enlarge the image"
        )
    out = None
    for top in [min(y, H - h) for y in range(0, H, h)]:
        for left in [min(y, W - w) for y in range(0, W, w)]:
            part = function(x[..., top : top + h, left : left + w])
            if out is None:
                out = part.new_empty(*part.shape[:2], H, W)
            out[..., top : top + h, left : left + w] = part
    return out
