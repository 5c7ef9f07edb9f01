"""The learning rate as a pure function of the global step.

Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1
Hour" (arXiv 1706.02677): the linear scaling rule (section 2.1), the warmup
(section 2.2) and the step schedule (section 5.1). Also the transition of
Akiba's RMSprop warm-up, a function of the epoch. Nothing here keeps state, so a
resumed run needs to restore none.
"""

import bisect
import dataclasses
import math


def linear_scaling(
    base_learning_rate: float, base_batch_size: int, global_batch_size: int
) -> float:
    """Learning rate for `global_batch_size` images per step.

    Goyal 2017, section 2.1: when the minibatch is multiplied by k, multiply
    the learning rate by k.

    Args:
        base_learning_rate: rate for `base_batch_size` images per step.
        base_batch_size: in images.
        global_batch_size: images per step over all ranks.
    """
    # The quotient first: equal batches must give exactly the base rate.
    return base_learning_rate * (global_batch_size / base_batch_size)


def rmsprop_transition(
    epoch: float,
    center_epochs: float = 10.0,
    period_epochs: float = 5.0,
    slope: str = "continuous",
) -> float:
    """Share of SGD at `epoch` in Akiba's RMSprop warm-up; the rest is RMSprop.

    Akiba, Suzuki and Fukuda 2017 (arXiv 1711.04325), "RMSprop Warm-up", a
    curve in the shape of an exponential linear unit. With b the center and p
    the period:

        0.5 * exp(2 * (epoch - b) / p)    below b
        0.5 + s * (epoch - b) / p         from b to b + p / 2
        1                                 from b + p / 2 on

    The printed formula has s = 2 (in two transcriptions that agree; the paper
    was not at hand): it passes 1 at b + p / 4, where the share of RMSprop turns
    negative, nears 1.5 and drops to 1. With s = 1 value and slope are
    continuous at b, and the line meets 1.

    Args:
        epoch: epochs done, at least 0; fractions give a smooth transition,
            whole numbers the public Chainer code's.
        center_epochs: b, where both have half.
        period_epochs: p, more than 0.
        slope: "continuous", s = 1, or "printed", s = 2.
    """
    slopes = {"continuous": 1.0, "printed": 2.0}
    if slope not in slopes:
        raise ValueError(f"slope={slope} must be one of {list(slopes)}.")
    if not period_epochs > 0.0:
        raise ValueError(f"period_epochs={period_epochs} must be > 0.")
    periods = (epoch - center_epochs) / period_epochs
    if periods < 0.0:
        return 0.5 * math.exp(2.0 * periods)
    if periods < 0.5:
        return 0.5 + slopes[slope] * periods
    return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warmup:
    """The rate of the first steps.

    Attributes:
        start: rate of step 0; Goyal's is that of a single server, 0.1.
        target: rate of step `steps`, where the normal schedule takes over.
        steps: number of steps; 0 for no warmup.
        gradual: rise by a constant amount per step, or else keep `start`.
    """

    start: float
    target: float
    steps: int
    gradual: bool = True

    def __call__(self, step: int) -> float:
        """Rate of `step`, for 0 <= step < steps."""
        if not self.gradual:
            return self.start
        return self.start + (self.target - self.start) * step / self.steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """A rate that never changes."""

    changes = ()

    def __call__(self, step: int) -> float:
        """Multiplier of the peak rate at `step`."""
        del step
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """x `factor` from every one of the `boundaries` on.

    Attributes:
        boundaries: steps, counted from the start of the run, rising.
        factor: multiplier at each boundary.
    """

    boundaries: tuple[int, ...]
    factor: float

    @property
    def changes(self) -> tuple[int, ...]:
        """Steps at which the formula of the rate changes."""
        return self.boundaries

    def __call__(self, step: int) -> float:
        """Multiplier of the peak rate at `step`."""
        return self.factor ** bisect.bisect_right(self.boundaries, step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from 1 at step `start` to 0 at step `end`.

    Loshchilov and Hutter 2017, "SGDR" (arXiv 1608.03983), equation 5, without
    restarts.

    Attributes:
        start: step.
        end: step, at and after which the multiplier is 0.
    """

    start: int
    end: int

    changes = ()

    def __call__(self, step: int) -> float:
        """Multiplier of the peak rate at `step`."""
        done = (step - self.start) / max(1, self.end - self.start)
        return 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Polynomial:
    """From 1 at step `start` to `end_share` at step `end`, by a power.

    You, Gitman and Ginsburg 2017 (arXiv 1708.03888), section 5, with power 2;
    with an end that is not zero as in MLPerf's reference code.

    Attributes:
        start: step.
        end: step, at and after which the multiplier is `end_share`.
        power: of the share of steps that is left.
        end_share: multiplier at the end.
    """

    start: int
    end: int
    power: float
    end_share: float = 0.0

    changes = ()

    def __call__(self, step: int) -> float:
        """Multiplier of the peak rate at `step`."""
        done = (step - self.start) / max(1, self.end - self.start)
        left = 1.0 - min(max(done, 0.0), 1.0)
        return (1.0 - self.end_share) * left**self.power + self.end_share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piecewise:
    """Given values at given steps, and a straight line or none in between.

    Attributes:
        steps: where the values are, not falling. At a step that stands twice
            the value jumps from the first one's to the second one's.
        shares: multipliers of the peak rate.
        is_linear: whether values in between are on a line, or are those of the
            step before. Outside the steps the nearest value holds.
    """

    steps: tuple[int, ...]
    shares: tuple[float, ...]
    is_linear: bool

    @property
    def changes(self) -> tuple[int, ...]:
        """Steps at which the formula of the rate changes."""
        return self.steps

    def __call__(self, step: int) -> float:
        """Multiplier of the peak rate at `step`."""
        after = bisect.bisect_right(self.steps, step)
        if after == 0:
            return self.shares[0]
        before = after - 1
        if after == len(self.steps) or not self.is_linear:
            return self.shares[before]
        length = self.steps[after] - self.steps[before]
        done = (step - self.steps[before]) / length
        rise = self.shares[after] - self.shares[before]
        return self.shares[before] + done * rise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rescaled:
    """A decay by the linear scaling rule, where the batch changes on the way.

    Attributes:
        decay: of the rate for the first batch size.
        batch: batch size by step, as shares of the first.
    """

    decay: "Decay"
    batch: Piecewise

    @property
    def changes(self) -> tuple[int, ...]:
        """Steps at which the formula of the rate changes."""
        return (*self.decay.changes, *self.batch.changes)

    def __call__(self, step: int) -> float:
        """Multiplier of the peak rate at `step`."""
        return self.decay(step) * self.batch(step)


Decay = Constant | Steps | Cosine | Polynomial | Piecewise | Rescaled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The rate of every step: a warmup, then `decay` of the peak rate.

    Attributes:
        peak: rate by the linear scaling rule.
        warmup: rate of the steps below `warmup.steps`.
        decay: multiplier of `peak` at every step from there on.
    """

    peak: float
    warmup: Warmup
    decay: Decay

    def __call__(self, step: int) -> float:
        """Learning rate of `step`, counted from 0 over the whole run."""
        if step < self.warmup.steps:
            return self.warmup(step)
        return self.peak * self.decay(step)
