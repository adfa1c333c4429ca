"""UniAD (You et al., NeurIPS 2022): one transformer that reconstructs the features of all textures.

A network that learned to copy would copy defects, too. Three things keep this one from copying: a token does
not see its own neighbourhood, the decoder asks with queries of its own in every layer, and in training the
features are jittered while the clean ones are wanted back. Where the reconstruction is far from the
features, something is not normal. Sizes and settings are published [UniAD], but those marked [ours].

The published training has 1000 epochs, on GPUs. Two cores need a quarter of a second for an image, forward
and back, so that eight minutes are three epochs of 650 images: enough to reconstruct what an image looks
like on the whole, not its details. Read accuracies of such runs as those of an undertrained UniAD. The
profile ``paper`` is the published setting, for a GPU and for the comparison of speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..device import autocast
from ..scoring import Prediction, enlarged
from .peer import GridPeer, GridSettings, channel_moments, in_windows


@dataclass(frozen=True)
class UniADConfig(GridSettings):
    """All settings of a UniAD run."""

    stages: tuple[str, ...] = ("blocks.0", "blocks.1", "blocks.2", "blocks.4")  # [UniAD: EfficientNet-B4's
    # at strides 2, 4, 8 and 16; in lite0 they have 16 + 24 + 40 + 112 = 192 channels]
    stride: int = 16  # of the tokens, in pixels [UniAD]

    width: int = 256  # of a token inside the transformer [UniAD]
    heads: int = 8  # [UniAD]
    hidden: int = 1024  # of the two-layer network behind every attention [UniAD]
    layers: int = 4  # of the encoder and, as many, of the decoder [UniAD]
    neighbourhood: int = 7  # side of the square of tokens that a token does not see, odd [UniAD]
    dropout: float = 0.0  # few epochs do not overfit, and cost a fifth less without [ours; UniAD: 0.1]
    jitter: float = 20.0  # noise of a channel, in units of |feature vector| / channels [UniAD]

    epochs: int = 3  # [ours; UniAD: 1000]
    batch: int = 4  # [ours, for more steps; UniAD: 8 on each GPU]
    learning_rate: float = 5e-4  # larger for few steps; 1e-3 is too large [ours; UniAD: 1e-4]
    weight_decay: float = 1e-4  # [UniAD]
    clip: float = 0.1  # [UniAD]
    drop_at: float = 0.8  # share of the epochs after which the learning rate falls to a tenth [UniAD]

    pool: int = 16  # the image score is the highest mean over a square of so many pixels a side [UniAD]
    recipe: int = 1

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "check": {
            "image_size": (128, 128),
            "width": 64,
            "hidden": 128,
            "layers": 1,
            "epochs": 2,
            "learning_rate": 2e-3,
        },
        "fast": {"width": 128, "hidden": 512, "epochs": 4, "learning_rate": 1e-3},
        "full": {},
        "paper": {
            "image_size": (224, 224),
            "backbone": "tf_efficientnet_b4.aa_in1k",  # which weights of it is not said [ours]
            "dropout": 0.1,
            "epochs": 1000,
            "batch": 8,
            "learning_rate": 1e-4,
        },
    }

    def checks(self) -> dict[str, bool]:
        """Name of a field -> whether its value can work."""
        good = super().checks() | {
            name: getattr(self, name) > 0
            for name in ("stride", "width", "heads", "hidden", "layers", "neighbourhood", "pool")
        }
        good["jitter"] = self.jitter >= 0
        good["dropout"] = 0 <= self.dropout < 1
        good["drop_at"] = 0 < self.drop_at <= 1
        if good["heads"]:
            good["width"] = self.width > 0 and self.width % (2 * self.heads) == 0
        good["neighbourhood"] = self.neighbourhood % 2 == 1
        if good["stride"] and good["image_size"]:
            # a token in the middle must see something beyond its neighbourhood
            fits = all(side % self.stride == 0 for side in self.image_size)
            good["image_size"] = fits and max(self.grid) > self.neighbourhood
        return good


def neighbour_mask(grid: tuple[int, int], side: int) -> Tensor:
    """What is added to the attention's logits: -inf where a token would see its own neighbourhood, else 0.

    Args:
        grid: (h, w) of the tokens.
        side: of the square around a token that it does not see; odd.

    Returns:
        (h w, h w) float32, [token that looks, token that is looked at].
    """

    def near(n: int) -> Tensor:
        place = torch.arange(n)
        return (place[:, None] - place).abs() <= side // 2

    (h, w), hidden = grid, near(grid[0])[:, None, :, None] & near(grid[1])[None, :, None, :]
    return torch.zeros(h * w, h * w).masked_fill_(hidden.reshape(h * w, h * w), -torch.inf)


class Attention(nn.Module):
    """Multi-head attention under a mask, in PyTorch's fused form.

    On two CPU cores the fused form takes 6.7 ms where softmax(q k^T + mask) v takes 12.1, for 8 x 196 tokens
    [ours]. A query that is the same for all images is projected once.

    Args:
        width: of tokens.
        heads: divide the width.
        dropout: of the attention's weights, in training.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B or 1, N, width) that look, (B, N, width) that are looked at, (N, N) -> (B, N, width)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q.expand_as(k), k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(seen.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attentions one after the other, then a network of two layers; each adds to what comes in, then norms.

    Args:
        config: its sizes.
        attentions: 1 in the encoder, 2 in the decoder.
    """

    def __init__(self, config: UniADConfig, attentions: int):
        super().__init__()
        c = config
        self.attentions = nn.ModuleList(Attention(c.width, c.heads, c.dropout) for _ in range(attentions))
        self.perceptron = nn.Sequential(
            nn.Linear(c.width, c.hidden), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(c.hidden, c.width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c.width) for _ in range(attentions + 1))
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, others: list[Tensor], place: Tensor, mask: Tensor) -> Tensor:
        """Tokens x (B or 1, N, width) look at others (B, N, width), one an attention -> (B, N, width).

        Args:
            x, others: tokens.
            place: (N, width) learned codes of their places, added where they look and are looked at.
            mask: (N, N), see :func:`neighbour_mask`.
        """
        for attention, norm, other in zip(self.attentions, self.norms, others, strict=False):
            x = norm(x + self.dropout(attention(x + place, other + place, other, mask)))
        return self.norms[-1](x + self.dropout(self.perceptron(x)))


class MaskedTransformer(nn.Module):
    """Features -> their reconstruction, by tokens that never look at their own neighbourhood.

    Args:
        channels: C of the features.
        config: its sizes.
    """

    def __init__(self, channels: int, config: UniADConfig):
        super().__init__()
        c, (h, w) = config, config.grid
        self.grid = c.grid
        self.enter, self.leave = nn.Linear(channels, c.width), nn.Linear(c.width, channels)
        self.rows, self.columns = (nn.Parameter(torch.rand(n, c.width // 2)) for n in (h, w))
        self.encoder = nn.ModuleList(Layer(c, 1) for _ in range(c.layers))
        self.decoder = nn.ModuleList(Layer(c, 2) for _ in range(c.layers))
        self.queries = nn.Parameter(torch.randn(c.layers, 1, h * w, c.width))  # each decoder layer its own
        self.norm = nn.LayerNorm(c.width)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.register_buffer("mask", neighbour_mask(c.grid, c.neighbourhood), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w), on the grid of the config."""
        h, w = self.grid
        with autocast(features.device):
            x = self.reconstructed((features - self.mean) / self.std)
        return x.to(features.dtype).transpose(1, 2).unflatten(2, (h, w)) * self.std + self.mean

    def reconstructed(self, features: Tensor) -> Tensor:
        """Standardised features (B, C, h, w) -> those that the tokens expect, (B, h w, C)."""
        h, w = self.grid
        place = torch.cat([self.columns.expand(h, w, -1), self.rows[:, None].expand(h, w, -1)], -1)
        place = place.flatten(0, 1)
        memory = self.enter(features.flatten(2).transpose(1, 2))
        for layer in self.encoder:
            memory = layer(memory, [memory], place, self.mask)
        x = memory
        for layer, query in zip(self.decoder, self.queries, strict=True):
            x = layer(query, [memory, x], place, self.mask)
        return self.leave(self.norm(x))


class UniAD(GridPeer):
    """The peer that MSSF's abstract measures its speed against.

    Maps are distances |reconstruction - features| and scores their highest mean over a square of 16 x 16
    pixels: of one unit for all images, that of the frozen features. Images larger than ``image_size`` are
    reconstructed in windows of its size, as the codes of places and the queries know one grid only; smaller
    ones are refused.

    Args:
        config: see :class:`UniADConfig`.
        pyramid: see :class:`mssf_lite.detector.Detector`.
    """

    settings = UniADConfig
    config: UniADConfig

    def __init__(self, config: UniADConfig | None = None, pyramid: nn.Module | None = None):
        super().__init__(config or UniADConfig.profile("full"), pyramid)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.model = MaskedTransformer(sum(self.pyramid.channels), self.config)

    def prepare(self, features: list[Tensor]) -> None:
        """Mean and deviation of each channel: where the transformer's first and last layer start [ours].

        They could learn both by themselves, and in the published training's many steps do. The loss stays one
        of the features as they are.
        """
        mean, std = channel_moments(features[0])
        self.model.mean.copy_(mean)
        self.model.std.copy_(std)

    def loss(self, features: list[Tensor], rng: torch.Generator) -> Tensor:
        """Mean squared error of the reconstruction; in training, of jittered features."""
        (clean,) = features
        if not self.model.training:
            return F.mse_loss(self.model(clean), clean)
        scale = self.config.jitter / clean.shape[1] * clean.norm(dim=1, keepdim=True)
        noise = torch.randn(clean.shape, generator=rng).to(clean.device)
        with chance_from(rng, clean.device):
            return F.mse_loss(self.model(clean + scale * noise), clean)

    def optimizer(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW, and a fall of its learning rate to a tenth late in training."""
        c = self.config
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay
        )
        return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(c.drop_at * c.epochs)], 0.1)

    @torch.no_grad()
    def judge(self, features: list[Tensor], size: tuple[int, int]) -> Prediction:
        """See :meth:`mssf_lite.detector.Detector.judge`.

        Raises:
            ValueError: the image is smaller than those of training, in one direction.
        """
        (x,) = features
        distance = (in_windows(self.model, x, self.config.grid) - x).norm(dim=1)
        maps = enlarged(distance, size)[:, None]
        side = self.config.pool
        pooled = F.avg_pool2d(F.avg_pool2d(maps, (side, 1), 1), (1, side), 1)  # rows, then columns: the same
        return Prediction(maps[:, 0], pooled.amax((1, 2, 3)))


@contextmanager
def chance_from(rng: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let what draws from torch's global chance, as dropout does, follow ``rng``; then leave it as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        yield
