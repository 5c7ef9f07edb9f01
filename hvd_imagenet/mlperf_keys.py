"""What MLPerf's log says of a run before its first step.

Keys are those of mlcommons/logging for the benchmark resnet, which its rules
of training 4.0 had last. Values are what the run does: rules that they do not
keep are for the compliance checker to name.
"""

from typing import Any

from hvd_imagenet.config import Config
from hvd_imagenet.plan import Plan

# Top-1 of the validation images at which a run has succeeded.
TARGET_TOP1 = 0.759

# MLPerf's names of update rules; others have none, and are called as here.
_OPTIMIZERS = {"momentum": "sgd", "lars": "lars", "lars_mlperf": "lars"}

Entry = tuple[str, Any]


def submission(config: Config) -> list[Entry]:
    """Key and value of what is submitted, and by whom."""
    asked = config.mlperf
    entries = [
        ("submission_benchmark", "resnet"),
        ("submission_division", asked.submission_division),
        ("submission_status", asked.submission_status),
        ("submission_org", asked.submission_org),
        ("submission_platform", asked.submission_platform),
    ]
    return [(key, value) for key, value in entries if value is not None]


def hyperparameters(config: Config, plan: Plan) -> list[Entry]:
    """Key and value of what determines the training.

    A key stands once for each of its values: where phases or another number of
    processes change the batch, several times.
    """
    asked = config.optimization
    name = _OPTIMIZERS.get(asked.optimizer, asked.optimizer)
    own = f"{name}_opt" if name in _OPTIMIZERS.values() else "opt"
    # Only LARS has its warmup under its own name.
    warmup = own if name == "lars" else "opt"
    entries = [
        ("seed", config.run.seed),
        ("train_samples", plan.train_images),
        ("eval_samples", plan.validation_images),
    ]
    for phase in plan.phases.phases:
        entries += [
            ("global_batch_size", phase.global_batch_size),
            ("gradient_accumulation_steps", phase.accumulation_steps),
            ("model_bn_span", phase.batch_size_per_process),
        ]
    entries += [
        ("opt_name", name),
        (f"{own}_base_learning_rate", plan.schedule.peak),
        (
            f"{warmup}_learning_rate_warmup_epochs",
            config.schedule.warmup_epochs if plan.warmup_steps else 0,
        ),
        (f"{own}_weight_decay", asked.weight_decay),
    ]
    if asked.optimizer != "lamb":
        entries.append((f"{own}_momentum", asked.momentum))
    if name == "lars":
        entries.append(("lars_epsilon", 0.0))
    if config.schedule.schedule == "polynomial":
        entries += [
            (f"{own}_end_learning_rate", config.schedule.end_learning_rate),
            (
                f"{own}_learning_rate_decay_poly_power",
                config.schedule.polynomial_power,
            ),
            # As the schedule has it, and MLPerf's reference.
            (
                f"{own}_learning_rate_decay_steps",
                plan.total_steps - plan.warmup_steps + 1,
            ),
        ]
    return list(dict.fromkeys(entries))
