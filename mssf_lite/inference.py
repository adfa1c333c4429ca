"""Fast forms of fitted detectors: the same scores, sooner.

:class:`Folded` is an MSSF with the algebra done beforehand. What is linear is multiplied out once: the
whitening and the rotation behind it become one matrix, each ActNorm goes into the couplings around it, a
permutation is a change of rows. It is derived here from the readable form in :mod:`mssf_lite.flows`, is
tested equal to it, and can score, nothing else.

:class:`Captured` is any detector on a GPU, launched at once instead of kernel by kernel.

Taught in the chapter on speed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .detector import Detector, Images, Progress, check_images
from .device import autocast, side_by_side
from .flows import ActNorm, Coupling, Permutation, Rotation, SeparateFlows
from .fused import FusedDetector
from .mssf import MSSF
from .packing import PackedConv
from .scoring import Prediction


class Step(nn.Module):
    """One coupling of one scale, with the ActNorm and the permutation before it.

    Args:
        coupling: of the flow.
        order: (C,) rows to take first; None: as they are.
        log_scale, shift: (C, 1) float64, affine map that is still to be applied to those rows. The moved half
            takes it here; of the other half only this coupling's subnet does, for its rows stay as they are.

    Attributes:
        first: the subnet's first layer, packed, if it sees neighbours; else None: ``w1`` and ``b1`` are it.
            It puts zeros around what it sees, which must be the zeros of shifted rows: hence ``lift``.
    """

    def __init__(self, coupling: Coupling, order: Tensor | None, log_scale: Tensor, shift: Tensor):
        super().__init__()
        half = len(shift) // 2
        conv, self.norm, _, last = coupling.subnet
        self.first = None
        w1 = conv.weight.double() * log_scale[:half, :, None].exp()  # (hidden, C/2, k, k)
        if conv.kernel_size != (1, 1):
            first = copy.deepcopy(conv).requires_grad_(False)
            first.weight.copy_(w1)
            self.first = PackedConv(first.to(memory_format=torch.channels_last), nn.Identity())
        w2 = last.weight[:, :, 0, 0].double()
        bound = torch.ones_like(shift)
        bound[:half] = coupling.clamp  # s = clamp tanh(raw / clamp)
        self.clamp = coupling.clamp
        lift = shift[:half] / log_scale[:half].exp()
        parts = {
            "order": order,
            "w1": None if self.first else w1[:, :, 0, 0],
            "b1": None if self.first else conv.bias.double() + (w1[:, :, 0, 0] @ lift)[:, 0],
            "lift": lift[:, :, None] if self.first else None,
            "w2": w2 / bound,
            "b2": last.bias.double()[:, None] / bound,
            "log_scale": log_scale[half:],
            "offset": shift[half:] / log_scale[half:].exp(),
        }
        for name, value in parts.items():
            self.register_buffer(name, value if value is None or name == "order" else value.float())

    def look(self, x1: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """What the subnet's first layer makes of rows (C/2, n): (n, hidden)."""
        if self.first is None:
            return F.linear(x1.T, self.w1, self.b1)
        b, h, w = grid
        x = torch.empty(b, len(x1), h, w, device=x1.device, memory_format=torch.channels_last)
        torch.add(x1.view(-1, b, h, w).transpose(0, 1), self.lift, out=x)  # shifts and lays out in one go
        return self.first(x).permute(0, 2, 3, 1).flatten(0, 2)

    def forward(self, y: Tensor, grid: tuple[int, int, int], raw: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            y: rows (C, n), which may be overwritten.
            grid: (B, h, w), of which n is the product.
            raw: (C, n), room to compute in.

        Returns:
            Rows (C, n), and the sum over channels of s / clamp, (n,).
        """
        if self.order is not None:
            y = y.index_select(0, self.order)
        x1, x2 = y.chunk(2)
        norm = self.norm  # over channels, which are last here
        with autocast(y.device):
            hidden = self.look(x1, grid).float()
        hidden = F.relu_(F.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        s, t = torch.addmm(self.b2, self.w2, hidden.T, out=raw).chunk(2)
        total = s.tanh_().sum(0)
        scale = torch.add(self.log_scale, s, alpha=self.clamp, out=s).exp_()
        torch.addcmul(t, scale, x2.add_(self.offset), out=x2)
        return y, total


class ScaleFlow(nn.Module):
    """Whitening and flow of one scale: fused features to raw maps.

    Args:
        model: a fitted MSSF.
        scale: which of its scales.
    """

    def __init__(self, model: MSSF, scale: int):
        super().__init__()
        separate = isinstance(model.flow, SeparateFlows)
        layers = (model.flow[scale] if separate else model.flow).module_list
        whitening, self.bent, self.score = model.whitening[scale], model.bent[scale], model.config.score
        matrix, order, steps = whitening.matrix.double(), None, []
        log_scale = shift = matrix.new_zeros(self.bent, 1)
        constant = matrix.new_zeros(())
        for layer in layers:
            if isinstance(layer, Rotation):  # at the start only: |x| stays, nothing is pending
                matrix = torch.cat([layer.matrix.double() @ matrix[: self.bent], matrix[self.bent :]])
            elif isinstance(layer, Permutation):
                order = layer.order
                log_scale, shift = log_scale[order], shift[order]
            elif isinstance(layer, ActNorm):
                row = 0 if separate else scale
                a, b = layer.log_scale[row].double()[:, None], layer.shift[row].double()[:, None]
                log_scale, shift, constant = log_scale + a, shift * a.exp() + b, constant + a.sum()
            else:
                steps.append(Step(layer, order, log_scale, shift))
                half, order = self.bent // 2, None
                done = torch.zeros_like(shift[half:])
                log_scale, shift = torch.cat([log_scale[:half], done]), torch.cat([shift[:half], done])
        self.steps = nn.ModuleList(steps)
        bias = -(matrix @ whitening.mean.double())[:, None]
        last = {
            "matrix": matrix,
            "bias": bias,
            "scale": log_scale.exp(),
            "shift": shift,
            "constant": constant,
        }
        for name, value in last.items():
            self.register_buffer(name, value.float())

    def forward(self, fused: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w): :meth:`mssf_lite.mssf.MSSF.raw_map` of the whitened features."""
        b, c, h, w = fused.shape
        y = torch.addmm(self.bias, self.matrix, fused.permute(0, 2, 3, 1).reshape(-1, c).T)
        squares = y.square().sum(0) if self.score == "both" else None  # before rows are overwritten
        y, rest = y[: self.bent], y[self.bent :].square().sum(0)
        log_det, raw = self.constant, torch.empty_like(y)
        for step in self.steps:
            y, total = step(y, (b, h, w), raw)
            log_det = torch.add(log_det, total, alpha=step.clamp)
        z2 = 0.5 * (torch.addcmul(self.shift, self.scale, y).square().sum(0) + rest)
        found = {"z2": z2, "nll": z2 - log_det}.get(self.score)
        if found is None:
            found = 0.5 * (z2 - log_det + 0.5 * squares)
        return (found / len(self.matrix)).view(b, h, w)


class Folded(FusedDetector):
    """A fitted MSSF for scoring: the same maps and scores up to rounding, sooner.

    The first layers of its subnets round to bfloat16 where :func:`mssf_lite.device.autocast` says so; the
    readable form scores in float32.

    Args:
        model: fitted; it stays as it is.

    Raises:
        RuntimeError: it was not fitted.
    """

    def __init__(self, model: MSSF):
        if not model.fitted:
            raise RuntimeError("this MSSF was not fitted: run fit(train, held_out) to its end, or load()")
        super().__init__(model.config, model.pyramid)
        self.map_mean, self.map_std, self.fitted = model.map_mean, model.map_std, model.fitted
        with torch.no_grad():
            self.flows = nn.ModuleList(ScaleFlow(model, s) for s in range(len(model.scales)))

    def fit(self, train: Images, held_out: Images, resume: str | Path | None = None) -> Iterator[Progress]:
        """Refused: fit an MSSF and fold it again."""
        raise TypeError("a folded MSSF does not learn: fit an MSSF and fold that")

    def save(self, path: str | Path) -> None:
        """Refused: save the MSSF it was folded from."""
        raise TypeError(
            "a folded MSSF is not saved: save the MSSF it was made from, and fold that after load()"
        )

    @torch.no_grad()
    def scale_maps(self, features: list[Tensor]) -> list[Tensor]:
        """The raw maps of every scale, see :meth:`mssf_lite.mssf.MSSF.raw_map`."""
        calls = [partial(flow, x) for flow, x in zip(self.flows, features, strict=True)]
        return side_by_side(calls, self.device)


class Captured:
    """A detector as one CUDA graph: the whole way from images to scores is launched at once.

    For a single image a GPU waits for Python, which launches hundreds of small kernels one by one; a graph
    replays them without it. It serves one shape, in the precision that was set when it was made.

    Args:
        detector: fitted, on a GPU; later changes of its values are seen, moving it to another device is not.
        images: (B, 3, H, W) in [0, 1], of the shape that will be scored.

    Raises:
        RuntimeError: the detector was not fitted.
        ValueError: it is not on a GPU, or the images are of the wrong shape, type or range.
    """

    def __init__(self, detector: Detector, images: Tensor):
        if not detector.fitted:
            raise RuntimeError(f"this {type(detector).__name__} was not fitted: fit() or load() it first")
        if detector.device.type != "cuda":
            raise ValueError(f"graphs are a GPU's, this detector is on {detector.device}: use predict()")
        check_images(images, detector.least)
        self.images, size = images.to(detector.device, copy=True), (images.shape[-2], images.shape[-1])

        def score() -> Prediction:
            return detector.judge(detector.see(self.images), size)

        detector.eval()
        aside = torch.cuda.Stream(detector.device)
        aside.wait_stream(torch.cuda.current_stream(detector.device))
        with torch.no_grad(), torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose their kernels and take their memory
                score()
        torch.cuda.current_stream(detector.device).wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.found = score()

    def __call__(self, images: Tensor) -> Prediction:
        """Images of that shape, on any device and not checked -> maps and scores, on the GPU.

        The next call overwrites them.
        """
        if images.shape != self.images.shape:
            raise ValueError(f"captured for images {tuple(self.images.shape)}, got {tuple(images.shape)}")
        self.images.copy_(images)
        self.graph.replay()
        return self.found
