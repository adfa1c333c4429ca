"""Training in several processes: one GPU each, on one machine or on many.

``fit`` is the same in one process and in a group of them (``torchrun`` starts such a group). Every process
keeps all features, takes its share of each batch, and the gradients are added up: the result is that of one
process, up to rounding. DistributedDataParallel is not used: one step runs the flow many times (scales,
normal images and twins), and a process may have no synthetic location at all; its hooks allow neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


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


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes."""
    if place()[1] == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:  # nothing of this process's share went through it
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
