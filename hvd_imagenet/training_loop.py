"""The loop over epochs and steps, which calls Keras's callbacks."""

from collections.abc import Callable, Sequence

import keras

from hvd_imagenet import profiling
from hvd_imagenet.batches import Batches
from hvd_imagenet.plan import Plan
from hvd_imagenet.trainer import Trainer


def fit(
    trainer: Trainer,
    plan: Plan,
    batches: Batches,
    *,
    callbacks: Sequence[keras.callbacks.Callback],
    first_step: int = 0,
    evaluate: Callable[[int], dict[str, float]] = lambda epoch: {},
) -> int:
    """Trains from `first_step` to the end of the plan.

    The epoch that ends at `first_step` is evaluated, as it may not have
    been.

    keras.Model.fit has the same number of steps in every epoch and starts
    at the beginning of one; the callbacks are Keras's and are called as it
    would. Batches are numbered by the global step.

    Args:
        trainer: what to train.
        plan: steps and epochs.
        batches: this rank's micro-batches from `first_step` on.
        callbacks: Keras callbacks.
        first_step: steps already done.
        evaluate: gives the `val_` entries of an epoch's logs.

    Returns:
        Steps done; fewer than planned where a callback has set the
        model's `stop_training`.
    """
    calls = keras.callbacks.CallbackList(
        list(callbacks),
        model=trainer.model,
        epochs=plan.epochs,
        steps=plan.total_steps,
    )
    trainer.model.stop_training = False
    calls.on_train_begin()
    step = first_step
    for epoch in range(plan.epochs):
        end = plan.epoch_end_step(epoch)
        if trainer.model.stop_training or end < first_step:
            continue
        calls.on_epoch_begin(epoch)
        while step < end:
            calls.on_train_batch_begin(step)
            accumulation_steps = plan.phase(step).accumulation_steps
            with profiling.step(step + 1):
                loss = trainer.train_step(batches, accumulation_steps)
            calls.on_train_batch_end(step, {"loss": loss})
            step += 1
            if trainer.model.stop_training:
                break
        else:
            calls.on_epoch_end(epoch, evaluate(epoch))
    calls.on_train_end()
    return step
