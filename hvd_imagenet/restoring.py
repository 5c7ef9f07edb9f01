"""From checkpoints to variables: all of a run, or the weights of another."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from hvd_imagenet import checkpoints, ema
from hvd_imagenet.checkpoints import Checkpoint, Checkpoints
from hvd_imagenet.config import ModelConfig, require_same

# Those that decide what the weights are weights of.
_NETWORK = ("model", "blur_pool")
_LAST_LAYER = ("logits/kernel", "logits/bias")
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


def take_weights(path: str, model: keras.Model, config: ModelConfig) -> str:
    """Sets a new model's variables to the weights of another run.

    Its weights and running statistics of batch normalization; nothing of its
    optimizer, and no step. If it has averages (`ema`) they are taken, as they
    are what its result was measured with. If it has another number of classes
    the last layer stays as it is.

    Args:
        path: a checkpoint, or a run directory with checkpoints.
        model: built, with its initial values.
        config: what it was built from.

    Returns:
        A sentence that says what was taken.

    Raises:
        ValueError: there is no such checkpoint, or it does not fit.
    """
    saved = open_checkpoint(path, f"--init_from={path}")
    asked = {name: getattr(config, name) for name in _NETWORK}
    differences = [
        f"--{name} was {saved.facts.get(name)} and is {value} now"
        for name, value in asked.items()
        if saved.facts.get(name) != value
    ]
    averages = averages_in(saved, model)
    arrays = {**saved.arrays, **averages}
    bias = arrays.get("logits/bias")
    is_last_new = bias is not None and bias.size != config.num_classes
    taken = list(model.variables)
    if is_last_new:
        taken = [v for v in taken if v.path not in _LAST_LAYER]
    differences += _differences(taken, arrays)
    if differences:
        raise ValueError(
            f"--init_from={path} does not fit the model:"
            f" {_listed(differences)}. Ask for the network that it was trained"
            " with, or name another checkpoint."
        )
    for variable in taken:
        variable.assign(arrays[variable.path])
    words = "averaged weights" if averages else "weights"
    sentence = f"initial {words}: {saved.path}, step {saved.step}"
    if is_last_new:
        sentence += (
            f"; the last layer is new, as that has {bias.size} classes and"
            f" this model {config.num_classes}"
        )
    return sentence


def set_weights(
    model: keras.Model, saved: Checkpoint, *, averaged: bool
) -> None:
    """Sets a model's variables to those that a checkpoint has.

    Args:
        model: built.
        saved: of the same network.
        averaged: whether to take averages where there are any.

    Raises:
        ValueError: it is of another network.
    """
    averages = averages_in(saved, model) if averaged else {}
    arrays = {**saved.arrays, **averages}
    differences = _differences(model.variables, arrays)
    if differences:
        raise ValueError(
            f"{saved.path} does not fit this version's model:"
            f" {_listed(differences)}. Use it with the version that wrote it."
        )
    for variable in model.variables:
        variable.assign(arrays[variable.path])


def averages_in(saved: Checkpoint, model: keras.Model) -> dict[str, np.ndarray]:
    """Averages of a model's variables (`ema`), by the variable's path."""
    return {
        variable.path: saved.arrays[average]
        for variable in model.variables
        if (average := ema.path_of_average(variable.path)) in saved.arrays
    }


def open_checkpoint(path: str, said: str) -> Checkpoint:
    """A checkpoint file, or the newest whole checkpoint of a run directory.

    Args:
        path: of either.
        said: how it was asked for, for messages.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if os.path.isdir(path):
        folder = os.path.join(path, "checkpoints")
        saved = Checkpoints(folder, keep=1).newest()
        if saved is None:
            raise ValueError(
                f"{said} has no checkpoints/step_*.npz; name the directory of a"
                " run, or a checkpoint file."
            )
        return saved
    if not os.path.exists(path):
        raise ValueError(
            f"{said} does not exist; name the directory of a run, or a"
            " checkpoint file, that rank 0's host sees."
        )
    return checkpoints.read(path)


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
