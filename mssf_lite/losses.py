"""The training loss: negative log-likelihood of normal locations plus the changeable hindering loss.

The abstract of MSSF names the sum [paper]; the form of its second term is not public and ours. Symbols: l
is the log-likelihood of one location per dimension (nats, without the constant), M the mask of synthetic
defects, b the boundary below which a synthetic location is left alone, lambda(t) the weight at progress t.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import parallel
from .config import Config


def log_likelihood(z: Tensor, log_det: Tensor) -> Tensor:
    """Log-likelihood per location and dimension under a standard normal latent, in nats.

    The constant -0.5 log(2 pi) is left out, so a perfectly whitened Gaussian averages -0.5. It may be
    positive: a density is not a probability.

    Args:
        z: (B, C, H, W) latent.
        log_det: (B, H, W).

    Returns:
        (B, H, W), float32.
    """
    return (log_det.float() - 0.5 * z.float().square().sum(1)) / z.shape[1]


def boundary(normal: Tensor, config: Config) -> Tensor | None:
    """Where synthetic locations are to be pushed below; ``None`` where nothing is pushed.

    ``changeable``: the lower quantile of this batch's *normal* likelihoods minus a margin, so the boundary
    moves with the model (after BGAD, which recomputes its boundary in each batch). ``fixed``: the mean of a
    whitened Gaussian, -0.5, minus the margin, whatever the model does.

    Args:
        normal: log-likelihoods of normal locations, any shape.
        config: ``hindering``, ``boundary_quantile``, ``margin``.
    """
    if config.hindering == "none":
        return None
    if config.hindering == "fixed":
        return normal.new_tensor(-0.5 - config.margin)
    return torch.quantile(parallel.gathered(normal.flatten()), config.boundary_quantile) - config.margin


def hindering_loss(synthetic: Tensor, b: Tensor | None) -> Tensor:
    """Mean excess of synthetic log-likelihoods over the boundary: only those still too likely are pushed.

    Args:
        synthetic: (n,) log-likelihoods of synthetic locations; may be empty.
        b: from :func:`boundary`.

    Returns:
        A scalar >= 0, with gradient; 0 when there is nothing to push.
    """
    if b is None:
        return synthetic.sum() * 0
    return parallel.mean((synthetic - b).clamp_min(0))


def hindering_weight(progress: float, config: Config) -> float:
    """lambda(t): nothing in the first third of the ramp (normals only), then linear to its full value.

    Args:
        progress: share of training done, in [0, 1].
        config: ``hindering``, ``hindering_weight``, ``ramp``.
    """
    if config.hindering == "none":
        return 0.0
    warm = config.ramp / 3
    return config.hindering_weight * min(1.0, max(0.0, (progress - warm) / (config.ramp - warm)))
