"""Pillow's image operations in TensorFlow, to run within tf.data.

Every function takes an image, [height, width, 3] uint8 RGB of a static shape,
and gives one of the same shape: what Pillow 13 makes of it, but for one grey
level where a result before truncation is next to a whole number.

Written for one thread of a CPU. Eigen is slow at broadcasting over three
dimensions and at choosing pixel by pixel, so what differs by channel is
repeated along a row, and choices are made with arithmetic.
"""

import math

import tensorflow as tf

from hvd_imagenet import imagenet

# What geometry leaves empty: ImageNet's mean, as with timm.
_FILL = tuple(round(255 * mean) for mean in imagenet.MEAN_RGB)
# Red, green and blue in Pillow's grey, of 65,536 (ITU-R BT.601).
_GREY_WEIGHTS = (19595.0, 38470.0, 7471.0)
_LEVELS = 256


# --- ImageOps: every value to another. ---


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches every channel to 0 to 255."""
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float32)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float32)
    flat = low == high
    low = tf.where(flat, 0.0, low)
    span = tf.where(flat, 255.0, high - low)
    width = image.shape[1]
    pixels = _rows(tf.cast(image, tf.float32)) - tf.tile(low, [width])
    return _image(pixels * 255.0 / tf.tile(span, [width]), image.shape)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Makes the histogram of every channel as flat as can be."""
    height, width, channels = image.shape
    offsets = tf.tile(tf.range(channels) * _LEVELS, [width])
    bins = _rows(tf.cast(image, tf.int32)) + offsets
    size = channels * _LEVELS
    histogram = tf.math.bincount(bins, minlength=size, maxlength=size)
    histogram = tf.reshape(histogram, [channels, _LEVELS])
    darker = tf.cumsum(histogram, axis=1, exclusive=True)
    # All but the pixels of the greatest value share 255 steps.
    shared = tf.where(darker < height * width, darker, 0)
    step = tf.reduce_max(shared, axis=1, keepdims=True) // 255
    table = (step // 2 + darker) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(_LEVELS))
    table = tf.cast(tf.reshape(table, [-1]), tf.uint8)
    # Faster than tf.gather, here and below.
    return tf.reshape(tf.gather_nd(table, bins[..., tf.newaxis]), image.shape)


def invert(image: tf.Tensor) -> tf.Tensor:
    """255 - image."""
    return 255 - image


def posterize(image: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Keeps the first `bits` of 8, [] int32, 0 to 8; of 0, black is left."""
    mask = _LEVELS - tf.bitwise.left_shift(1, 8 - bits)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Inverts from `threshold` on, a whole number, [] float32, 0 to 256."""
    pixels = tf.cast(image, tf.float32)
    inverted = 255.0 - pixels
    kept = _below(pixels, threshold) * (pixels - inverted)
    return _image(inverted + kept, image.shape)


def solarize_add(image: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
    """Adds a whole number, [] float32, 0 to 127, to values below 128.

    This one is of timm.
    """
    pixels = tf.cast(image, tf.float32)
    return _image(pixels + _below(pixels, 128.0) * added, image.shape)


def _below(pixels: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """1.0 for whole numbers below a whole threshold, 0.0 for the others."""
    return tf.clip_by_value(threshold - pixels, 0.0, 1.0)


# --- ImageEnhance: 0 is a degenerate image, 1 the image, 2 goes beyond. ---


def color(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from grey; `factor` is [] float32, from 0."""
    pixels = tf.cast(image, tf.float32)
    grey = tf.reshape(_grey(pixels, copies=3), image.shape)
    return _blend(grey, pixels, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from the mean of the grey image."""
    pixels = tf.cast(image, tf.float32)
    mean = tf.floor(tf.reduce_mean(_grey(pixels, copies=1)) + 0.5)
    return _blend(mean, pixels, factor)


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from black."""
    return _blend(0.0, tf.cast(image, tf.float32), factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from the mean of 3 x 3 pixels, the central one five times."""
    pixels = tf.cast(image, tf.float32)
    total = pixels[:-2] + pixels[1:-1] + pixels[2:]
    total = total[:, :-2] + total[:, 1:-1] + total[:, 2:]
    center = pixels[1:-1, 1:-1]
    smooth = tf.floor((total + 4.0 * center) / 13.0 + 0.5)
    # The outermost pixels stay as they are.
    change = tf.pad(smooth - center, [[1, 1], [1, 1], [0, 0]])
    return _blend(pixels + change, pixels, factor)


def _blend(
    degenerate: tf.Tensor, pixels: tf.Tensor, factor: tf.Tensor
) -> tf.Tensor:
    blended = degenerate + factor * (pixels - degenerate)
    return _image(tf.clip_by_value(blended, 0.0, 255.0), pixels.shape)


def _grey(pixels: tf.Tensor, copies: int) -> tf.Tensor:
    """[height x width, copies] float32, rounded as Pillow does."""
    weights = tf.constant([[weight] * copies for weight in _GREY_WEIGHTS])
    # Exact: whole numbers below 2**24.
    grey = tf.matmul(tf.reshape(pixels, [-1, 3]), weights)
    return tf.floor((grey + 32768.0) / 65536.0)


# --- Image.transform: bilinear, with ImageNet's mean where nothing is. ---


def rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Anticlockwise about the center; `degrees` is [] float32."""
    height, width, _ = image.shape
    angle = degrees * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # The first pixel has its center at 0, 0.
    x, y = (width - 1) / 2, (height - 1) / 2
    to_x = (cosine, -sine, x - cosine * x + sine * y)
    to_y = (sine, cosine, y - sine * x - cosine * y)
    rotated = tf.raw_ops.ImageProjectiveTransformV3(
        # Faster than in uint8.
        images=tf.cast(image, tf.float32)[tf.newaxis],
        transforms=tf.stack([*to_x, *to_y, 0.0, 0.0])[tf.newaxis],
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        # Edges as Pillow has them; its own fill is one number.
        fill_mode="NEAREST",
    )
    columns = tf.range(width, dtype=tf.float32)
    rows = tf.range(height, dtype=tf.float32)[:, tf.newaxis]
    source_x, source_y = (
        a * columns + (b * rows + c) for a, b, c in (to_x, to_y)
    )
    inside = _inside(source_x, width) & _inside(source_y, height)
    return _filled(rotated, inside)


def shear_x(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Moves rows to the left by `factor`, [] float32, x their y."""
    rows = tf.range(image.shape[0], dtype=tf.float32) + 0.5
    return _move_rows(image, factor * rows)


def shear_y(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Moves columns up by `factor`, [] float32, x their x."""
    columns = tf.range(image.shape[1], dtype=tf.float32) + 0.5
    return _move_columns(image, factor * columns)


def translate_x(image: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Moves to the left by a share of the width, [] float32."""
    height, width, _ = image.shape
    return _move_rows(image, tf.fill([height], share * width))


def translate_y(image: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Moves up by a share of the height, [] float32."""
    height, width, _ = image.shape
    return _move_columns(image, tf.fill([width], share * height))


# A quarter of the time of a projective transform.
def _move_rows(image: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Every row to the left by its shift, [height] float32."""
    height, width, channels = image.shape
    shifts = shifts[:, tf.newaxis]
    whole = tf.floor(shifts)
    sources = tf.range(width + 1) + tf.cast(whole, tf.int32)
    sources = tf.clip_by_value(sources, 0, width - 1)
    sources += tf.range(height)[:, tf.newaxis] * width
    # One more than there are pixels, as each is mixed with the next.
    found = tf.gather_nd(
        tf.reshape(image, [-1, channels]), sources[..., tf.newaxis]
    )
    found = _rows(tf.cast(found, tf.float32))
    near, far = found[:, :-channels], found[:, channels:]
    moved = near + (shifts - whole) * (far - near)
    places = tf.range(width, dtype=tf.float32) + shifts
    return _filled(moved, _inside(places, width))


def _move_columns(image: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Every column up by its shift, [width] float32."""
    height, width, channels = image.shape
    whole = tf.floor(shifts)
    sources = tf.range(height + 1)[:, tf.newaxis] + tf.cast(whole, tf.int32)
    sources = tf.clip_by_value(sources, 0, height - 1)
    sources = sources * width + tf.range(width)
    found = tf.gather_nd(
        tf.reshape(image, [-1, channels]), sources[..., tf.newaxis]
    )
    found = _rows(tf.cast(found, tf.float32))
    near, far = found[:-1], found[1:]
    moved = near + tf.repeat(shifts - whole, channels) * (far - near)
    places = tf.range(height, dtype=tf.float32)[:, tf.newaxis] + shifts
    return _filled(moved, _inside(places, height))


def _inside(places: tf.Tensor, length: int) -> tf.Tensor:
    """Whether a place lies in a pixel; the first one's center is 0."""
    return (places >= -0.5) & (places < length - 0.5)


def _filled(pixels: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    """The image of float32 pixels in any shape; fill where not `inside`."""
    shape = [*inside.shape, 3]
    pixels = tf.reshape(_image(pixels, shape), [-1, 3])
    fill = tf.broadcast_to(tf.constant(_FILL, tf.uint8), pixels.shape)
    # Rows by a condition per row, which tf.where cannot do so fast.
    filled = tf.raw_ops.Select(
        condition=tf.reshape(inside, [-1]), x=pixels, y=fill
    )
    return tf.reshape(filled, shape)


def _rows(pixels: tf.Tensor) -> tf.Tensor:
    """[height, width, channels] to [height, width x channels]."""
    height, width, channels = pixels.shape
    return tf.reshape(pixels, [height, width * channels])


def _image(pixels: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """float32 from 0 to 255, truncated as Pillow does, to uint8."""
    # Whole numbers that float32 misses by a little stay what they are.
    return tf.reshape(tf.cast(pixels + 0.001, tf.uint8), shape)
