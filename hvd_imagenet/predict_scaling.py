"""Predicts efficiency and time to train on more workers than one has.

    python -m hvd_imagenet.predict_scaling --flagfile=flags/goyal2017.flags \\
        --step_seconds=0.25 --bandwidth_gbit=25 --workers_per_host=8 \\
        --plot=scaling.png

Takes the flags of hvd_imagenet.train: they tell the gradients, their format and
what is trained. Prints what the prediction is made of and a table: efficiency
with one micro-batch per worker and step, and the time of the training, which
accumulates where there are fewer workers than micro-batches. It runs in a
second, without TensorFlow, and tells what was fitted and what is not in it.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from hvd_imagenet import imagenet, program, splits
from hvd_imagenet import plan as plan_lib
from hvd_imagenet.config import Config
from hvd_imagenet.scaling import collectives, inputs, plot, prediction, report
from hvd_imagenet.scaling.options import ScalingOptions


def main(config: Config, options: ScalingOptions) -> int:
    """Predicts and reports; returns the exit status."""
    try:
        _predict(options, config)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return program.INTERRUPTED
    return 0


def _predict(options: ScalingOptions, config: Config) -> None:
    made = inputs.make_inputs(options, config)
    train_images = _train_images(config)
    counts = prediction.worker_counts(
        options.workers_per_host, options.max_workers
    )
    optimization = config.optimization
    recipe = {
        "epochs": optimization.epochs,
        "train_images": train_images,
        "global_batch_size": optimization.global_batch_size,
        "batch_size_per_process": optimization.batch_size_per_process,
    }
    predictions = [
        _row(made, config, workers, train_images) for workers in counts
    ]
    if options.plot is not None:
        plot.draw(_curves(made.model, counts), made.fitted, options.plot)
    result = report.as_json(made, options, recipe, predictions)
    as_json = json.dumps(result, indent=1) + "\n"
    if options.json_file == "-":
        sys.stdout.write(as_json)
        return
    sys.stdout.write(report.text(made, options, recipe, predictions))
    if options.json_file is not None:
        try:
            with open(options.json_file, "w", encoding="utf-8") as file:
                file.write(as_json)
        except OSError as error:
            raise ValueError(
                f"--json_file={options.json_file} cannot be written"
                f" ({error.strerror}); choose another."
            ) from error


def _train_images(config: Config) -> int:
    if config.data.data_dir is not None:
        return len(splits.open_split(config, "train"))
    return config.data.train_images or imagenet.TRAIN_IMAGES


def _row(
    made: inputs.Inputs, config: Config, workers: int, train_images: int
) -> dict[str, Any]:
    """What is predicted for so many workers."""
    step = made.model.step(workers)
    images = workers * config.optimization.batch_size_per_process
    training, error = None, None
    try:
        plan = plan_lib.make_plan(
            config,
            world_size=workers,
            train_images=train_images,
            validation_images=imagenet.VALIDATION_IMAGES,
        )
    except ValueError as refusal:
        error = str(refusal)
    else:
        training = {
            "accumulation_steps": plan.phase(0).accumulation_steps,
            "steps": plan.total_steps,
            "seconds": prediction.training_seconds(
                made.model, plan, made.image_cost
            ),
        }
    return {
        **dataclasses.asdict(step),
        "images_per_second": images / step.step_seconds,
        "training": training,
        "training_error": error,
    }


def _curves(
    model: prediction.Model, counts: Sequence[int]
) -> dict[str, list[tuple[int, float]]]:
    """Efficiency by algorithm, the one that was asked for first."""
    others = [a for a in collectives.ALGORITHMS if a != model.algorithm]
    return {
        algorithm.replace("_", "-"): [
            (step.workers, step.efficiency)
            for step in map(
                dataclasses.replace(model, algorithm=algorithm).step, counts
            )
        ]
        for algorithm in (model.algorithm, *others)
    }


def run() -> None:
    """Parses the command line and runs the program."""
    program.run(main, ScalingOptions)


if __name__ == "__main__":
    run()
