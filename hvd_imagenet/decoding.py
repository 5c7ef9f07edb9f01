"""Encoded and raw images to pixels, as operations of TensorFlow."""

from collections.abc import Callable

import tensorflow as tf

from hvd_imagenet import raw_images

JPEG_MAGIC = b"\xff\xd8\xff"
_DCT_METHODS = {"fast": "INTEGER_FAST", "accurate": "INTEGER_ACCURATE"}


def decode_window(
    encoded: tf.Tensor,
    pixels: tf.Tensor | None,
    choose: Callable[[tf.Tensor], tf.Tensor],
    *,
    dct_method: str,
) -> tf.Tensor:
    """Decodes the window (top, left, height, width) that `choose` picks.

    Of a JPEG only that window is decoded. Some of ImageNet's files with a
    JPEG name are PNG or CMYK: the first are decoded whole, the second are
    JPEGs that the decoder turns into RGB, as it does grey-scale ones.

    Args:
        encoded: [] string, a JPEG, PNG, BMP or GIF file, or a raw image.
        pixels: [height, width, 3] uint8, RGB, of a raw image that is not in
            `encoded`; None or [0, 0, 3] if the image is there.
        choose: the window, [4] int32, for height and width, [2] int32.
        dct_method: "fast" or "accurate".

    Returns:
        [height of the window, its width, 3] uint8, RGB.
    """
    is_jpeg = _is_jpeg(encoded)

    def jpeg_shape() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.io.extract_jpeg_shape(encoded)[:2], _no_pixels()

    def decode_whole() -> tuple[tf.Tensor, tf.Tensor]:
        image = decode_other(encoded, pixels)
        return tf.shape(image)[:2], image

    # Chosen once between the two decisions, not in every branch: TensorFlow
    # goes through the operations of branches not taken too.
    shape, whole = tf.cond(is_jpeg, jpeg_shape, decode_whole)
    window = choose(shape)

    def decode_and_crop() -> tf.Tensor:
        return tf.io.decode_and_crop_jpeg(
            encoded,
            window,
            channels=3,
            dct_method=_DCT_METHODS[dct_method],
        )

    def crop() -> tf.Tensor:
        top, left, height, width = tf.unstack(window)
        return whole[top : top + height, left : left + width]

    image = tf.cond(is_jpeg, decode_and_crop, crop)
    return tf.ensure_shape(image, [None, None, 3])


def pixels_unless_jpeg(
    encoded: tf.Tensor, pixels: tf.Tensor | None
) -> tf.Tensor:
    """All of an image that is no JPEG, for who decodes those himself.

    Args:
        encoded: as in `decode_window`.
        pixels: as in `decode_window`.

    Returns:
        [height, width, 3] uint8, RGB; [0, 0, 3] of a JPEG.
    """
    is_done = _is_jpeg(encoded)
    if pixels is None:
        pixels = _no_pixels()
    else:
        is_done |= tf.size(pixels) > 0
    return tf.cond(is_done, lambda: pixels, lambda: decode_other(encoded))


def decode_other(
    encoded: tf.Tensor, pixels: tf.Tensor | None = None
) -> tf.Tensor:
    """An image that is no JPEG.

    Args:
        encoded: as in `decode_window`.
        pixels: as in `decode_window`.

    Returns:
        [height, width, 3] uint8, RGB.
    """

    def decode_raw() -> tf.Tensor:
        def number(first: int) -> tf.Tensor:
            digits = tf.strings.substr(encoded, first, 5)
            return tf.strings.to_number(digits, tf.int32)

        data = tf.strings.substr(
            encoded, raw_images.HEADER_BYTES, tf.strings.length(encoded)
        )
        width, height = number(3), number(9)
        return tf.reshape(tf.io.decode_raw(data, tf.uint8), [height, width, 3])

    def decode_file() -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    def decode() -> tf.Tensor:
        magic = tf.strings.substr(encoded, 0, len(raw_images.MAGIC))
        return tf.cond(
            tf.equal(magic, raw_images.MAGIC), decode_raw, decode_file
        )

    if pixels is None:
        return decode()
    return tf.cond(tf.size(pixels) > 0, lambda: pixels, decode)


def _is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.strings.substr(encoded, 0, 3), JPEG_MAGIC)


def _no_pixels() -> tf.Tensor:
    return tf.zeros([0, 0, 3], tf.uint8)
