"""The model, its optimizer and the step where a run begins or goes on."""

import dataclasses
import os
from typing import Any

import keras

from hvd_imagenet import (
    checkpoints,
    first_rank,
    phases,
    resnet,
    restoring,
    saving,
    update_rule,
)
from hvd_imagenet.config import Config
from hvd_imagenet.phases import Begun, Phases
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.runlog import NullRunLog
from hvd_imagenet.trainer import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """The checkpoints of a run, and what tells them from another's."""

    store: checkpoints.Checkpoints
    facts: dict[str, Any]

    @classmethod
    def of(cls, config: Config, plan: Plan) -> "Saved":
        """Those of the work directory, which may have none yet."""
        return cls(
            store=checkpoints.Checkpoints(
                os.path.join(config.run.workdir or "", "checkpoints"),
                keep=config.run.keep_checkpoints,
            ),
            facts={
                **config.recipe(),
                # Those of an elastic run are what they can be in each world.
                "global_batch_sizes": phases.asked_batch_sizes(config)
                if config.run.elastic
                else [phase.global_batch_size for phase in plan.phases.phases],
                "train_images": plan.train_images,
            },
        )

    def saver(self, trainer: Trainer, processes: Processes) -> saving.NullSaver:
        """What saves a trainer's state, which rank 0 alone does."""
        if processes.world.is_first:
            return saving.Saver(self.store, trainer.state, self.facts)
        return saving.NullSaver()


def build_model(config: Config) -> keras.Model:
    """A new model, the same on all ranks."""
    keras.utils.set_random_seed(config.run.seed)
    return resnet.build_model(config.model)


def resume(
    config: Config, plan: Plan, processes: Processes, run_log: NullRunLog
) -> tuple[Trainer, saving.NullSaver, Begun]:
    """Builds the model as it was when it was last saved, or new.

    A collective operation; rank 0 alone reads.

    Args:
        config: what was asked.
        plan: made from it.
        processes: the ranks.
        run_log: told where initial weights come from.

    Returns:
        (trainer, what saves it, what is done already).

    Raises:
        ValueError: the checkpoints are of another run, or damaged, or there
            are none to begin with.
    """
    model = build_model(config)
    saved = Saved.of(config, plan)

    def begin() -> str | None:
        if saved.store.newest_path is not None:
            return None
        return restoring.take_weights(config.run.init_from, model, config.model)

    if config.run.init_from is not None:
        # Before the trainer is made: averages begin with the weights.
        taken = first_rank.call(processes, begin)
        if taken is not None:
            run_log.line(taken)
    trainer = update_rule.make_trainer(config, model, processes)

    def restore() -> Begun:
        step = restoring.restore(saved.store, trainer.state, saved.facts)
        if not step:
            return Begun(step=0, phases=plan.phases)
        return _begun(config, plan, step, run_log.saved_phases())

    begun = first_rank.call(processes, restore)
    # The state itself follows when training begins.
    return (
        trainer,
        saved.saver(trainer, processes),
        processes.broadcast_object(begun),
    )


def _begun(
    config: Config, plan: Plan, step: int, saved: Phases | None
) -> Begun:
    """What the steps of a checkpoint were.

    Raises:
        ValueError: that is not known, or they took other images than a run
            without `--elastic` would take them for.
    """
    elastic, workdir = config.run.elastic, config.run.workdir
    if saved is None:
        if elastic:
            raise ValueError(
                f"--workdir={workdir} has checkpoints and no plan.json, which"
                " says what they have seen; bring it back, or choose another"
                " --workdir."
            )
        saved = plan.phases
    done, planned = saved.images_before(step), plan.images_before(step)
    if done != planned and not elastic:
        raise ValueError(
            f"--workdir={workdir} has seen {done} images in {step} steps, and"
            f" {planned} are planned: with --elastic its batches were others;"
            " add that, or choose another --workdir."
        )
    return Begun(step=step, phases=saved)
