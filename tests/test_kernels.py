"""The compiled operation against TensorFlow's own ones: the same to the bit."""

import functools
import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn import datasets

from hvd_imagenet import preprocessing, raw_images, tf_errors
from hvd_imagenet.config import DataConfig
from hvd_imagenet.kernels import build, loading, random_crop

pytestmark = pytest.mark.core

_PHOTOGRAPHS = [
    Image.fromarray(image) for image in datasets.load_sample_images().images
]
# Width and height.
_SIZES = ((500, 375), (333, 500), (64, 64), (1, 1), (1, 300), (90, 2), (17, 9))
_DRAWS = 6


def _encoded(image, form="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _file(kind, number=0):
    image = _PHOTOGRAPHS[number % 2].resize(_SIZES[number % len(_SIZES)])
    if kind in ("L", "CMYK"):
        return _encoded(image.convert(kind))
    if kind in ("PNG", "BMP", "GIF"):
        return _encoded(image, kind)
    if kind == "raw":
        return raw_images.encode(np.asarray(image))
    if kind == "progressive":
        return _encoded(image, progressive=True, quality=85)
    if kind == "restarts":
        return _encoded(image, restart_marker_rows=1)
    return _encoded(image, subsampling=kind, quality=75 + 3 * number)


def _both(size=32, **data):
    """TensorFlow's operations and the compiled one, as functions."""
    plain = preprocessing.make_preprocessing(
        DataConfig(input_kernel="tensorflow", **data), size
    )
    config = DataConfig(**data)
    kernel = random_crop.load()

    @tf.function(reduce_retracing=True)
    def compiled(encoded, seed, pixels=None):
        return kernel.crop_one(encoded, pixels, seed, config, size)

    return tf.function(plain.train_image, reduce_retracing=True), compiled


def _together(files):
    """Files in one buffer, with something between them."""
    lengths = [len(file) for file in files]
    gaps = 5 + np.arange(len(files))
    starts = np.cumsum([0, *lengths[:-1]]) + np.cumsum(gaps)
    buffer = b"".join(
        b"\xff" * gap + file for gap, file in zip(gaps, files, strict=True)
    )
    return random_crop.EncodedImages(
        buffer=tf.constant(np.frombuffer(buffer, np.uint8)),
        starts=tf.constant(starts, tf.int64),
        lengths=tf.constant(lengths, tf.int64),
        shapes=tf.constant([[0, 0, 3]] * len(files), tf.int64),
    )


def _seed(*numbers):
    return tf.constant(numbers, tf.int64)


@pytest.mark.parametrize(
    "kind",
    (
        *("4:4:4", "4:2:2", "4:2:0", "progressive", "restarts", "L", "CMYK"),
        *("PNG", "BMP", "GIF", "raw"),
    ),
)
@pytest.mark.parametrize("dct_method", ["fast", "accurate"])
def test_images_are_the_same_to_the_bit(kind, dct_method):
    plain, compiled = _both(dct_method=dct_method)
    for number in range(len(_SIZES)):
        encoded = tf.constant(_file(kind, number))
        for draw in range(_DRAWS):
            seed = _seed(number, draw)
            image = compiled(encoded, seed)
            np.testing.assert_array_equal(image, plain(encoded, seed))


@pytest.mark.parametrize(
    "data",
    [
        {"horizontal_flip": False},
        # The central square, as nothing else fits.
        {"crop_aspect_min": 9.0, "crop_aspect_max": 10.0, "crop_area_min": 0.9},
        # A window of few pixels, made larger; one that is hardly resized.
        {"crop_area_min": 0.001, "crop_area_max": 0.002},
        {"crop_area_min": 0.3, "crop_area_max": 0.35},
        {"crop_area_min": 1.0, "crop_aspect_min": 1.0, "crop_aspect_max": 1.0},
    ],
)
@pytest.mark.parametrize("size", [8, 224])
def test_windows_and_sizes_are_the_same(data, size):
    plain, _ = _both(size, **data)
    config = DataConfig(**data)
    numbers = [*itertools.product(range(2), range(_DRAWS))]
    files = [_file("4:2:0", number) for number, _ in numbers]
    crops = random_crop.load().crop(
        _together(files), tf.constant(numbers, tf.int64), config, size
    )
    for place, (number, draw) in enumerate(numbers):
        seed = _seed(number, draw)
        np.testing.assert_array_equal(
            crops.images[place], plain(tf.constant(files[place]), seed)
        )
        width, height = _SIZES[number]
        tries, _ = preprocessing.draw(seed)
        np.testing.assert_array_equal(
            crops.windows[place],
            preprocessing.random_window(
                tf.constant([height, width]), tries, config
            ),
        )


@pytest.mark.parametrize(
    "numbers", [(0, 0), (-1, 2**63 - 1), (3 << 32, -(2**63))]
)
def test_any_seed_draws_the_same(numbers):
    plain, compiled = _both()
    file = tf.constant(_file("4:4:4"))
    for draw in range(20):
        seed = _seed(numbers[0], numbers[1] ^ draw)
        np.testing.assert_array_equal(compiled(file, seed), plain(file, seed))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_a_batch_is_its_images_whatever_the_threads(threads):
    _, compiled = _both()
    pixels = np.asarray(_PHOTOGRAPHS[0].resize((120, 80)))
    files = [_file("4:2:0", number) for number in range(5)]
    images = _together([*files, pixels.tobytes()])
    shapes = images.shapes.numpy()
    shapes[5] = pixels.shape
    images = images._replace(shapes=tf.constant(shapes))
    seeds = tf.constant([[5, number] for number in range(6)], tf.int64)
    crop = functools.partial(random_crop.load().crop, threads=threads)
    crops = crop(images, seeds, DataConfig(), 32)
    assert crops.errors.numpy().tolist() == [b""] * 6
    for number, file in enumerate(files):
        np.testing.assert_array_equal(
            crops.images[number], compiled(tf.constant(file), seeds[number])
        )
    np.testing.assert_array_equal(
        crops.images[5], compiled(tf.constant(""), seeds[5], pixels)
    )
    none = random_crop.EncodedImages(*(part[:0] for part in images))
    assert crop(none, seeds[:0], DataConfig(), 8).images.shape == [0, 8, 8, 3]


def test_of_a_batch_the_first_fault_is_told_or_all_are_skipped():
    files = [_file("4:4:4"), b"", _file("4:4:4")[:300], _file("PNG")]
    seeds = tf.constant([[0, number] for number in range(4)], tf.int64)
    crop = random_crop.load().crop
    for threads in (1, 3):
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            crop(_together(files), seeds, DataConfig(), 32, threads=threads)
        reason = tf_errors.reason(caught.value)
        assert reason == "Invalid JPEG data: Premature end of input file"
    crops = crop(_together(files), seeds, DataConfig(), 32, skip=True)
    errors = [error.decode() for error in crops.errors.numpy()]
    assert errors[0] == ""
    assert errors[3].startswith("Invalid JPEG data: Not a JPEG file")
    assert np.any(crops.images[0])
    for place in range(1, 4):
        assert errors[place]
        assert not np.any(crops.images[place])


@pytest.mark.parametrize(
    "outside",
    [
        {"starts": [-1]},
        {"starts": [2]},
        {"starts": [2**63 - 1]},
        {"lengths": [-1]},
        {"lengths": [2**63 - 1]},
        {"shapes": [[1, 2, 3]]},
        {"shapes": [[-1, -1, 3]]},
        {"shapes": [[2**62, 2**62, 3]]},
        {"starts": [0, 0]},
    ],
)
def test_nothing_outside_the_buffer_is_read(outside):
    images = random_crop.EncodedImages(
        buffer=tf.zeros([3], tf.uint8),
        starts=tf.constant([0], tf.int64),
        lengths=tf.constant([3], tf.int64),
        shapes=tf.constant([[1, 1, 3]], tf.int64),
    )
    crop = random_crop.load().crop
    seeds = tf.zeros([1, 2], tf.int64)
    crop(images, seeds, DataConfig(), 8)
    outside = {
        name: tf.constant(value, tf.int64) for name, value in outside.items()
    }
    with pytest.raises(tf.errors.InvalidArgumentError):
        crop(images._replace(**outside), seeds, DataConfig(), 8)


def test_pixels_beside_the_record_are_taken():
    plain, compiled = _both()
    pixels = tf.constant(np.asarray(_PHOTOGRAPHS[0].resize((120, 80))))
    for draw in range(_DRAWS):
        seed = _seed(7, draw)
        image = compiled(tf.constant(""), seed, pixels)
        np.testing.assert_array_equal(
            image, plain(tf.constant(""), seed, pixels)
        )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda jpeg: jpeg[: len(jpeg) // 3], "Premature end of input file"),
        (lambda jpeg: jpeg[:3], "Premature end of input file"),
        (lambda jpeg: jpeg[:3] + bytes(1000) + b"\xff\xd9", "JPEG"),
    ],
)
def test_a_damaged_jpeg_is_an_error_where_it_is_one(damage, reason):
    plain, compiled = _both()
    jpeg = tf.constant(damage(_file("4:2:0")))
    failed = 0
    for draw in range(_DRAWS):
        try:
            image = compiled(jpeg, _seed(0, draw))
        except tf.errors.InvalidArgumentError as error:
            assert reason in tf_errors.reason(error)
            failed += 1
            with pytest.raises(tf.errors.InvalidArgumentError):
                plain(jpeg, _seed(0, draw))
        else:  # The window is in what is left.
            np.testing.assert_array_equal(image, plain(jpeg, _seed(0, draw)))
    assert failed


def test_any_bytes_after_the_magic_number_are_an_image_or_an_error():
    _, compiled = _both()
    whole = np.frombuffer(_file("4:2:0", 2), np.uint8)
    generator = np.random.default_rng(0)
    failed = 0
    for draw in range(300):
        damaged = whole.copy()
        places = generator.integers(3, len(whole), 1 + draw % 8)
        damaged[places] = generator.integers(0, 256, len(places))
        try:
            compiled(tf.constant(damaged.tobytes()), _seed(0, draw))
        except tf.errors.InvalidArgumentError:
            failed += 1
    assert 0 < failed < 300


def test_training_images_come_from_it():
    config = DataConfig()
    assert random_crop.find(config) is random_crop.load()
    for data in ({"input_kernel": "tensorflow"}, {"interpolation": "bicubic"}):
        assert random_crop.find(DataConfig(**data)) is None
    prepare = preprocessing.make_preprocessing(config, 32).train_image
    graph = tf.function(prepare).get_concrete_function(
        tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int64)
    )
    kinds = {op.type for op in graph.graph.get_operations()}
    assert "HvdImagenetRandomCrop" in kinds
    assert "ResizeBilinear" not in kinds


def test_without_it_there_are_tensorflows_own(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "library", lambda name: tmp_path / "none.so")
    random_crop.load.cache_clear()
    try:
        with pytest.raises(loading.MissingKernelError, match="tools/setup"):
            random_crop.load()
        assert random_crop.find(DataConfig()) is None
        broken = tmp_path / "broken.so"
        broken.write_bytes(b"no library")
        monkeypatch.setattr(build, "library", lambda name: broken)
        random_crop.load.cache_clear()
        with pytest.raises(loading.MissingKernelError, match=r"broken\.so"):
            random_crop.load()
    finally:
        random_crop.load.cache_clear()


def test_a_tensorflow_of_unknown_version_has_none(monkeypatch):
    monkeypatch.setattr(build, "_DISTRIBUTIONS", ["no-tensorflow"])
    random_crop.load.cache_clear()
    try:
        assert random_crop.find(DataConfig()) is None
    finally:
        random_crop.load.cache_clear()


def test_a_libjpeg_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(random_crop, "_jpeg_library", lambda: "/nowhere.so")
    random_crop.load.cache_clear()
    try:
        with pytest.raises(loading.MissingKernelError, match="nowhere"):
            random_crop.load()
    finally:
        random_crop.load.cache_clear()


@pytest.mark.parametrize(
    ("name", "source"),
    [("random_crop", "random_crop.cc"), ("batch_norm", "batch_norm_blocks.cc")],
)
def test_what_the_compiler_says_is_told(monkeypatch, tmp_path, name, source):
    monkeypatch.setattr(build, "_FOLDER", tmp_path)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match=source):
        build.compile_library(name)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        build.compile_library(name)
    assert list(tmp_path.iterdir()) == []
