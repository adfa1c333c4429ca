"""The flow layers of MSFlow (Zhou et al., TNNLS 2024): one chain a scale, then one coupling over all scales.

Symbols follow Dinh et al. (2017): half of the channels decides by how much, exp(s), the other half is scaled
and by how much, t, it is shifted. ``[MSFlow]`` marks what is public of the method. Of that, one thing is left
out: the fusion's outputs are not cut off at +-10^6, which could not be undone [ours].

The layers of a chain keep the contract of :mod:`mssf_lite.flows`: ``log_det`` is (B, H, W). But their subnets
look at 3 x 3 locations, so no location stands alone: only the *sum* over locations is the log-determinant of
something, of the whole map. The fusion's scales have grids of several sizes; it gives that sum at once, (B,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from FrEIA.framework import SequenceINN
from FrEIA.modules import InvertibleModule
from torch import Tensor, nn

from ..flows import ChannelNorm, Permutation

POSITION = 64  # channels of the position code [MSFlow]
CLAMP = 1.9  # bound on |s| [MSFlow]
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": ChannelNorm,
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
}


class Layer(InvertibleModule):
    """What the layers here share: the sizes stay."""

    def output_dims(self, dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Of what comes out, given those of what goes in."""
        return dims


def affine(x: Tensor, s: Tensor, t: Tensor, rev: bool) -> Tensor:
    """x scaled by exp(s) and shifted by t, or the way back."""
    return (x - t) * (-s).exp() if rev else x * s.exp() + t


def wide(s: Tensor) -> Tensor:
    """At least float32: exp() and sums of log scales are never taken in half precision."""
    return s.to(torch.promote_types(s.dtype, torch.float32))


def even(channels: int) -> int:
    """The number itself, if it can be halved."""
    if channels % 2:
        raise ValueError(
            f"a coupling splits the channels in two halves, and {channels} is odd: choose another stage"
        )
    return channels


def position_code(
    grid: tuple[int, int], channels: int = POSITION, device: torch.device | None = None
) -> Tensor:
    """Where each location is, in sines and cosines: half of the channels say the column, half the row.

    Wavelengths go from 2 pi to nearly 2 pi * 10^4 locations, in a geometric series [MSFlow]. In an image
    larger than those of training the code goes on, to places that the subnets have never seen.

    Args:
        grid: (H, W), of any size.
        channels: a multiple of 4.
        device: of the code.

    Returns:
        (1, channels, H, W) float32 in [-1, 1].
    """
    if channels % 4:
        raise ValueError(f"a position code has a multiple of 4 channels, got {channels}")
    frequency = 1e4 ** (-torch.arange(0, channels // 2, 2, device=device) / (channels // 2))

    def along(length: int) -> Tensor:
        angle = frequency[:, None] * torch.arange(length, device=device)  # (channels / 4, length)
        return torch.cat([angle.sin(), angle.cos()])

    height, width = grid
    columns = along(width)[:, None, :].expand(-1, height, -1)
    rows = along(height)[:, :, None].expand(-1, -1, width)
    return torch.cat([columns, rows])[None]


class PositionSubnet(nn.Module):
    """3x3 convolution, norm, ReLU, 3x3 convolution: sees a half of the channels and the position code.

    It is as wide inside as its input: half of the channels and ``POSITION`` [MSFlow].

    Args:
        channels: K of the half that it sees.
        out: channels that it gives.
        norm: ``"layer"``, ``"batch"`` or ``"none"``.
    """

    def __init__(self, channels: int, out: int, norm: str = "layer"):
        super().__init__()
        width = channels + POSITION
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.norm = NORMS[norm](width)
        self.last = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Features (B, K, H, W) and code (1, POSITION, H, W) -> (B, out, H, W)."""
        # A convolution of joined channels is a sum of two. The code's part is the same for the whole batch,
        # so it is done once.
        own, place = self.first.weight.split([x.shape[1], code.shape[1]], dim=1)
        y = F.conv2d(x, own, self.first.bias, padding=1) + F.conv2d(code, place, padding=1)
        return self.last(F.relu(self.norm(y)))


class PositionCoupling(Layer):
    """Affine coupling whose subnet knows its place: the first half decides, the second is transformed.

    What the subnet gives is divided by ten before use, so that a fresh coupling is nearly the identity
    [MSFlow].

    Args:
        dims_in: ((C, ...),), C even.
        dims_c: ((POSITION, ...),); the one condition is the position code.
        norm: see :class:`PositionSubnet`.
    """

    def __init__(
        self,
        dims_in: Sequence[tuple[int, ...]],
        dims_c: Sequence[tuple[int, ...]] = (),
        norm: str = "layer",
    ):
        super().__init__(dims_in, dims_c)
        channels = even(dims_in[0][0])
        self.subnet = PositionSubnet(channels // 2, channels, norm)

    def forward(self, x: tuple[Tensor], c: Sequence[Tensor], rev: bool = False, jac: bool = True):
        """(B, C, H, W) and code (1, POSITION, H, W) -> (B, C, H, W) and log_det (B, H, W)."""
        x1, x2 = x[0].chunk(2, dim=1)
        s, t = (0.1 * self.subnet(x1, c[0])).chunk(2, dim=1)
        s = CLAMP * wide(s).tanh()  # as FrEIA 0.2 has it; later versions divide s by CLAMP first
        total = s.sum(1)
        return (torch.cat([x1, affine(x2, s, t, rev)], dim=1),), -total if rev else total


class SoftScale(Layer):
    """A learned positive scale and an offset for every channel; starts as the identity.

    The scale is 0.2 log(1 + exp(a / 2)) of its parameter a [MSFlow, from FrEIA]. At the start, where a is
    near 10, its slope is 0.1: it learns ten times slower than :class:`mssf_lite.flows.ActNorm`.

    Args:
        dims_in: ((C, ...),).
        dims_c: unused, FrEIA's signature.
    """

    def __init__(self, dims_in: Sequence[tuple[int, ...]], dims_c: Sequence[tuple[int, ...]] = ()):
        super().__init__(dims_in, dims_c)
        one = 2 * torch.tensor(5.0, dtype=torch.float64).expm1().log()  # the a of scale 1
        self.raw = nn.Parameter(one.float().expand(dims_in[0][0]).clone())
        self.offset = nn.Parameter(torch.zeros(dims_in[0][0]))

    def forward(self, x: tuple[Tensor], c: Sequence[Tensor] = (), rev: bool = False, jac: bool = True):
        """(B, C, H, W) -> (B, C, H, W) and log_det (B, H, W)."""
        (x,) = x
        scale, offset = 0.1 * F.softplus(self.raw, beta=0.5).view(-1, 1, 1), self.offset.view(-1, 1, 1)
        y = (x - offset) / scale if rev else x * scale + offset
        total = scale.log().sum()
        return (y,), (-total if rev else total).expand(x.shape[0], *x.shape[2:])


def parallel_flow(channels: int, blocks: int, norm: str = "layer", seed: int = 0) -> SequenceINN:
    """The chain of one scale: each block is coupling, scale and offset, permutation [MSFlow].

    Args:
        channels: C, even.
        blocks: of the chain.
        norm: see :class:`PositionSubnet`.
        seed: of the permutations.

    Returns:
        A flow called as ``z, log_det = flow(x, c=[code])``; x and z are (B, C, H, W), code is of
        :func:`position_code`, log_det is (B, H, W).
    """
    flow = SequenceINN(even(channels), 1, 1)  # the 1s stand for any height and width
    for k in range(blocks):
        flow.append(PositionCoupling, cond=0, cond_shape=(POSITION, 1, 1), norm=norm)
        flow.append(SoftScale)
        flow.append(Permutation, seed=seed + k)
    return flow


class FusionSubnet(nn.Module):
    """What one half of every scale says about the other: all scales meet on the smallest grid [MSFlow].

    They are pooled to it, joined, sent through a bottleneck of a quarter of their channels, parted, enlarged
    and added to what each scale was; two 3x3 convolutions a scale read s and t from that.

    Args:
        channels: C_k / 2, the half of each scale.
        norm: see :class:`PositionSubnet`.
    """

    def __init__(self, channels: Sequence[int], norm: str = "layer"):
        super().__init__()
        total = sum(channels)
        hidden = max(1, total // 4)
        self.joint = nn.Sequential(
            nn.Conv2d(total, hidden, 3, padding=1),
            NORMS[norm](hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, total, 3, padding=1),
            nn.ReLU(),
        )
        self.scale = nn.ModuleList(nn.Conv2d(k, k, 3, padding=1) for k in channels)
        self.shift = nn.ModuleList(nn.Conv2d(k, k, 3, padding=1) for k in channels)

    def forward(self, halves: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(B, C_k / 2, H_k, W_k) a scale -> log scale s, |s| < CLAMP, and shift t, alike."""
        grid = tuple(min(x.shape[axis] for x in halves) for axis in (2, 3))
        joined = self.joint(torch.cat([F.adaptive_avg_pool2d(x, grid) for x in halves], dim=1))
        found = []
        for x, part, to_s, to_t in zip(
            halves, joined.split([x.shape[1] for x in halves], dim=1), self.scale, self.shift, strict=True
        ):
            own = x + F.interpolate(part, size=x.shape[2:], mode="bilinear", align_corners=True)
            # 0.636 is a little less than 2 / pi: |s| stays below CLAMP
            found.append((0.636 * CLAMP * (wide(to_s(own)) / CLAMP).atan(), to_t(own)))
        return found


class FusionFlow(Layer):
    """One coupling over all scales: permute, then first halves by second halves, then the other way round.

    It keeps FrEIA's contract for several inputs, log_det is (B,); so it goes into a ``GraphINN``.

    Args:
        dims_in: (C_k, ...) of each scale, C_k even.
        dims_c: unused, FrEIA's signature.
        norm: see :class:`PositionSubnet`.
        seed: of the permutations.
    """

    def __init__(
        self,
        dims_in: Sequence[tuple[int, ...]],
        dims_c: Sequence[tuple[int, ...]] = (),
        norm: str = "layer",
        seed: int = 0,
    ):
        super().__init__(dims_in, dims_c)
        self.mix = nn.ModuleList(Permutation([d], seed=seed + k) for k, d in enumerate(dims_in))
        halves = [even(d[0]) // 2 for d in dims_in]
        self.subnets = nn.ModuleList(FusionSubnet(halves, norm) for _ in range(2))

    def forward(self, x: Sequence[Tensor], c: Sequence[Tensor] = (), rev: bool = False, jac: bool = True):
        """(B, C_k, H_k, W_k) of each scale k -> the same and log_det (B,)."""
        if not rev:
            x = [mix((one,))[0][0] for mix, one in zip(self.mix, x, strict=True)]
        halves = [list(side) for side in zip(*[one.chunk(2, dim=1) for one in x], strict=True)]
        log_det = 0
        for turn in (1, 0) if rev else (0, 1):  # which halves move; what they move by comes from the others
            by = self.subnets[turn](halves[1 - turn])
            halves[turn] = [affine(one, s, t, rev) for one, (s, t) in zip(halves[turn], by, strict=True)]
            log_det = log_det + sum(s.flatten(1).sum(1) for s, _ in by)
        y = [torch.cat(pair, dim=1) for pair in zip(*halves, strict=True)]
        if rev:
            y = [mix((one,), rev=True)[0][0] for mix, one in zip(self.mix, y, strict=True)]
        return tuple(y), -log_det if rev else log_det


class MultiScaleFlow(nn.Module):
    """MSFlow's flow: a chain of blocks for each scale, then the fusion.

    Args:
        channels: C_k of each scale, even.
        blocks: of the chain of each scale.
        fusion: whether the scales meet.
        norm: see :class:`PositionSubnet`.
        seed: of permutations and subnets; the global random state is left alone.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: Sequence[int] = (2, 5, 8),
        fusion: bool = True,
        norm: str = "layer",
        seed: int = 0,
    ):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.parallel = nn.ModuleList(
                parallel_flow(c, n, norm, seed + 100 * k)
                for k, (c, n) in enumerate(zip(channels, blocks, strict=True))
            )
            dims = [(c, 1, 1) for c in channels]
            self.fusion = FusionFlow(dims, norm=norm, seed=seed + 1000) if fusion else None

    def forward(self, x: Sequence[Tensor], rev: bool = False) -> tuple[list[Tensor], Tensor]:
        """(B, C_k, H_k, W_k) a scale -> z of the same shapes and log_det (B,); with ``rev`` back to x."""
        log_det = x[0].new_zeros(x[0].shape[0])
        if rev and self.fusion is not None:
            x, log_det = self.fusion(x, rev=True)
        found = []
        for flow, one in zip(self.parallel, x, strict=True):
            y, own = flow(one, c=[position_code(one.shape[2:], device=one.device).to(one.dtype)], rev=rev)
            log_det = log_det + own.flatten(1).sum(1)
            found.append(y)
        if not rev and self.fusion is not None:
            found, of_fusion = self.fusion(found)
            log_det = log_det + of_fusion
        return list(found), log_det
