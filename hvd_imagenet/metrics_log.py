"""metrics.jsonl: what a run measured, one JSON object per line.

To write it is worth trying and never worth a training: see `attempts`.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping

from hvd_imagenet import atomic_files
from hvd_imagenet.attempts import Attempts


class MetricsLog:
    """Writes metrics.jsonl of a run directory."""

    def __init__(self, directory: str, first_step: int):
        """Drops what a resumed run will measure again.

        Args:
            directory: is there.
            first_step: steps done.

        Raises:
            NotWrittenError: the directory cannot be written.
        """
        self._path = os.path.join(directory, "metrics.jsonl")
        self._lines = Attempts("lines of metrics.jsonl")
        self._forget_after(first_step)

    @property
    def losses(self) -> str:
        """A sentence on what was lost; "" if nothing was."""
        return self._lines.losses

    def add(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Writes measured values.

        Args:
            kind: "train" or "validation".
            step: steps done.
            values: value by name.
        """
        # Seconds since 1970: by this name pandas reads them as times.
        now = int(time.time())
        record = {"kind": kind, "step": step, "timestamp": now, **values}
        # JSON has no nan; a diverged loss must not make the file unreadable.
        record = {
            name: None
            if isinstance(value, float) and not math.isfinite(value)
            else value
            for name, value in record.items()
        }
        with self._lines.one():
            append(self._path, json.dumps(record) + "\n")

    def _forget_after(self, step: int) -> None:
        if not os.path.exists(self._path):
            return
        kept = []
        with open(self._path, encoding="utf-8", errors="replace") as file:
            for line in file:
                # Less a line that was cut or damaged.
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    record = json.loads(line)
                    # The epoch that ends there is evaluated again.
                    last = step - (record["kind"] == "validation")
                    if record["step"] <= last and line[-1] == "\n":
                        kept.append(line)
        atomic_files.write_text(self._path, "".join(kept))


def append(path: str, line: str) -> None:
    """Adds a whole line, or nothing.

    Opened every time: to a file that was removed one could write for ever.
    """
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        data = line.encode()
        try:
            while data:  # What is full takes a part, and then says so.
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise
