"""What the processes of a job measure together."""

import contextlib
import os
import secrets
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hvd_imagenet import resnet, update_rule
from hvd_imagenet.cluster import network
from hvd_imagenet.config import Config
from hvd_imagenet.diagnosis import links
from hvd_imagenet.processes import Processes
from hvd_imagenet.timed_exchange import TimedExchange

_ALLREDUCE_BYTES = 16 * 2**20
_ALLREDUCE_TIMES = 4


def of_hosts(processes: Processes, speaks: bool, value: Any) -> list[Any]:
    """The values of one process per host."""
    return [
        said
        for is_speaker, said in processes.gather_object((speaks, value))
        if is_speaker
    ]


def measure_links(
    processes: Processes, hosts: Sequence[str], number: int, speaks: bool
) -> list[links.Link]:
    """Every host meets the others, one at a time."""
    if len(hosts) == 1:
        return []
    token = processes.broadcast_object(secrets.token_bytes(16))
    measured = []
    with contextlib.ExitStack() as stack:
        answer = None
        if speaks:
            try:
                address = _own_address(hosts, number)
                answer = stack.enter_context(links.answering(address, token))
            except (OSError, ValueError) as error:
                answer = str(error)
        answers = of_hosts(processes, speaks, answer)
        for meetings in links.rounds(len(hosts)):
            for first, second in meetings:
                if speaks and first == number:
                    measured.append(
                        _measure_link(first, second, answers[second], token)
                    )
            # Nobody is measured while others still talk to it.
            processes.barrier()
    together = processes.gather_object(measured)
    return [link for of_process in together for link in of_process]


def _measure_link(
    first: int, second: int, answer: tuple[str, int] | str, token: bytes
) -> links.Link:
    if isinstance(answer, str):  # Why it cannot be asked.
        return links.Link(first=first, second=second, error=answer)
    return links.measure(first, second, answer, token)


def _own_address(hosts: Sequence[str], number: int) -> str:
    """The address of this host by which the others can reach it."""
    own = network.own_addresses()
    name = interface()
    if name is None:
        other = hosts[0 if number else 1]
        name = network.choose_interface(network.resolve([other]), own)
    return network.interface_address(name, own)


def interface() -> str | None:
    """The interface that the launcher chose."""
    return os.environ.get("HOROVOD_GLOO_IFACE")


def time_allreduce(
    processes: Processes, compression: str
) -> dict[str, Any] | None:
    """Averages what is known, several times, as a training step would."""
    world = processes.world
    if world.size == 1:
        return None
    values = tf.fill([_ALLREDUCE_BYTES // 4], float(world.rank))
    exchange = TimedExchange(processes)
    exchange([values])
    seconds = []
    for _ in range(_ALLREDUCE_TIMES):
        took, (mean,) = exchange([values])
        seconds.append(took)
    right = (world.size - 1) / 2
    error = ""
    # Half precision rounds.
    if not np.allclose(mean.numpy(), right, rtol=1e-2):
        error = f"the mean of 0 to {world.size - 1} was {mean[0]}, not {right}"
    return {
        "bytes": _ALLREDUCE_BYTES,
        "format": "float32" if compression in ("none", "auto") else compression,
        "processes": world.size,
        "transport": processes.transport,
        "seconds": statistics.median(seconds),
        "error": error,
    }


def state_bytes(config: Config, processes: Processes) -> int:
    """Size of a checkpoint."""
    trainer = update_rule.make_trainer(
        config, resnet.build_model(config.model), processes
    )
    return sum(np.asarray(v.value).nbytes for v in trainer.state)
