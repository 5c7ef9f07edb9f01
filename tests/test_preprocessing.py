"""Crops against fb.resnet.torch's rule, pixels against Pillow and NumPy."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn import datasets

import image_data
from hvd_imagenet import examples, imagenet, preprocessing
from hvd_imagenet.config import DataConfig
from hvd_imagenet.examples import ExampleFeatures

_DATA = DataConfig()
# The window is all of a square image.
_SQUARE = {"crop_area_min": 1.0, "crop_aspect_min": 1.0, "crop_aspect_max": 1.0}
_SIZE = 32

# Height, width: usual ones, and the extremes that a crop can stumble over.
_SHAPES = (
    (375, 500),
    (500, 333),
    (64, 64),
    (1, 1),
    (1, 300),
    (300, 1),
    (20, 2000),
    (2000, 20),
    (3, 2),
)


def _prepare(image_size=_SIZE, resize=None, **data):
    return preprocessing.make_preprocessing(
        DataConfig(evaluation_resize=resize, **data), image_size
    )


def _seed(*numbers):
    return tf.constant(numbers, tf.int64)


def _uniforms(count, seed=0):
    """[count, 10, 5] float32: what `count` images draw."""
    generator = np.random.default_rng(seed)
    return generator.random((count, 10, 5), np.float32)


def _windows(shape, uniforms, data=_DATA):
    """[count, 4]: top, left, height and width per image."""

    @tf.function(reduce_retracing=True)
    def windows(shape, uniforms):
        return tf.map_fn(
            lambda tries: preprocessing.random_window(shape, tries, data),
            uniforms,
            fn_output_signature=tf.int32,
        )

    return windows(tf.constant(shape), tf.constant(uniforms)).numpy()


def _expected_window(shape, tries):
    """fb.resnet.torch, transforms.lua, RandomSizedCrop, with given draws.

    Returns:
        (top, left, height, width), and which try it was, None for none.
    """
    image_height, image_width = shape
    for number, (area, aspect, swap, y, x) in enumerate(tries):
        # Single precision, as the draws are.
        target_area = np.float32(image_height * image_width) * (
            np.float32(0.08) + np.float32(1.0 - 0.08) * area
        )
        ratio = np.float32(3 / 4) + np.float32(4 / 3 - 3 / 4) * aspect
        width = int(np.round(np.sqrt(target_area * ratio)))
        height = int(np.round(np.sqrt(target_area / ratio)))
        if swap < 0.5:
            width, height = height, width
        # Torch has no empty crops, its images are too large for them.
        if 0 < width <= image_width and 0 < height <= image_height:
            # torch.random(0, n) is each of the n + 1 numbers alike.
            top = int(y * np.float32(image_height - height + 1))
            left = int(x * np.float32(image_width - width + 1))
            return (top, left, height, width), number
    side = min(shape)
    return (
        (image_height - side) // 2,
        (image_width - side) // 2,
        side,
        side,
    ), None


@pytest.mark.parametrize("shape", _SHAPES)
def test_windows_are_those_of_fb_resnets_rule(shape):
    uniforms = _uniforms(500)
    expected = [_expected_window(shape, tries)[0] for tries in uniforms]
    np.testing.assert_array_equal(_windows(shape, uniforms), expected)


def test_later_tries_and_the_fallback_are_among_those_windows():
    # Else the comparison above would not show that they are right.
    tries = {
        _expected_window(shape, tries)[1]
        for shape in _SHAPES
        for tries in _uniforms(500)
    }
    assert tries >= {None, *range(5)}


@pytest.mark.parametrize("shape", _SHAPES)
def test_windows_lie_within_the_image(shape):
    top, left, height, width = _windows(shape, _uniforms(500, seed=1)).T
    assert np.all((height > 0) & (width > 0))
    assert np.all((top >= 0) & (top + height <= shape[0]))
    assert np.all((left >= 0) & (left + width <= shape[1]))


@pytest.mark.parametrize(
    "data",
    [
        _DATA,
        DataConfig(crop_area_min=0.3, crop_area_max=0.4),
        DataConfig(crop_aspect_min=1.0, crop_aspect_max=1.0),
    ],
)
def test_areas_and_aspects_keep_their_limits_and_reach_them(data):
    side = 1000
    windows = _windows((side, side), _uniforms(2000, seed=2), data)
    height, width = windows[:, 2].astype(float), windows[:, 3].astype(float)
    area = height * width / side**2
    # Both sides are rounded to whole pixels, of at least 245 of them.
    assert np.all(area > data.crop_area_min * 0.995)
    assert np.all(area < data.crop_area_max * 1.005)
    assert area.min() < data.crop_area_min + 0.03
    assert area.max() > data.crop_area_max - 0.03
    # Swapped half of the time: the aspect or one over it.
    greatest = max(data.crop_aspect_max, 1 / data.crop_aspect_min)
    aspect = np.maximum(width / height, height / width)
    assert np.all(aspect < greatest * 1.005)
    assert aspect.max() > greatest * 0.99
    tall = np.mean(height > width)
    if data.crop_aspect_max > 1:
        assert abs(tall - 0.5) < 0.05
    else:
        assert tall == 0


def test_areas_have_the_mean_of_uniform_draws_that_fit():
    # An estimate of its own from 200,000 draws: area and aspect uniform on
    # condition that the window fits into a square.
    generator = np.random.default_rng(3)
    area = generator.uniform(0.08, 1, 200_000)
    aspect = generator.uniform(3 / 4, 4 / 3, 200_000)
    fits = area * np.maximum(aspect, 1 / aspect) <= 1
    expected = area[fits].mean()
    # What does not fit is large, so the mean is less than the plain one.
    assert 0.45 < expected < (0.08 + 1) / 2

    windows = _windows((2000, 2000), _uniforms(4000, seed=4))
    shares = np.prod(windows[:, 2:].astype(float), axis=1) / 2000**2
    # Four standard errors of the mean of 4,000.
    assert abs(shares.mean() - expected) < 4 * area[fits].std() / 4000**0.5


def test_places_are_uniform_to_the_last_row_and_column():
    # Windows of exactly 2 x 2 in 4 x 5: 3 rows and 4 columns to begin at.
    data = DataConfig(
        crop_area_min=0.2,
        crop_area_max=0.2,
        crop_aspect_min=1.0,
        crop_aspect_max=1.0,
    )
    top, left, height, width = _windows((4, 5), _uniforms(3000), data).T
    assert np.all((height == 2) & (width == 2))
    counts = np.bincount(top * 4 + left, minlength=12)
    assert len(counts) == 12
    # 250 each; the standard deviation is 15.
    assert np.all(np.abs(counts - 250) < 75)


@pytest.mark.parametrize("shape", [(20, 2000), (2001, 20)])
def test_the_central_square_is_taken_where_no_try_fits(shape):
    # 8% of 100:1 in an aspect of 3:4 to 4:3 is higher than the image.
    windows = _windows(shape, _uniforms(20))
    expected = [(shape[0] - 20) // 2, (shape[1] - 20) // 2, 20, 20]
    np.testing.assert_array_equal(windows, [expected] * 20)


def test_a_draw_just_below_one_stays_inside():
    tries = np.full((1, 10, 5), np.nextafter(np.float32(1), np.float32(0)))
    tries[..., 0] = 0.0
    top, left, height, width = _windows((30_000, 30_000), tries)[0]
    assert (top + height, left + width) == (30_000, 30_000)


@pytest.fixture(scope="module")
def jpeg():
    return image_data.encode(image_data.pixels(60, 80))


def test_a_training_image_is_a_pure_function_of_the_seed(jpeg):
    prepare = _prepare()
    graph = tf.function(prepare.train_image)
    images = {}
    for seed in range(20):
        image = prepare.train_image(jpeg, _seed(7, seed))
        assert image.dtype == tf.uint8
        assert image.shape == (_SIZE, _SIZE, 3)
        again = graph(tf.constant(jpeg), _seed(7, seed))
        np.testing.assert_array_equal(image, again)
        images[seed] = image.numpy().tobytes()
    assert len(set(images.values())) == 20
    # Either number of the seed matters, and 32 bits of each do not suffice.
    others = [(8, 0), (7 + (1 << 32), 0), (7, 1 << 32), (0, 7)]
    for other in others:
        image = prepare.train_image(jpeg, _seed(*other)).numpy().tobytes()
        assert image != images[0]


def test_a_training_image_is_its_window_resized(jpeg):
    prepare = _prepare(horizontal_flip=False, dct_method="accurate")
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)), np.float64)
    areas = set()
    for number in range(10):
        seed = _seed(0, number)
        uniforms = tf.random.stateless_uniform([51], seed, alg="philox")
        tries = uniforms[:50].numpy().reshape(10, 5)
        (top, left, height, width), _ = _expected_window((60, 80), tries)
        window = pixels[top : top + height, left : left + width]
        _assert_close(
            prepare.train_image(jpeg, seed),
            _bilinear(window, (_SIZE, _SIZE)),
            _WINDOW_EDGE,
        )
        areas.add(height * width)
    assert len(areas) > 5


def test_half_of_the_training_images_are_mirrored(jpeg):
    plain = tf.function(_prepare(horizontal_flip=False).train_image)
    flipping = tf.function(_prepare(horizontal_flip=True).train_image)
    flips, draws = [], []
    count = 400
    for number in range(count):
        seed = _seed(1, number)
        image = plain(tf.constant(jpeg), seed).numpy()
        other = flipping(tf.constant(jpeg), seed).numpy()
        # The switch changes nothing but the direction.
        flipped = np.array_equal(other, image[:, ::-1])
        assert flipped or np.array_equal(other, image)
        flips.append(flipped)
        uniforms = tf.random.stateless_uniform([51], seed, alg="philox")
        draws.append(uniforms[:50].numpy())
    # 200; the standard deviation is 10.
    assert abs(sum(flips) - count / 2) < 40
    # And whatever window was drawn: no correlation beyond chance, 0.05.
    correlations = np.corrcoef(np.column_stack([flips, *np.transpose(draws)]).T)
    assert np.abs(correlations[0, 1:]).max() < 0.22


def test_no_training_image_is_mirrored_when_off():
    # Of the whole image, only a flip could make another one.
    jpeg = image_data.encode(image_data.pixels(_SIZE, _SIZE))
    prepare = tf.function(
        _prepare(
            horizontal_flip=False,
            **_SQUARE,
        ).train_image
    )
    images = {
        prepare(tf.constant(jpeg), _seed(0, number)).numpy().tobytes()
        for number in range(50)
    }
    assert len(images) == 1


def _bilinear(pixels, size):
    """Bilinear interpolation between pixel centers, edges repeated.

    Args:
        pixels: [height, width, 3].
        size: height and width of the result.
    """
    pixels = np.asarray(pixels, np.float64)
    for axis, length in enumerate(size):
        old = pixels.shape[axis]
        places = (np.arange(length) + 0.5) * old / length - 0.5
        below = np.floor(places).astype(int)
        share = (places - below).reshape([-1, 1] if axis else [-1, 1, 1])
        if axis:
            share = share[np.newaxis]
        pixels = (1 - share) * np.take(
            pixels, np.clip(below, 0, old - 1), axis
        ) + share * np.take(pixels, np.clip(below + 1, 0, old - 1), axis)
    return pixels


def _bicubic(pixels, size):
    """As `_bilinear`, by Keys's kernel (1981) with a = -1/2.

    At the edges the weights of the pixels that there are make one.
    """
    pixels = np.asarray(pixels, np.float64)
    for axis, length in enumerate(size):
        old = pixels.shape[axis]
        places = (np.arange(length) + 0.5) * old / length - 0.5
        distance = np.abs(places[:, np.newaxis] - np.arange(old))
        weights = np.where(
            distance < 1,
            1.5 * distance**3 - 2.5 * distance**2 + 1,
            -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2,
        )
        weights[distance >= 2] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        pixels = np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)
    return np.clip(pixels, 0, 255)


def _evaluated(pixels, resize, image_size, interpolate=_bilinear):
    """fb.resnet.torch's Scale and CenterCrop, in NumPy."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    size = [int(side * resize / shorter + 0.5) for side in (height, width)]
    resized = interpolate(pixels, size)
    top, left = ((side - image_size) // 2 for side in size)
    return resized[top : top + image_size, left : left + image_size]


# A JPEG's color has half the resolution of its brightness; at the edge of a
# window that is cut out while decoding, the decoder cannot interpolate it with
# what lies outside.
_WINDOW_EDGE = 20


def _assert_close(image, expected, greatest=2):
    """The same but for rounding, here and in the JPEG decoders.

    Rounding to whole grey levels alone makes 0.25 on average, 0.5 at most.
    """
    image = np.asarray(image)
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    difference = np.abs(image - np.asarray(expected, np.float64))
    assert difference.mean() < 0.5
    assert difference.max() <= greatest


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((60, 81), id="landscape"),
        pytest.param((97, 60), id="portrait"),
        pytest.param((72, 72), id="square"),
        pytest.param((11, 17), id="upscaled"),
        pytest.param((37, 37), id="exact"),
        pytest.param((1, 40), id="one row"),
        pytest.param((300, 41), id="long"),
    ],
)
def test_an_evaluation_image_is_the_resized_center(shape):
    pixels = image_data.pixels(*shape)
    expected = _evaluated(pixels, 37, _SIZE)
    png = image_data.encode(pixels, "PNG")
    _assert_close(_prepare().evaluation_image(png), expected)

    jpeg = image_data.encode(pixels)
    decoded = np.asarray(Image.open(io.BytesIO(jpeg)))
    image = _prepare(dct_method="accurate").evaluation_image(jpeg)
    _assert_close(image, _evaluated(decoded, 37, _SIZE))


@pytest.mark.parametrize("shape", [(60, 81), (97, 60), (11, 17), (300, 41)])
def test_a_bicubic_evaluation_image_is_the_resized_center(shape):
    jpeg = image_data.encode(image_data.pixels(*shape))
    decoded = np.asarray(Image.open(io.BytesIO(jpeg)))
    expected = _evaluated(decoded, 37, _SIZE, _bicubic)
    prepare = _prepare(dct_method="accurate", interpolation="bicubic")
    _assert_close(prepare.evaluation_image(jpeg), expected)


def test_the_tolerance_would_show_a_shift_by_a_fifth_of_a_pixel():
    expected = _evaluated(image_data.pixels(60, 81), 37, _SIZE)
    for axis in (0, 1):
        shifted = 0.8 * expected + 0.2 * np.roll(expected, 1, axis)
        difference = np.abs(shifted - expected)[1:, 1:]
        assert difference.mean() > 0.5


@pytest.mark.parametrize(
    ("resize", "side"), [(None, 37), (_SIZE, 32), (64, 64)]
)
def test_evaluation_resize_sets_the_share_that_is_seen(resize, side):
    pixels = image_data.pixels(64, 64)
    image = _prepare(resize=resize).evaluation_image(
        image_data.encode(pixels, "PNG")
    )
    _assert_close(image, _evaluated(pixels, side, _SIZE))


def _picture(mode):
    """The same picture in a mode of Pillow's."""
    image = Image.fromarray(image_data.pixels(48, 64))
    if mode == "P":
        return image.quantize(64)
    if mode == "RGBA":
        # Transparent somewhere: the colors below still count.
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        return image
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("RGB", "BMP"),
        ("L", "BMP"),
        ("P", "GIF"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("YCbCr", "JPEG"),
    ],
)
def test_other_kinds_of_images_become_rgb(mode, file_format):
    encoded = image_data.encode(_picture(mode), file_format)
    pillow = Image.open(io.BytesIO(encoded))
    expected = np.asarray(pillow.convert("RGB"))
    prepare = _prepare(dct_method="accurate")
    _assert_close(
        prepare.evaluation_image(encoded), _evaluated(expected, 37, _SIZE)
    )
    # Training cuts its window out of the decoded picture, or while decoding:
    # here always a square of the whole height.
    square = _prepare(
        dct_method="accurate",
        horizontal_flip=False,
        **_SQUARE | {"crop_area_min": 0.75, "crop_area_max": 0.75},
    )
    image = square.train_image(encoded, _seed(0, 0))
    uniforms = tf.random.stateless_uniform([51], _seed(0, 0), alg="philox")
    left = int(uniforms[4] * 17)
    _assert_close(
        image,
        _bilinear(expected[:, left : left + 48], (_SIZE, _SIZE)),
        _WINDOW_EDGE,
    )


def test_a_progressive_jpeg_is_decoded():
    jpeg = image_data.encode(image_data.pixels(48, 64), progressive=True)
    expected = np.asarray(Image.open(io.BytesIO(jpeg)))
    image = _prepare(dct_method="accurate").evaluation_image(jpeg)
    _assert_close(image, _evaluated(expected, 37, _SIZE))


@pytest.mark.parametrize("stage", ["train", "evaluation"])
def test_bicubic_overshoot_is_cut_off_not_wrapped_around(stage):
    cells = np.indices((8, 8)).sum(axis=0) % 2 * 255
    pixels = np.repeat(cells[..., np.newaxis], 3, axis=2).astype(np.uint8)
    png = image_data.encode(pixels, "PNG")
    prepare = _prepare(
        interpolation="bicubic",
        resize=_SIZE,
        horizontal_flip=False,
        **_SQUARE,
    )
    if stage == "train":
        image = prepare.train_image(png, _seed(0, 0)).numpy()
    else:
        image = prepare.evaluation_image(png).numpy()
    unlimited = tf.image.resize(
        pixels, [_SIZE, _SIZE], tf.image.ResizeMethod.BICUBIC
    ).numpy()
    # Else there would be nothing to wrap around.
    assert unlimited.min() < -10
    assert unlimited.max() > 265
    np.testing.assert_array_equal(
        image, np.clip(np.round(unlimited), 0, 255).astype(np.uint8)
    )


# The numbers of --dct_method's help. On photographs, as the error grows with
# the detail that quantisation leaves.
@pytest.mark.parametrize(("quality", "greatest"), [(90, 5), (96, 14)])
def test_the_fast_transform_errs_as_its_help_says(quality, greatest):
    largest = 0
    for pixels in datasets.load_sample_images().images:
        for subsampling in (0, 2):
            jpeg = image_data.encode(
                pixels, quality=quality, subsampling=subsampling
            )
            fast, accurate = (
                _prepare(224, dct_method=method).evaluation_image(jpeg).numpy()
                for method in ("fast", "accurate")
            )
            difference = fast.astype(int) - accurate
            assert -0.85 < difference.mean() < -0.65
            largest = max(largest, np.abs(difference).max())
    assert greatest - 1 <= largest <= greatest


@pytest.mark.parametrize(
    "encoded", [b"", b"\xff\xd8\xff", b"no image", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_an_error(encoded):
    prepare = _prepare()
    with pytest.raises(tf.errors.InvalidArgumentError):
        prepare.evaluation_image(encoded)
    with pytest.raises(tf.errors.InvalidArgumentError):
        prepare.train_image(encoded, _seed(0, 0))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_cut_jpeg_is_an_error_where_all_of_it_is_decoded(jpeg, share):
    cut = jpeg[: int(len(jpeg) * share)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Invalid JPEG"):
        _prepare().evaluation_image(cut)


def test_normalise_makes_the_mean_zero_and_the_deviation_one():
    means = np.array(imagenet.MEAN_RGB) * 255
    deviations = np.array(imagenet.STDDEV_RGB) * 255
    pixels = np.arange(256, dtype=np.uint8)
    images = np.stack([pixels] * 3, axis=-1).reshape(2, 8, 16, 3)
    normalised = preprocessing.normalise(tf.constant(images))
    assert normalised.dtype == tf.float32
    assert normalised.shape == images.shape
    np.testing.assert_allclose(
        normalised, (images - means) / deviations, atol=1e-6
    )
    # The pixel nearest to the mean, 123.675, 116.28 and 103.53, is at zero.
    mean_pixel = tf.constant([[124, 116, 104]], tf.uint8)
    assert np.abs(preprocessing.normalise(mean_pixel)).max() < 0.5 / 57


@pytest.mark.parametrize(
    ("offset", "stored", "label"), [(1, 1, 0), (1, 1000, 999), (0, 7, 7)]
)
def test_an_example_gives_its_image_and_label(offset, stored, label):
    record = image_data.example(b"bytes of an image", stored)
    encoded, parsed = preprocessing.parse_example(
        record, examples.imagenet(offset)
    )
    assert encoded.numpy() == b"bytes of an image"
    assert parsed.dtype == tf.int32
    assert parsed.shape == ()
    assert int(parsed) == label


def test_a_record_that_is_no_example_is_an_error():
    for record in (b"", b"no example"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            preprocessing.parse_example(record, examples.imagenet(1))


def test_an_example_is_read_by_the_names_of_its_data_set():
    record = image_data.example(b"image", 7, image="image", label="label")
    features = ExampleFeatures(image="image", label="label", label_offset=0)
    encoded, label = preprocessing.parse_example(record, features)
    assert (encoded.numpy(), int(label)) == (b"image", 7)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="image/class/label"
    ):
        preprocessing.parse_example(record, examples.imagenet(0))
