"""Every image operation against Pillow, on photographs and odd images."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from sklearn import datasets

from hvd_imagenet import image_ops

_FILL = (124, 116, 104)
_AFFINE = Image.Transform.AFFINE
_BILINEAR = Image.Resampling.BILINEAR


@functools.cache
def _images() -> dict[str, Image.Image]:
    """Photographs, smaller than they were, and what may be stumbled over."""
    china, flower = map(Image.fromarray, datasets.load_sample_images().images)
    grey = china.convert("L").convert("RGB").resize((40, 41))
    stripes = np.zeros([24, 30, 3], np.uint8)
    stripes[::2] = 251
    return {
        "square": china.resize((160, 160)),
        "odd": flower.resize((131, 97)),
        "tall": china.resize((33, 64)),
        "small": flower.resize((8, 8)),
        # 60 to 162, the same in all channels.
        "pale": grey.point(lambda value: int(60 + value * 0.4)),
        "plain": Image.new("RGB", (20, 31), (9, 9, 200)),
        "stripes": Image.fromarray(stripes),
    }


def _transform(*coefficients):
    return lambda image: image.transform(
        image.size, _AFFINE, coefficients, _BILINEAR, fillcolor=_FILL
    )


def _enhanced(enhancer, factor):
    return lambda image: enhancer(image).enhance(factor)


def _posterized(bits):
    # Pillow refuses to keep no bits since 9.0.
    if bits == 0:
        return lambda image: Image.new("RGB", image.size)
    return lambda image: ImageOps.posterize(image, bits)


def _added(added):
    """solarize_add of timm is a table, too."""
    table = [value + added if value < 128 else value for value in range(256)]
    return lambda image: image.point(table * 3)


_FACTORS = (0.1, 0.37, 0.46, 1.0, 1.54, 1.9)
_ENHANCERS = {
    image_ops.color: ImageEnhance.Color,
    image_ops.contrast: ImageEnhance.Contrast,
    image_ops.brightness: ImageEnhance.Brightness,
    image_ops.sharpness: ImageEnhance.Sharpness,
}
_SHARES = (-0.45, -0.27, -0.003, 0.0, 0.1, 0.25, 0.45)


def _cases():
    """(operation, its argument, what Pillow does)."""
    yield image_ops.auto_contrast, None, ImageOps.autocontrast
    yield image_ops.equalize, None, ImageOps.equalize
    yield image_ops.invert, None, ImageOps.invert
    for bits in range(9):
        yield image_ops.posterize, bits, _posterized(bits)
    for threshold in (0.0, 1.0, 103.0, 128.0, 255.0, 256.0):
        solarized = functools.partial(ImageOps.solarize, threshold=threshold)
        yield image_ops.solarize, threshold, solarized
    for added in (0, 1, 66, 110):
        yield image_ops.solarize_add, float(added), _added(added)
    for operation, enhancer in _ENHANCERS.items():
        for factor in _FACTORS:
            yield operation, factor, _enhanced(enhancer, factor)
    for degrees in (-30.0, -17.3, 0.0, 0.4, 18.0, 30.0):
        yield (
            image_ops.rotate,
            degrees,
            functools.partial(
                Image.Image.rotate,
                angle=degrees,
                resample=_BILINEAR,
                fillcolor=_FILL,
            ),
        )
    for factor in (-0.3, -0.18, 0.0, 0.01, 0.2, 0.3):
        yield image_ops.shear_x, factor, _transform(1, factor, 0, 0, 1, 0)
        yield image_ops.shear_y, factor, _transform(1, 0, 0, factor, 1, 0)
    for share in _SHARES:
        yield (
            image_ops.translate_x,
            share,
            lambda image, share=share: _transform(
                1, 0, share * image.size[0], 0, 1, 0
            )(image),
        )
        yield (
            image_ops.translate_y,
            share,
            lambda image, share=share: _transform(
                1, 0, 0, 0, 1, share * image.size[1]
            )(image),
        )


# Greatest difference, and mean one. Single precision is next to a whole number
# on the other side than Pillow's double precision now and then, and the rest
# is cut off.
_ROUNDING = {
    image_ops.auto_contrast: (1, 0.001),
    image_ops.rotate: (1, 0.02),
    image_ops.shear_x: (1, 0.02),
    image_ops.shear_y: (1, 0.02),
    image_ops.translate_x: (1, 0.06),
    image_ops.translate_y: (1, 0.06),
}


def _run(operation, argument, image):
    dtype = tf.int32 if isinstance(argument, int) else tf.float32
    arguments = [] if argument is None else [tf.constant(argument, dtype)]
    result = operation(tf.constant(np.asarray(image)), *arguments)
    assert result.dtype == tf.uint8
    return result.numpy()


@pytest.mark.parametrize(
    ("operation", "argument", "pillow"),
    [
        pytest.param(*case, id=f"{case[0].__name__} {case[1]}")
        for case in _cases()
    ],
)
def test_an_operation_is_pillows(operation, argument, pillow):
    greatest, mean = _ROUNDING.get(operation, (0, 0.0))
    for name, image in _images().items():
        result = _run(operation, argument, image)
        expected = np.asarray(pillow(image))
        assert result.shape == expected.shape, name
        difference = np.abs(result.astype(int) - expected)
        assert difference.max() <= greatest, name
        assert difference.mean() <= mean, name


def test_the_tolerance_would_show_a_tenth_of_a_pixel():
    image = _images()["square"]
    result = _run(image_ops.translate_x, 0.1, image)
    shifted = np.asarray(_transform(1, 0, 16.1, 0, 1, 0)(image))
    assert np.abs(result.astype(int) - shifted).max() > 1
    assert np.abs(result.astype(int) - shifted).mean() > 0.06


@pytest.mark.parametrize(
    ("operation", "argument"),
    [
        (image_ops.rotate, 30.0),
        (image_ops.shear_x, -0.3),
        (image_ops.shear_y, 0.3),
        (image_ops.translate_x, 0.45),
        (image_ops.translate_y, -0.45),
    ],
)
def test_what_geometry_leaves_empty_has_imagenets_mean(operation, argument):
    image = Image.new("RGB", (50, 40), (255, 0, 255))
    pixels = _run(operation, argument, image).reshape(-1, 3)
    # No soft edges, and no other color.
    assert {tuple(pixel) for pixel in pixels.tolist()} == {
        (255, 0, 255),
        _FILL,
    }
