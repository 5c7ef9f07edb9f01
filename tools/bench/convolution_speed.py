#!/usr/bin/env python3
"""Compares convolutions of float32 with TensorFlow's, layer by layer.

    .venv/bin/python tools/bench/convolution_speed.py

Those of ResNet-50 at 224 pixels that the package makes by operations of its own
on this processor: all by AMX; where there is none, or with --winograd, 3x3 by
Winograd's minimal filtering. Batches of 32, all threads. For each, the
convolution and its gradients by images and by weights, in turn with
TensorFlow's; best of --repeats. Prints a table of milliseconds and, for each
kind, the ratio of the times of all its layers.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence

from absl import app, flags

# As the trainer takes them by itself.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import tensorflow as tf

from hvd_imagenet.kernels import amx, winograd

_BATCH = 32
# Of the network, by window and step: how many, side, channels, filters.
_LAYERS = {
    (3, 1): [
        (3, 56, 64, 64),
        (3, 28, 128, 128),
        (5, 14, 256, 256),
        (2, 7, 512, 512),
    ],
    (3, 2): [
        (1, 56, 128, 128),
        (1, 28, 256, 256),
        (1, 14, 512, 512),
    ],
    (1, 1): [
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
    (1, 2): [
        (1, 56, 256, 512),
        (1, 28, 512, 1024),
        (1, 14, 1024, 2048),
    ],
    (7, 2): [(1, 224, 3, 64)],
}

_FLAGS = flags.FLAGS
flags.DEFINE_bool("winograd", False, "Take Winograd's even where there is AMX.")
flags.DEFINE_integer("repeats", 8, "Times that each is measured.", 1)


def main(argv: Sequence[str]) -> None:
    del argv
    sys.stdout.write(
        "| window/step, side, channels, filters | by | TensorFlow | ours |"
        " ratio |\n|---|---|---|---|---|\n"
    )
    for (size, step), layers in _LAYERS.items():
        ours = _ours(size, step)
        if ours is None:
            sys.stderr.write(f"{size}x{size}/{step}: none of our own here\n")
            continue
        sums = {}
        for count, *shape in layers:
            for kind, pair in _contenders(ours, size, step, *shape):
                theirs, mine = _milliseconds(*pair)
                name = f"{size}x{size}/{step}, {', '.join(map(str, shape))}"
                _write_row(name, kind, theirs, mine)
                of_kind = sums.setdefault(kind, [0.0, 0.0])
                of_kind[0] += count * theirs
                of_kind[1] += count * mine
        for kind, (theirs, mine) in sums.items():
            _write_row(
                f"all {size}x{size}/{step} of a step", kind, theirs, mine
            )


def _ours(size: int, step: int) -> Callable | None:
    """What the package takes for a window, of images that are padded."""
    if not _FLAGS.winograd and amx.works_for("float32"):
        zeros = size // 2 if step == 1 else 0
        return functools.partial(amx.convolve, step=step, zeros=zeros)
    if (size, step) == (3, 1) and winograd.works_for("float32"):
        return winograd.convolve
    return None


def _write_row(name: str, kind: str, theirs: float, mine: float) -> None:
    ratio = theirs / mine
    sys.stdout.write(
        f"| {name} | {kind} | {theirs:.1f} | {mine:.1f} | {ratio:.2f} |\n"
    )
    sys.stdout.flush()


def _contenders(
    convolve: Callable,
    size: int,
    step: int,
    side: int,
    channels: int,
    filters: int,
):
    """For outputs and both gradients: TensorFlow's function, and ours."""
    padding = "SAME" if step == 1 else "VALID"
    # With a step of two the network pads images by itself.
    padded = side + 2 * (size // 2) if step > 1 else side
    made = side // step
    images = tf.random.normal([_BATCH, padded, padded, channels])
    weights = tf.random.normal([size, size, channels, filters])
    upstream = tf.random.normal([_BATCH, made, made, filters])
    both = (lambda x, w: tf.nn.conv2d(x, w, step, padding), convolve)

    def gradient(function: Callable, by: int) -> Callable:
        @tf.function(autograph=False)
        def run():
            # What is made is not needed, so the graph does not make it.
            with tf.GradientTape() as tape:
                tape.watch([images, weights])
                made = function(images, weights)
            return tape.gradient(made, [images, weights], upstream)[by]

        return run

    yield (
        "outputs",
        [tf.function(lambda f=f: f(images, weights)) for f in both],
    )
    if channels > 3:
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
