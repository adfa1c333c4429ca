"""ST-MAE (Yao, Wang, Yu, 2022): each half of the features has to foretell the other.

The features of an image are cut into patches, and the patches decoupled into two disjoint halves. One
*Siamese* encoder, the same weights for both, reads each half; what it makes of one half is carried over to
the places of the other (*latent transition*), and a light decoder turns it into the features there. No patch
is ever reconstructed from itself, so a defect cannot simply be copied; where the features are far from what
the other half expects, something is not normal.

That much is said by the public abstract [paper]. Sizes and the score are not public: the form of the loss
and of the score follow a re-implementation by others [secondary source], the rest is [ours].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..device import autocast
from ..loop import seeded
from ..scoring import Prediction, enlarged, image_score
from .peer import GridPeer, GridSettings, channel_moments, in_windows


@dataclass(frozen=True)
class STMAEConfig(GridSettings):
    """All settings of an ST-MAE run."""

    stages: tuple[str, ...] = ("blocks.1", "blocks.2", "blocks.4")  # hierarchical, shallow to deep [paper];
    # which: 24 + 40 + 112 channels of lite0 [ours; secondary source: four layers of VGG-19, 960 channels]
    stride: int = 8  # of the grid that all stages are brought to, in pixels [ours; secondary source: 4]

    patch: int = 2  # side of a patch, in places of that grid [ours; secondary source: 4]
    width: int = 192  # of a token in the encoder [ours; secondary source: 240 to 768]
    heads: int = 6  # [ours; secondary source: 12]
    layers: int = 4  # of the encoder [ours; secondary source: 12]
    decoder_width: int = 128  # [ours; secondary source: 256 to 512]
    decoder_heads: int = 4  # [ours]
    decoder_layers: int = 2  # the decoder is light [paper; ours: how light; secondary source: 8]

    cosine_weight: float = 5.0  # of 1 - cosine in the loss, beside the squared error [secondary source]
    maskings: int = 2  # ways to cut an image in halves, whose maps are averaged [ours; secondary: several]
    top_share: float = 0.03  # the image score is the mean of this share of the map, as MSSF's [ours;
    # secondary source: the largest value, which found fewer of the drawn defects]

    epochs: int = 8  # [ours; secondary source: 400]
    batch: int = 4  # [ours, for more steps; secondary source: 8]
    learning_rate: float = 1e-3  # at the start, falling to 0 along a cosine [ours; secondary source: 1e-4]
    weight_decay: float = 0.05  # [secondary source]

    recipe: int = 1

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "check": {
            "image_size": (128, 128),
            "width": 48,
            "layers": 1,
            "decoder_width": 32,
            "decoder_layers": 1,
            "epochs": 2,
        },
        "fast": {"epochs": 4},
        "full": {},
    }

    def checks(self) -> dict[str, bool]:
        """Name of a field -> whether its value can work."""
        good = super().checks() | {
            name: getattr(self, name) > 0
            for name in ("stride", "patch", "heads", "layers", "decoder_heads", "decoder_layers", "maskings")
        }
        good["cosine_weight"] = self.cosine_weight >= 0
        good["top_share"] = 0 < self.top_share <= 1
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            if good[heads]:  # heads share the width; codes of places share it by four
                value = getattr(self, width)
                good[width] = value > 0 and value % getattr(self, heads) == 0 and value % 4 == 0
        if good["stride"] and good["patch"] and good["image_size"]:
            side = self.stride * self.patch
            rows, columns = (length // side for length in self.image_size)
            fits = all(length % side == 0 for length in self.image_size)
            good["image_size"] = fits and rows * columns % 2 == 0  # two halves of one size
        return good


def place_codes(grid: tuple[int, int], width: int) -> Tensor:
    """Codes of the places of a grid: sines and cosines of the row in one half, of the column in the other.

    Args:
        grid: (h, w).
        width: of a code; a multiple of 4.

    Returns:
        (h w, width), values in [-1, 1].
    """
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 4) / (width // 4))
    halves = []
    for places in torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij"):
        angles = places.flatten()[:, None] * frequencies
        halves += [angles.sin(), angles.cos()]
    return torch.cat(halves, dim=1)


def encoder(width: int, heads: int, layers: int) -> nn.Sequential:
    """Pre-norm transformer layers, (B, N, width) -> (B, N, width); each has weights of its own."""
    return nn.Sequential(
        *(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        ),
        nn.LayerNorm(width),
    )


class TransitionAutoencoder(nn.Module):
    """Features -> what the two halves of their patches expect of each other.

    Args:
        channels: C of the features.
        config: its sizes.
    """

    def __init__(self, channels: int, config: STMAEConfig):
        super().__init__()
        c = config
        self.patch = c.patch
        self.grid = c.grid[0] // c.patch, c.grid[1] // c.patch  # of patches
        self.enter = nn.Linear(channels * c.patch**2, c.width)
        self.encoder = encoder(c.width, c.heads, c.layers)
        self.carry = nn.Linear(c.width, c.decoder_width)
        self.decoder = encoder(c.decoder_width, c.decoder_heads, c.decoder_layers)
        self.leave = nn.Linear(c.decoder_width, channels * c.patch**2)
        self.register_buffer("places", place_codes(self.grid, c.width), persistent=False)
        self.register_buffer("decoder_places", place_codes(self.grid, c.decoder_width), persistent=False)

    def forward(self, features: Tensor, order: Tensor) -> Tensor:
        """Every patch as the half it is not in expects it.

        Args:
            features: (B, C, h, w).
            order: (B, N) the numbers of the N patches, row by row, of every image; the first N / 2 are one
                half, the others the other.

        Returns:
            (B, C, h, w).
        """
        with autocast(features.device):
            return self.expected(features, order).to(features.dtype)

    def expected(self, features: Tensor, order: Tensor) -> Tensor:
        """As :meth:`forward`, in the precision that is set."""
        patches = F.pixel_unshuffle(features, self.patch).flatten(2).transpose(1, 2)  # (B, N, C p p)
        tokens = take(self.enter(patches) + self.places, order)
        other = order.unflatten(1, (2, -1)).flip(1).flatten(1)  # (B, N), the halves changed about
        seen = self.encoder(tokens.unflatten(1, (2, -1)).flatten(0, 1))  # Siamese: halves are a batch of 2 B
        # latent transition: what was seen in one half, carried to the places of the other
        carried = self.carry(seen) + self.decoder_places[other].unflatten(1, (2, -1)).flatten(0, 1)
        expected = self.leave(self.decoder(carried)).unflatten(0, (-1, 2)).flatten(1, 2)
        expected = take(expected, other.argsort(1))  # row by row again
        return F.pixel_shuffle(expected.transpose(1, 2).unflatten(2, self.grid), self.patch)


def take(tokens: Tensor, order: Tensor) -> Tensor:
    """Tokens (B, N, D) in another order, (B, N) of their numbers."""
    return tokens.gather(1, order[..., None].expand(*order.shape, tokens.shape[2]))


class STMAE(GridPeer):
    """The peer whose *Siamese* means one encoder for two halves of one image.

    A map is, place by place, the mean squared residual of the features times 1 - cosine, averaged over
    several ways to cut the image in halves, always the same ones; its unit is that of the frozen features,
    squared. Images larger than ``image_size`` are looked at in windows of its size; smaller ones are refused.

    Args:
        config: see :class:`STMAEConfig`.
        pyramid: see :class:`mssf_lite.detector.Detector`.
    """

    settings = STMAEConfig
    config: STMAEConfig

    def __init__(self, config: STMAEConfig | None = None, pyramid: nn.Module | None = None):
        super().__init__(config or STMAEConfig.profile("full"), pyramid)
        c = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(c.seed)
            self.model = TransitionAutoencoder(sum(self.pyramid.channels), c)
        self.register_buffer("mean", torch.zeros(sum(self.pyramid.channels), 1, 1))
        self.register_buffer("std", torch.ones(sum(self.pyramid.channels), 1, 1))
        self.register_buffer("orders", self.cuts(c.maskings, seeded(c.seed, 6)), persistent=False)

    def cuts(self, count: int, rng: torch.Generator) -> Tensor:
        """So many random orders of the patches, (count, N); each half of one is a half of the image."""
        return torch.rand(count, len(self.model.places), generator=rng).argsort(1)

    def prepare(self, features: list[Tensor]) -> None:
        """Mean and deviation of each channel, so that all are heard alike [ours]."""
        mean, std = channel_moments(features[0])
        self.mean.copy_(mean)
        self.std.copy_(std)

    def loss(self, features: list[Tensor], rng: torch.Generator) -> Tensor:
        """Mean squared error of what the halves expect of each other, plus a weight times 1 - cosine."""
        x = (features[0] - self.mean) / self.std
        expected = self.model(x, self.cuts(len(x), rng).to(x.device))
        angle = 1 - F.cosine_similarity(expected, x, dim=1).mean()
        return F.mse_loss(expected, x) + self.config.cosine_weight * angle

    def optimizer(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW; its learning rate falls to 0 along half a cosine."""
        c = self.config
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay
        )
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, c.epochs))

    def residual(self, x: Tensor) -> Tensor:
        """Standardised features (B, C, h, w) -> how far they are from what is expected, (B, 1, h, w)."""
        total = x.new_zeros(len(x), *x.shape[2:])
        for order in self.orders:
            expected = self.model(x, order.expand(len(x), -1))
            angle = 1 - F.cosine_similarity(expected, x, dim=1)
            total += (expected - x).square().mean(1) * angle / len(self.orders)
        return total[:, None]

    @torch.no_grad()
    def judge(self, features: list[Tensor], size: tuple[int, int]) -> Prediction:
        """See :meth:`mssf_lite.detector.Detector.judge`.

        Raises:
            ValueError: the image is smaller than those of training, in one direction.
        """
        raw = in_windows(self.residual, (features[0] - self.mean) / self.std, self.config.grid)[:, 0]
        return Prediction(enlarged(raw, size), image_score([raw], self.config.top_share))
