"""Arithmetic of a training step, and the most that a process could do."""

import time

import tensorflow as tf

# Sides of the matrices: as large as the caches and the many cores of the
# device need, and a fraction of a second.
_CPU_SIDE = 1024
_GPU_SIDE = 8192
_SECONDS = 0.3
_LEAST_PRODUCTS = 3


def training_flops(multiply_adds: list[int]) -> int:
    """Floating-point operations of a training step, per image.

    As the papers count: what normalization, activation, pooling and fixed
    filters take is left out. A multiply-add is two. Backward, every layer
    takes as many for the gradient of its weights and as many for that of its
    input, but the first one sees the images, which need none.

    Args:
        multiply_adds: of the forward pass, of every layer in turn.
    """
    return 2 * (3 * sum(multiply_adds) - multiply_adds[0])


def matrix_product_peak(dtype: tf.DType) -> float:
    """Floating-point operations per second of a large matrix product.

    The fastest of several, on this process's device and threads.
    """
    has_gpu = bool(tf.config.get_visible_devices("GPU"))
    side = _GPU_SIDE if has_gpu else _CPU_SIDE
    matrix = tf.cast(tf.random.normal([side, side], seed=0), dtype)

    @tf.function
    def product():
        # One number of it, which is there when all of it is.
        return tf.matmul(matrix, matrix)[0, 0]

    float(product())  # Traces, and starts threads.
    times = []
    while len(times) < _LEAST_PRODUCTS or sum(times) < _SECONDS:
        begun = time.perf_counter()
        float(product())
        times.append(time.perf_counter() - begun)
    return 2 * side**3 / min(times)
