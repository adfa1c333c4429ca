"""Which images train, which are held out and which test: no physical item on two sides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .samples import Dataset

SPLITS = ("train", "held_out", "test")


def check_sides(dataset: Dataset) -> None:
    """Refuse a data set in which something stands where it must not; see :class:`Dataset`.

    Raises:
        ValueError: if a training or held-out sample shows a defect, a key comes twice, a sample stands in
            another list than it says, or a group stands on two sides.
    """
    seen: set[str] = set()
    for split in SPLITS:
        for sample in getattr(dataset, split):
            where = f"data set {dataset.name!r}, sample {sample.key}"
            if sample.split != split:
                raise ValueError(f"{where}: says {sample.split!r} but stands in {split!r}")
            if sample.is_defect and split != "test":
                raise ValueError(f"{where}: {sample.defect!r} in {split!r}; defects belong in 'test'")
            if sample.key in seen:
                raise ValueError(f"{where}: comes twice; every key may stand in one split, once")
            seen.add(sample.key)
    sides = {split: {sample.group for sample in getattr(dataset, split)} for split in SPLITS}
    pairs = [("train", "held_out"), ("train", "test"), ("held_out", "test")]
    for one, other in pairs[:1] if dataset.leaks else pairs:
        if both := sides[one] & sides[other]:
            raise ValueError(
                f"data set {dataset.name!r}, split {dataset.split!r}: {len(both)} group(s) stand in {one!r} "
                f"and in {other!r}, for instance {min(both)!r}; keep all pictures of one item on one side"
            )


def leaked(dataset: Dataset) -> int:
    """How many normal test images show an item that is also shown in training (held-out ones included)."""
    known = {sample.group for sample in dataset.train + dataset.held_out}
    return sum(not sample.is_defect and sample.group in known for sample in dataset.test)


def draw_groups(groups: Iterable[str], share: float, rng: torch.Generator) -> set[str]:
    """Draw some of the groups, never all and never none.

    Args:
        groups: names; repeats and order do not matter.
        share: the share of *groups* (not of samples) to draw, in (0, 1); rounded to whole groups.
        rng: the only source of chance, so one seed gives one draw.

    Returns:
        The drawn names: at least one, and all but one at most; none if there are fewer than two groups.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share of groups lies between 0 and 1, got {share}")
    names = sorted(set(groups))
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    order = torch.randperm(len(names), generator=rng).tolist()
    return {names[i] for i in order[: max(count, 0)]}
