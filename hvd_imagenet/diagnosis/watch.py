"""A bound on how long a step may take, whoever is waited for."""

import os
import sys
import threading


class Watch:
    """Ends the process when a step takes too long; the others end with it."""

    def __init__(self, timeout_seconds: float, who: str):
        """Waits for nothing yet.

        Args:
            timeout_seconds: what every step may take.
            who: this process, for people.
        """
        self._timeout_seconds = timeout_seconds
        self._who = who
        self._timer = None

    def begin(self, step: str) -> None:
        """Gives the next step its time."""
        self.end()
        self._timer = threading.Timer(
            self._timeout_seconds, self._give_up, [step]
        )
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """There is no more to wait for."""
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self, step: str) -> None:
        sys.stderr.write(
            f"error: {self._who} gave up {step} after"
            f" {self._timeout_seconds:g} seconds; a process that does not say"
            " so is the one that the others wait for.\n"
        )
        sys.stderr.flush()
        # The main thread may never come back from a library.
        os._exit(1)
