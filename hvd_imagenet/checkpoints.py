"""Checkpoints: written atomically, the newest valid one wins.

A checkpoint has every variable of model and optimizer by its path, and facts
(step, recipe, plan). It holds no rank and no data position beyond the step,
from which the next image follows at any world size. `checkpoint_files` has its
format.
"""

import contextlib
import dataclasses
import glob
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from hvd_imagenet import atomic_files, checkpoint_files

_NAME = "step_{:08d}.npz"
_PATTERN = re.compile(r"step_(\d{8,})\.npz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was read.

    Attributes:
        path: of its file.
        step: steps done.
        arrays: values of the variables by their paths.
        facts: what it was saved with.
    """

    path: str
    step: int
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of a run in a directory of their own."""

    def __init__(self, directory: str, *, keep: int):
        """Names the directory; it is made by the first `save`.

        Args:
            directory: where the checkpoints are.
            keep: how many of the newest to keep.
        """
        self._directory = directory
        self._keep = keep

    @property
    def newest_path(self) -> str | None:
        """The newest there is, whole or not; None without any."""
        steps = self._steps()
        return self._path(steps[-1]) if steps else None

    def save(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray],
        facts: Mapping[str, Any],
    ) -> str:
        """Writes a checkpoint and removes those that are too old.

        Args:
            step: steps done.
            arrays: what to keep, by name.
            facts: what to keep besides, as JSON.

        Returns:
            Its path.

        Raises:
            NotWrittenError: it cannot be written; those before are there.
        """
        path = self._path(step)
        try:
            os.makedirs(self._directory, exist_ok=True)
        except OSError as error:
            raise atomic_files.NotWrittenError(
                f"{path} could not be written: making its folder failed"
                f" ({error.strerror})"
            ) from error
        with atomic_files.replacing(path) as file:
            checkpoint_files.write(file, arrays, {**facts, "step": step})
        # Later steps than this one can only be damaged ones that `newest`
        # passed over: they do not count, or they would push this one out.
        done = [old for old in self._steps() if old <= step]
        left = glob.glob(os.path.join(glob.escape(self._directory), "*.tmp"))
        for old in [*map(self._path, done[: -self._keep]), *left]:
            # What is left is by a run that was killed while it wrote. Either
            # can be removed another time.
            with contextlib.suppress(OSError):
                os.unlink(old)
        return path

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None if there is none at all.

        Raises:
            ValueError: there are some, and none can be read.
        """
        steps = self._steps()
        for step in reversed(steps):
            path = self._path(step)
            try:
                return read(path)
            except checkpoint_files.DamagedError as error:
                logging.warning("%s; trying the one before.", error)
        if steps:
            raise ValueError(
                f"None of the {len(steps)} checkpoints in {self._directory}"
                " can be read; choose another directory, or remove them to"
                " start anew."
            )
        return None

    def _path(self, step: int) -> str:
        return os.path.join(self._directory, _NAME.format(step))

    def _steps(self) -> list[int]:
        """Steps of the checkpoints there are, rising."""
        if not os.path.isdir(self._directory):
            return []
        matches = map(_PATTERN.fullmatch, os.listdir(self._directory))
        return sorted(int(match[1]) for match in matches if match)


def read(path: str) -> Checkpoint:
    """One checkpoint.

    Raises:
        DamagedError: it cannot be read, or is not what it should be.
    """
    arrays, facts = checkpoint_files.read(path)
    step = facts.pop("step", None)
    if not isinstance(step, int):
        raise checkpoint_files.DamagedError(
            f"{path} is damaged or cannot be read (it has no step)"
        )
    return Checkpoint(path=path, step=step, arrays=arrays, facts=facts)
