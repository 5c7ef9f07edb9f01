"""Gradients averaged by the processes of one host in memory that they share.

On one host Horovod's rings go through sockets, and every number through four
more copies. Where all processes are on one host and their gradients in its
memory, they are averaged there (`kernels/shared_mean.cc`); what else processes
tell each other stays Horovod's.
"""

import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Sequence

import tensorflow as tf

from hvd_imagenet.kernels import shared_mean
from hvd_imagenet.kernels.loading import MissingKernelError
from hvd_imagenet.processes import Processes

# Of all ranks together: about what caches hold, and half of what containers
# have there unless they are told otherwise.
_BYTES = 32 * 2**20
_FOLDER = "/dev/shm"

# Who supervises ranks ends them long before; this is for programs without.
_TIMEOUT_SECONDS = 3600.0


class SharedMemory:
    """This rank's part of the memory, until the process ends."""

    def __init__(
        self,
        descriptor: int,
        rank: int,
        ranks: int,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ):
        """Takes its place.

        Args:
            descriptor: of the memory, opened by this rank; see `join`.
            rank: number of this one.
            ranks: how many there are.
            timeout_seconds: for how long to wait for another rank.

        Raises:
            OSError: the place is taken, or the memory cannot be locked.
        """
        _lock(descriptor, rank)
        self._descriptor = descriptor
        self._rank = rank
        self._ranks = ranks
        self._timeout_seconds = timeout_seconds

    def exchange(
        self,
        gradients: Sequence[tf.Tensor],
        numbers: tf.Tensor,
        dtype: tf.DType,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """See `shared_mean.mean`."""
        return shared_mean.mean(
            gradients,
            numbers,
            dtype=dtype,
            descriptor=self._descriptor,
            rank=self._rank,
            ranks=self._ranks,
            timeout_seconds=self._timeout_seconds,
        )


def join(
    processes: Processes, folder: str = _FOLDER
) -> tuple[SharedMemory | None, str]:
    """Shares memory with all other ranks. A collective operation.

    Args:
        processes: the ranks, all on this host.
        folder: of a file system in memory.

    Returns:
        (this rank's part, ""), or (None, why there is none): the same on all
        ranks.
    """
    world = processes.world
    problems = [why for why in processes.gather_object(_missing()) if why]
    if problems:
        return None, problems[0]
    path, descriptor, problem = None, None, None
    if world.is_first:
        try:
            path, descriptor = _make(folder)
        except OSError as error:
            problem = f"{folder} has no {_BYTES // 2**20} MiB: {error.strerror}"
    path, problem = processes.broadcast_object((path, problem))
    if problem is not None:
        return None, problem
    memory = None
    try:
        if descriptor is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        memory = SharedMemory(descriptor, world.rank, world.size)
    except OSError as error:
        problem = f"rank {world.rank} cannot use {path}: {error.strerror}"
    problems = [why for why in processes.gather_object(problem) if why]
    if world.is_first:
        # All that will use it have it; nothing is left behind by any end.
        os.unlink(path)
    if problems:
        if descriptor is not None:
            os.close(descriptor)
        return None, problems[0]
    return memory, ""


def is_failure(error: tf.errors.OpError) -> bool:
    """Whether it is of an exchange in which another rank was missing."""
    return shared_mean.NAME in str(error)


def _missing() -> str | None:
    try:
        shared_mean.load()
    except MissingKernelError as error:
        return str(error)
    return None


def _make(folder: str) -> tuple[str, int]:
    """A new file of zeros, and its descriptor."""
    descriptor, path = tempfile.mkstemp(prefix="hvd_imagenet-", dir=folder)
    try:
        # Else who first writes where there is no memory left is killed for it.
        os.posix_fallocate(descriptor, 0, _BYTES)
    except OSError:
        os.close(descriptor)
        os.unlink(path)
        raise
    return path, descriptor


def _lock(descriptor: int, rank: int) -> None:
    """Locks the byte of a rank for as long as the descriptor is open."""
    try:
        fcntl.fcntl(
            descriptor,
            fcntl.F_OFD_SETLK,
            # struct flock: one byte, and no process, which "open file
            # description" locks do not belong to.
            struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, rank, 1, 0),
        )
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise OSError(error.errno, "another has its place") from None
        raise
