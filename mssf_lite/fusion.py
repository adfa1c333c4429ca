"""Multi-level feature fusion (MLFF): shallow and deep features on one grid, standardised and whitened.

MSSF's abstract promises that shallow and deep features are both used to the full [paper]; how is not
public, so this is ours: every stage is brought to one grid (area pooling down, bilinear up), smoothed by a
3x3 mean, concatenated to one vector a location, and PCA-whitened. All directions are kept: the leading ones
hold the looks of the texture, the trailing ones most of the defects.

Nothing here is trained by the likelihood. A trainable map in front of a likelihood can always win by
shrinking its output to a point; a whitening fitted once, in closed form, cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fuse(features: Sequence[Tensor], grid: tuple[int, int], neighbourhood: int = 3) -> Tensor:
    """All stages on one grid, concatenated over channels.

    Args:
        features: one (B, C_s, H_s, W_s) a stage.
        grid: (h, w) of the result.
        neighbourhood: side of the mean over neighbouring locations; 1 leaves each alone.

    Returns:
        (B, sum of C_s, h, w).
    """
    aligned = []
    for f in features:
        if f.shape[-2] > grid[0] or f.shape[-1] > grid[1]:
            f = F.adaptive_avg_pool2d(f, grid)
        elif f.shape[-2:] != grid:
            f = F.interpolate(f, size=grid, mode="bilinear", align_corners=False)
        aligned.append(f)
    x = torch.cat(aligned, dim=1)
    if neighbourhood == 1:
        return x
    return F.avg_pool2d(x, neighbourhood, stride=1, padding=neighbourhood // 2, count_include_pad=False)


class Whitening(nn.Module):
    """Maps features to zero mean and identity covariance; fitted in closed form, one pass, float64.

    Feed :meth:`update` with batches, call :meth:`solve` once, then use it as a layer. Channels are first
    standardised, so that ``ridge`` means the same for every channel; components are sorted, leading first.

    Args:
        channels: C.
        ridge: added to each eigenvalue of the correlation matrix (whose mean is 1).
        components: K, how many leading components to keep; None keeps all C.
    """

    def __init__(self, channels: int, ridge: float = 1e-2, components: int | None = None):
        super().__init__()
        if components is not None and components > channels:
            raise ValueError(
                f"cannot keep {components} components of {channels} channels: keep fewer, or None"
            )
        self.ridge = ridge
        self.register_buffer("mean", torch.zeros(channels))
        # (K, C): whitened = matrix @ (x - mean)
        self.register_buffer("matrix", torch.eye(components or channels, channels))
        self.register_buffer("eigenvalues", torch.ones(channels))  # of the correlation matrix, descending
        self._sums: list[Tensor] | None = None  # count, sum, sum of outer products; only while fitting

    def update(self, x: Tensor) -> None:
        """Take in a batch of normal features, (B, C, h, w)."""
        rows = x.detach().permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double()
        if self._sums is None:
            c = rows.shape[1]
            self._origin = rows.mean(0)  # sums are taken about a typical point: no digits are lost
            self._sums = [rows.new_zeros(()), rows.new_zeros(c), rows.new_zeros(c, c)]
        rows = rows - self._origin
        for total, part in zip(
            self._sums, (rows.new_tensor(len(rows)), rows.sum(0), rows.T @ rows), strict=True
        ):
            total += part

    def solve(self) -> None:
        """Turn what was gathered into the whitening map.

        With fewer locations than channels some directions were never seen; there the ridge decides alone.

        Raises:
            RuntimeError: nothing was gathered.
        """
        if self._sums is None:
            raise RuntimeError("Whitening.solve() before any update(): feed it normal features first")
        count, total, outer = self._sums
        mean = total / count
        covariance = outer / count - torch.outer(mean, mean)
        std = covariance.diagonal().clamp_min(1e-12).sqrt()
        eigenvalues, vectors = torch.linalg.eigh(covariance / torch.outer(std, std))  # ascending
        eigenvalues, vectors = eigenvalues.flip(0).clamp_min(0), vectors.flip(1)
        # an eigenvector's sign is arbitrary; a fixed rule makes runs on different machines alike
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        matrix = (vectors / (eigenvalues + self.ridge).sqrt()).T / std
        self.mean.copy_(mean + self._origin)
        self.matrix.copy_(matrix[: len(self.matrix)])
        self.eigenvalues.copy_(eigenvalues)
        self._sums = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K, h, w), components sorted by the variance they had."""
        bias = -(self.matrix @ self.mean)
        return F.conv2d(x, self.matrix[:, :, None, None], bias)
