"""metrics.jsonl of a run, read to columns."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

KINDS = ("train", "validation")
# Larger than any float32 or number of epochs; what is larger is damaged, and no
# axis can show it.
_LARGEST = 1e40


@dataclasses.dataclass(frozen=True)
class Series:
    """What was measured, one row for each step that it was measured at.

    Attributes:
        steps: [rows] int64, rising: steps done.
        columns: [rows] float64 by name; nan where a value was not finite or
            was not measured.
    """

    steps: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.steps)

    def column(self, name: str) -> np.ndarray:
        """[rows] float64, all nan if the name was never logged."""
        return self.columns.get(name, np.full(len(self), np.nan))

    def has(self, name: str) -> bool:
        """Whether any row has a finite value of that name."""
        return bool(np.isfinite(self.column(name)).any())

    def last(self, name: str) -> float | None:
        """The last row's value, whatever it is; None if there are no rows."""
        return float(self.column(name)[-1]) if len(self) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a run has measured.

    Attributes:
        train: over the training steps since the row before.
        validation: over the validation split.
        lines_left_out: lines that are cut or damaged.
    """

    train: Series
    validation: Series
    lines_left_out: int = 0


def read(path: str) -> Metrics:
    """Reads a metrics.jsonl, less what is damaged.

    Where a step stands twice, the later line is taken.

    Raises:
        OSError: it cannot be read.
    """
    rows: dict[str, dict[int, dict[str, float]]] = {k: {} for k in KINDS}
    left_out = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                kind, step, values = _parse(line)
                rows[kind][step] = values
            except (
                AttributeError,
                ValueError,
                KeyError,
                TypeError,
                OverflowError,
                RecursionError,
            ):
                left_out += 1
    return Metrics(
        train=_series(rows["train"]),
        validation=_series(rows["validation"]),
        lines_left_out=left_out,
    )


def _parse(line: str) -> tuple[str, int, dict[str, float]]:
    record = json.loads(line)
    kind, step = record.pop("kind"), record.pop("step")
    if type(step) is not int or not 0 <= step < 2**63:
        raise ValueError(f"step {step!r} is no number of steps")
    values = {name: number(value) for name, value in record.items()}
    if not 0 <= values["epoch"] < _LARGEST:
        raise ValueError("has no place among the epochs")
    return kind, step, values


def number(value: Any) -> float:
    """A number that was written as JSON; nan for null.

    Raises:
        TypeError: it is something else.
        OverflowError: it is finite and larger than what is measured.
    """
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    if _LARGEST < abs(value) < float("inf"):
        raise OverflowError(f"{value!r} is too large")
    return float(value)


def _series(rows: Mapping[int, Mapping[str, float]]) -> Series:
    steps = sorted(rows)
    names = dict.fromkeys(name for step in steps for name in rows[step])
    return Series(
        np.array(steps, np.int64),
        {
            name: np.array(
                [rows[step].get(name, np.nan) for step in steps], np.float64
            )
            for name in names
        },
    )
