"""Hosts of a job and the processes of each, as lists and files name them."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable

# More than any cluster has; a mistyped range must not fill the memory.
_MOST_HOSTS = 10_000

# What horovodrun accepts, and nothing that ssh would take for an option.
_NAME = re.compile(r"\w[\w.-]*")
_RANGE = re.compile(r"(?P<first>\d+)(?:-(?P<last>\d+))?")
_SLOTS = re.compile(r"(?<![\w-])slots ?= ?(?P<slots>\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Host:
    """A host and the number of processes it runs.

    Attributes:
        name: name or IPv4 address, by which ssh reaches it.
        slots: processes, at least 1.
    """

    name: str
    slots: int

    def __post_init__(self):
        _check_name(self.name)
        if self.slots < 1:
            raise ValueError(
                f"host {self.name} has {self.slots} slots; it needs at least"
                " 1, or leave it out."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The hosts of a job; rank 0 is the first process of the first one.

    Attributes:
        hosts: at least one, each name once.
        source: where the hosts were found, for people.
    """

    hosts: tuple[Host, ...]
    source: str

    def __post_init__(self):
        if not self.hosts:
            raise ValueError(f"{self.source} names no host; name at least one.")
        for name, times in Counter(self.names).items():
            if times > 1:
                raise ValueError(
                    f"{self.source} names host {name} {times} times; name it"
                    " once, with all of its slots."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the hosts, in the order of ranks."""
        return tuple(host.name for host in self.hosts)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return sum(host.slots for host in self.hosts)

    def first(self, processes: int) -> "Cluster":
        """The hosts of the first so many processes, at most `world_size`."""
        hosts, left = [], processes
        for host in self.hosts:
            if left > 0:
                slots = min(host.slots, left)
                hosts.append(Host(name=host.name, slots=slots))
                left -= slots
        return Cluster(hosts=tuple(hosts), source=self.source)

    def __str__(self) -> str:
        """As horovodrun takes it behind -H."""
        return ",".join(f"{host.name}:{host.slots}" for host in self.hosts)


def parse_list(text: str, slots_per_host: int | None) -> tuple[Host, ...]:
    """Hosts of `host1:8,host2:8` or `node[01-03]:8`.

    Args:
        text: hosts between commas; brackets as Slurm writes them.
        slots_per_host: processes on hosts whose number is not given.

    Raises:
        ValueError: it cannot be understood.
    """
    hosts = []
    for item in _split(text):
        names, colon, slots = item.strip().partition(":")
        if colon and not slots.isdecimal():
            raise ValueError(
                f"'{item}' must be host:slots, with slots a number of"
                " processes, as in host1:8."
            )
        slots = int(slots) if colon else slots_per_host
        hosts += with_slots(expand(names), slots)
    return tuple(hosts)


def parse_file(text: str, slots_per_host: int | None) -> tuple[Host, ...]:
    """Hosts of a hostfile: horovodrun's, Open MPI's, MPICH's or Slurm's.

    A line is `host slots=8`, `host:8` or `host`, host possibly `node[01-03]`;
    what follows # is a comment.

    Raises:
        ValueError: it cannot be understood.
    """
    hosts = []
    for line in stripped_lines(text):
        name, _, rest = line.partition(" ")
        slots = _SLOTS.search(rest)
        if slots:
            hosts += with_slots(expand(name), int(slots["slots"]))
        elif rest:
            raise ValueError(
                f"'{line}' of the hostfile is not understood; write"
                " 'host slots=8' or 'host:8'."
            )
        else:
            hosts += parse_list(line, slots_per_host)
    return tuple(hosts)


def expand(nodelist: str) -> list[str]:
    """The names in a list such as `node[01-03,07],gpu5`.

    Raises:
        ValueError: it cannot be understood.
    """
    names = []
    for item in _split(nodelist):
        names += _expand_item(item.strip())
        limit(len(names), nodelist)
    for name in names:
        _check_name(name)
    return names


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' is not a host that horovodrun can use; give a name or"
            " an IPv4 address, with its user, if any, in ~/.ssh/config."
        )


def _expand_item(item: str) -> list[str]:
    head, bracket, rest = item.partition("[")
    if not bracket:
        return [item]
    inside, closed, tail = rest.partition("]")
    if not closed:
        raise ValueError(f"'{item}' has no closing bracket; add it.")
    numbers, tails = _numbers(inside), _expand_item(tail)
    limit(len(numbers) * len(tails), item)
    return [f"{head}{number}{end}" for number in numbers for end in tails]


def _numbers(text: str) -> list[str]:
    """`01-03,07`: 01, 02, 03, 07."""
    numbers = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item)
        first, last = match.group("first", "last") if match else ("1", "0")
        start, stop = int(first), int(last or first) + 1
        if start >= stop:
            raise ValueError(
                f"'[{text}]' must have rising numbers, as in [01-03,07]."
            )
        limit(len(numbers) + stop - start, text)
        numbers += [str(n).zfill(len(first)) for n in range(start, stop)]
    return numbers


def limit(count: int, text: str) -> None:
    """Keeps what is expanded within reason.

    Raises:
        ValueError: `text` stands for more hosts than there are.
    """
    if count > _MOST_HOSTS:
        raise ValueError(
            f"'{text}' has more than {_MOST_HOSTS:,} hosts; correct the range."
        )


def with_slots(names: Iterable[str], slots: int | None) -> list[Host]:
    """Hosts of so many processes each.

    Raises:
        ValueError: `slots` is None.
    """
    if slots is None:
        raise ValueError(
            f"the number of processes on host {', '.join(names)} is not given;"
            " write host:8, 'host slots=8' in a hostfile, or"
            " --slots_per_host=8."
        )
    return [Host(name=name, slots=slots) for name in names]


def _split(text: str) -> list[str]:
    """At the commas outside of brackets."""
    return re.split(r",(?![^\[]*\])", text)


def stripped_lines(text: str) -> list[str]:
    """Lines that say something, with single spaces."""
    stripped = (line.partition("#")[0].split() for line in text.splitlines())
    return [" ".join(words) for words in stripped if words]
