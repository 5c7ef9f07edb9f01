"""The examination of a job: facts, then measurements, then what they mean.

All processes of the job take part in every step, the first one judges.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hvd_imagenet import distributed
from hvd_imagenet.cluster import comparison
from hvd_imagenet.cluster.finding import Finding, failure
from hvd_imagenet.config import Config
from hvd_imagenet.diagnosis import (
    exchange,
    facts,
    files,
    installation,
    limits,
    measurement,
    storage,
)
from hvd_imagenet.diagnosis import watch as watch_lib
from hvd_imagenet.processes import Processes
from hvd_imagenet.world import launched_rank, launched_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was found.

    Attributes:
        findings: in the order of the table; on the first process alone.
        measured: figures behind them, as JSON.
    """

    findings: Sequence[Finding]
    measured: Mapping[str, Any]


def examine(
    config: Config, flagfiles: Sequence[str], timeout_seconds: float
) -> tuple[Report, int | None]:
    """Examines this process, or the job it is part of.

    Args:
        config: of the job.
        flagfiles: paths of its recipes.
        timeout_seconds: for each step.

    Returns:
        (what was found, number of this process); None for the number if it
        could not join the others.
    """
    environ = os.environ
    rank, host = launched_rank(environ), facts.host_name(environ)
    who = host if rank is None else f"rank {rank} on {host}"
    watch = watch_lib.Watch(timeout_seconds, who)
    try:
        # A mount that does not answer holds up whoever looks at it.
        watch.begin("looking at itself and its --data_dir")
        own = facts.gather(config, flagfiles, environ)
        is_launched = launched_size(environ) is not None
        backend = facts.backend(environ)
        blockers = _what_keeps_from_joining(own, backend) if is_launched else []
        if blockers:
            return Report(findings=blockers, measured={"hosts": [own]}), None
        watch.begin("waiting for all processes to join")
        try:
            processes = distributed.start(
                compression=config.optimization.compression,
                transport=config.optimization.transport,
            )
        except ValueError as error:
            text, _, remedy = str(error).partition("; ")
            blocker = failure("processes", text, remedy.rstrip("."))
            return Report(findings=[blocker], measured={"hosts": [own]}), None
        report = _examine_together(
            config, flagfiles, own, backend, is_launched, processes, watch
        )
        return report, processes.world.rank
    finally:
        watch.end()


def _what_keeps_from_joining(
    own: Mapping[str, Any], backend: str
) -> list[Finding]:
    """What would end this process without a word in Horovod's start."""
    of_this_host = {own["host"]: own}
    found = list(comparison.own_names(of_this_host, backend))
    if isinstance(own["build"], str):
        found += installation.horovod(of_this_host, backend, is_launched=True)
    return found


def _examine_together(
    config: Config,
    flagfiles: Sequence[str],
    own: Mapping[str, Any],
    backend: str,
    is_launched: bool,
    processes: Processes,
    watch: watch_lib.Watch,
) -> Report:
    watch.begin("exchanging facts")
    world = processes.world
    own = {**own, "missing_kernels": facts.missing_kernels()}
    everyone = processes.gather_object((own, world.local_rank))
    by_host, numbers = number_hosts(everyone)
    number = numbers[world.rank]
    # Only one process of a host speaks for it.
    speaks = world.local_rank == 0
    hosts = list(by_host)
    slots = {host: numbers.count(n) for n, host in enumerate(hosts)}
    resolved = _by_host(processes, speaks, hosts, facts.resolved(hosts))

    watch.begin("measuring the network between hosts")
    measured_links = measurement.measure_links(processes, hosts, number, speaks)
    watch.begin("an allreduce")
    allreduce = measurement.time_allreduce(
        processes, config.optimization.compression
    )
    watch.begin("reading the data")
    processes.barrier()  # All hosts read at once, as in training.
    reading = None
    if speaks and own["data"]:
        reading = storage.read(config.data.data_dir, number / len(hosts))
    readings = _by_host(processes, speaks, hosts, reading)
    room, state_bytes = None, 0
    if world.is_first and config.run.workdir is not None:
        watch.begin("looking at the directory of the run")
        room = storage.look_for_room(config.run.workdir)
        state_bytes = measurement.state_bytes(config, processes)
    watch.begin("waiting for the others to end")
    processes.barrier()

    findings = []
    if world.is_first:
        findings = [
            *installation.software(by_host, is_launched),
            *installation.horovod(by_host, backend, is_launched),
            *installation.support(by_host, own["wants_xla"]),
            *installation.gpus(by_host, slots),
            *installation.kernels(by_host),
            *installation.recipe(by_host, list(flagfiles)),
            *limits.shared_memory(by_host, slots, backend),
            *limits.open_files(by_host, world.size),
            *limits.host_names(by_host, resolved, backend),
            *limits.interfaces(by_host, measurement.interface()),
            *exchange.clocks(measured_links, hosts),
            *exchange.network(measured_links, hosts),
            *exchange.allreduce(allreduce, measured_links, hosts),
            *files.data(by_host, config.data.local_data_dir, readings),
            *files.run_directory(
                room, state_bytes, config.run.keep_checkpoints
            ),
        ]
    return Report(
        findings=findings,
        measured={
            "hosts": [
                {**by_host[host], "slots": slots[host]} for host in hosts
            ],
            "links": [dataclasses.asdict(link) for link in measured_links],
            "allreduce": allreduce,
            "readings": {
                host: dataclasses.asdict(r) for host, r in readings.items() if r
            },
            "run_directory": room and dataclasses.asdict(room),
        },
    )


def number_hosts(
    everyone: Sequence[tuple[Mapping[str, Any], int]],
) -> tuple[dict[str, Mapping[str, Any]], list[int]]:
    """Facts by host, and of every rank the number of its host.

    Containers may all have one name: then a rank tells them apart.
    """
    by_host, first_names, numbers = {}, [], []
    for rank, (of_process, local_rank) in enumerate(everyone):
        name = of_process["host"]
        if local_rank == 0:
            known = name in first_names
            by_host[f"{name} (rank {rank})" if known else name] = of_process
            first_names.append(name)
        # The last one of that name: a host's ranks follow each other where
        # names do not tell.
        last = len(first_names) - 1 - first_names[::-1].index(name)
        numbers.append(last)
    return by_host, numbers


def _by_host(
    processes: Processes, speaks: bool, hosts: Sequence[str], value: Any
) -> dict[str, Any]:
    """The values of one process per host."""
    values = measurement.of_hosts(processes, speaks, value)
    return dict(zip(hosts, values, strict=True))
