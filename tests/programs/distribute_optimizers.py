"""Applies a step of ranks' different gradients by many optimizers.

Prints, as one JSON object from rank 0, what each rank found: by case, its
weights and those of an optimizer that was given the mean of the gradients.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet import callbacks, distributed, lars, optimizers
from hvd_imagenet import processes as processes_lib

_OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.5, momentum=0.9),
    "clipped": lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.1),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "accumulating": lambda: keras.optimizers.SGD(
        0.5, gradient_accumulation_steps=2
    ),
    "lars": lambda: lars.LARS(0.5),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.5, momentum=0.9), initial_scale=4.0
    ),
}


def _gradients(rank):
    """Of two variables, and of one that the loss does not know."""
    numbers = np.random.default_rng(rank)
    return [
        tf.constant(numbers.normal(size=[3, 2]), tf.float32),
        None,
        tf.constant(numbers.normal(size=[2]), tf.float32),
    ]


def _apply(optimizer, steps, traced):
    """Weights after some steps; each of `steps` is a list of gradients."""
    variables = [
        keras.Variable(np.ones(shape, np.float32))
        for shape in ([3, 2], [1], [2])
    ]
    optimizer.build(variables)

    def step(gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    if traced:
        step = tf.function(step)
    for gradients in steps:
        step(gradients)
    return np.concatenate([v.numpy().ravel() for v in variables]).tolist()


def _mean(gradients):
    return [
        None if of_ranks[0] is None else tf.add_n(of_ranks) / len(of_ranks)
        for of_ranks in zip(*gradients, strict=True)
    ]


def _fit(processes, **compiled):
    """Weights after an epoch of an embedding, whose gradients are sparse."""
    keras.utils.set_random_seed(processes.world.rank)
    model = keras.Sequential(
        [
            keras.Input([2], dtype="int32"),
            keras.layers.Embedding(8, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    optimizer = optimizers.distributed(keras.optimizers.SGD(0.1), processes)
    model.compile(optimizer, "mse", **compiled)
    rank, size = processes.world.rank, processes.world.size
    words = np.arange(32).reshape(16, 2) % 8
    model.fit(
        words[rank::size],
        np.arange(16.0)[rank::size],
        batch_size=8 // size,
        shuffle=False,
        verbose=0,
        callbacks=[callbacks.BroadcastState(processes)],
    )
    return np.concatenate([w.ravel() for w in model.get_weights()]).tolist()


def main():
    processes = distributed.start()
    world = processes.world
    found = {}
    of_ranks = [_gradients(rank) for rank in range(world.size)]
    for name, make in _OPTIMIZERS.items():
        expected = _apply(make(), [_mean(of_ranks)] * 2, traced=True)
        for traced in (True, False):
            optimizer = optimizers.distributed(make(), processes)
            weights = _apply(optimizer, [of_ranks[world.rank]] * 2, traced)
            found[f"{name}, {'traced' if traced else 'eager'}"] = {
                "weights": weights,
                "expected": expected,
            }
    # An inf on the last rank alone.
    gradients = of_ranks[world.rank]
    if world.rank == world.size - 1:
        gradients[2] = tf.constant([np.inf, 0.0])
    optimizer = optimizers.distributed(_OPTIMIZERS["scaled"](), processes)
    found["skipped"] = {
        "weights": _apply(optimizer, [gradients], traced=True),
        "expected": [1.0] * 9,
        "scale": float(optimizer.dynamic_scale),
    }
    alone = _fit(processes_lib.Processes())
    for name, compiled in (
        ("fit", {"jit_compile": True}),
        ("fit, two steps at once", {"steps_per_execution": 2}),
        ("fit, eager", {"run_eagerly": True}),
    ):
        weights = _fit(processes, **compiled)
        found[name] = {"weights": weights, "expected": alone}
    gathered = processes.gather_object(found)
    if world.is_first:
        sys.stdout.write("RESULT " + json.dumps(gathered) + "\n")


if __name__ == "__main__":
    main()
