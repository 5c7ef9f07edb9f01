"""Convolutions that take less time than oneDNN's, on CPUs.

In float32, all of a network by AMX where there is that (`kernels.amx`), and
elsewhere those of 3x3 by Winograd's minimal filtering (`kernels.winograd`), in
two thirds of oneDNN's time.

In bfloat16 with AMX, gradients by weights as matrix products. There oneDNN's
gradient by weights reaches a third of the rate of its other convolutions, and
its products do not. ResNet-50 at 224 pixels, batch 32, two threads (Intel Xeon,
TensorFlow 2.18.1): the 1x1 convolutions of a step take 656 ms for it, as
products 286 ms.
"""

import functools
import math

import keras
import tensorflow as tf

from hvd_imagenet.kernels import amx, processor, winograd

# Tiles of 4 x 4 places that have to be for Winograd: fewer are not worth the
# transformation of the weights. And the share of their places that have to be
# within the images, of which there are 49 of 64 for 7 x 7.
_TILES_MIN = 64
_SHARE_MIN = 0.5
# Places of a batch that are worth taking the weights apart for AMX.
_PLACES_MIN = 1024
# Places per image up to which a product per weight of the window, and a copy of
# the images for each, beats oneDNN's gradient: 14 x 14 of a network of 224.
_PLACES_MAX = 14 * 14


@keras.saving.register_keras_serializable("hvd_imagenet")
class Convolution(keras.layers.Conv2D):
    """Keras's own layer, the same numbers but for rounding.

    Call arguments:
        inputs: [batch, height, width, channels], of the compute dtype.
    """

    def __init__(
        self, *args, zeros: int = 0, algorithm: str = "auto", **kwargs
    ):
        """Sets the constants.

        Args:
            *args: what keras.layers.Conv2D takes.
            zeros: rows and columns of zeros that are added on each side of
                images, before what `padding` says.
            algorithm: "auto", or "tensorflow" for TensorFlow's own in any case.
            **kwargs: what else keras.layers.Conv2D takes.
        """
        super().__init__(*args, **kwargs)
        self.zeros = zeros
        self.algorithm = algorithm
        # XLA has no such operations; Keras looks at this.
        self.supports_jit = algorithm == "tensorflow" or not any(
            compiled.works_for(self.compute_dtype)
            for compiled in (amx, winograd)
        )

    def get_config(self):
        return {
            **super().get_config(),
            "zeros": self.zeros,
            "algorithm": self.algorithm,
        }

    def compute_output_shape(self, input_shape):
        return super().compute_output_shape(self._padded_shape(input_shape))

    def convolution_op(self, inputs, kernel):
        convolve = super().convolution_op
        if self.algorithm == "tensorflow" or not isinstance(inputs, tf.Tensor):
            return convolve(self._padded(inputs), kernel)
        dtype = inputs.dtype.name
        if self._is_for_amx(inputs) and amx.works_for(dtype):
            return self._by_amx(inputs, kernel)
        inputs = self._padded(inputs)
        if self._is_for_winograd(inputs) and winograd.works_for(dtype):
            return winograd.convolve(
                inputs, keras.ops.convert_to_tensor(kernel)
            )
        if not self._has_products(inputs):
            return convolve(inputs, kernel)
        stride = self.strides[0]

        @tf.custom_gradient
        def with_products(images, weights):
            def gradients(upstream):
                by_images = tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=tf.shape(images),
                    filter=weights,
                    out_backprop=upstream,
                    strides=[1, stride, stride, 1],
                    padding=self.padding.upper(),
                )
                return by_images, weights_gradient(
                    images, upstream, self.kernel_size[0], stride
                )

            return convolve(images, weights), gradients

        # Of the compute dtype, and no variable, which custom_gradient refuses.
        kernel = tf.identity(keras.ops.convert_to_tensor(kernel))
        return with_products(inputs, kernel)

    def _is_plain(self) -> bool:
        return (
            self.dilation_rate == (1, 1)
            and self.groups == 1
            and self.data_format == "channels_last"
        )

    def _is_for_winograd(self, inputs: tf.Tensor) -> bool:
        if (
            not self._is_plain()
            or self.kernel_size != (3, 3)
            or self.strides != (1, 1)
            or self.padding != "same"
            or None in inputs.shape
            or inputs.shape[3] % winograd.CHANNELS_TOGETHER
            or self.filters % winograd.CHANNELS_TOGETHER
        ):
            return False
        batch, height, width = inputs.shape[:3]
        tiles = -(-height // 4) * -(-width // 4)
        return (
            batch * tiles >= _TILES_MIN
            and height * width >= _SHARE_MIN * 16 * tiles
        )

    def _is_for_amx(self, inputs: tf.Tensor) -> bool:
        side, step = self.kernel_size[0], self.strides[0]
        if (
            not self._is_plain()
            or self.kernel_size != (side, side)
            or self.strides != (step, step)
            or side % 2 == 0
            or step > 2
            or None in inputs.shape
        ):
            return False
        # With a step of one, images keep their size. With more, "same" would
        # add less before an image than after it.
        if step == 1 and side > 1:
            has_zeros = self._is_same() and self.zeros == 0
        else:
            has_zeros = not self._is_same() and self.zeros < side
        channels = inputs.shape[3]
        are_few = step > 1 and channels * side <= amx.COLOURS_MAX
        made = self.compute_output_shape(inputs.shape)
        return (
            has_zeros
            and min(made[1:3]) > 0
            and (channels % amx.CHANNELS_TOGETHER == 0 or are_few)
            and self.filters % amx.CHANNELS_TOGETHER == 0
            and math.prod(made[:3]) >= _PLACES_MIN
        )

    def _by_amx(self, inputs, kernel):
        zeros = self.zeros
        if self._is_same():
            zeros += self.kernel_size[0] // 2
        # Of few channels only images that are padded already.
        if inputs.shape[3] % amx.CHANNELS_TOGETHER:
            inputs, zeros = self._padded(inputs), 0
        return amx.convolve(
            inputs,
            keras.ops.convert_to_tensor(kernel),
            step=self.strides[0],
            zeros=zeros,
        )

    def _is_same(self) -> bool:
        """Whether Keras pads images: of single places there is nothing to."""
        return self.padding == "same" and self.kernel_size != (1, 1)

    def _padded(self, inputs):
        if not self.zeros:
            return inputs
        sides = [[0, 0], [0, 0], [0, 0], [0, 0]]
        for axis in self._sides():
            sides[axis] = [self.zeros, self.zeros]
        return keras.ops.pad(inputs, sides)

    def _padded_shape(self, shape) -> tuple:
        return tuple(
            size + 2 * self.zeros
            if axis in self._sides() and size is not None
            else size
            for axis, size in enumerate(shape)
        )

    def _sides(self) -> tuple[int, int]:
        return (1, 2) if self.data_format == "channels_last" else (2, 3)

    def _has_products(self, inputs: tf.Tensor) -> bool:
        size, stride = self.kernel_size[0], self.strides[0]
        if (
            not are_faster(inputs.dtype)
            or not self._is_plain()
            or self.kernel_size != (size, size)
            or self.strides != (stride, stride)
        ):
            return False
        if size == stride == 1:
            return True
        # Of larger windows or steps each place is copied, of many places for
        # too long. What is at the edges is known for these two.
        is_covered = size == 1 or (stride == 1 and self.padding == "same")
        height, width = inputs.shape[1:3]
        if not is_covered or size % 2 == 0 or None in (height, width):
            return False
        return -(-height // stride) * -(-width // stride) <= _PLACES_MAX


def weights_gradient(
    images: tf.Tensor, upstream: tf.Tensor, size: int, stride: int
) -> tf.Tensor:
    """The gradient of a convolution by its weights: a product for each place.

    Args:
        images: [batch, height, width, channels], what was convolved.
        upstream: [batch, rows, columns, filters], the gradient by the result.
        size: side of the window, odd.
        stride: 1; others for a window of 1 alone.

    Returns:
        [size, size, channels, filters] of the same dtype.
    """
    channels, filters = images.shape[-1], upstream.shape[-1]
    rows, columns = tf.unstack(tf.shape(upstream)[1:3])
    upstream = tf.reshape(upstream, [-1, filters])
    edge = size // 2
    if edge:
        images = tf.pad(images, [[0, 0], [edge, edge], [edge, edge], [0, 0]])

    def by_weight(top: int, left: int) -> tf.Tensor:
        seen = images
        if size > 1 or stride > 1:
            seen = images[
                :,
                top : top + (rows - 1) * stride + 1 : stride,
                left : left + (columns - 1) * stride + 1 : stride,
            ]
        seen = tf.reshape(seen, [-1, channels])
        return tf.matmul(seen, upstream, transpose_a=True)

    products = [by_weight(*divmod(place, size)) for place in range(size**2)]
    return tf.reshape(tf.stack(products), [size, size, channels, filters])


@functools.cache
def are_faster(dtype: tf.DType) -> bool:
    """Whether products are faster for these numbers on this machine."""
    return (
        dtype == tf.bfloat16
        and processor.has("amx_bf16")
        and not tf.config.get_visible_devices("GPU")
    )


def load() -> None:
    """Loads the compiled operations that this processor has a use for.

    Raises:
        MissingKernelError: one of them is not there.
    """
    winograd.load()
    if amx.is_for_this_processor():
        amx.load()
