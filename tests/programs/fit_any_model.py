"""Trains a plain Keras model with model.fit and this package's callbacks.

Prints, as one JSON object from rank 0, every rank's first and last weights and
the learning rate of every step.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from hvd_imagenet import callbacks, distributed, schedule


class Watch(keras.callbacks.Callback):
    """Notes the weights before the first step, and the rates."""

    def __init__(self):
        super().__init__()
        self.rates = []
        self.first = None

    def on_train_batch_begin(self, batch, logs=None):
        if self.first is None:
            self.first = self.model.layers[0].kernel.numpy().ravel().tolist()
        self.rates.append(float(self.model.optimizer.learning_rate))


def main():
    processes = distributed.start()
    world = processes.world
    keras.utils.set_random_seed(world.rank)  # Ranks begin apart.
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    peak = schedule.linear_scaling(0.01, 8, 8 * world.size)
    watch = Watch()
    model.fit(
        np.ones([32, 4]),
        np.ones([32, 3]),
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[
            callbacks.BroadcastState(processes),
            callbacks.LinearScaling(
                0.01,
                8,
                8 * world.size,
                schedule.Steps(boundaries=(6,), factor=0.1),
            ),
            callbacks.Warmup(schedule.Warmup(start=0.01, target=peak, steps=4)),
            watch,
        ],
    )
    record = {"first": watch.first, "rates": watch.rates}
    gathered = processes.gather_object(record)
    if world.is_first:
        sys.stdout.write("RESULT " + json.dumps(gathered) + "\n")


if __name__ == "__main__":
    main()
