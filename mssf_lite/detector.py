"""The contract that MSSF, its peers and the yardsticks keep: chapters and benchmarks treat them alike.

``fit(train, held_out, resume)`` is a generator that yields :class:`Progress` and never sees test data;
``predict(images)`` is ``judge(features(images))``, batch by batch, and gives a
:class:`~mssf_lite.scoring.Prediction`; ``save(path)`` and ``load(path)`` keep scores equal and unpickle
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from .config import Settings
from .features import Pyramid
from .files import written_whole
from .scoring import Prediction

Images = Sequence[Tensor] | Tensor  # (N, 3, H, W), or anything with len() whose items are (3, H, W)


@dataclass(frozen=True)
class Progress:
    """One finished epoch of any detector; what a method watches beside this it adds in a subclass."""

    epoch: int  # 1 is the first
    epochs: int
    seconds: float  # since training began
    loss: float

    def __str__(self) -> str:
        """A line for the reader who waits."""
        others = {k: v for k, v in vars(self).items() if k not in ("epoch", "epochs", "seconds")}
        words = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in others.items())
        return f"epoch {self.epoch}/{self.epochs}: {words}; {self.seconds:.0f} s"


class Detector(nn.Module):
    """Base of all detectors: images in, one map and one score each out.

    A subclass gives ``fit``, ``see`` and ``judge``, and names its kind of settings. Its state (without
    the frozen network) is what a checkpoint holds.

    Args:
        config: of the subclass's kind.
        pyramid: a frozen network that is at hand already; None loads the one that the config names.
    """

    registry: ClassVar[dict[str, type[Detector]]] = {}

    settings: ClassVar[type[Settings]] = Settings
    least: int = 32  # pixels that each side of an image must have

    def __init__(self, config: Settings, pyramid: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.pyramid = Pyramid(config.backbone, config.stages, config.weights) if pyramid is None else pyramid
        self.register_buffer("fitted", torch.tensor(False))

    def __init_subclass__(cls) -> None:
        """A checkpoint names its class; this is where the name is looked up."""
        Detector.registry[cls.__name__] = cls

    @property
    def device(self) -> torch.device:
        """Where the model lives; images are moved there."""
        return self.fitted.device

    def sizes(self) -> dict[str, int]:
        """How many numbers it has: ``trainable`` ones, and ``frozen`` ones with those of the network."""
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        everything = sum(v.numel() for v in [*self.parameters(), *self.buffers()])
        return {"trainable": trainable, "frozen": everything - trainable}

    def fit(self, train: Images, held_out: Images, resume: str | Path | None = None) -> Iterator[Progress]:
        """Learn what is normal.

        Args:
            train: normal images, (N, 3, H, W) in [0, 1].
            held_out: normal images of other physical items, for scales and for watching the training.
            resume: a file that keeps the state of training between epochs, so that a killed run goes on from
                it. Detectors without epochs write and read none.
        """
        raise TypeError(f"{type(self).__name__} does not say how it learns: give it a fit()")

    def views(self, images: Tensor) -> list[Tensor]:
        """The sizes at which the frozen network sees images (B, 3, H, W): as they are."""
        return [images]

    def see(self, images: Tensor) -> list[Tensor]:
        """What the detector takes from the frozen network.

        Args:
            images: (B, 3, H, W) in [0, 1], on the detector's device; not checked.

        Returns:
            (B, C, h, w) tensors, as many as :meth:`judge` wants.
        """
        raise TypeError(f"{type(self).__name__} does not say what it looks at: give it see()")

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """As :meth:`see`, of images on any device, which are checked.

        Raises:
            ValueError: images of the wrong shape, type or range.
        """
        check_images(images, self.least)
        return self.see(images.to(self.device))

    def judge(self, features: list[Tensor], size: tuple[int, int]) -> Prediction:
        """Features of images of this size (H, W) -> their maps and scores."""
        raise TypeError(f"{type(self).__name__} does not say how it scores: give it judge()")

    @torch.no_grad()
    def predict(self, images: Images) -> Prediction:
        """Anomaly maps and scores, on the CPU.

        Args:
            images: (B, 3, H, W) in [0, 1], or a sequence of (3, H, W), which may differ in size; any H and W
                that hold two strides at the smallest zoom.

        Raises:
            RuntimeError: the detector was not fitted.
            ValueError: images of the wrong shape, type or range.
        """
        if not self.fitted:
            raise RuntimeError(
                f"this {type(self).__name__} was not fitted: run fit(train, held_out) to its end, or load()"
            )
        if len(images) == 0:
            raise ValueError("predict() got no images: give at least one")
        self.eval()
        found = []
        for batch in batches(images, self.config, "scoring"):
            maps, scores = self.judge(self.features(batch), tuple(batch.shape[-2:]))
            found.append((maps.cpu(), scores.cpu()))
        maps, scores = zip(*found, strict=True)
        return Prediction(together(maps), torch.cat(scores))

    def save(self, path: str | Path) -> None:
        """Write config and learned state to one ``.safetensors`` file, atomically."""
        state = {k: v.contiguous() for k, v in self.state_dict().items() if not k.startswith("pyramid.")}
        about = {
            "method": type(self).__name__,
            "config": self.config.to_dict(),
            "backbone": self.pyramid.digest,
        }
        with written_whole(path) as aside:
            safetensors.torch.save_file(state, aside, metadata={"mssf_lite": json.dumps(about)})


def load(path: str | Path, device: str | torch.device = "cpu") -> Detector:
    """A detector from its checkpoint; scores are those it had when it was saved.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this package, of an unknown method, or its frozen network has other
            weights here.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["mssf_lite"])
        state = safetensors.torch.load_file(path)
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of mssf_lite ({error}): give a file written by save()"
        ) from None
    if about["method"] not in Detector.registry:
        raise ValueError(f"{path} holds a {about['method']!r}: import the module that defines it first")
    method = Detector.registry[about["method"]]
    config, today = method.settings.from_dict(about["config"]), method.settings.recipe
    if config.recipe != today:
        raise ValueError(
            f"{path} was made by recipe {config.recipe} of {about['method']}, which now follows recipe "
            f"{today}: train again"
        )
    detector = method(config)
    if detector.pyramid.digest != about["backbone"]:
        raise ValueError(
            f"{path} was made with other weights of {detector.config.backbone} (digest {about['backbone']}, "
            f"here {detector.pyramid.digest}): give the same weights by Config.weights"
        )
    own = {k for k in detector.state_dict() if not k.startswith("pyramid.")}
    if own != state.keys():
        raise ValueError(
            f"{path} does not fit its own config: entries {sorted(own ^ state.keys())[:3]} differ"
        )
    detector.load_state_dict(state, strict=False)  # equal but for the frozen network: checked above
    return detector.to(device).eval()


def batches(images: Images, config: Settings, title: str | None = None) -> Iterator[Tensor]:
    """The images in their order as (b, 3, H, W) float32; with a bar if there is a title and much to wait for.

    A batch holds images of one size: ``config.batch`` of ``config.image_size``, and of larger ones fewer, so
    that strips of fabric need no more memory than squares.
    """
    batch: list[Tensor] = []
    quiet = title is None or len(images) <= config.batch
    for i in tqdm(range(len(images)), desc=title, leave=False, disable=quiet):
        image = images[i]
        if image.dtype == torch.half:  # how fit() keeps images
            image = image.float()
        if batch and (image.shape != batch[0].shape or len(batch) >= room(batch[0], config)):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.stack(batch)


def room(image: Tensor, config: Settings) -> int:
    """How many images of this size (3, H, W) make a batch."""
    share = config.image_size[0] * config.image_size[1] / (image.shape[-2] * image.shape[-1])
    return max(1, int(config.batch * min(1.0, share)))


def together(parts: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Batches of maps (b, H, W) as one (N, H, W), or as a list of N maps where their sizes differ."""
    if len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))
    return [one for part in parts for one in part]


def check_given(train: Images, held_out: Images) -> None:
    """Refuse to fit on nothing.

    Raises:
        ValueError: one of them is empty.
    """
    for name, images in (("train", train), ("held_out", held_out)):
        if len(images) == 0:
            raise ValueError(f"fit() got no {name} images: both train and held_out need normal images")


def check_images(images: Tensor, least: int) -> None:
    """Refuse what would give silent nonsense; ``least`` is the smallest side in pixels.

    Raises:
        ValueError: names what is wrong with the batch and what to do.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be (B, 3, H, W), got {tuple(images.shape)}: repeat a grey channel three times"
        )
    if min(images.shape[-2:]) < least:
        raise ValueError(
            f"images of {tuple(images.shape[-2:])} are too small: at least {least} pixels a side"
        )
    if not images.is_floating_point():
        raise ValueError(f"images must be float in [0, 1], got {images.dtype}: divide by 255")
    low, high = (value.item() for value in torch.aminmax(images))
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"images must lie in [0, 1], got [{low:.3g}, {high:.3g}]: divide by 255, do not normalise"
        )
