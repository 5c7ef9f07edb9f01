"""The model, its optimizer and the step where a run begins or goes on."""

import os

import keras

from hvd_imagenet import (
    checkpoints,
    first_rank,
    resnet,
    restoring,
    saving,
    update_rule,
)
from hvd_imagenet.config import Config
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.runlog import NullRunLog
from hvd_imagenet.trainer import Trainer


def resume(
    config: Config, plan: Plan, processes: Processes, run_log: NullRunLog
) -> tuple[Trainer, saving.NullSaver, int]:
    """Builds the model as it was when it was last saved, or new.

    A collective operation; rank 0 alone reads.

    Args:
        config: what was asked.
        plan: made from it.
        processes: the ranks.
        run_log: told where initial weights come from.

    Returns:
        (trainer, what saves it, steps that are done already).

    Raises:
        ValueError: the checkpoints are of another run, or damaged, or there
            are none to begin with.
    """
    keras.utils.set_random_seed(config.run.seed)
    model = resnet.build_model(config.model)
    store = checkpoints.Checkpoints(
        os.path.join(config.run.workdir or "", "checkpoints"),
        keep=config.run.keep_checkpoints,
    )
    facts = {
        **config.recipe(),
        "global_batch_sizes": [
            phase.global_batch_size for phase in plan.phases.phases
        ],
        "train_images": plan.train_images,
    }

    def begin() -> str | None:
        if store.newest_path is not None:
            return None
        return restoring.take_weights(config.run.init_from, model, config.model)

    if config.run.init_from is not None:
        # Before the trainer is made: averages begin with the weights.
        taken = first_rank.call(processes, begin)
        if taken is not None:
            run_log.line(taken)
    trainer = update_rule.make_trainer(config, model, processes)
    first_step = first_rank.call(
        processes, lambda: restoring.restore(store, trainer.state, facts)
    )
    saver = saving.NullSaver()
    if processes.world.is_first:
        saver = saving.Saver(store, trainer.state, facts)
    # The state itself follows when training begins.
    return trainer, saver, processes.broadcast_object(first_step)
