"""Measures worlds of 1, 2, 4, ... processes, one after the other.

Every world is a job of its own: this benchmark with mode=train, started as
hvd_imagenet.launch starts a training. Nothing is computed here.
"""

import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from hvd_imagenet import environment, flags
from hvd_imagenet.cluster import foreground, launch_job, schedulers
from hvd_imagenet.cluster.hosts import Cluster
from hvd_imagenet.cluster.options import HostOptions
from hvd_imagenet.config import Config
from hvd_imagenet.measuring import scaling_report
from hvd_imagenet.measuring.options import BenchmarkOptions
from hvd_imagenet.measuring.scaling_report import Run
from hvd_imagenet.measuring.scaling_worlds import World, worlds
from hvd_imagenet.world import launched_size

_RESULT = '{"mode": "train"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jobs:
    """How worlds are started."""

    options: BenchmarkOptions
    host_options: HostOptions
    cluster: Cluster
    environment: environment.Environment

    def command(self, world: World) -> list[str]:
        """What starts a world.

        Raises:
            ValueError: see `launch_job.make_command`.
        """
        return self._job(
            self.cluster.first(world.processes), self._flags(world)
        ).arguments()

    def check(self, config: Config) -> None:
        """Asks all hosts whether they can run it.

        Raises:
            ValueError: one cannot.
        """
        said, problems = launch_job.check_hosts(
            self._job(self.cluster, ()),
            launch_job.find_remote(self.cluster),
            self.environment.passed,
            config,
        )
        sys.stderr.write(said)
        if problems:
            raise ValueError("\nerror: ".join(problems))

    def _job(self, cluster, arguments):
        return launch_job.make_command(
            self.host_options,
            cluster,
            launch_job.find_remote(cluster),
            launch_job.find_identity_file(self.host_options),
            arguments,
            os.environ,
            "benchmark",
        )

    def _flags(self, world: World) -> list[str]:
        options = self.options
        text = flags.to_text(world.config).splitlines()
        return [
            "--mode=train",
            f"--steps={options.steps}",
            f"--warmup_steps={options.warmup_steps}",
            f"--host_slots={max(host.slots for host in self.cluster.hosts)}",
            *(line for line in text if line.startswith("--")),
        ]


def measure(
    options: BenchmarkOptions, host_options: HostOptions, config: Config
) -> dict[str, Any]:
    """Measures worlds, and writes report and picture.

    Returns:
        The content of scaling.json.

    Raises:
        ValueError: one sentence on what is wrong and the remedy; of a world
            that failed, after the report of those before it is written.
        foreground.Stopped: a signal came, and the world has ended.
    """
    _require_parts()
    cluster = schedulers.find(
        hosts=host_options.hosts,
        hostfile=host_options.hostfile,
        slots_per_host=host_options.slots_per_host,
        environ=os.environ,
    )
    planned = list(worlds(config, cluster.world_size))
    folder = options.report_dir
    try:
        os.makedirs(os.path.join(folder, "logs"), exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--report_dir={folder} cannot be written ({error.strerror});"
            " choose another."
        ) from error
    jobs = Jobs(
        options=options,
        host_options=host_options,
        cluster=cluster,
        environment=launch_job.part_environment(host_options, os.environ),
    )
    jobs.check(config)
    runs = []
    for number, world in enumerate(planned, 1):
        sys.stderr.write(f"{number}/{len(planned)}: {world}\n")
        log = os.path.join(folder, "logs", f"{number}")
        runs.append(
            Run(
                curve=world.curve,
                baseline=world.baseline,
                processes=world.processes,
                result=_result(jobs, world, log),
            )
        )
        report = _report(cluster, runs, is_complete=number == len(planned))
        _write(folder, report, runs)
    return report


def _require_parts() -> None:
    if launched_size(os.environ) is not None:
        raise ValueError(
            "--mode=scaling starts its processes itself; start it without"
            " horovodrun, and name the hosts with --hosts."
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "--mode=scaling draws its report with matplotlib, which is not"
            " installed; run pip install matplotlib."
        )


def _result(jobs: Jobs, world: World, log: str) -> dict[str, Any]:
    """Runs a world, and reads what its first process printed."""
    with (
        open(f"{log}.out", "w", encoding="utf-8") as stdout,
        open(f"{log}.err", "w", encoding="utf-8") as stderr,
    ):
        try:
            status = foreground.run(
                jobs.command(world),
                jobs.environment.passed,
                timeout_seconds=jobs.options.timeout_seconds,
                stdout=stdout,
                stderr=stderr,
            )
            failure = f"exit status {status}" if status else ""
        except TimeoutError as error:
            failure = f"{error}, the limit of --timeout_seconds"
    lines = _lines(f"{log}.out")
    found = [line for line in lines if _RESULT in line]
    if not failure and len(found) == 1:
        # Behind what horovodrun puts before it.
        return json.loads(found[0][found[0].index(_RESULT) :])
    said = [line for line in _lines(f"{log}.err") if "error: " in line]
    cause = said[0].partition("error: ")[2] if said else f"see {log}.err"
    raise ValueError(
        f"the world of {world}, gave no result"
        f" ({failure or 'it printed none'}): {cause}"
    )


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()


def _report(
    cluster: Cluster, runs: Sequence[Run], *, is_complete: bool
) -> dict[str, Any]:
    points = scaling_report.points(runs)
    return {
        "mode": "scaling",
        "hosts": str(cluster),
        "is_complete": is_complete,
        "points": [dataclasses.asdict(point) for point in points],
        "runs": [dataclasses.asdict(run) for run in runs],
    }


def _write(folder: str, report: dict[str, Any], runs: Sequence[Run]) -> None:
    # Not before: matplotlib is not there without its extra.
    from hvd_imagenet.measuring import scaling_picture

    path = os.path.join(folder, "scaling.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
    first = runs[0].result
    scaling_picture.draw(
        scaling_report.points(runs),
        f"{first['model']}, {first['image_size']} pixels,"
        f" {first['precision']}, {report['hosts']}",
        os.path.join(folder, "scaling.png"),
    )
