"""What was seen of the data and of the directory of the run."""

import statistics
from collections.abc import Mapping
from typing import Any

from hvd_imagenet.cluster import comparison
from hvd_imagenet.cluster.finding import Finding, failure, ok, warning
from hvd_imagenet.diagnosis.storage import Reading, Room
from hvd_imagenet.diagnosis.units import size

# A host that reads with less than this part of the others' rate is slow.
_SLOW = 0.5
# If it had so long to read: the time of a single block tells nothing.
_SECONDS_MIN = 0.1

_MEGA = 1e6


def data(
    facts: Mapping[str, Mapping[str, Any]],
    data_dir: str | None,
    readings: Mapping[str, Reading | None],
) -> list[Finding]:
    """The data are there, the same, and read at like rates."""
    if data_dir is None:
        return [ok("data", "no --data_dir is a path of the hosts")]
    found = list(comparison.data(facts, data_dir))
    rates = {}
    for host, reading in readings.items():
        if reading is None:
            continue
        if reading.error or not reading.bytes:
            found.append(
                failure(
                    "data",
                    f"{host}: {reading.error or 'the files are empty'}",
                    "repair or copy the data again",
                )
            )
        else:
            rates[host] = reading.rate
    if rates:
        usual = statistics.median(rates.values())
        for host, rate in rates.items():
            had_time = readings[host].seconds >= _SECONDS_MIN
            if had_time and rate < _SLOW * usual:
                found.append(
                    warning(
                        "data",
                        f"{host} reads {rate / _MEGA:,.0f} MB/s, the"
                        f" others {usual / _MEGA:,.0f} MB/s",
                        "look at its disk or mount: all wait for it in"
                        " every step",
                    )
                )
    if found:
        return found
    (first, *_) = facts.values()
    return [
        ok(
            "data",
            f"{first['data']['entries']} entries on"
            f" {first['data']['filesystem']}, read at"
            f" {min(rates.values()) / _MEGA:,.0f} to"
            f" {max(rates.values()) / _MEGA:,.0f} MB/s",
        )
    ]


def run_directory(
    room: Room | None, state_bytes: int, keep: int
) -> list[Finding]:
    """The run can be written, with all the checkpoints that are kept.

    Args:
        room: where it would be, None if nobody asked for a run.
        state_bytes: of one checkpoint.
        keep: checkpoints that are kept; a new one comes before an old one
            goes.
    """
    check = "run directory"
    if room is None:
        return [ok(check, "no --workdir is given")]
    if room.error:
        return [
            failure(
                check,
                f"{room.folder} cannot be written ({room.error})",
                "choose another --workdir",
            )
        ]
    needed = (keep + 1) * state_bytes
    text = (
        f"{room.folder} has {size(room.free)} free, {keep + 1} checkpoints of"
        f" {size(state_bytes)} need {size(needed)}"
    )
    if room.free < needed:
        return [
            failure(
                check,
                text,
                "make room, choose another --workdir, or lower"
                " --keep_checkpoints",
            )
        ]
    rate = f", written at {room.rate / _MEGA:,.0f} MB/s"
    return [ok(check, text + rate)]
