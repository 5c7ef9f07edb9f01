"""RandAugment of one image, a pure function of its seed.

The method is that of Cubuk et al. 2019 (arXiv 1909.13719), section 3. The
operations, the meaning of a magnitude and its noise are those of timm's
"increasing" policies (timm/data/auto_augment.py), such as rand-m6-mstd0.5-inc1
of "ResNet strikes back" (arXiv 2110.00476), A3. Other than there, geometry is
always bilinear; timm takes bilinear or bicubic at random unless told.

Not keras.layers.RandAugment (3.15.1): its random numbers come from a counter,
even where a seed is given, so that what happens to an image depends on the
images before it; its 11 operations and their magnitudes are others; and it runs
all of them every time, at 75 images/s per core for 160 pixels and 39 for 224
(AMD EPYC).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvd_imagenet import image_ops

_MAGNITUDE_MAX = 10.0
_PROBABILITY = 0.5


def _signed(greatest: float) -> Callable[..., tuple[tf.Tensor]]:
    return lambda strength, sign: (sign * strength * greatest,)


def _factor(strength: tf.Tensor, sign: tf.Tensor) -> tuple[tf.Tensor]:
    return (tf.maximum(1.0 + sign * strength * 0.9, 0.1),)


def _bits(strength: tf.Tensor, sign: tf.Tensor) -> tuple[tf.Tensor]:
    return (4 - tf.cast(strength * 4.0, tf.int32),)


def _threshold(strength: tf.Tensor, sign: tf.Tensor) -> tuple[tf.Tensor]:
    return (256.0 - tf.floor(strength * 256.0),)


def _added(strength: tf.Tensor, sign: tf.Tensor) -> tuple[tf.Tensor]:
    return (tf.floor(strength * 110.0),)


def _nothing(strength: tf.Tensor, sign: tf.Tensor) -> tuple[()]:
    return ()


# By timm's names and in its order: the operation, and what it is told for a
# strength, a tenth of the magnitude, and a sign, -1 or 1.
OPERATIONS: dict[str, tuple[Callable[..., tf.Tensor], Callable[..., Any]]] = {
    "AutoContrast": (image_ops.auto_contrast, _nothing),
    "Equalize": (image_ops.equalize, _nothing),
    "Invert": (image_ops.invert, _nothing),
    "Rotate": (image_ops.rotate, _signed(30.0)),
    "PosterizeIncreasing": (image_ops.posterize, _bits),
    "SolarizeIncreasing": (image_ops.solarize, _threshold),
    "SolarizeAdd": (image_ops.solarize_add, _added),
    "ColorIncreasing": (image_ops.color, _factor),
    "ContrastIncreasing": (image_ops.contrast, _factor),
    "BrightnessIncreasing": (image_ops.brightness, _factor),
    "SharpnessIncreasing": (image_ops.sharpness, _factor),
    "ShearX": (image_ops.shear_x, _signed(0.3)),
    "ShearY": (image_ops.shear_y, _signed(0.3)),
    "TranslateXRel": (image_ops.translate_x, _signed(0.45)),
    "TranslateYRel": (image_ops.translate_y, _signed(0.45)),
}


def _branch(operation, arguments):
    """One operation as a graph of its own."""
    return tf.function(
        lambda image, strength, sign: operation(
            image, *arguments(strength, sign)
        ),
        autograph=False,
    )


# The last one also stands for all numbers beyond: do nothing.
_BRANCHES = (
    *(_branch(*operation) for operation in OPERATIONS.values()),
    _branch(tf.identity, _nothing),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Operations in a row, each drawn anew from all and done half the time.

    Attributes:
        layers: number of operations, at least 1.
        magnitude: mean of the magnitude, 0 to 10.
        magnitude_std: standard deviation of the magnitude, which is normal and
            clipped to 0 to 10.
    """

    layers: int
    magnitude: float
    magnitude_std: float

    def draw(self, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What is done to the image that has this seed.

        Args:
            seed: [2] int64.

        Returns:
            (place in `OPERATIONS`, or a number beyond them to do nothing,
            [layers] int32; strengths, [layers] float32; signs, [layers]
            float32).
        """
        # Streams of their own: the crop draws from `seed` itself.
        seeds = tf.random.split(seed, num=2, alg="philox")
        uniforms = tf.random.stateless_uniform(
            [2, self.layers], seeds[0], alg="philox"
        )
        choices = uniforms[0] * (len(OPERATIONS) / _PROBABILITY)
        strengths = tf.random.stateless_normal(
            [self.layers],
            seeds[1],
            mean=self.magnitude / _MAGNITUDE_MAX,
            stddev=self.magnitude_std / _MAGNITUDE_MAX,
            alg="philox",
        )
        return (
            tf.cast(choices, tf.int32),
            tf.clip_by_value(strengths, 0.0, 1.0),
            tf.where(uniforms[1] < 0.5, -1.0, 1.0),
        )

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Augments an image.

        Args:
            image: [height, width, 3] uint8, RGB, of a static shape.
            seed: [2] int64.

        Returns:
            uint8 of the same shape.
        """
        # Outside tf.data the branches would go to a GPU, which lacks some of
        # their kernels.
        with tf.device("/CPU:0"):
            return self._augmented(image, *self.draw(seed))

    def _augmented(self, image, choices, strengths, signs):
        scalar = tf.TensorSpec([], tf.float32)
        signature = (tf.TensorSpec(image.shape, image.dtype), scalar, scalar)
        branches = [
            branch.get_concrete_function(*signature) for branch in _BRANCHES
        ]
        for layer in range(self.layers):
            # tf.switch_case puts the nodes of all branches into the graph; to
            # skip them took 40 us more per layer (AMD EPYC).
            (image,) = tf.raw_ops.StatelessCase(
                branch_index=choices[layer],
                input=[image, strengths[layer], signs[layer]],
                Tout=[image.dtype],
                branches=branches,
                output_shapes=[image.shape],
            )
        return image
