"""The compiled operation that makes training images, where there is one."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvd_imagenet.config import DataConfig
from hvd_imagenet.decoding import pixels_unless_jpeg
from hvd_imagenet.kernels import loading
from hvd_imagenet.kernels.loading import MissingKernelError

_MAPS = pathlib.Path("/proc/self/maps")
# Any JPEG shows whether a libjpeg has the layout that the operation expects.
_PROBE_SIZE = 8


class EncodedImages(NamedTuple):
    """Images in one piece of memory.

    Attributes:
        buffer: [bytes] uint8, all of them.
        starts: [images] int64, first byte of each in `buffer`.
        lengths: [images] int64, bytes of each.
        shapes: [images, 3] int64, height, width and 3 of pixels that nobody
            has to decode; 0, 0 and 3 of a JPEG.
    """

    buffer: tf.Tensor
    starts: tf.Tensor
    lengths: tf.Tensor
    shapes: tf.Tensor


class Crops(NamedTuple):
    """Training images, and how they came about.

    Attributes:
        images: [images, size, size, 3] uint8, RGB; black where there is an
            error.
        windows: [images, 4] int32: top, left, height and width of what was
            taken of each.
        errors: [images] string, why there is none, or nothing.
    """

    images: tf.Tensor
    windows: tf.Tensor
    errors: tf.Tensor


class Kernel(NamedTuple):
    """The operation and what it needs.

    Attributes:
        operation: `HvdImagenetRandomCrop`; see random_crop.cc.
        jpeg_library: path of the libjpeg-turbo that decodes.
    """

    operation: Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
    jpeg_library: str

    def crop(
        self,
        images: EncodedImages,
        seeds: tf.Tensor,
        data: DataConfig,
        size: int,
        *,
        threads: int = 1,
        skip: bool = False,
    ) -> Crops:
        """The crops of `Preprocessing.train_image`, flipped or not.

        Args:
            images: JPEGs and raw images.
            seeds: [images, 2] int64.
            data: how to crop; interpolated bilinearly.
            size: side of the results in pixels.
            threads: that work at the same time.
            skip: whether to give black images for those that cannot be decoded.

        Raises:
            tf.errors.InvalidArgumentError: an image cannot be decoded, and
                `skip` is false.
        """
        return Crops(
            *self.operation(
                buffer=images.buffer,
                starts=images.starts,
                lengths=images.lengths,
                shapes=images.shapes,
                seeds=seeds,
                library=self.jpeg_library,
                threads=threads,
                skip=skip,
                size=size,
                area_min=data.crop_area_min,
                area_span=data.crop_area_max - data.crop_area_min,
                aspect_min=data.crop_aspect_min,
                aspect_span=data.crop_aspect_max - data.crop_aspect_min,
                horizontal_flip=data.horizontal_flip,
                dct_method=data.dct_method,
            )
        )

    def crop_one(
        self,
        encoded: tf.Tensor,
        pixels: tf.Tensor | None,
        seed: tf.Tensor,
        data: DataConfig,
        size: int,
    ) -> tf.Tensor:
        """`Preprocessing.train_image` without RandAugment."""
        pixels = pixels_unless_jpeg(encoded, pixels)
        # What is no JPEG is in `pixels`.
        buffer = tf.cond(
            tf.size(pixels) > 0,
            lambda: tf.reshape(pixels, [-1]),
            lambda: tf.io.decode_raw(encoded, tf.uint8),
        )
        images = EncodedImages(
            buffer=buffer,
            starts=tf.zeros([1], tf.int64),
            lengths=tf.size(buffer, tf.int64)[tf.newaxis],
            shapes=tf.shape(pixels, tf.int64)[tf.newaxis],
        )
        return self.crop(images, seed[tf.newaxis], data, size).images[0]


def find(data: DataConfig) -> Kernel | None:
    """The operation, if it is wanted, is there, and does what is wanted."""
    if data.input_kernel == "tensorflow" or data.interpolation != "bilinear":
        return None
    try:
        return load()
    except MissingKernelError:
        return None


@loading.once
def load() -> Kernel:
    """Loads the operation, and tries it once.

    Raises:
        MissingKernelError: it is not compiled, or cannot work here.
    """
    with tf.init_scope(), tf.device("CPU"):
        return _load_eagerly()


def _load_eagerly() -> Kernel:
    operation = loading.operations("random_crop").hvd_imagenet_random_crop
    jpeg_library = _jpeg_library()
    kernel = Kernel(operation, jpeg_library)
    _try(kernel)
    return kernel


def _jpeg_library() -> str:
    """The libjpeg-turbo that Pillow has loaded."""
    from PIL import _imaging, features  # noqa: F401

    if not features.check_feature("libjpeg_turbo"):
        raise MissingKernelError(
            "Pillow has no libjpeg-turbo to share; its wheels do"
        )
    try:
        maps = _MAPS.read_text()
    except OSError as error:
        raise MissingKernelError(f"{error}") from None
    for line in maps.splitlines():
        path = line.split(maxsplit=5)[-1]
        if pathlib.PurePath(path).name.startswith("libjpeg"):
            return path
    raise MissingKernelError("Pillow's libjpeg-turbo is within Pillow itself")


def _try(kernel: Kernel) -> None:
    """Whether that libjpeg-turbo is one that the operation was made for."""
    image = tf.zeros([_PROBE_SIZE, _PROBE_SIZE, 3], tf.uint8)
    try:
        kernel.crop_one(
            tf.io.encode_jpeg(image),
            None,
            tf.zeros([2], tf.int64),
            DataConfig(),
            _PROBE_SIZE,
        )
    except tf.errors.InvalidArgumentError as error:
        raise MissingKernelError(
            f"{kernel.jpeg_library}: {error.message}"
        ) from None
