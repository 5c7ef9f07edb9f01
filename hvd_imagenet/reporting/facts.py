"""What runs were asked and where they ran, and in what they differ."""

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hvd_imagenet.config import Config
from hvd_imagenet.knobs import value_text
from hvd_imagenet.reporting.runs import Run

# What a value may take of a page.
_MOST_CHARACTERS = 300
# They tell the processes of one launch their places.
_OF_THE_LAUNCH = (
    "HOROVOD_CROSS_",
    "HOROVOD_GLOO_RENDEZVOUS_",
    "HOROVOD_HOSTNAME",
    "HOROVOD_LOCAL_",
    "HOROVOD_RANK",
    "HOROVOD_SIZE",
)


class Value(NamedTuple):
    """A value, and the names of the runs that have it."""

    text: str
    runs: tuple[str, ...]


class Fact(NamedTuple):
    """A name with its values: one if all runs have the same."""

    name: str
    values: tuple[Value, ...]


def group(facts: Mapping[str, Mapping[str, str]], missing: str) -> list[Fact]:
    """Values by name, and the runs that have them.

    Args:
        facts: text by name, by run.
        missing: stands for a name that a run does not have.
    """
    names = dict.fromkeys(name for own in facts.values() for name in own)
    return [Fact(name, tuple(_values(facts, name, missing))) for name in names]


def _values(
    facts: Mapping[str, Mapping[str, str]], name: str, missing: str
) -> Iterable[Value]:
    runs: dict[str, list[str]] = {}
    for run, own in facts.items():
        runs.setdefault(own.get(name, missing), []).append(run)
    return (Value(shortened(t), tuple(names)) for t, names in runs.items())


def differing(facts: Iterable[Fact]) -> list[Fact]:
    """Those in which runs differ."""
    return [fact for fact in facts if len(fact.values) > 1]


def same(facts: Iterable[Fact]) -> list[Fact]:
    """Those in which they do not."""
    return [fact for fact in facts if len(fact.values) == 1]


def shortened(text: str, most: int = _MOST_CHARACTERS) -> str:
    """A text that is not endless."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {text[-half:]} ({len(text):,} characters)"


def knobs(runs: Sequence[Run], *, recipe: bool) -> list[Fact]:
    """The knobs of the recipe, or the site's own, of runs that are known.

    Knobs of the recipe without effect, beside the others, are not used.
    """
    return group(
        {
            run.name: _knobs(run.config, recipe=recipe)
            for run in runs
            if run.config is not None
        },
        missing="not used",
    )


def _knobs(config: Config, *, recipe: bool) -> dict[str, str]:
    used = config.recipe()
    return {
        field.name: _text(getattr(group, field.name))
        for group in config.groups()
        for field in dataclasses.fields(group)
        # run.flags has no workdir: it repeats the run in any.
        if field.name != "workdir"
        and field.metadata["knob"].recipe == recipe
        and (not recipe or field.name in used)
    }


def _text(value: Any) -> str:
    return "not set" if value is None else value_text(value) or "empty"


def environment(runs: Sequence[Run]) -> list[Fact]:
    """Versions, machines and data of runs that say them."""
    return group(
        {
            run.name: _environment(run.environment)
            for run in runs
            if run.environment
        },
        missing="\u2013",
    )


def _environment(entries: Mapping[str, Any]) -> dict[str, str]:
    def part(name: str) -> Mapping[str, Any]:
        value = entries.get(name)
        return value if isinstance(value, dict) else {}

    facts = {"Python": entries.get("python")}
    facts.update(part("versions"))
    facts["system"] = entries.get("platform")
    facts["processor"] = entries.get("processor")
    facts["cores of rank 0"] = entries.get("cores")
    facts["GPUs of rank 0"] = entries.get("gpus") or "none"
    world = part("world")
    facts["processes"] = world.get("size")
    facts["processes per host"] = world.get("local_size")
    facts["input threads per process"] = entries.get("threads_per_process")
    for split, description in part("data").items():
        facts[f"{split} data"] = description
    facts["compression chosen"] = part("wire").get("compression")
    facts.update(
        (name, value)
        for name, value in part("variables").items()
        if not name.startswith(_OF_THE_LAUNCH)
    )
    return {
        name: value if isinstance(value, str) else _as_text(value)
        for name, value in facts.items()
        if value is not None
    }


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False)


def command(run: Run) -> str | None:
    """The command line of the last start; None if that is not known."""
    words = run.environment.get("command")
    if not isinstance(words, list) or not words:
        return None
    return shortened(shlex.join(map(str, words)), 10 * _MOST_CHARACTERS)


def starts(run: Run) -> str:
    """When, and on how many processes, a run began and went on."""
    words = []
    for start in run.starts:
        several = "es" if start.processes > 1 else ""
        words.append(
            f"{'resumed at' if start.step else 'started at'} step"
            f" {start.step:,}, {start.time:%Y-%m-%d %H:%M:%S} UTC, on"
            f" {start.processes:,} process{several}"
        )
    return shortened("; ".join(words))
