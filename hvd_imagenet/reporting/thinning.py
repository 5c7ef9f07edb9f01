"""Fewer points for a picture than were measured."""

import numpy as np

from hvd_imagenet.reporting.planned import Planned

# More than a panel has room for side by side, and little to write.
POINTS = 400


def means(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over neighbours: what is measured and noisy.

    Args:
        xs: [rows] float64.
        ys: [rows] float64; nan among neighbours is not counted, and is kept
            where all of them are nan.

    Returns:
        (xs, ys), each of `POINTS` rows at most.
    """
    if len(xs) <= POINTS:
        return xs, ys
    group = np.arange(len(xs)) * POINTS // len(xs)
    good = np.isfinite(ys)
    with np.errstate(invalid="ignore"):
        return (
            np.bincount(group, xs) / np.bincount(group),
            np.bincount(group[good], ys[good], POINTS)
            / np.bincount(group[good], minlength=POINTS),
        )


def rows(count: int) -> np.ndarray:
    """[at most `POINTS`] int64: rows of `count`, the first and the last."""
    return np.unique(np.linspace(0, count - 1, POINTS).astype(np.int64))


def steps(planned: Planned) -> list[int]:
    """Steps of a plan, with those before and at which a formula changes."""
    last = planned.total_steps - 1
    chosen = {round(last * n / POINTS) for n in range(POINTS + 1)}
    notable = [phase.first_step for phase in planned.phases.phases]
    notable += [step for step, _ in planned.rates]
    for step in notable:
        chosen.update((step - 1, step))
    return sorted(step for step in chosen if 0 <= step <= last)
