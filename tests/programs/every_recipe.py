"""Trains every recipe for some steps at toy size, on all ranks and on one.

    every_recipe.py FLAGFILE...

The recipe's optimizer, schedule, statistics, precision and wire format on a
small network and learnable images; rank 0 then does the same alone. Prints a
JSON object: by recipe, the losses of all ranks together, and those of one.
"""

import dataclasses
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from hvd_imagenet import (
    dataset,
    distributed,
    flags,
    resnet,
    training_loop,
    update_rule,
)
from hvd_imagenet.plan import make_plan
from hvd_imagenet.sources import SyntheticSource

_IMAGES = 64
_EPOCHS = 6
_WARMUP_EPOCHS = 2.0
_BATCH = 32
_BATCH_PER_PROCESS = 8
_CLASSES = 4


def toy(path):
    """The recipe, but for size and length."""
    config = flags.read(path)
    asked = config.optimization
    changes = {
        "model": {
            "model": "resnet10",
            "image_size": 32,
            "num_classes": _CLASSES,
        },
        "data": {
            "data_format": "synthetic",
            "evaluation_image_size": None,
            "evaluation_resize": None,
        },
        "optimization": {
            "epochs": _EPOCHS,
            "global_batch_size": _BATCH,
            "batch_size_per_process": _BATCH_PER_PROCESS,
        },
        "schedule": {
            "warmup_epochs": min(config.schedule.warmup_epochs, _WARMUP_EPOCHS),
        },
    }
    if asked.optimizer.startswith("lars"):
        # A layer moves by eta x rate of its own norm, whatever the batch; an
        # eighth of that is enough for a toy.
        changes["schedule"]["base_batch_size"] = 8 * _BATCH
    elif asked.optimizer == "lamb":
        changes["schedule"]["base_batch_size"] = _BATCH
    if config.model.precision == "float16":
        # CPUs have no kernels for it and take seconds per step. inject_inf.py
        # trains in it.
        changes["model"]["precision"] = "bfloat16"
    if config.phases.phase_epochs:
        # Of as many kinds, but two and short ones.
        toys = {
            "phase_epochs": (1.0, 4.0),
            "phase_image_sizes": (24, 40),
            "phase_crop_area_min": (0.2, 0.5),
            "phase_global_batch_sizes": (2 * _BATCH, _BATCH),
            "phase_batch_sizes_per_process": (2 * _BATCH_PER_PROCESS, 4),
        }
        changes["phases"] = {
            name: value
            for name, value in toys.items()
            if getattr(config.phases, name)
        }
    return dataclasses.replace(
        config,
        **{
            group: dataclasses.replace(getattr(config, group), **values)
            for group, values in changes.items()
        },
    )


def losses(config, processes):
    """The loss of every step, over all ranks."""
    plan = make_plan(
        config,
        world_size=processes.world.size,
        train_images=_IMAGES,
        validation_images=1,
    )
    source = SyntheticSource(
        _IMAGES, num_classes=_CLASSES, image_size=36, seed=0
    )
    keras.utils.set_random_seed(0)
    trainer = update_rule.make_trainer(
        config, resnet.build_model(config.model), processes
    )
    batches = dataset.training_batches(
        config, plan, source, processes.world, threads=1
    )
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(trainer.take_train_totals().means()["loss"])

    training_loop.fit(
        trainer,
        plan,
        batches,
        callbacks=[*update_rule.step_callbacks(config, plan, 0), Watch()],
    )
    return seen


def main():
    # Compressed for all or for none: the format belongs to the processes.
    result = {}
    processes = {
        compression: distributed.start(compression=compression)
        for compression in ("none", "fp16")
    }
    done = {}
    for path in sys.argv[1:]:
        config = toy(path)
        # Recipes that differ in what a toy has not are the same to it.
        if config not in done:
            ranks = processes[config.optimization.compression]
            done[config] = [losses(config, ranks)]
            if ranks.world.is_first:
                done[config].append(losses(config, distributed.Processes()))
            ranks.barrier()
        result[pathlib.Path(path).stem] = done[config]
    if ranks.world.is_first:
        sys.stdout.write("RESULT " + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
