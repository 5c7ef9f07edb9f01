"""One run at a time in a work directory."""

import datetime
import errno
import fcntl
import json
import os
import socket
import time

from absl import logging

_NAME = "lock"
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# The owner says who it is right after it has the lock.
_OWNER_SECONDS = 1.0


def is_held(directory: str) -> bool:
    """Whether a run is writing a directory, as far as this host can tell."""
    try:
        with open(os.path.join(directory, _NAME), "rb") as file:
            # Shared, so that several may ask at once; it ends with the file.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


class RunLock:
    """Holds a directory until it is released or the process ends, however.

    The lock is the kernel's (flock) and not the file's being there, so it
    cannot be left behind. NFS passes it on to the other hosts.
    """

    def __init__(self, directory: str):
        """Takes the directory.

        Args:
            directory: is there.

        Raises:
            ValueError: another process holds it; says which.
            OSError: the file cannot be opened.
        """
        path = os.path.join(directory, _NAME)
        self._file = open(path, "a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = self._owner()
            self._file.close()
            raise ValueError(
                f"--workdir={directory} is in use by {owner}; wait for its end,"
                " or choose another --workdir."
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                self._file.close()
                raise
            logging.warning(
                "%s cannot be locked (%s): see to it that no other run uses"
                " it.",
                directory,
                error.strerror,
            )
        self._say(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": datetime.datetime.now(datetime.timezone.utc).isoformat(
                    timespec="seconds"
                ),
            }
        )

    def release(self) -> None:
        """Lets others have the directory."""
        if not self._file.closed:
            self._say(None)
            self._file.close()

    def _say(self, owner: dict | None) -> None:
        try:
            self._file.truncate(0)
            if owner is not None:
                self._file.write(json.dumps(owner) + "\n")
                self._file.flush()
        except OSError as error:  # It is locked all the same.
            logging.warning("%s: %s", self._file.name, error.strerror)

    def _owner(self) -> str:
        deadline = time.monotonic() + _OWNER_SECONDS
        while time.monotonic() < deadline:
            try:
                self._file.seek(0)
                owner = json.loads(self._file.read())
                return (
                    f"process {owner['pid']} on {owner['host']} since"
                    f" {owner['since']}"
                )
            except (OSError, ValueError, KeyError, TypeError):
                time.sleep(0.05)
        return "another run"
