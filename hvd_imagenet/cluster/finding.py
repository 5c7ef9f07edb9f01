"""What was found about the hosts of a job, and how it is said."""

import collections
import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# Names of hosts in a sentence.
_NAMED_HOSTS = 4


class Level(enum.IntEnum):
    """How bad it is."""

    OK = 0
    WARNING = 1
    FAILURE = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes:
        check: what was looked at, a few words.
        level: how bad it is.
        text: what was found, without a full stop.
        remedy: what to do about it; "" if there is nothing to do.
    """

    check: str
    level: Level = Level.OK
    text: str
    remedy: str = ""

    def sentence(self) -> str:
        """All of it, in one sentence."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.text}{remedy}."


def ok(check: str, text: str) -> Finding:
    """A finding that is fine."""
    return Finding(check=check, text=text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """A finding that may cost time, or have a reason."""
    return Finding(check=check, level=Level.WARNING, text=text, remedy=remedy)


def failure(check: str, text: str, remedy: str) -> Finding:
    """A finding with which a job would end, or be wrong."""
    return Finding(check=check, level=Level.FAILURE, text=text, remedy=remedy)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns; a row may be shorter than the first one."""
    cells = [[*row, *[""] * (len(rows[0]) - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    )
    return "\n".join(lines) + "\n"


def each(
    facts: Mapping[str, Any], value: Callable[[Any], Any]
) -> dict[str, Any]:
    """A value of every host's facts, by host."""
    return {host: value(of_host) for host, of_host in facts.items()}


def grouped(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Hosts by value."""
    groups = collections.defaultdict(list)
    for host, value in values.items():
        groups[value].append(host)
    return dict(groups)


def listed(groups: Mapping[Any, Sequence[str]]) -> str:
    """Which value is on which hosts."""
    return " and ".join(
        f"{value or 'missing'} on {names(hosts)}"
        for value, hosts in groups.items()
    )


def names(hosts: Sequence[str]) -> str:
    """Names of hosts; of many, the first and the number of the rest."""
    if len(hosts) <= _NAMED_HOSTS:
        return ", ".join(hosts)
    shown = ", ".join(hosts[: _NAMED_HOSTS - 1])
    return f"{shown} and {len(hosts) - _NAMED_HOSTS + 1} more hosts"


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the worst finding."""
    return max((finding.level for finding in findings), default=Level.OK)
