"""Tables made of run records: the only source of numbers of ours in the book."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from .results import Record, facts_of

# how the text writes the methods of the records; the other yardsticks have names that need no change
NAMES = {"mssf": "MSSF", "gaussian": "Gaussian", "msflow": "MSFlow", "stmae": "ST-MAE", "uniad": "UniAD"}


def table(
    records: Iterable[Record],
    columns: Mapping[str, str],
    by: Sequence[str] = ("dataset", "split", "method"),
    digits: int = 3,
) -> pd.DataFrame:
    """Mean ± spread over the seeds, one row for each data set, split and method; yardsticks have rows too.

    Args:
        records: from :func:`mssf_lite.results.read_records`.
        columns: heading -> dotted path of a number in the record, such as
            ``{"image AUROC": "metrics.pooled.image_auroc", "parameters": "sizes.trainable"}``.
        by: what a row stands for: some of ``dataset``, ``split``, ``method``, ``profile``, ``variant``.
        digits: after the decimal point.

    Returns:
        Strings: ``"0.877 ± 0.006"`` (sample standard deviation over seeds), ``"0.877"`` for a single seed,
        empty where nothing was measured; whole numbers that agree over the seeds as they are. Methods stand
        as in ``NAMES``. The last column ``seeds`` counts the seeds.

    Raises:
        ValueError: if one row would mix unlike runs: two of the same seed with different numbers, or
            methods on different file lists under one data set, split and seed.
    """
    digests: dict[tuple, str] = {}
    rows: dict[tuple, dict[Any, list[float | int | None]]] = {}
    for record in records:
        data = record["dataset"]
        if digests.setdefault((data["name"], data["split"], data["seed"]), data["digest"]) != data["digest"]:
            raise ValueError(
                f"records of {data['name']!r}, split {data['split']!r}, seed {data['seed']} were run on "
                "different file lists (their digests differ): run them again on one"
            )
        # a yardstick shares the run's data and features, not its size and time
        simple = [{"method": name, "metrics": found} for name, found in record["yardsticks"].items()]
        stripped = {key: value for key, value in record.items() if key not in ("sizes", "times")}
        for run in (record, *({**stripped, **yardstick} for yardstick in simple)):
            facts = facts_of(run)
            seeds = rows.setdefault(tuple(facts[name] for name in by), {})
            values = [_at(run, path) for path in columns.values()]
            if seeds.setdefault(facts["seed"], values) != values:
                raise ValueError(
                    f"two different runs of {facts}: tell them apart with by=(..., 'profile'), read_records("
                    "profile=...), or by emptying the yardsticks of one"
                )
    lines = [
        (
            *row,
            *(_mean_and_spread(column, digits) for column in zip(*seeds.values(), strict=True)),
            len(seeds),
        )
        for row, seeds in rows.items()
    ]
    return pd.DataFrame(lines, columns=[*by, *columns, "seeds"]).replace({"method": NAMES})


def differences(records: Iterable[Record], base: str, path: str) -> dict[str, dict[int, float]]:
    """How far each variant stands from another, seed by seed: two runs of one seed share their images.

    Args:
        records: of one data set and split.
        base: the variant to compare with.
        path: dotted path of the number.

    Returns:
        Variant -> seed -> its number minus that of ``base``; seeds without both are left out.
    """
    values: dict[str, dict[int, float]] = {}
    for record in records:
        facts = facts_of(record)
        if (value := _at(record, path)) is not None:
            values.setdefault(facts["variant"], {})[facts["seed"]] = value
    start = values.get(base, {})
    return {
        variant: {seed: value - start[seed] for seed, value in found.items() if seed in start}
        for variant, found in values.items()
        if variant != base
    }


def flat(records: Iterable[Record]) -> pd.DataFrame:
    """Every record as one row, for a spreadsheet: a column for each dotted path, lists as JSON text.

    The progress of the training is left out, for it is a table of its own.
    """
    rows = pd.json_normalize([{k: v for k, v in record.items() if k != "training"} for record in records])
    return rows.map(lambda value: json.dumps(value) if isinstance(value, list) else value)


def _mean_and_spread(values: Sequence[float | int | None], digits: int) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return ""
    if all(isinstance(value, Integral) for value in found) and len(set(found)) == 1:
        return f"{found[0]:,}"
    # spaces that do not break: a cell stays in one line
    spread = (
        f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{np.std(found, ddof=1):.{digits}f}" if len(found) > 1 else ""
    )
    return f"{np.mean(found):.{digits}f}{spread}"


def _at(record: Mapping[str, Any], path: str) -> float | int | None:
    """The number at a dotted path; None where the record has none."""
    value: Any = record
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value
