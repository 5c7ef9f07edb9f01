"""One encoded image to one uint8 tensor; normalisation on the device.

Training crops and flips follow fb.resnet.torch, which Goyal 2017 used; the
central crop of evaluation as well. Images stay uint8 until they are on the
device: a quarter of the bytes to copy, and the pipeline is faster.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from hvd_imagenet import imagenet
from hvd_imagenet.config import DataConfig
from hvd_imagenet.examples import ExampleFeatures
from hvd_imagenet.randaugment import RandAugment

_CROP_TRIES = 10
_UNIFORMS_PER_TRY = 5
_JPEG_MAGIC = b"\xff\xd8\xff"
_DCT_METHODS = {"fast": "INTEGER_FAST", "accurate": "INTEGER_ACCURATE"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are cropped, resized and decoded.

    Attributes:
        image_size: side of the resulting images in pixels.
        resize: length of the shorter side before evaluation's central crop.
        data: areas and aspects of random crops, flip, interpolation, DCT.
        randaugment: what is done to training images after that, or None.
    """

    image_size: int
    resize: int
    data: DataConfig
    randaugment: RandAugment | None

    def train_image(self, encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Random resized crop, flip, RandAugment: a pure function of `seed`.

        fb.resnet.torch, transforms.lua: ten tries of a window of random area
        and aspect, half of them with width and height swapped; if none fits
        the image, the largest central square.

        Args:
            encoded: [] string, a JPEG, PNG, BMP or GIF file.
            seed: [2] int64.

        Returns:
            [image_size, image_size, 3] uint8, RGB.
        """
        uniforms = tf.random.stateless_uniform(
            [_CROP_TRIES * _UNIFORMS_PER_TRY + 1], seed, alg="philox"
        )
        tries = tf.reshape(uniforms[:-1], [_CROP_TRIES, _UNIFORMS_PER_TRY])
        image = self._decode_window(
            encoded, lambda shape: random_window(shape, tries, self.data)
        )
        image = self._resize(image, [self.image_size, self.image_size])
        if self.data.horizontal_flip:
            image = tf.cond(
                uniforms[-1] < 0.5,
                lambda: tf.reverse(image, axis=[1]),
                lambda: image,
            )
        image = tf.ensure_shape(image, [self.image_size, self.image_size, 3])
        return self.randaugment(image, seed) if self.randaugment else image

    def evaluation_image(self, encoded: tf.Tensor) -> tf.Tensor:
        """Resize of the shorter side, then the central crop.

        Args:
            encoded: [] string, a JPEG, PNG, BMP or GIF file.

        Returns:
            [image_size, image_size, 3] uint8, RGB.
        """
        image = self.whole_image(encoded)
        shape = tf.shape(image)[:2]
        shorter = tf.reduce_min(shape)
        # Rounded half up in integers, as torchvision and fb.resnet do not
        # agree on truncation; only the longer side can differ by a pixel.
        resized = (2 * shape * self.resize + shorter) // (2 * shorter)
        image = self._resize(image, resized)
        top, left = tf.unstack((resized - self.image_size) // 2)
        size = self.image_size
        image = image[top : top + size, left : left + size]
        return tf.ensure_shape(image, [size, size, 3])

    def whole_image(self, encoded: tf.Tensor) -> tf.Tensor:
        """All of the image, [height, width, 3] uint8, RGB."""
        return self._decode_window(
            encoded, lambda shape: tf.stack([0, 0, shape[0], shape[1]])
        )

    def _decode_window(
        self,
        encoded: tf.Tensor,
        choose: Callable[[tf.Tensor], tf.Tensor],
    ) -> tf.Tensor:
        """Decodes the window (top, left, height, width) that `choose` picks.

        Of a JPEG only that window is decoded. Some of ImageNet's files with a
        JPEG name are PNG or CMYK: the first are decoded whole, the second are
        JPEGs that the decoder turns into RGB, as it does grey-scale ones.
        """

        def decode_jpeg() -> tf.Tensor:
            window = choose(tf.io.extract_jpeg_shape(encoded)[:2])
            return tf.io.decode_and_crop_jpeg(
                encoded,
                window,
                channels=3,
                dct_method=_DCT_METHODS[self.data.dct_method],
            )

        def decode_other() -> tf.Tensor:
            image = tf.io.decode_image(
                encoded, channels=3, expand_animations=False
            )
            top, left, height, width = tf.unstack(choose(tf.shape(image)[:2]))
            return image[top : top + height, left : left + width]

        is_jpeg = tf.equal(tf.strings.substr(encoded, 0, 3), _JPEG_MAGIC)
        image = tf.cond(is_jpeg, decode_jpeg, decode_other)
        return tf.ensure_shape(image, [None, None, 3])

    def _resize(self, image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        resized = tf.image.resize(image, size, self.data.interpolation)
        # Bicubic interpolation overshoots; the cast saturates.
        return tf.saturate_cast(tf.round(resized), tf.uint8)


def make_preprocessing(data: DataConfig, image_size: int) -> Preprocessing:
    """Fills in what follows from `image_size`."""
    resize = data.evaluation_resize or round(
        image_size * imagenet.RESIZE_PER_CROP
    )
    randaugment = None
    if data.randaugment_layers is not None:
        randaugment = RandAugment(
            layers=data.randaugment_layers,
            magnitude=data.randaugment_magnitude,
            magnitude_std=data.randaugment_magnitude_std,
        )
    return Preprocessing(
        image_size=image_size,
        resize=resize,
        data=data,
        randaugment=randaugment,
    )


def random_window(
    shape: tf.Tensor, tries: tf.Tensor, data: DataConfig
) -> tf.Tensor:
    """The first of the tried windows that fits into the image.

    Args:
        shape: [2] int32, height and width of the image.
        tries: [tries, 5] float32 in [0, 1): for area, aspect, swap of width
            and height, and place in y and x.
        data: limits of area and aspect.

    Returns:
        [4] int32: top, left, height and width; the largest central square
        when no try fits.
    """
    image_height, image_width = tf.unstack(shape)
    area_share, aspect_share, swap, y, x = tf.unstack(tries, axis=1)
    area = tf.cast(image_height * image_width, tf.float32) * (
        data.crop_area_min
        + (data.crop_area_max - data.crop_area_min) * area_share
    )
    aspect = (
        data.crop_aspect_min
        + (data.crop_aspect_max - data.crop_aspect_min) * aspect_share
    )
    aspect = tf.where(swap < 0.5, 1.0 / aspect, aspect)
    widths = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (
        (widths <= image_width)
        & (heights <= image_height)
        & (tf.minimum(widths, heights) > 0)
    )
    chosen = tf.argmax(fits)
    shorter = tf.minimum(image_height, image_width)
    any_fits = tf.reduce_any(fits)
    height = tf.where(any_fits, heights[chosen], shorter)
    width = tf.where(any_fits, widths[chosen], shorter)

    def place(share: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
        free = tf.cast(room + 1, tf.float32)
        random = tf.cast(share[chosen] * free, tf.int32)
        return tf.where(any_fits, random, room // 2)

    top = place(y, image_height - height)
    left = place(x, image_width - width)
    return tf.stack([top, left, height, width])


def parse_example(
    serialized: tf.Tensor, features: ExampleFeatures
) -> tuple[tf.Tensor, tf.Tensor]:
    """Image and label of a record.

    Args:
        serialized: [] string, a tf.train.Example.
        features: how it holds image and label.

    Returns:
        (encoded image, [] string; label from 0, [] int32).
    """
    parsed = tf.io.parse_single_example(
        serialized,
        {
            features.image: tf.io.FixedLenFeature([], tf.string),
            features.label: tf.io.FixedLenFeature([], tf.int64),
        },
    )
    label = parsed[features.label] - features.label_offset
    return parsed[features.image], tf.cast(label, tf.int32)


def normalise(images: tf.Tensor) -> tf.Tensor:
    """Zero mean and unit variance per channel, by ImageNet's statistics.

    Args:
        images: [..., 3] uint8, RGB.

    Returns:
        float32 of the same shape.
    """
    mean = tf.constant(imagenet.MEAN_RGB) * 255.0
    stddev = tf.constant(imagenet.STDDEV_RGB) * 255.0
    return (tf.cast(images, tf.float32) - mean) / stddev
