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
from hvd_imagenet.decoding import decode_window
from hvd_imagenet.examples import ExampleFeatures
from hvd_imagenet.kernels import random_crop
from hvd_imagenet.kernels.random_crop import Crops, EncodedImages
from hvd_imagenet.randaugment import RandAugment

_CROP_TRIES = 10
_UNIFORMS_PER_TRY = 5

# Of encoded images: their seeds, [images, 2] int64; threads; whether to give
# black images for those that cannot be decoded.
PrepareBatch = Callable[[EncodedImages, tf.Tensor, int, bool], Crops]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are cropped, resized and decoded.

    Attributes:
        image_size: side of the resulting images in pixels.
        resize: length of the shorter side before evaluation's central crop.
        data: areas and aspects of random crops, flip, interpolation, DCT;
            whether the compiled operation may do all of that.
        randaugment: what is done to training images after that, or None.
    """

    image_size: int
    resize: int
    data: DataConfig
    randaugment: RandAugment | None

    def train_image(
        self,
        encoded: tf.Tensor,
        seed: tf.Tensor,
        pixels: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Random resized crop, flip, RandAugment: a pure function of `seed`.

        fb.resnet.torch, transforms.lua: ten tries of a window of random area
        and aspect, half of them with width and height swapped; if none fits
        the image, the largest central square.

        Args:
            encoded: [] string, a JPEG, PNG, BMP or GIF file, or a raw image.
            seed: [2] int64.
            pixels: [height, width, 3] uint8, RGB, of a raw image that is not
                in `encoded`; None or [0, 0, 3] if the image is there.

        Returns:
            [image_size, image_size, 3] uint8, RGB.
        """
        kernel = random_crop.find(self.data)
        if kernel is None:
            image = self._random_crop(encoded, pixels, seed)
        else:
            image = kernel.crop_one(
                encoded, pixels, seed, self.data, self.image_size
            )
        return self.randaugment(image, seed) if self.randaugment else image

    def train_batch(self) -> PrepareBatch | None:
        """`train_image` of several images at once, by the compiled operation.

        None if there is no such operation, or more to do than it does.
        """
        kernel = random_crop.find(self.data)
        if kernel is None or self.randaugment is not None:
            return None

        def train_batch(
            images: EncodedImages, seeds: tf.Tensor, threads: int, skip: bool
        ) -> Crops:
            return kernel.crop(
                images,
                seeds,
                self.data,
                self.image_size,
                threads=threads,
                skip=skip,
            )

        return train_batch

    def _random_crop(
        self, encoded: tf.Tensor, pixels: tf.Tensor | None, seed: tf.Tensor
    ) -> tf.Tensor:
        """As `Kernel.crop_one`, by TensorFlow's own operations."""
        tries, flip = draw(seed)
        image = decode_window(
            encoded,
            pixels,
            lambda shape: random_window(shape, tries, self.data),
            dct_method=self.data.dct_method,
        )
        image = self._resize(image, [self.image_size, self.image_size])
        if self.data.horizontal_flip:
            image = tf.cond(
                flip < 0.5,
                lambda: tf.reverse(image, axis=[1]),
                lambda: image,
            )
        return tf.ensure_shape(image, [self.image_size, self.image_size, 3])

    def evaluation_image(
        self, encoded: tf.Tensor, pixels: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Resize of the shorter side, then the central crop.

        Args:
            encoded: as in `train_image`.
            pixels: as in `train_image`.

        Returns:
            [image_size, image_size, 3] uint8, RGB.
        """
        image = self.whole_image(encoded, pixels)
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

    def whole_image(
        self, encoded: tf.Tensor, pixels: tf.Tensor | None = None
    ) -> tf.Tensor:
        """All of the image, [height, width, 3] uint8, RGB."""
        return decode_window(
            encoded,
            pixels,
            lambda shape: tf.stack([0, 0, shape[0], shape[1]]),
            dct_method=self.data.dct_method,
        )

    def _resize(self, image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        # Faster than from uint8, and the same to the bit.
        image = tf.cast(image, tf.float32)
        resized = tf.round(
            tf.image.resize(image, size, self.data.interpolation)
        )
        if self.data.interpolation == "bilinear":
            return tf.cast(resized, tf.uint8)
        # Bicubic interpolation overshoots.
        return tf.saturate_cast(resized, tf.uint8)


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


def draw(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The random numbers of a training image.

    Args:
        seed: [2] int64.

    Returns:
        ([10, 5] tries of `random_window`; for the flip, []), both float32 in
        [0, 1).
    """
    # The compiled operation makes the same.
    drawn = tf.random.stateless_uniform(
        [_CROP_TRIES * _UNIFORMS_PER_TRY + 1], seed, alg="philox"
    )
    tries = tf.reshape(drawn[:-1], [_CROP_TRIES, _UNIFORMS_PER_TRY])
    return tries, drawn[-1]


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
    area_share, aspect_share, swap, _, _ = tf.unstack(tries, axis=1)
    area = tf.cast(tf.reduce_prod(shape), tf.float32) * (
        data.crop_area_min
        + (data.crop_area_max - data.crop_area_min) * area_share
    )
    aspect = (
        data.crop_aspect_min
        + (data.crop_aspect_max - data.crop_aspect_min) * aspect_share
    )
    aspect = tf.where(swap < 0.5, 1.0 / aspect, aspect)
    # Height and width are calculated together, as the time goes by the number
    # of operations.
    sides = tf.sqrt(tf.stack([area / aspect, area * aspect]))
    sides = tf.cast(tf.round(sides), tf.int32)
    fits = tf.reduce_all((sides <= shape[:, tf.newaxis]) & (sides > 0), axis=0)
    chosen = tf.argmax(fits)
    any_fits = tf.reduce_any(fits)
    size = tf.where(
        any_fits, tf.gather(sides, chosen, axis=1), tf.reduce_min(shape)
    )
    room = shape - size
    share = tf.gather(tries, chosen)[3:]
    random = tf.cast(share * tf.cast(room + 1, tf.float32), tf.int32)
    place = tf.where(any_fits, random, room // 2)
    return tf.concat([place, size], axis=0)


def parse_example(
    serialized: tf.Tensor, features: ExampleFeatures
) -> tuple[tf.Tensor, tf.Tensor]:
    """Image and label of a record, or of each of several.

    Args:
        serialized: [] or [records] string, tf.train.Example messages.
        features: how they hold image and label.

    Returns:
        (encoded images, string; labels from 0, int32), both of that shape.
    """
    parsed = tf.io.parse_example(
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
