"""Writes what runs did as one HTML page and pictures.

    python -m hvd_imagenet.report RUN [RUN ...]

RUN is the --workdir of a training, finished or not. Curves, the plan against
what was done, throughput, what differs between the recipes and a final table
go to report.html, which needs no other file and no network, and to
report_*.png beside it. A directory that hvd_imagenet.benchmark --mode=scaling
wrote its report to may stand among the runs. Standard output gets the path of
the page, standard error what could not be read.
"""

import contextlib
import datetime
import importlib.util
import itertools
import os
import sys
from collections.abc import Sequence

from absl import app
from absl import flags as absl_flags

from hvd_imagenet import atomic_files, flags, program
from hvd_imagenet.reporting import naming
from hvd_imagenet.reporting.options import ReportOptions

_PAGE = "report.html"


def main(request: tuple[ReportOptions, Sequence[str]]) -> int:
    """Reads and writes; returns the exit status."""
    options, paths = request
    try:
        sys.stdout.write(f"{write(options, paths)}\n")
    except (ValueError, atomic_files.NotWrittenError) as error:
        sys.stderr.write(f"error: {naming.printable(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        return program.INTERRUPTED
    return 0


def write(options: ReportOptions, paths: Sequence[str]) -> str:
    """Writes the report of the runs at `paths`.

    Returns:
        The path of the page.

    Raises:
        ValueError: a path is no run; one sentence with the remedy.
        NotWrittenError: a file of the report could not be written.
    """
    _require_parts()
    # matplotlib takes a second to start: not for --help.
    from hvd_imagenet.reporting import (
        curves,
        drawing,
        page,
        plan_curves,
        runs,
        styles,
        world_curves,
        worlds,
    )

    directories = [path for path in paths if runs.is_run(path)]
    measured = [
        worlds.read_benchmark(path) for path in paths if path not in directories
    ]
    names = naming.names(directories, options.names)
    found = [
        runs.read(directory, name)
        for directory, name in zip(directories, names, strict=True)
    ]
    looks = {name: styles.style(n) for n, name in enumerate(names)}
    points = [*worlds.of_runs(found), *itertools.chain(*measured)]
    sections = {
        "curves": curves.learning(found, looks),
        "plan": plan_curves.panels(found, looks),
        "throughput": [
            *curves.throughput(found, looks),
            *curves.by_time(found, looks),
        ],
        "scaling": world_curves.panels(points, looks),
    }
    folder = options.output_dir or os.path.join(directories[0], "report")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--output_dir={folder} cannot be made ({error.strerror}); choose"
            " another."
        ) from error
    for name, own in sections.items():
        path = os.path.join(folder, f"report_{name}.png")
        if own:
            _write(path, drawing.png(own, list(looks.items())))
        else:  # Of a report of other runs.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    text = page.render(
        found,
        looks,
        {
            name: list(zip(own, drawing.svgs(own), strict=True))
            for name, own in sections.items()
        },
        points,
        datetime.datetime.now(datetime.timezone.utc),
    )
    path = os.path.join(folder, _PAGE)
    # A path may have bytes that are no text.
    _write(path, text.encode(errors="replace"))
    for note in page.notes(found):
        sys.stderr.write(f"{naming.printable(note)}\n")
    return naming.printable(path)


def _require_parts() -> None:
    """Refuses to begin without what draws.

    Raises:
        ValueError: says what to install.
    """
    missing = [
        name
        for name in ("jinja2", "matplotlib")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ValueError(
            f"the report needs {' and '.join(missing)}, not installed here; run"
            f" pip install {' '.join(missing)}, or install hvd_imagenet with"
            " its extra report."
        )


def _write(path: str, content: bytes) -> None:
    with atomic_files.replacing(path) as file:
        file.write(content)


def parse(
    argv: Sequence[str], flag_values: absl_flags.FlagValues = absl_flags.FLAGS
) -> tuple[ReportOptions, Sequence[str]]:
    """What a command line asks for.

    Raises:
        absl.flags.Error: it cannot be understood.
    """
    options, paths = flags.parse_with_paths(ReportOptions, argv, flag_values)
    if not paths:
        raise absl_flags.Error(
            "no run is named; name the --workdir of one or more trainings, as"
            " in: python -m hvd_imagenet.report runs/1 runs/2"
        )
    return options, paths


def run() -> None:
    """Parses the command line and runs the program."""
    flags.define_group(ReportOptions)
    app.run(main, flags_parser=lambda argv: flags.parse_or_exit(argv, parse))


if __name__ == "__main__":
    run()
