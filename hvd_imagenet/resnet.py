"""ResNet v1.5 as functional Keras models.

He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv
1512.03385), table 1, with the stride of a bottleneck in its 3x3 convolution
as in fb.resnet.torch ("v1.5"), which Goyal 2017 and MLPerf train.
"""

import dataclasses

import keras
import tensorflow as tf

from hvd_imagenet.config import ModelConfig
from hvd_imagenet.convolutions import Convolution
from hvd_imagenet.normalization import FusedBatchNormalization
from hvd_imagenet.resnet_layers import EXPANSION, STAGES

DTYPE_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


def build_model(config: ModelConfig) -> keras.Model:
    """Builds the network that a configuration asks for.

    Initial values as in Goyal 2017, section 5.1: convolutions from He's normal
    distribution by fan-out (He et al. 2015, arXiv 1502.01852, and fb.resnet's
    code), the last layer from N(0, 0.01^2), gamma 1, but 0 in the last batch
    normalization of each block if `config.zero_gamma`.

    Args:
        config: the network and its number formats.

    Returns:
        A model from [batch, height, width, 3] normalised images, of any size,
        to [batch, num_classes] float32 logits.
    """
    blocks, is_bottleneck = STAGES[config.model]
    layers = _Layers(
        config, keras.DTypePolicy(DTYPE_POLICIES[config.precision])
    )
    images = keras.Input([None, None, 3])
    x = layers.convolution(images, 64, 7, 2, "stem_conv")
    x = layers.normalisation(x, "stem_bn", relu=True)
    x = keras.layers.ZeroPadding2D(1, dtype=layers.dtype, name="stem_pool_pad")(
        x
    )
    x = keras.layers.MaxPooling2D(3, 2, dtype=layers.dtype, name="stem_pool")(x)
    # What a block begins with, once for its branch and once for its shortcut.
    pair = [x, x]
    for stage, count in enumerate(blocks):
        for block in range(count):
            pair = layers.residual_block(
                pair,
                width=64 * 2**stage,
                stride=2 if stage > 0 and block == 0 else 1,
                is_bottleneck=is_bottleneck,
                name=f"stage{stage + 1}_block{block + 1}",
            )
    x = keras.layers.GlobalAveragePooling2D(
        dtype=layers.dtype, name="average_pool"
    )(pair[0])
    logits = keras.layers.Dense(
        config.num_classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype="float32",
        name="logits",
    )(x)
    return keras.Model(images, logits, name=config.model)


@keras.saving.register_keras_serializable("hvd_imagenet")
class Blur(keras.layers.Layer):
    """Binomial filter of 3x3 pixels over every channel, zeros outside.

    Zhang 2019, "Making Convolutional Networks Shift-Invariant Again" (arXiv
    1904.11486): blurred before it is subsampled, an image aliases less. As in
    FFCV, the convolution that follows does the subsampling.

    Call arguments:
        inputs: [batch, height, width, channels].
    """

    ROW = (0.25, 0.5, 0.25)

    def call(self, inputs):
        row = tf.constant(self.ROW, inputs.dtype)
        kernel = tf.tile(
            (row[:, None] * row)[:, :, None, None], [1, 1, inputs.shape[-1], 1]
        )
        return tf.nn.depthwise_conv2d(inputs, kernel, [1, 1, 1, 1], "SAME")

    def compute_output_shape(self, input_shape):
        return input_shape


@dataclasses.dataclass(frozen=True)
class _Layers:
    """The repeated layers, with the settings that all share."""

    config: ModelConfig
    dtype: keras.DTypePolicy

    def convolution(self, x, filters: int, size: int, stride: int, name: str):
        """Convolution without bias, padded alike on both sides.

        Padding "same" would pad a stride of 2 only below and to the right;
        the reference implementations pad size // 2 on every side.
        """
        # Not the stem's, which sees the image itself (FFCV's choice).
        if stride > 1 and self.config.blur_pool and x.shape[-1] >= 16:
            x = Blur(dtype=self.dtype, name=f"{name}_blur")(x)
        return Convolution(
            filters,
            size,
            stride,
            padding="same" if stride == 1 else "valid",
            zeros=0 if stride == 1 else size // 2,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                scale=2.0, mode="fan_out", distribution="untruncated_normal"
            ),
            algorithm=self.config.convolution_kernel,
            dtype=self.dtype,
            name=name,
        )(x)

    def normalisation(
        self,
        x,
        name: str,
        *,
        gamma: str = "ones",
        shortcut=None,
        relu: bool = False,
        copies: int = 1,
    ):
        return FusedBatchNormalization(
            momentum=self.config.batch_norm_momentum,
            epsilon=self.config.batch_norm_epsilon,
            gamma_initializer=gamma,
            relu=relu,
            copies=copies,
            kernel=self.config.batch_norm_kernel,
            dtype=self.dtype,
            name=name,
        )(x, shortcut=shortcut)

    def residual_block(
        self, pair, *, width: int, stride: int, is_bottleneck: bool, name: str
    ):
        """relu(branch(x) + shortcut(x)) of [x, x], and as often."""
        if is_bottleneck:
            filters = EXPANSION * width
            plan = ((width, 1, 1), (width, 3, stride), (filters, 1, 1))
        else:
            filters = width
            plan = ((width, 3, stride), (width, 3, 1))
        x, shortcut = pair
        if stride > 1 or x.shape[-1] != filters:
            shortcut = self.convolution(
                shortcut, filters, 1, stride, f"{name}_shortcut_conv"
            )
            shortcut = self.normalisation(shortcut, f"{name}_shortcut_bn")
        last = len(plan)
        for number, (channels, size, conv_stride) in enumerate(plan, 1):
            x = self.convolution(
                x, channels, size, conv_stride, f"{name}_conv{number}"
            )
            is_last = number == last
            x = self.normalisation(
                x,
                f"{name}_bn{number}",
                gamma="zeros" if is_last and self.config.zero_gamma else "ones",
                shortcut=shortcut if is_last else None,
                relu=True,
                copies=2 if is_last else 1,
            )
        return x
