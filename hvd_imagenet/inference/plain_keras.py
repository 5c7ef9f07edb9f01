"""A trained network as a Keras model that needs nothing but Keras."""

import functools

import keras
import numpy as np

from hvd_imagenet import imagenet
from hvd_imagenet.convolutions import Convolution
from hvd_imagenet.normalization import FusedBatchNormalization
from hvd_imagenet.resnet import Blur


def plain_model(model: keras.Model, *, flip: bool) -> keras.Model:
    """From pixels to probabilities, by layers of `keras.layers` alone.

    Layers of this package are replaced by those that do the same in inference,
    and have the same names and weights. A sum or rectifier that is part of one
    becomes a layer of its own, NAME_add and NAME_relu.

    Args:
        model: from normalised images to logits.
        flip: take the mean of the logits of an image and of its mirror image.

    Returns:
        From [batch, height, width, 3] RGB, 0 to 255, to [batch, classes]
        float32 probabilities. The network itself is its layer of the network's
        name, which ends with the layer "logits".
    """
    network = keras.models.clone_model(
        model,
        clone_function=_plain,
        call_function=functools.partial(_call_plain, model),
    )
    for layer in model.layers:
        weights = layer.get_weights()
        if isinstance(layer, Blur):
            channels = layer.output.shape[-1]
            kernel = np.outer(Blur.ROW, Blur.ROW)[:, :, None, None]
            weights = [np.repeat(kernel, channels, axis=2)]
        if weights:  # Not the input, which has another name.
            network.get_layer(layer.name).set_weights(weights)
    pixels = keras.Input([None, None, 3], name="pixels")
    normal = keras.layers.Normalization(
        mean=[255 * mean for mean in imagenet.MEAN_RGB],
        variance=[(255 * stddev) ** 2 for stddev in imagenet.STDDEV_RGB],
        dtype="float32",
        name="normalised",
    )(pixels)
    logits = network(normal)
    if flip:
        mirrored = network(keras.ops.flip(normal, axis=2))
        logits = keras.layers.Average(dtype="float32", name="average")(
            [logits, mirrored]
        )
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(
        logits
    )
    return keras.Model(pixels, probabilities, name=f"{model.name}_of_pixels")


def _plain(layer: keras.layers.Layer) -> keras.layers.Layer:
    common = {"name": layer.name, "dtype": layer.dtype_policy}
    if isinstance(layer, FusedBatchNormalization):
        return keras.layers.BatchNormalization(
            momentum=layer.momentum, epsilon=layer.epsilon, **common
        )
    if isinstance(layer, Convolution):
        config = layer.get_config()
        del config["algorithm"], config["zeros"]
        return keras.layers.Conv2D.from_config(config)
    if isinstance(layer, Blur):
        return keras.layers.DepthwiseConv2D(
            3, padding="same", use_bias=False, trainable=False, **common
        )
    return type(layer).from_config(layer.get_config())


def _call_plain(model: keras.Model, layer: keras.layers.Layer, *args, **kwargs):
    """Calls a layer that stands for that of its name in `model`."""
    original = next((o for o in model.layers if o.name == layer.name), None)
    if isinstance(original, Convolution) and original.zeros:
        padding = keras.layers.ZeroPadding2D(
            original.zeros, dtype=layer.dtype_policy, name=f"{layer.name}_pad"
        )
        return layer(padding(*args), **kwargs)
    if not isinstance(original, FusedBatchNormalization):
        return layer(*args, **kwargs)
    shortcut = kwargs.pop("shortcut", None)
    outputs = layer(*args, **kwargs)
    if shortcut is not None:
        outputs = keras.layers.Add(
            dtype=layer.dtype_policy, name=f"{layer.name}_add"
        )([outputs, shortcut])
    if original.relu:
        outputs = keras.layers.ReLU(
            dtype=layer.dtype_policy, name=f"{layer.name}_relu"
        )(outputs)
    return [outputs] * original.copies if original.copies > 1 else outputs
