"""A run directory, read to one frozen value."""

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hvd_imagenet import flags, run_lock
from hvd_imagenet.config import Config
from hvd_imagenet.reporting import metrics as metrics_lib
from hvd_imagenet.reporting import planned as planned_lib
from hvd_imagenet.reporting.metrics import Metrics, Series
from hvd_imagenet.reporting.planned import Planned

# One of them is in every run directory that has begun; see runlog.py.
_SIGNS = ("run.flags", "plan.json", "metrics.jsonl")
_RESULTS = ("top1", "top5", "loss")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """A time at which a run began or went on.

    Attributes:
        time: in UTC.
        step: steps done before.
        processes: number of them.
    """

    time: datetime.datetime
    step: int
    processes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of a run.

    Attributes:
        name: what it is called in the report.
        directory: where it is.
        config: what was asked; None if that cannot be read.
        planned: what it was going to do; None if that cannot be read.
        environment: content of environment.json, {} if it cannot be read.
        starts: in their order.
        metrics: what it measured.
        result: content of result.json; None if there is none.
        is_running: whether a process is writing the directory.
        problems: sentences on what could not be read.
    """

    name: str
    directory: str
    config: Config | None = None
    planned: Planned | None = None
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    starts: tuple[Start, ...] = ()
    metrics: Metrics
    result: Mapping[str, Any] | None = None
    is_running: bool = False
    problems: tuple[str, ...] = ()

    @property
    def steps_done(self) -> int:
        """The last step that was logged."""
        series = (self.metrics.train, self.metrics.validation)
        return max((int(s.steps[-1]) for s in series if len(s)), default=0)

    @property
    def has_diverged(self) -> bool:
        """Whether the last training loss was inf or nan."""
        loss = self.metrics.train.last("loss")
        return loss is not None and not np.isfinite(loss)

    @property
    def images_per_second(self) -> float | None:
        """Over the whole run, or else the median of what was logged."""
        if self.result is not None:
            return self.result.get("images_per_second")
        train = self.metrics.train
        if not train.has("images_per_second"):
            return None
        return float(np.nanmedian(train.column("images_per_second")))

    @property
    def seconds(self) -> float | None:
        """Time that was trained until the last line; None if not known."""
        series = (self.metrics.train, self.metrics.validation)
        times = np.concatenate([self.seconds_at(s) for s in series])
        return float(times.max()) if np.isfinite(times).any() else None

    def seconds_at(self, series: Series) -> np.ndarray:
        """[rows] float64: time that was trained until each of them.

        From each start to what was logged last before the next one. All nan if
        times are missing, as of a run of an earlier version.
        """
        times = np.sort(
            np.concatenate(
                [
                    self.metrics.train.column("timestamp"),
                    self.metrics.validation.column("timestamp"),
                ]
            )
        )
        begun = [start.time.timestamp() for start in self.starts]
        # Sorted, a nan is the last one.
        is_known = len(times) and begun and times[0] >= begun[0]
        if not is_known or np.isnan(times[-1]):
            return np.full(len(series), np.nan)
        seconds = np.zeros(len(series))
        own, before = series.column("timestamp"), 0.0
        for begin, end in zip(begun, [*begun[1:], np.inf], strict=True):
            rows = (own >= begin) & (own < end)
            seconds[rows] = before + own[rows] - begin
            until = times[(times >= begin) & (times < end)]
            before += until[-1] - begin if len(until) else 0.0
        return seconds


def is_run(directory: str) -> bool:
    """Whether a directory is one of a run that has begun."""
    return any(os.path.exists(os.path.join(directory, s)) for s in _SIGNS)


def read(directory: str, name: str) -> Run:
    """Reads a run directory; what is missing or damaged is a problem of it."""
    reader = _Reader(directory)
    config = reader.read("run.flags", lambda _: flags.read(reader.path))
    planned = reader.read(
        "plan.json", lambda text: planned_lib.read(text, config)
    )
    environment = reader.read("environment.json", _object) or {}
    metrics = reader.read_metrics()
    if metrics.lines_left_out:
        several = "s" if metrics.lines_left_out > 1 else ""
        reader.problems.append(
            f"{metrics.lines_left_out} damaged line{several} of metrics.jsonl"
            f" {'are' if several else 'is'} left out"
        )
    # Of a run that has begun again, or has not ended, there is none.
    result = None
    if os.path.exists(os.path.join(directory, "result.json")):
        result = reader.read("result.json", _result)
    return Run(
        name=name,
        directory=directory,
        config=config,
        planned=planned,
        environment=environment,
        starts=_starts(environment.get("starts")),
        metrics=metrics,
        result=result,
        is_running=run_lock.is_held(directory),
        problems=tuple(reader.problems),
    )


class _Reader:
    """Reads files of a directory, and keeps what was wrong."""

    def __init__(self, directory: str):
        self.problems: list[str] = []
        self.path = ""
        self._directory = directory

    def read(self, name, parse):
        """A file's content by `parse`; None if there is a problem."""
        self.path = os.path.join(self._directory, name)
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                return parse(file.read())
        except OSError as error:
            reason = error.strerror or str(error)
        except (ValueError, RecursionError) as error:
            reason = str(error)
        self.problems.append(f"{name} cannot be read ({reason})")
        return None

    def read_metrics(self) -> Metrics:
        """metrics.jsonl; without rows if nothing is logged yet."""
        nothing = Series(np.zeros(0, np.int64), {})
        path = os.path.join(self._directory, "metrics.jsonl")
        try:
            return metrics_lib.read(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problems.append(
                f"metrics.jsonl cannot be read ({error.strerror})"
            )
        return Metrics(train=nothing, validation=nothing)


def _object(text: str) -> Mapping[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _result(text: str) -> Mapping[str, Any]:
    result = _object(text)
    try:
        numbers = {n: metrics_lib.number(v) for n, v in result.items()}
        return {
            **{name: numbers[name] for name in _RESULTS},
            **{n: v for n, v in numbers.items() if np.isfinite(v)},
        }
    except (KeyError, OverflowError, TypeError) as error:
        raise ValueError(f"it is no result: {error!r}") from error


def _starts(entries: Any) -> tuple[Start, ...]:
    starts = []
    for entry in entries if isinstance(entries, Sequence) else ():
        try:
            time = datetime.datetime.fromisoformat(entry["time"])
            starts.append(
                Start(
                    time=time.astimezone(datetime.timezone.utc),
                    step=int(entry["step"]),
                    processes=int(entry["processes"]),
                )
            )
        except (KeyError, OverflowError, TypeError, ValueError):
            continue
    return tuple(sorted(starts, key=lambda start: start.time))
