"""Times of steps as mean, uncertainty and spread.

Neighbouring steps resemble each other (another job, the clock of the
processor, the network), so that the standard deviation of single steps makes
the mean look too certain. Means of batches of consecutive steps hardly do, and
their spread gives the interval (batch means; Law, "Simulation Modeling and
Analysis", 5th edition, section 9.5.3).
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np

# More batches hardly narrow the interval, and shorter ones are not as
# independent (Schmeiser 1982, "Batch Size Effects in the Analysis of Simulation
# Output").
MOST_BATCHES = 10

# 0.975 quantile of Student's t for 1 to MOST_BATCHES - 1 degrees of freedom.
_STUDENT = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582),
    *(2.446912, 2.364624, 2.306004, 2.262157),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and how uncertain it is.

    Attributes:
        mean: of all batches.
        ci95: half the width of the 95 % confidence interval of the mean; None
            of a single batch.
    """

    mean: float
    ci95: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """How single steps differ.

    Attributes:
        p50, p95, p99: percentiles.
        std: standard deviation, 0 of a single step.
    """

    p50: float
    p95: float
    p99: float
    std: float


def batch_lengths(steps: int) -> list[int]:
    """Cuts steps into at most MOST_BATCHES batches of nearly one length."""
    count = min(steps, MOST_BATCHES)
    return [(n + 1) * steps // count - n * steps // count for n in range(count)]


def estimate(batch_means: Sequence[float], lengths: Sequence[int]) -> Estimate:
    """Mean of steps, and its interval, from those of their batches.

    Args:
        batch_means: of 1 to MOST_BATCHES batches, taken as independent.
        lengths: number of steps in each batch.
    """
    mean = float(np.average(batch_means, weights=lengths))
    count = len(batch_means)
    if count == 1:
        return Estimate(mean=mean, ci95=None)
    deviation = statistics.stdev(batch_means)
    return Estimate(
        mean=mean, ci95=_STUDENT[count - 2] * deviation / math.sqrt(count)
    )


def spread(values: Sequence[float]) -> Spread:
    """Percentiles, linear between neighbours, and standard deviation."""
    p50, p95, p99 = (float(p) for p in np.percentile(values, (50, 95, 99)))
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(p50=p50, p95=p95, p99=p99, std=deviation)
