"""What has been packed so far, kept so that any end can be followed by more."""

import dataclasses
import fcntl
import json
import os
from typing import Any

from hvd_imagenet.packing.shards import Report

_NAME = "journal.jsonl"


class Journal:
    """The settings of a packed set, and a line for every complete shard.

    Attributes:
        is_new: whether nothing was packed before.
        reports: complete shards by file name; of two lines the later.
    """

    def __init__(self, workdir: str, facts: dict[str, Any]):
        """Opens or begins a journal; others cannot until this process ends.

        Args:
            workdir: directory of the journal.
            facts: "settings" and "source", plain for JSON.

        Raises:
            ValueError: it is in use, or of other settings.
        """
        os.makedirs(workdir, exist_ok=True)
        path = os.path.join(workdir, _NAME)
        self._file = open(path, "a+", encoding="utf-8")
        try:
            lines = self._lock_and_read(os.path.dirname(workdir), facts)
        except BaseException:
            self._file.close()
            raise
        self.is_new = not lines
        self.reports = {line["file"]: Report(**line) for line in lines[1:]}
        if self.is_new:
            self._append(facts)

    def add(self, report: Report) -> None:
        """Notes that a shard is complete."""
        self._append(dataclasses.asdict(report))
        self.reports[report.file] = report

    def close(self) -> None:
        """Lets others open it."""
        self._file.close()

    def _lock_and_read(
        self, output_dir: str, facts: dict[str, Any]
    ) -> list[dict[str, Any]]:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"--output_dir={output_dir} is being written by another"
                " process; wait for it, or choose another directory."
            ) from error
        self._file.seek(0)
        lines = _whole_lines(self._file)
        if lines:
            _require_same(lines[0], facts, output_dir)
        return lines

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _whole_lines(file) -> list[dict[str, Any]]:
    """What was written, less a line that a crash has cut."""
    lines = []
    end = 0
    for line in file.read().splitlines(keepends=True):
        try:
            if not line.endswith("\n"):
                break
            lines.append(json.loads(line))
        except ValueError:
            break
        end += len(line.encode())
    file.truncate(end)
    return lines


def _require_same(was: dict, now: dict, output_dir: str) -> None:
    was, now = (facts["source"] | facts["settings"] for facts in (was, now))
    differences = [
        f"{name} was {json.dumps(was.get(name))} and is"
        f" {json.dumps(now.get(name))} now"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    if differences:
        raise ValueError(
            f"--output_dir={output_dir} was begun with other settings:"
            f" {', '.join(differences)}; give the same, or another directory."
        )
