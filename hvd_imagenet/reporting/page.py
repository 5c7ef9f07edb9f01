"""The page: runs, tables and pictures to one HTML file."""

import base64
import datetime
import os
from collections.abc import Mapping, Sequence

import jinja2

from hvd_imagenet.reporting import facts, naming, styles, tables
from hvd_imagenet.reporting.panels import Panel
from hvd_imagenet.reporting.runs import Run
from hvd_imagenet.reporting.styles import Style
from hvd_imagenet.reporting.worlds import Point


def render(
    runs: Sequence[Run],
    looks: Mapping[str, Style],
    sections: Mapping[str, Sequence[tuple[Panel, str]]],
    points: Sequence[Point],
    now: datetime.datetime,
) -> str:
    """The text of the page, which needs no other file.

    Args:
        runs: at least one, of different names.
        looks: of every run, by name.
        sections: panels with their SVGs, of "curves", "plan", "throughput"
            and "scaling".
        points: of the scaling.
        now: when it is made, in UTC.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hvd_imagenet.reporting"),
        # Names, paths and values of flags are others' text.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["dasharray"] = lambda dashes: " ".join(
        f"{1.6 * length:g}" for length in dashes
    )
    return environment.get_template("report.html").render(
        now=now.strftime("%Y-%m-%d %H:%M UTC"),
        runs=runs,
        looks=looks,
        has_legend=1 < len(runs) <= styles.DIFFERENT,
        tiles=tables.tiles(runs),
        notes=notes(runs),
        statuses={run.name: tables.status(run) for run in runs},
        results={run.name: tables.result(run) for run in runs},
        plans={run.name: tables.plan(run) for run in runs},
        sections=sections,
        points=points,
        recipe=facts.knobs(runs, recipe=True),
        site=facts.knobs(runs, recipe=False),
        environment=facts.environment(runs),
        starts={run.name: facts.starts(run) for run in runs},
        directories={
            run.name: naming.printable(os.path.abspath(run.directory))
            for run in runs
        },
        commands={run.name: facts.command(run) for run in runs},
        differing=facts.differing,
        same=facts.same,
    )


def notes(runs: Sequence[Run]) -> list[str]:
    """Sentences on what to know before comparing, and what is missing."""
    said = []
    for what, values in (
        (
            "different networks",
            {run.config.model.model for run in runs if run.config},
        ),
        (
            "different numbers of classes",
            {run.config.model.num_classes for run in runs if run.config},
        ),
        (
            "different data, by their training and validation images",
            {
                f"{run.planned.train_images:,} and"
                f" {run.planned.validation_images:,}"
                for run in runs
                if run.planned
            },
        ),
    ):
        if len(values) > 1:
            listed = "; ".join(sorted(map(str, values)))
            said.append(f"The runs have {what}: {facts.shortened(listed)}.")
    if len(runs) > styles.DIFFERENT:
        said.append(
            f"Colours and lines repeat after {styles.DIFFERENT} runs; choose"
            " fewer to tell all of them apart."
        )
    said += [
        f"{run.name}: {facts.shortened(problem)}."
        for run in runs
        for problem in run.problems
    ]
    return said


def _data_uri(svg: str) -> str:
    encoded = base64.b64encode(svg.encode()).decode()
    return f"data:image/svg+xml;base64,{encoded}"
