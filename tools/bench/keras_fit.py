#!/usr/bin/env python3
"""What training costs over Keras's own `fit`, in one process.

    .venv/bin/python tools/bench/keras_fit.py REPEATS [FLAGS_OF_THE_TRAINING]

Trains one epoch of the same network from the same input pipeline, in turn by
`python -m hvd_imagenet.train` and by `model.fit` with Keras's momentum SGD and
its loss, without metrics and callbacks. What the trainer has beside is what it
costs: weight decay and Nesterov momentum, statistics of micro-batches, counts
of accuracy, exact schedules, checks of every step, supervision, logs. Prints
medians of images per second, of all steps but the first ones, and of the ratio
within a repeat. Without flags: ResNet-50, 224 pixels, 16 steps of 32 synthetic
images.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import keras

from hvd_imagenet import dataset, devices, distributed, program, resnet
from hvd_imagenet.config import Config
from hvd_imagenet.open_data import open_data
from hvd_imagenet.preprocessing import normalise

_DEFAULT = (
    "--data_format=synthetic",
    "--train_images=512",
    "--validation_images=32",
    "--global_batch_size=32",
    "--batch_size_per_process=32",
    "--warmup_epochs=0",
    "--epochs=1",
)
# The trainer's log is of laps of these steps, the first of which traces.
_LAP_STEPS = 4
_FIT = "--only_fit"
_SECONDS = 1800


class _Clock(keras.callbacks.Callback):
    """When every step ended."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())


def fit(config: Config) -> int:
    """Trains by Keras; prints one JSON object."""
    processes = distributed.start()
    data = open_data(config, processes)
    threads = devices.threads_per_process(processes.world)
    phase = data.plan.phase(0)
    keras.utils.set_random_seed(config.run.seed)
    access = dataset.training_access(
        config, data.plan, data.train, processes.world
    )
    pipeline = dataset.training_pipeline(
        config, data.plan, access, processes.world, phase
    )
    steps = data.plan.epoch_end_step(0)
    batches = pipeline.dataset(
        range(steps), phase.batch_size_per_process, threads
    ).map(lambda batch: (normalise(batch.images), batch.labels))
    model = resnet.build_model(config.model)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    clock = _Clock()
    model.fit(batches.prefetch(2), verbose=0, callbacks=[clock])
    access.close()
    seconds = clock.ends[-1] - clock.ends[_LAP_STEPS - 1]
    images = (steps - _LAP_STEPS) * phase.batch_size_per_process
    sys.stdout.write(json.dumps({"images_per_second": images / seconds}) + "\n")
    return 0


def compare(repeats: int, flags: list[str]) -> None:
    """Runs both in turn, and prints a table."""
    rates = {"Keras": [], "ours": []}
    for _ in range(repeats):
        output = _run(__file__, _FIT, *flags).splitlines()[-1]
        rates["Keras"].append(json.loads(output)["images_per_second"])
        with tempfile.TemporaryDirectory() as folder:
            workdir = pathlib.Path(folder, "run")
            _run(
                *("-m", "hvd_imagenet.train", *flags, f"--workdir={workdir}"),
                f"--log_steps={_LAP_STEPS}",
            )
            lines = (workdir / "metrics.jsonl").read_text().splitlines()
        laps = [
            line["images_per_second"]
            for line in map(json.loads, lines)
            if line["kind"] == "train"
        ]
        rates["ours"].append(statistics.harmonic_mean(laps[1:]))
        sys.stderr.write(
            f"{ {name: each[-1] for name, each in rates.items()} }\n"
        )
    ratios = [a / b for a, b in zip(rates["ours"], rates["Keras"], strict=True)]
    for name, each in {**rates, "ours / Keras": ratios}.items():
        sys.stdout.write(f"{name:12} {statistics.median(each):8.3f}\n")


def _run(*command: str) -> str:
    finished = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        # As the trainer takes them by itself.
        env={"TF_ENABLE_ONEDNN_OPTS": "1", **os.environ},
    )
    if finished.returncode:
        raise RuntimeError(f"{command} failed: {finished.stderr}")
    return finished.stdout


if __name__ == "__main__":
    if _FIT in sys.argv:
        sys.argv.remove(_FIT)
        program.run(fit)
    else:
        compare(int(sys.argv[1]), sys.argv[2:] or list(_DEFAULT))
