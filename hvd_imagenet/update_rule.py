"""The optimizer and trainer that a configuration asks for; their callbacks."""

import keras

from hvd_imagenet import (
    callbacks,
    lamb,
    lars,
    optimizers,
    rmsprop_warmup,
    schedule,
)
from hvd_imagenet.config import Config
from hvd_imagenet.losses import Loss
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.trainer import Trainer


def make_optimizer(config: Config) -> keras.optimizers.Optimizer:
    """The update rule that a configuration asks for."""
    asked = config.optimization
    # Keras clips where it should: in `apply`, by when the gradients are
    # averaged and LossScaleOptimizer has unscaled them, and before our
    # optimizers add the weight decay.
    common = {
        "weight_decay": asked.weight_decay,
        "global_clipnorm": asked.clip_global_norm,
    }
    if asked.optimizer != "lamb":
        common["momentum"] = asked.momentum
    if asked.optimizer == "momentum":
        optimizer = optimizers.MomentumSGD(nesterov=asked.nesterov, **common)
    elif asked.optimizer == "rmsprop_warmup":
        optimizer = rmsprop_warmup.RMSpropWarmup(
            rms_learning_rate=asked.rmsprop_learning_rate, **common
        )
    elif asked.optimizer == "lamb":
        optimizer = lamb.LAMB(
            beta_1=asked.lamb_beta_1,
            beta_2=asked.lamb_beta_2,
            epsilon=asked.lamb_epsilon,
            **common,
        )
    else:
        optimizer = lars.LARS(
            coefficient=asked.lars_coefficient,
            form="mlperf" if asked.optimizer == "lars_mlperf" else "you2017",
            **common,
        )
    if config.model.precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def make_trainer(
    config: Config, model: keras.Model, processes: Processes
) -> Trainer:
    """A trainer of `model` as a configuration asks for it."""
    asked = config.optimization
    return Trainer(
        model,
        make_optimizer(config),
        processes,
        bn_statistics=config.model.bn_statistics,
        evaluation_flip=config.data.evaluation_flip,
        loss=Loss(
            form=asked.loss,
            label_smoothing=asked.label_smoothing,
            target_threshold=asked.bce_target_threshold
            if asked.loss == "bce"
            else None,
        ),
        ema_decay=asked.ema_decay,
    )


def step_callbacks(
    config: Config, plan: Plan, first_step: int
) -> list[keras.callbacks.Callback]:
    """What brings the plan's values to the optimizer before every step."""
    asked = config.optimization
    calls = [
        callbacks.LinearScaling(
            config.schedule.base_learning_rate,
            config.schedule.base_batch_size,
            plan.phase(0).global_batch_size,
            plan.schedule.decay,
            first_step,
        ),
        callbacks.Warmup(plan.schedule.warmup, first_step),
    ]
    if asked.optimizer == "rmsprop_warmup":

        def share_of_sgd(step: int) -> float:
            return schedule.rmsprop_transition(
                plan.epochs_before(step),
                asked.rmsprop_center_epochs,
                asked.rmsprop_period_epochs,
                asked.rmsprop_slope,
            )

        calls.append(callbacks.RMSpropTransition(share_of_sgd, first_step))
    return calls
