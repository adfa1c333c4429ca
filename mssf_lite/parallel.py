"""Training in several processes: one GPU each, on one machine or on many.

``fit`` is the same in one process and in a group of them (``torchrun`` starts such a group). Every process
keeps all features and takes its share of each batch, and DistributedDataParallel brings the gradients
together: the result is that of one process, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


def join() -> tuple[int, int]:
    """Join the group that ``torchrun`` has started, if it has; the rank of this process and their number.

    A process that shares its machine with others takes the GPU of its local rank.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return 0, 1
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return place()


def place() -> tuple[int, int]:
    """Rank of this process and number of processes: (0, 1) without a group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient."""
    value = value.detach().clone()
    if place()[1] > 1:
        distributed.all_reduce(value)
    return value


def gathered(values: Tensor) -> Tensor:
    """The values (n,) of all processes, of which each may have another number, without gradient."""
    rank, world = place()
    values = values.detach()
    if world == 1:
        return values
    counts = values.new_zeros(world)
    counts[rank] = len(values)
    longest = int(total(counts).max())
    mine = values.new_full((longest,), float("nan"))
    mine[: len(values)] = values
    parts = [torch.empty_like(mine) for _ in range(world)]
    distributed.all_gather(parts, mine)
    return torch.cat([part[: int(n)] for part, n in zip(parts, total(counts), strict=True)])


def mean(values: Tensor) -> Tensor:
    """This process's part of the mean over the values (n,) of all processes; the parts add up to it.

    Its gradient is that of the mean with respect to this process's values; 0 where nobody has any.
    """
    count = total(values.new_tensor(float(len(values))))
    return values.sum() / count.clamp_min(1)


class _Step(nn.Module):
    """A loss as the forward pass of what it trains: one pass a step, however often the flow is run in it."""

    def __init__(self, trained: nn.Module, loss: Callable[..., tuple[Tensor, Tensor]]):
        super().__init__()
        self.trained, self.loss = trained, loss

    def forward(self, *batch: Any) -> tuple[Tensor, Tensor]:
        # The others wait for every gradient, also those of a process whose share of the batch is empty.
        idle = 0.0 * torch.stack([parameter.sum() for parameter in self.trained.parameters()]).sum()
        first, second = self.loss(*batch)
        return first + idle, second


def spread(trained: nn.Module, loss: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    """``loss``, as it is in one process; in a group its gradients are the mean over all processes.

    Args:
        trained: the module that learns; it begins on every process as it is on the first.
        loss: a process's share of a batch -> two scalars that are differentiable in ``trained``.
    """
    if place()[1] == 1:
        return loss
    return DistributedDataParallel(_Step(trained, loss))
