"""What is wrong with a job, from what its ranks have said."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# What explains a failed exchange comes at once, if it comes, or is a silence.
_ECHO_SECONDS = 5.0
# Ranks speak every second: so long a silence explains what went wrong, though
# by itself it is nothing to end a job for.
_SILENCE_SECONDS = 4.0


class Mark(NamedTuple):
    """How far a rank is.

    Attributes:
        step: number of the step that it is at, from 1; 0 before.
        batches: micro-batches that it has taken.
        doing: what it does, for people.
    """

    step: int
    batches: int
    doing: str


@dataclasses.dataclass
class Heard:
    """What is known of a rank; times by the clock of rank 0, in seconds.

    Attributes:
        host: its name.
        pid: its process there.
        mark: how far it is.
        marked: when that began.
        heard: when it last said anything.
        failure: an error of its own.
        echo: an error that others may have caused.
        echoed: when that was.
        is_gone: whether its connection has ended without a word.
    """

    host: str
    pid: int
    mark: Mark
    marked: float
    heard: float
    failure: str | None = None
    echo: str | None = None
    echoed: float = 0.0
    is_gone: bool = False


class Verdict(NamedTuple):
    """Why all ranks end.

    Attributes:
        ranks: who is to blame, at least one.
        text: what there is to say.
        speaker: rank that says it.
        is_stall: whether it helps to know where the ranks are in the code.
    """

    ranks: Sequence[int]
    text: str
    speaker: int
    is_stall: bool = False


def judge(
    ranks: Mapping[int, Heard], now: float, timeout: float
) -> Verdict | None:
    """Finds who keeps the job from going on, if anybody does.

    Args:
        ranks: all that have not ended in order.
        now: by the same clock.
        timeout: seconds that a rank may be silent or without progress.
    """
    for rank, heard in ranks.items():
        if heard.failure is not None:
            return Verdict([rank], heard.failure, speaker=rank)
    gone = [rank for rank, heard in ranks.items() if heard.is_gone]
    if gone:
        return _blame(ranks, gone, lost_words())
    echoes = {r: heard for r, heard in ranks.items() if heard.echo is not None}
    if echoes:
        if now - min(h.echoed for h in echoes.values()) < _ECHO_SECONDS:
            return None
        rank, heard = next(iter(echoes.items()))
        return _silent(ranks, now, _SILENCE_SECONDS) or Verdict(
            [rank], heard.echo, speaker=rank
        )
    return _silent(ranks, now, timeout) or _stalled(ranks, now, timeout)


def lost_words() -> str:
    """What to say of a rank whose connection has ended."""
    return (
        "has ended without a word: killed, out of memory, or its host or"
        " network went down"
    )


def silence_words(seconds: float) -> str:
    """What to say of a rank that says nothing."""
    return (
        f"has not been heard of for {seconds:.0f} s: stopped, or its host or"
        " network went down"
    )


def sentence(rank: int, heard: Heard, what: str, others: int = 0) -> str:
    """The whole of what to say of a rank."""
    more = f" and {others} more" if others else ""
    return (
        f"rank {rank} ({heard.host}, process {heard.pid}){more} {what}. Last"
        f" heard: {heard.mark.doing}, step {heard.mark.step}. The same command"
        " resumes from the last checkpoint."
    )


def _silent(
    ranks: Mapping[int, Heard], now: float, seconds: float
) -> Verdict | None:
    silent = [rank for rank, h in ranks.items() if now - h.heard > seconds]
    if not silent:
        return None
    longest = max(now - ranks[rank].heard for rank in silent)
    return _blame(ranks, silent, silence_words(longest), is_stall=True)


def _stalled(
    ranks: Mapping[int, Heard], now: float, timeout: float
) -> Verdict | None:
    if not all(
        # Nobody knows how long it takes to begin: data may be read once.
        h.mark.step and now - h.marked > timeout
        for h in ranks.values()
    ):
        return None
    silent = _silent(ranks, now, _SILENCE_SECONDS)
    if silent:
        return silent
    first = max(heard.mark[:2] for heard in ranks.values())
    late = [rank for rank, h in ranks.items() if h.mark[:2] < first]
    what = f"has made no progress for {timeout:.0f} s"
    if late:
        what += ", and the others wait for it"
    return _blame(ranks, late or list(ranks), what, is_stall=True)


def _blame(
    ranks: Mapping[int, Heard],
    blamed: Sequence[int],
    what: str,
    is_stall: bool = False,
) -> Verdict:
    first = blamed[0]
    text = sentence(first, ranks[first], what, others=len(blamed) - 1)
    return Verdict(blamed, text, speaker=0, is_stall=is_stall)
