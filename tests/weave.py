"""Normal images with some structure, for detectors that tests train."""

import torch
from torch import Tensor


def weave(n: int, seed: int, height: int, width: int) -> Tensor:
    """Stripes of random phase, tint and noise: (n, 3, height, width) in [0, 1]."""
    rng = torch.Generator().manual_seed(seed)
    phase = torch.rand(n, 3, 1, 1, generator=rng) * 6
    stripes = 0.5 + 0.25 * torch.sin(torch.arange(float(width)) / 3 + phase)
    return (stripes + 0.05 * torch.randn(n, 3, height, width, generator=rng)).clamp(0, 1)
