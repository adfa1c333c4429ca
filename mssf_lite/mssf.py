"""MSSF: multi-scale Siamese flow, one small density model for many textures.

The public abstract promises multi-level feature fusion, mixed anomalies synthesis, a multi-scale Siamese
flow and a loss of negative log-likelihood plus a changeable hindering term [paper]; how they are built is
ours, and each part lives in a module of its own. This one puts them together::

    images -> frozen pyramid, at every zoom -> fuse -> Whitening -> flow -> likelihood map -> score

*Siamese* can be read in two ways: the same weights see the normal image and its synthetic twin, which holds
of every model here; and the same weights see every zoom of the image, which ``Config.siamese`` decides.
On every data set at hand held-out evidence asks for a flow for each zoom, so that is the default [ours].
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import Config
from .detector import Images, Progress, batches, check_given
from .flows import SeparateFlows, siamese_flow
from .fused import FusedDetector
from .fusion import Whitening
from .loop import by_size
from .losses import log_likelihood
from .training import fit_whitening, train_flow


class MSSF(FusedDetector):
    """The detector of this project; see :class:`mssf_lite.detector.Detector` for its contract.

    Args:
        config: see :class:`Config`. ``blocks=0, epochs=0`` gives the plain Gaussian of the fused features,
            which is also what any MSSF is before its first training step.
        pyramid: see :class:`mssf_lite.detector.Detector`.
    """

    def __init__(self, config: Config | None = None, pyramid: nn.Module | None = None):
        super().__init__(config or Config.profile("full"), pyramid)
        c = self.config
        channels = [scale.channels for scale in self.scales]
        self.whitening = nn.ModuleList(Whitening(n, c.ridge, c.components) for n in channels)
        kept = [c.components or n for n in channels]
        self.bent = [min(n, c.flow_components or n) for n in kept]  # a scale; what is left stays Gaussian
        self.flow = (siamese_flow if c.siamese else SeparateFlows)(
            self.bent[0] if c.siamese else self.bent,
            len(channels),
            blocks=c.blocks,
            hidden=c.hidden,
            kernel=c.kernel,
            clamp=c.clamp,
            seed=c.seed,
        )

    def fit(self, train: Images, held_out: Images, resume: str | Path | None = None) -> Iterator[Progress]:
        """Fit the whitening in closed form, then train the flow; yields after every epoch.

        Args:
            train: normal images, (N, 3, H, W) in [0, 1], or a sequence of (3, H, W) tensors.
            held_out: normal images of other physical items: they set the scale of the maps and are watched
                during training, nothing is learned from them.
            resume: a file that keeps the state of training after every epoch. A run that was killed goes on
                from it, to the same result as one that was not; it is removed when training is done. None
                keeps nothing.

        Raises:
            ValueError: no images, or images of the wrong shape, type or range.
            FloatingPointError: the loss is not finite.
        """
        check_given(train, held_out)
        self.fitted.fill_(False)
        # read (or drawn) once; 11 bits hold what 8-bit images knew, in half the memory
        read = [batch.half() for batch in batches(train, self.config, "reading images")]
        train = by_size(image for batch in read for image in batch)
        normal = fit_whitening(self, train)
        resume = Path(resume) if resume else None
        yield from train_flow(self, normal, train, held_out, resume)
        self.standardise(held_out)
        if resume:
            resume.unlink(missing_ok=True)

    def whitened(self, images: Tensor) -> list[Tensor]:
        """What the flow sees, (B, C, h_s, w_s) a scale: zero mean, unit covariance over normal images."""
        return [whitening(x) for whitening, x in zip(self.whitening, self.features(images), strict=True)]

    def latent(self, x: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """The flow on one scale: (B, K, h, w) -> z (B, K, h, w) and log_det (B, h, w)."""
        bent = self.bent[scale]
        z, log_det = self.flow(x[:, :bent], c=[scale])
        return torch.cat([z, x[:, bent:]], dim=1), log_det

    def log_likelihood(self, x: Tensor, scale: int) -> Tensor:
        """Per location and dimension, in nats: whitened features (B, C, h, w) of one scale -> (B, h, w)."""
        return log_likelihood(*self.latent(x, scale))

    def log_likelihood_at(self, x: Tensor, scale: int, keep: Tensor) -> Tensor:
        """Log-likelihoods of chosen locations only, (B, C, h, w) and (B, h, w) bool -> (n,).

        With 1x1 subnets every location stands alone, so the others need not be computed.
        """
        alone = self.config.kernel == 1
        if alone:
            x = x.permute(0, 2, 3, 1)[keep].T[None, :, :, None]  # (1, C, n, 1)
            if x.shape[2] == 0:  # convolutions refuse an empty map
                return x.new_zeros(0)
        value = self.log_likelihood(x, scale)
        return value.flatten() if alone else value[keep]

    def raw_map(self, x: Tensor, scale: int) -> Tensor:
        """What speaks against each location: whitened features (B, C, h, w) of one scale -> (B, h, w).

        ``score="nll"`` is the flow's negative log-likelihood per dimension. ``"both"`` is its mean with the
        Gaussian's, 0.5 |x|^2 / C: the geometric mean of two densities. The Gaussian has seen no synthetic
        defect, and remembers the directions that the flow gave up for their sake. ``"z2"`` leaves the
        flow's log-determinant out, 0.5 |z|^2 / C.
        """
        return self.raw_map_of(x, *self.latent(x, scale))

    def raw_map_of(self, x: Tensor, z: Tensor, log_det: Tensor) -> Tensor:
        """The same from what :meth:`latent` gave."""
        if self.config.score == "z2":
            return 0.5 * z.square().mean(1)
        of_flow = -log_likelihood(z, log_det)
        return of_flow if self.config.score == "nll" else 0.5 * (of_flow + 0.5 * x.square().mean(1))

    @torch.no_grad()
    def scale_maps(self, features: list[Tensor]) -> list[Tensor]:
        """The raw maps of every scale, see :meth:`raw_map`."""
        pairs = zip(self.whitening, features, strict=True)
        return [self.raw_map(whitening(x), s) for s, (whitening, x) in enumerate(pairs)]
