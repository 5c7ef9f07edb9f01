"""The place of this process in a world that changes."""

import contextlib
import faulthandler
import os
import threading
from collections.abc import Iterator, MutableMapping

from hvd_imagenet import distributed
from hvd_imagenet.processes import Processes
from hvd_imagenet.world import is_elastic

# Where it is set, Horovod 0.28.1 takes the cycle time for the fusion threshold
# when it starts for the second time in a process. Processes that have just
# begun then exchange other amounts at once than those that join again, which
# ends in an abort.
_CYCLE_TIME = "HOROVOD_CYCLE_TIME"


class LostRanksError(RuntimeError):
    """An exchange failed, as other ranks ended or left."""


class Membership:
    """Joins the processes of an elastic horovodrun, again and again."""

    def __init__(
        self,
        compression: str,
        environ: MutableMapping[str, str] = os.environ,
        *,
        xla: bool = False,
    ):
        """Does not join yet.

        Args:
            compression: see `distributed.start`.
            environ: environment variables.
            xla: see `distributed.start`.

        Raises:
            ValueError: no elastic horovodrun started this process.
        """
        if not is_elastic(environ):
            raise ValueError(
                "--elastic needs processes that horovodrun --min-np N"
                " --host-discovery-script SCRIPT has started; leave it out, or"
                " start it so."
            )
        if _CYCLE_TIME in environ:
            raise ValueError(
                f"{_CYCLE_TIME}={environ[_CYCLE_TIME]} cannot be used with"
                " --elastic; leave it out, or --cycle-time-ms of horovodrun."
            )
        self._compression = compression
        self._xla = xla
        self._environ = environ
        self._has_joined = False
        self._hosts_changed = threading.Event()

    @property
    def is_outdated(self) -> bool:
        """Whether hosts have come or gone since; rank 0 alone is told."""
        return self._hosts_changed.is_set()

    def join(self) -> Processes:
        """Joins those who are there now. A collective operation.

        Horovod aborts the process where its host is none of the job's any
        more, and says so; and where another one fails meanwhile.

        Raises:
            LostRanksError: one of them ended meanwhile; join again.
            ValueError: see `distributed.start`.
        """
        # Not later: what is told meanwhile may not be in the new world yet.
        self._hosts_changed.clear()
        if not self._has_joined:
            # Early, as hosts that come before are not told of.
            distributed.call_when_hosts_change(self._hosts_changed.set)
        with lost_ranks(), _brief_abort():
            processes = distributed.start(
                compression=self._compression,
                xla=self._xla,
                again=self._has_joined,
                environ=self._environ,
            )
        self._has_joined = True
        return processes


@contextlib.contextmanager
def lost_ranks() -> Iterator[None]:
    """Makes a failed exchange within it a `LostRanksError`."""
    try:
        yield
    except Exception as error:
        if not distributed.is_exchange_failure(error):
            raise
        raise LostRanksError("a process has ended or left") from error


@contextlib.contextmanager
def _brief_abort() -> Iterator[None]:
    """Without Python's stacks, which say nothing of an abort in here."""
    was_enabled = faulthandler.is_enabled()
    faulthandler.disable()
    try:
        yield
    finally:
        if was_enabled:
            faulthandler.enable()
