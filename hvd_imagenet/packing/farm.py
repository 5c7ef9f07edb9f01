"""Tasks over processes: progress, the first error, and no wait without end."""

import contextlib
import dataclasses
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable
from multiprocessing import connection
from typing import Any

# Done with a task; called with a task and `tell`, which it calls at least
# every now and then with an amount of progress.
Work = Callable[[Any, Callable[[int], None]], Any]

_SILENCE_SECONDS = 600
_END_SECONDS = 10


@dataclasses.dataclass
class _Worker:
    process: Any
    pipe: connection.Connection


def run(
    work: Work,
    tasks: Iterable[Any],
    processes: int,
    *,
    on_progress: Callable[[int], None],
    on_result: Callable[[Any], None],
) -> None:
    """Does all tasks, in any order.

    Args:
        work: what is done with a task; a copy of it goes to every process.
        tasks: what to do.
        processes: how many at a time; 1 is this one.
        on_progress: called with what `work` tells.
        on_result: called with what `work` returns.

    Raises:
        ValueError, OSError: as `work` raised it.
        RuntimeError: `work` raised something else, or a process died.
        TimeoutError: no process has told anything for ten minutes.
    """
    tasks = list(tasks)
    processes = min(processes, len(tasks))
    if processes <= 1:
        for task in tasks:
            on_result(work(task, on_progress))
        return
    # Of a process without threads; forked ones could wait for locks for ever.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    workers = []
    try:
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(there, work), daemon=True
            )
            process.start()
            there.close()
            workers.append(_Worker(process, here))
        _supervise(workers, tasks, on_progress, on_result)
    finally:
        _end(workers)


def _supervise(workers, tasks, on_progress, on_result) -> None:
    waiting = list(reversed(tasks))
    left = len(tasks)
    by_pipe = {worker.pipe: worker for worker in workers}
    for worker in workers:
        worker.pipe.send(waiting.pop())
    while left:
        ready = connection.wait(list(by_pipe), timeout=_SILENCE_SECONDS)
        if not ready:
            raise TimeoutError(
                f"nothing was heard of {len(by_pipe)} processes for"
                f" {_SILENCE_SECONDS} s: the storage does not answer, or they"
                " were stopped"
            )
        for pipe in ready:
            try:
                kind, value = pipe.recv()
            except EOFError:
                process = by_pipe[pipe].process
                process.join(_END_SECONDS)
                raise RuntimeError(
                    f"a process ended with exit code {process.exitcode};"
                    " -9 is what the kernel does when memory runs out: use"
                    " fewer --processes then"
                ) from None
            if kind == "progress":
                on_progress(value)
            elif kind == "error":
                raise value
            else:
                left -= 1
                if waiting:
                    pipe.send(waiting.pop())
                on_result(value)


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_END_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(_END_SECONDS)


def _serve(pipe: connection.Connection, work: Work) -> None:
    """The life of a process."""
    # Ctrl-C reaches all processes of a terminal; the first one ends the rest.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nobody is there any more: end as well.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = pipe.recv()
            try:
                result = work(task, lambda n: pipe.send(("progress", n)))
                message = ("result", result)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except (ValueError, OSError) as error:
                message = ("error", error)
            except Exception:
                message = ("error", RuntimeError(traceback.format_exc()))
            pipe.send(message)
