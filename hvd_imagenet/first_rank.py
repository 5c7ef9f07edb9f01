"""What rank 0 does for all: its failure is the failure of all."""

from collections.abc import Callable
from typing import TypeVar

from hvd_imagenet.atomic_files import NotWrittenError
from hvd_imagenet.processes import Processes

T = TypeVar("T")


def call(processes: Processes, do: Callable[[], T]) -> T | None:
    """Calls a function on rank 0. A collective operation.

    Without it the other ranks would wait for one that has ended.

    Args:
        processes: the ranks.
        do: what to call.

    Returns:
        What it returned on rank 0, None elsewhere.

    Raises:
        Exception: on rank 0, what it raised.
        ValueError: elsewhere, if that was one; with its first line.
        NotWrittenError: the same.
        RuntimeError: elsewhere, if that was something else.
    """
    value, error, problem = None, None, None
    if processes.world.is_first:
        try:
            value = do()
        except Exception as raised:  # Whatever it is, others must not wait.
            error = raised
            problem = _kind(raised), str(raised).partition("\n")[0]
    problem = processes.broadcast_object(problem)
    if error is not None:
        raise error
    if problem is not None:
        kind, line = problem
        raise kind(f"Rank 0 has ended the run: {line}")
    return value


def _kind(error: Exception) -> type[Exception]:
    for kind in (ValueError, NotWrittenError):
        if isinstance(error, kind):
            return kind
    return RuntimeError
