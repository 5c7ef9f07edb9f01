"""What the measurements between hosts mean: clocks, links, allreduce."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hvd_imagenet.cluster.finding import Finding, failure, ok, warning
from hvd_imagenet.diagnosis.links import Link
from hvd_imagenet.diagnosis.units import bits, size

# Above it the times in logs of several hosts no longer tell an order.
_CLOCK_SECONDS = 1.0

# A host or link with less than this part of the others' rate is slow.
_SLOW = 0.5
# ResNet-50's 102 MB of gradients take longer than its step on most machines.
_SLOW_NETWORK = 1e9 / 8


def clocks(links: Sequence[Link], hosts: Sequence[str]) -> list[Finding]:
    """How far the clocks are apart, against that of the first host."""
    offsets = _clock_offsets(links)
    if not offsets:
        return [ok("clocks", "one host")]
    # Most hosts are right: the middle one is.
    middle = statistics.median([0.0, *offsets.values()])
    apart = {
        hosts[number]: offset - middle
        for number, offset in {0: 0.0, **offsets}.items()
    }
    wrong = {h: s for h, s in apart.items() if abs(s) > _CLOCK_SECONDS}
    if wrong:
        text = ", ".join(f"{h} by {s:+.1f} s" for h, s in wrong.items())
        return [
            warning(
                "clocks",
                f"differ from the others': {text}",
                "synchronise them (chrony or systemd-timesyncd): logs"
                " and events are ordered by them",
            )
        ]
    spread = max(apart.values()) - min(apart.values())
    return [ok("clocks", f"within {1e3 * spread:.1f} ms")]


def network(links: Sequence[Link], hosts: Sequence[str]) -> list[Finding]:
    """Broken and slow links; a host all of whose links are slow is named."""
    check = "network"
    if not links:
        return [ok(check, "one host")]
    found = [
        failure(
            check,
            f"{hosts[link.first]} cannot exchange data with"
            f" {hosts[link.second]} ({link.error})",
            "open all TCP ports between the hosts",
        )
        for link in links
        if link.error
    ]
    good = [link for link in links if not link.error]
    if not good:
        return found
    best = _best_rates(good)
    usual = statistics.median(best.values())
    slow = {n: rate for n, rate in best.items() if rate < _SLOW * usual}
    for number, rate in slow.items():
        found.append(
            warning(
                check,
                f"{hosts[number]} is slow: {bits(rate)}, where the other"
                f" hosts reach {bits(usual)}",
                "look at its network card, cable and neighbours, or"
                " leave it out: all wait for it in every step",
            )
        )
    for link in good:
        rate = min(link.forth, link.back)
        if not {link.first, link.second} & slow.keys() and rate < _SLOW * min(
            best[link.first], best[link.second]
        ):
            found.append(
                warning(
                    check,
                    f"the way between {hosts[link.first]} and"
                    f" {hosts[link.second]} is slow: {bits(rate)}",
                    "look at the switches between them",
                )
            )
    if usual < _SLOW_NETWORK:
        found.append(
            warning(
                check,
                f"{bits(usual)} between hosts is little: an exchange of"
                f" ResNet-50's 102 MB takes over {102e6 / usual:.1f} s",
                "choose a faster interface with --network_interface, or"
                " --compression=fp16",
            )
        )
    rates = [rate for link in good for rate in (link.forth, link.back)]
    trips = [link.round_trip for link in good]
    return found or [
        ok(
            check,
            f"{bits(min(rates))} to {bits(max(rates))} in one"
            f" connection, {1e6 * min(trips):.0f} to {1e6 * max(trips):.0f} us"
            " there and back",
        )
    ]


def allreduce(
    measured: Mapping[str, Any] | None,
    links: Sequence[Link],
    hosts: Sequence[str],
) -> list[Finding]:
    """Whether the exchange is right, and the host that holds it up."""
    check = "allreduce"
    if measured is None:
        return [ok(check, "one process")]
    if measured["error"]:
        return [
            failure(
                check,
                measured["error"],
                "install the same Horovod on all hosts",
            )
        ]
    text = (
        f"{size(measured['bytes'])} of {measured['format']} over"
        f" {measured['processes']} processes by {measured['transport']} in"
        f" {1e3 * measured['seconds']:.0f} ms"
    )
    good = [link for link in links if not link.error]
    if good:
        best = _best_rates(good)
        slowest = min(best, key=best.__getitem__)
        if best[slowest] < _SLOW * statistics.median(best.values()):
            return [
                warning(
                    check,
                    f"{text}, held up by {hosts[slowest]}",
                    "see network",
                )
            ]
    return [ok(check, text)]


def _clock_offsets(links: Iterable[Link]) -> dict[int, float]:
    """Offset of every host's clock to that of host 0, as far as known."""
    offsets = {}
    for link in links:
        if link.error:
            continue
        if link.first == 0:
            offsets[link.second] = link.clock_offset
        elif link.second == 0:
            offsets[link.first] = -link.clock_offset
    return offsets


def _best_rates(links: Iterable[Link]) -> dict[int, float]:
    """The rate that each host reaches both ways with its best partner."""
    best = {}
    for link in links:
        rate = min(link.forth, link.back)
        for host in (link.first, link.second):
            best[host] = max(rate, best.get(host, 0.0))
    return best
