"""Means, standard deviations and differences; tables and figures of them."""

import dataclasses
import itertools
import math
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")  # Nothing that needs a display.

from matplotlib import pyplot
from scipy import stats

from experiments import BATCHES, EXPERIMENTS, Experiment

# The same results make the same file.
matplotlib.rcParams["svg.hashsalt"] = "reproduce"

# What came out of a run, by the name of its variant and its seed.
Outcomes = Mapping[str, Mapping[int, Mapping]]

# Experiments whose training is drawn step by step.
CURVES = ("warmup", "optimizers", "ranks")

_MINUS = "\N{MINUS SIGN}"


@dataclasses.dataclass(frozen=True)
class Summary:
    """A figure over the seeds.

    Attributes:
        mean: NaN where there is no value.
        deviation: sample standard deviation; NaN of fewer than two values.
        count: values, of runs that did not diverge.
        diverged: runs that did.
    """

    mean: float
    deviation: float
    count: int
    diverged: int

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        """Such as `3.21 ± 0.10`."""
        said = []
        if self.count:
            said.append(f"{scale * self.mean:.{digits}f}")
        if self.count > 1:
            said.append(f"± {scale * self.deviation:.{digits}f}")
        if self.diverged:
            runs = self.count + self.diverged
            said.append(f"({self.diverged} of {runs} diverged)")
        return " ".join(said) or "-"


def summary(values: Sequence[float | None]) -> Summary:
    """Of a value per seed, None for a run that diverged."""
    there = _there(values)
    return Summary(
        mean=statistics.fmean(there) if there else math.nan,
        deviation=statistics.stdev(there) if len(there) > 1 else math.nan,
        count=len(there),
        diverged=len(values) - len(there),
    )


def difference(
    values: Sequence[float], others: Sequence[float]
) -> tuple[float, float, float] | None:
    """Mean of `values` minus that of `others`, by Welch's test.

    Returns:
        The difference and its 95 % confidence interval; None where one of the
        two has fewer than two values.
    """
    if min(len(values), len(others)) < 2:
        return None
    interval = stats.ttest_ind(
        values, others, equal_var=False
    ).confidence_interval(0.95)
    return (
        statistics.fmean(values) - statistics.fmean(others),
        float(interval.low),
        float(interval.high),
    )


def table(experiment: Experiment, outcomes: Outcomes) -> str:
    """Markdown, a row per variant; differences are from the first one."""
    lines = [
        "| | runs | error, % | difference, points | training loss |"
        " difference |",
        "|---|---|---|---|---|---|",
    ]
    first = outcomes[experiment.variants[0].name]
    for variant in experiment.variants:
        found = outcomes[variant.name]
        cells = [variant.label, str(len(found))]
        for name, scale, digits in (("error", 100.0, 2), ("train_loss", 1, 3)):
            values = _values(found, name)
            cells.append(summary(values).text(scale, digits))
            apart = difference(_there(values), _there(_values(first, name)))
            cells.append(
                ""
                if found is first
                else "-"
                if apart is None
                else _interval(apart, scale, digits)
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(apart, scale: float, digits: int) -> str:
    mean, low, high = (
        f"{scale * value:+.{digits}f}".replace("-", _MINUS) for value in apart
    )
    return f"{mean} ({low} to {high})"


def curves_table(experiment: Experiment, outcomes: Outcomes) -> str:
    """Markdown: how far curves of the same seed are from the first variant's.

    The last row is how far another seed is.
    """
    first, *others = experiment.variants
    reference = _curves(outcomes[first.name])
    following = {
        seed: reference[after]
        for seed, after in itertools.pairwise(sorted(reference))
    }
    rows = {v.label: _curves(outcomes[v.name]) for v in others}
    rows[f"{first.label}, another seed"] = following
    lines = [
        "| mean difference of the training loss, of one step |"
        " step 1 | step 2 | step 3 | steps 4 to 20 | last 20 steps |",
        "|---|---|---|---|---|---|",
    ]
    for label, curves in rows.items():
        shared = sorted(curves.keys() & reference.keys())
        cells = [label]
        for part in (
            slice(1),
            slice(1, 2),
            slice(2, 3),
            slice(3, 20),
            slice(-20, None),
        ):
            apart = [
                abs(one - other)
                for seed in shared
                for one, other in zip(
                    curves[seed][part], reference[seed][part], strict=True
                )
            ]
            cells.append(f"{statistics.fmean(apart):.1g}" if apart else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _curves(found: Mapping[int, Mapping]) -> dict[int, list[float]]:
    return {seed: outcome["losses"] for seed, outcome in found.items()}


def _values(found: Mapping[int, Mapping], name: str) -> list[float | None]:
    return [outcome[name] for outcome in found.values()]


def _there(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def write(folder: pathlib.Path, outcomes: Outcomes) -> None:
    """Tables and figures of what is there; the rest stays as it was.

    Args:
        folder: of README.md and the figures.
        outcomes: of the runs that have ended.
    """
    readme = folder / "README.md"
    text = readme.read_text()
    there = [
        experiment
        for experiment in EXPERIMENTS
        if all(variant.name in outcomes for variant in experiment.variants)
    ]
    for experiment in there:
        lines = table(experiment, outcomes)
        text = with_table(text, experiment.name, lines)
        if experiment.name == "ranks":
            lines = curves_table(experiment, outcomes)
            text = with_table(text, "curves", lines)
    readme.write_text(text)
    names = {experiment.name for experiment in there}
    if {"minibatch", "statistics512", "statistics1024"} <= names:
        draw_minibatch(folder / "minibatch.svg", outcomes)
    if set(CURVES) <= names:
        draw_curves(folder / "curves.svg", outcomes)


def with_table(text: str, name: str, lines: str) -> str:
    """The text with another table between the markers of that name.

    Raises:
        ValueError: it has not one place for it.
    """
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    text, count = re.subn(
        f"{begin}.*?{end}",
        lambda _: f"{begin}\n{lines}\n{end}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"README.md has {count} times {begin}, not once.")
    return text


def draw_minibatch(path: pathlib.Path, outcomes: Outcomes) -> None:
    """Error and training loss by minibatch size, as Goyal's Figure 1."""
    series = {
        "moving averages": {size: f"batch{size}" for size in BATCHES},
        "last minibatch's statistics": {
            size: f"last_statistics{size}" for size in BATCHES[-2:]
        },
    }
    figure, panels = pyplot.subplots(
        1, 2, figsize=(9, 3.8), layout="constrained"
    )
    for axes, name, scale, title in (
        (panels[0], "error", 100, "validation error, %"),
        (panels[1], "train_loss", 1, "training loss, last epoch"),
    ):
        for label, variants in series.items():
            found = [
                summary(_values(outcomes[variant], name))
                for variant in variants.values()
            ]
            axes.errorbar(
                list(variants),
                [scale * each.mean for each in found],
                [2 * scale * each.deviation for each in found],
                marker="o",
                capsize=3,
                label=label,
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(BATCHES, [str(size) for size in BATCHES])
        axes.set_yscale("log")
        axes.set_xlabel("images per step")
        axes.set_ylabel(f"{title} (± 2 deviations)")
        axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def draw_curves(path: pathlib.Path, outcomes: Outcomes) -> None:
    """Training loss by step of all seeds, a panel per experiment."""
    panels = [e for e in EXPERIMENTS if e.name in CURVES]
    figure, all_axes = pyplot.subplots(
        1, len(panels), figsize=(4.5 * len(panels), 3.8), layout="constrained"
    )
    for axes, experiment in zip(all_axes, panels, strict=True):
        for number, variant in enumerate(experiment.variants):
            for place, found in enumerate(outcomes[variant.name].values()):
                axes.plot(
                    range(1, len(found["losses"]) + 1),
                    found["losses"],
                    color=f"C{number}",
                    linewidth=0.8,
                    label=None if place else variant.label,
                )
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
