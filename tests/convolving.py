"""What tests of compiled convolutions do alike."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet import resnet
from hvd_imagenet.config import ModelConfig
from hvd_imagenet.convolutions import Convolution

_THREADS = """
import functools
import importlib
import json
import sys
import numpy as np
import tensorflow as tf

module, side, arguments, threads, path = sys.argv[1:]
convolve = functools.partial(
    importlib.import_module(module).convolve, **json.loads(arguments)
)
tf.config.threading.set_intra_op_parallelism_threads(int(threads))
images = tf.random.stateless_normal([9, 30, 30, 64], [1, 2])
weights = tf.random.stateless_normal([int(side), int(side), 64, 96], [3, 4])
with tf.GradientTape() as tape:
    tape.watch([images, weights])
    made = convolve(images, weights)
    loss = tf.reduce_mean(made ** 2)
np.savez(path, made, *tape.gradient(loss, [images, weights]))
"""


def draw(*shape: int, seed: int = 0) -> tf.Tensor:
    """Float32 numbers, normally distributed."""
    generator = np.random.default_rng(seed)
    return tf.constant(generator.normal(size=shape), tf.float32)


def all_of(convolve: Callable, images, weights, upstream) -> list[tf.Tensor]:
    """What is made, and the gradients by images and weights."""
    with tf.GradientTape() as tape:
        tape.watch([images, weights])
        made = convolve(images, weights)
    return [made, *tape.gradient(made, [images, weights], upstream)]


def distances(found: Iterable, expected: Iterable) -> list[float]:
    """Of each from what is expected, in its size."""
    return [
        float(np.linalg.norm(np.float64(one) - other) / np.linalg.norm(other))
        for one, other in zip(found, expected, strict=True)
    ]


def kinds(shape, signature=None, **arguments) -> set[str]:
    """Operations of a layer, called with a shape, and of its gradients.

    Args:
        shape: of the images.
        signature: what of it is known when the layer is called. Default: all.
        **arguments: the layer's.
    """
    layer = Convolution(**arguments)
    layer.build(shape)
    dtype = layer.compute_dtype

    @tf.function(input_signature=[tf.TensorSpec(signature or shape, dtype)])
    def gradients(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            made = layer(images)
        return tape.gradient(made, [images, layer.kernel.value])

    graph = gradients.get_concrete_function().graph
    return {operation.type for operation in graph.get_operations()}


def assert_threads_make_no_difference(
    folder: pathlib.Path,
    module: str,
    side: int,
    threads: Iterable[int],
    **arguments: int,
) -> None:
    """Numbers of a module's `convolve` from each number of threads."""
    found = []
    for count in threads:
        path = folder / f"{count}.npz"
        subprocess.run(
            [
                *(sys.executable, "-c", _THREADS, module),
                *(str(side), json.dumps(arguments), str(count), str(path)),
            ],
            check=True,
            timeout=120,
        )
        found.append(np.load(path))
    for name in found[0].files:
        for other in found[1:]:
            np.testing.assert_array_equal(found[0][name], other[name])


def assert_networks_learn_the_same(batch: int, kind: str, count: int) -> None:
    """By TensorFlow's convolutions, and with `count` operations of a kind."""
    images = tf.random.stateless_normal([batch, 64, 64, 3], [0, 1])
    gradients = []
    for kernel in ("auto", "tensorflow"):
        keras.utils.set_random_seed(0)
        model = resnet.build_model(
            ModelConfig(
                model="resnet50",
                num_classes=3,
                image_size=64,
                convolution_kernel=kernel,
            )
        )

        @tf.function
        def step(model=model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(images, training=True)[:, 0])
            weights = [v.value for v in model.trainable_variables]
            return tape.gradient(loss, weights)

        graph = step.get_concrete_function().graph
        kinds = [operation.type for operation in graph.get_operations()]
        assert kinds.count(kind) == count * (kernel == "auto")
        gradients.append(step())
    for one, other in zip(*gradients, strict=True):
        size = np.linalg.norm(other)
        assert np.linalg.norm(one - other) < 1e-3 * size + 1e-6
