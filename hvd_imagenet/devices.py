"""Which devices a process uses: its GPU, and its share of the cores."""

import contextlib
import os
import socket
from collections.abc import Sequence

from hvd_imagenet.world import World


def choose_gpu(count: int, world: World) -> int:
    """Which of the `count` GPUs that it sees this process uses."""
    # Some schedulers show every process one GPU of its own.
    return world.local_rank if count >= world.local_size else 0


def require_gpu_each(count: int, world: World, visible: Sequence[str]) -> None:
    """Refuses to let processes share a GPU.

    Args:
        count: GPUs that this process sees.
        world: the place of this process.
        visible: CUDA_VISIBLE_DEVICES of every process on this host.

    Raises:
        ValueError: there are fewer GPUs than processes on this host.
    """
    if count >= world.local_size:
        return
    if count == 1 and len(set(visible)) == len(visible) == world.local_size:
        return
    raise ValueError(
        f"{world.local_size} processes on {socket.gethostname()} find"
        f" {count} GPU{'s' if count != 1 else ''}; start one process per GPU"
        " (-H host:GPUS), or hide them with CUDA_VISIBLE_DEVICES=-1 to train"
        " on the CPU."
    )


def threads_per_process(world: World) -> int:
    """Cores of this host that this process may use, shared fairly."""
    return max(1, len(os.sched_getaffinity(0)) // world.local_size)


def limit_cores(processes: int, slots: int) -> None:
    """Leaves the processes of this host the cores that they would have had.

    Every process must call it, before it asks for `threads_per_process`.

    Args:
        processes: on this host.
        slots: processes that this host is meant for; the cores are shared as
            if all were there.
    """
    cores = sorted(os.sched_getaffinity(0))
    kept = cores[: max(1, len(cores) * processes // slots)]
    # Threads that have begun already have an affinity of their own.
    for thread in os.listdir("/proc/self/task"):
        # One may have ended since.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), kept)
