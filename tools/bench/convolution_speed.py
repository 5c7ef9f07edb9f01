#!/usr/bin/env python3
"""Compares convolutions of float32 with TensorFlow's, layer by layer.

    .venv/bin/python tools/bench/convolution_speed.py

Those of ResNet-50 at 224 pixels that the package makes by operations of its own
on this processor: 3x3 by Winograd's minimal filtering, 1x1 by AMX. Batches of
32, all threads. For each, the convolution and its gradients by images and by
weights, in turn with TensorFlow's; best of --repeats. Prints a table of
milliseconds and, for each kind, the ratio of the times of all its layers.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence

from absl import app, flags

# As the trainer takes them by itself.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import tensorflow as tf

from hvd_imagenet.kernels import pointwise, winograd

_BATCH = 32
# Of the network: how many, side, channels, filters.
_LAYERS = {
    3: [
        (3, 56, 64, 64),
        (3, 28, 128, 128),
        (5, 14, 256, 256),
        (2, 7, 512, 512),
    ],
    1: [
        (1, 56, 64, 64),
        (4, 56, 64, 256),
        (2, 56, 256, 64),
        (1, 56, 256, 128),
        (4, 28, 128, 512),
        (3, 28, 512, 128),
        (1, 28, 512, 256),
        (6, 14, 256, 1024),
        (5, 14, 1024, 256),
        (1, 14, 1024, 512),
        (3, 7, 512, 2048),
        (2, 7, 2048, 512),
    ],
}

_FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 8, "Times that each is measured.", 1)


def main(argv: Sequence[str]) -> None:
    del argv
    ours = {3: winograd, 1: pointwise}
    sys.stdout.write(
        "| window, side, channels, filters | by | TensorFlow | ours | ratio |\n"
        "|---|---|---|---|---|\n"
    )
    for size, compiled in ours.items():
        if not compiled.works_for("float32"):
            sys.stderr.write(f"{size}x{size}: none on this processor\n")
            continue
        sums = {}
        for count, *shape in _LAYERS[size]:
            for kind, pair in _contenders(compiled.convolve, size, *shape):
                theirs, mine = _milliseconds(*pair)
                name = f"{size}x{size}, {', '.join(map(str, shape))}"
                _write_row(name, kind, theirs, mine)
                of_kind = sums.setdefault(kind, [0.0, 0.0])
                of_kind[0] += count * theirs
                of_kind[1] += count * mine
        for kind, (theirs, mine) in sums.items():
            _write_row(f"all {size}x{size} of a step", kind, theirs, mine)


def _write_row(name: str, kind: str, theirs: float, mine: float) -> None:
    ratio = theirs / mine
    sys.stdout.write(
        f"| {name} | {kind} | {theirs:.1f} | {mine:.1f} | {ratio:.2f} |\n"
    )
    sys.stdout.flush()


def _contenders(convolve: Callable, size: int, side: int, *channels: int):
    """For outputs and both gradients: TensorFlow's function, and ours."""
    images = tf.random.normal([_BATCH, side, side, channels[0]])
    weights = tf.random.normal([size, size, *channels])
    upstream = tf.random.normal([_BATCH, side, side, channels[1]])
    both = (lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), convolve)

    def gradient(function: Callable, by: int) -> Callable:
        @tf.function(autograph=False)
        def step():
            # What is made is not needed, so the graph does not make it.
            with tf.GradientTape() as tape:
                tape.watch([images, weights])
                made = function(images, weights)
            return tape.gradient(made, [images, weights], upstream)[by]

        return step

    yield (
        "outputs",
        [tf.function(lambda f=f: f(images, weights)) for f in both],
    )
    yield "images", [gradient(function, 0) for function in both]
    yield "weights", [gradient(function, 1) for function in both]


def _milliseconds(*functions: Callable) -> list[float]:
    best = [float("inf")] * len(functions)
    for function in functions:
        function()
    for _ in range(_FLAGS.repeats):
        for number, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[number] = min(best[number], time.perf_counter() - start)
    return [1e3 * seconds for seconds in best]


if __name__ == "__main__":
    app.run(main)
