"""Checkpoints: written atomically, the newest valid one wins.

A checkpoint is one .npz file, readable with NumPy alone: every variable of
model and optimizer by its path, and a JSON text of facts (step, recipe, plan).
It holds no rank and no data position beyond the step, from which the next
image follows at any world size. The zip format's own CRCs tell damaged files.
"""

import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import logging

from hvd_imagenet.config import require_same
from hvd_imagenet.mapped_arrays import NPZ_ERRORS

_NAME = "step_{:08d}.npz"
_PATTERN = re.compile(r"step_(\d{8,})\.npz")
_FACTS = "facts"


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

    def save(
        self,
        step: int,
        variables: Sequence[keras.Variable],
        facts: Mapping[str, Any],
    ) -> str:
        """Writes a checkpoint and removes those that are too old.

        Args:
            step: steps done.
            variables: what to restore, each with a path of its own.
            facts: what `restore` checks, as JSON.

        Returns:
            Its path.
        """
        os.makedirs(self._directory, exist_ok=True)
        path = os.path.join(self._directory, _NAME.format(step))
        temporary = f"{path}.{os.getpid()}.tmp"
        arrays = {v.path: np.asarray(v.value) for v in variables}
        text = json.dumps({**facts, "step": step})
        try:
            with open(temporary, "wb") as file:
                np.savez(file, **arrays, **{_FACTS: np.array(text)})
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
        for old in self._steps()[: -self._keep]:
            os.unlink(os.path.join(self._directory, _NAME.format(old)))
        for left in glob.glob(os.path.join(self._directory, "step_*.tmp")):
            os.unlink(left)  # By a run that was killed while it wrote.
        return path

    def restore(
        self, variables: Sequence[keras.Variable], facts: Mapping[str, Any]
    ) -> int:
        """Loads the newest checkpoint that is whole.

        Args:
            variables: what to set.
            facts: must be equal to those saved.

        Returns:
            Steps done; 0 if there is no checkpoint.

        Raises:
            ValueError: the checkpoint is of another run, or none that exists
                can be read.
        """
        steps = self._steps()
        for step in reversed(steps):
            path = os.path.join(self._directory, _NAME.format(step))
            loaded = _load(path)
            if loaded is None:
                logging.warning(
                    "%s is damaged and not used; trying the one before.", path
                )
                continue
            arrays, saved_facts = loaded
            saved_facts.pop("step")
            require_same(saved_facts, facts, path)
            _assign(variables, arrays, path)
            return step
        if steps:
            raise ValueError(
                f"None of the {len(steps)} checkpoints in {self._directory}"
                " can be read; remove them to start anew, or choose another"
                " --workdir."
            )
        return 0

    def _steps(self) -> list[int]:
        """Steps of the checkpoints there are, rising."""
        if not os.path.isdir(self._directory):
            return []
        matches = map(_PATTERN.fullmatch, os.listdir(self._directory))
        return sorted(int(match[1]) for match in matches if match)


def _load(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        return arrays, json.loads(str(arrays.pop(_FACTS)))
    except NPZ_ERRORS:
        return None


def _assign(
    variables: Sequence[keras.Variable],
    arrays: Mapping[str, np.ndarray],
    where: str,
) -> None:
    paths = {variable.path for variable in variables}
    if paths != arrays.keys():
        raise ValueError(
            f"{where} has other variables than this version's model and"
            f" optimizer: {sorted(paths ^ arrays.keys())[:3]}, ...; choose"
            " another --workdir."
        )
    for variable in variables:
        variable.assign(arrays[variable.path])
