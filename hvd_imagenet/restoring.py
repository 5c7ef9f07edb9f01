"""From checkpoints to variables."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from hvd_imagenet.checkpoints import Checkpoints
from hvd_imagenet.config import require_same

_LISTED = 12


def restore(
    store: Checkpoints,
    variables: Sequence[keras.Variable],
    facts: Mapping[str, Any],
) -> int:
    """Sets the variables to a run's newest checkpoint that is whole.

    Args:
        store: of the run.
        variables: what to set: all that was saved.
        facts: must be equal to those saved.

    Returns:
        Steps done; 0 if there is no checkpoint.

    Raises:
        ValueError: the checkpoint is of another run, or none that exists can
            be read.
    """
    saved = store.newest()
    if saved is None:
        return 0
    require_same(saved.facts, facts, saved.path)
    differences = _differences(variables, saved.arrays)
    known = {variable.path for variable in variables}
    differences += [f"{p} is not known" for p in saved.arrays if p not in known]
    if differences:
        raise ValueError(
            f"{saved.path} does not fit this version's model and optimizer:"
            f" {_listed(differences)}. Choose another --workdir, or resume it"
            " with the version that began it."
        )
    for variable in variables:
        variable.assign(saved.arrays[variable.path])
    return saved.step


def _differences(
    variables: Sequence[keras.Variable], arrays: Mapping[str, np.ndarray]
) -> list[str]:
    """Which variables the arrays have no value for."""
    found = []
    for variable in variables:
        if variable.path not in arrays:
            found.append(f"{variable.path} is missing")
        elif arrays[variable.path].shape != tuple(variable.shape):
            found.append(
                f"{variable.path} is {list(arrays[variable.path].shape)}"
                f" and should be {list(variable.shape)}"
            )
    return found


def _listed(differences: Sequence[str]) -> str:
    more = len(differences) - _LISTED
    listed = [*differences[:_LISTED], *([f"{more} more"] if more > 0 else [])]
    return "; ".join(listed)
