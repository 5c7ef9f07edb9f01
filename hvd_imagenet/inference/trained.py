"""A trained model from its checkpoint, which says what it is of."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import keras

from hvd_imagenet import first_rank, flags, resnet, restoring
from hvd_imagenet.checkpoints import Checkpoint
from hvd_imagenet.config import Config
from hvd_imagenet.inference.options import ModelOptions
from hvd_imagenet.preprocessing import make_preprocessing
from hvd_imagenet.processes import Processes

# What a checkpoint has beside its recipe; see `resuming.Saved`.
_NO_KNOBS = ("global_batch_sizes", "train_images")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What was trained.

    Attributes:
        config: of its run, with what is asked for instead.
        recipe: knobs of the training, as they were.
        path: of the checkpoint.
        run: directory of its run; None if that is not known.
        step: steps done.
        weights: "average" or "last".
    """

    config: Config
    recipe: Mapping[str, Any]
    path: str
    run: str | None
    step: int
    weights: str

    @property
    def resize(self) -> int:
        """Length of the shorter side before the central crop, in pixels."""
        config = self.config
        return make_preprocessing(
            config.data, config.evaluation_image_size
        ).resize

    def __str__(self) -> str:
        return (
            f"{self.config.model.model}, {self.path}, step {self.step},"
            f" {'averaged' if self.weights == 'average' else 'last'} weights"
        )


def load(
    options: ModelOptions, processes: Processes
) -> tuple[Trained, keras.Model]:
    """Reads a checkpoint on rank 0 and builds its model on all ranks.

    A collective operation.

    Returns:
        (what it is, from normalised images to logits).

    Raises:
        ValueError: there is no such checkpoint, it is damaged, or it is of
            another version's network; one sentence with the remedy.
    """
    saved: list[Checkpoint] = []

    def read() -> Trained:
        path = options.checkpoint
        if path is None:
            raise ValueError(
                "--checkpoint is not given; name the directory of a run, or a"
                " checkpoint file."
            )
        saved.append(restoring.open_checkpoint(path, f"--checkpoint={path}"))
        return _describe(saved[0], options)

    trained = processes.broadcast_object(first_rank.call(processes, read))
    model = resnet.build_model(trained.config.model)

    def restore() -> str:
        has_averages = bool(restoring.averages_in(saved[0], model))
        if options.weights == "average" and not has_averages:
            raise ValueError(
                f"--weights=average, but {trained.path} has none, as its run"
                " had no --ema_decay; leave the flag out."
            )
        averaged = has_averages and options.weights != "last"
        restoring.set_weights(model, saved[0], averaged=averaged)
        return "average" if averaged else "last"

    weights = processes.broadcast_object(first_rank.call(processes, restore))
    processes.broadcast(model.variables)
    return dataclasses.replace(trained, weights=weights), model


def _describe(saved: Checkpoint, options: ModelOptions) -> Trained:
    facts = {k: v for k, v in saved.facts.items() if k not in _NO_KNOBS}
    run, config = _run_of(saved.path), Config()
    if run is not None:
        config = flags.read(os.path.join(run, "run.flags"))
    try:
        # The checkpoint's word: its directory may be another's by now.
        config = config.with_knobs(facts)
    except ValueError as error:
        raise ValueError(
            f"{saved.path} is of a version with other flags ({error}); use it"
            " with the version that wrote it."
        ) from error
    return Trained(
        config=options.applied_to(config),
        recipe=facts,
        path=saved.path,
        run=run,
        step=saved.step,
        weights=options.weights,
    )


def _run_of(path: str) -> str | None:
    """The directory of a checkpoint's run, if it lies in one."""
    folder = os.path.dirname(os.path.abspath(path))
    run = os.path.dirname(folder)
    is_there = os.path.exists(os.path.join(run, "run.flags"))
    return run if is_there and folder.endswith("/checkpoints") else None
