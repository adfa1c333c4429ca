"""Sooner answers of a frozen network on a CPU, the same up to rounding.

oneDNN computes a convolution and the activation behind it in one go, and lays weights out for the processor
before it starts; PyTorch's eager convolution does neither, for it must expect its weights to change. Those of
a frozen network never do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.models import register_notrace_module
from torch import Tensor, nn

# how oneDNN's operator calls an activation: name and numbers
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
}

# shapes of the input (with precision and threads) for which weights are kept laid out; the oldest goes first.
# Weights laid out for others serve as well, but slowly: a single image took 37 instead of 21 ms with those
# of a batch of 8, and 122 instead of 31 ms on one thread with those of two.
KEPT = 12

# not public, so they may be missing from a build of PyTorch, or from the next one
SUPPORTED = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
)
HALF = SUPPORTED and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # whether it knows bfloat16

_ALLOWED: ContextVar[bool] = ContextVar("allowed", default=True)


@contextmanager
def unpacked() -> Iterator[None]:
    """Inside it every convolution takes its plain form, for those who count or compare."""
    token = _ALLOWED.set(False)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


@register_notrace_module  # to the feature extractor it is one step
class PackedConv(nn.Module):
    """A frozen convolution and the activation behind it, as one operation.

    It computes in float32, inside an autocast in bfloat16 where the processor can. Where oneDNN cannot take
    it (on a GPU, in another precision, or where somebody wants a gradient) it is ``act(conv(x))``.

    Args:
        conv: frozen, with a bias.
        act: of a type in ``ACTIVATIONS``.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module):
        super().__init__()
        self.conv, self.act = conv, act
        # TensorFlow's "same" at stride 2 pads an image of even sides by one place more at the end than at the
        # start. A kernel with one more row and column, of zeros, gives the same with equal padding: no copy.
        self.uneven = isinstance(conv, Conv2dSame)
        padding = [(k - 1) // 2 for k in conv.kernel_size] if self.uneven else list(conv.padding)
        self.geometry = (padding, list(conv.stride), list(conv.dilation), conv.groups)
        self.how = ACTIVATIONS[type(act)]
        self._packed: dict[tuple[torch.Size, torch.dtype, int], tuple[Tensor, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy lays its weights out itself."""
        return self.__dict__ | {"_packed": {}}

    def packs(self, x: Tensor, dtype: torch.dtype) -> bool:
        """Whether oneDNN can take this input in this precision."""
        if not (SUPPORTED and _ALLOWED.get()):
            return False
        known = dtype == torch.float32 or (dtype == torch.bfloat16 and HALF)
        plain = x.device.type == "cpu" and x.dtype in (torch.float32, dtype) and known
        wanted = torch.is_grad_enabled() and x.requires_grad
        fits = not self.uneven or (x.shape[-1] % 2 == 0 and x.shape[-2] % 2 == 0)
        return plain and fits and not wanted

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, h, w), in the precision of an autocast around it, else of the input."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if not self.packs(x, dtype):
            return self.act(self.conv(x))
        of = x.shape, dtype, torch.get_num_threads()
        if of not in self._packed:
            self._packed[of] = self.packed(x.shape, dtype)
            if len(self._packed) > KEPT:
                self._packed.pop(next(iter(self._packed)))
        kept = self._packed[of]
        return torch.ops.mkldnn._convolution_pointwise(x.to(dtype), *kept, *self.geometry, *self.how, "")

    @torch.no_grad()
    def packed(self, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weights and bias as oneDNN wants them for an input of this shape, on as many threads as now."""
        weight = F.pad(self.conv.weight, (1, 0, 1, 0)) if self.uneven else self.conv.weight
        weight = weight.to(dtype).contiguous(memory_format=torch.channels_last).to_mkldnn()
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *self.geometry, list(shape))
        return weight, self.conv.bias.to(dtype)


def fold_batchnorm(net: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution before it and pack both, in place.

    In eval mode a batch norm is one affine map. On two CPU cores folding alone takes the default network from
    41 to 25 ms an image of 256 x 256 [ours].
    """
    for module in list(net.modules()):
        children = list(module.named_children())  # timm registers a norm right behind its convolution
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                conv = nn.utils.fuse_conv_bn_eval(conv, norm)
                act = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
                if _can_be_packed(conv) and type(act) in ACTIVATIONS:
                    conv, act = PackedConv(conv, act), nn.Identity()
                setattr(module, conv_name, conv)
                setattr(module, norm_name, act)
    return net


def _can_be_packed(conv: nn.Conv2d) -> bool:
    if conv.padding_mode != "zeros":
        return False
    if isinstance(conv, Conv2dSame):
        return conv.stride == (2, 2) and conv.dilation == (1, 1) and all(k % 2 for k in conv.kernel_size)
    return type(conv) is nn.Conv2d and not isinstance(conv.padding, str)
