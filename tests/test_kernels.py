"""The compiled operation against TensorFlow's own ones: the same to the bit."""

import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn import datasets

from hvd_imagenet import preprocessing, raw_images, tf_errors
from hvd_imagenet.config import DataConfig
from hvd_imagenet.kernels import build, random_crop

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
        drawn = preprocessing.uniforms(seed)
        return kernel.crop(encoded, pixels, drawn, config, size)

    return tf.function(plain.train_image, reduce_retracing=True), compiled


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
            image, _ = compiled(encoded, seed)
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
    plain, compiled = _both(size, **data)
    config = DataConfig(**data)
    for number, draw in itertools.product(range(2), range(_DRAWS)):
        encoded = tf.constant(_file("4:2:0", number))
        seed = _seed(number, draw)
        image, window = compiled(encoded, seed)
        np.testing.assert_array_equal(image, plain(encoded, seed))
        width, height = _SIZES[number]
        tries, _ = preprocessing.draw(seed)
        np.testing.assert_array_equal(
            window,
            preprocessing.random_window(
                tf.constant([height, width]), tries, config
            ),
        )


def test_pixels_beside_the_record_are_taken():
    plain, compiled = _both()
    pixels = tf.constant(np.asarray(_PHOTOGRAPHS[0].resize((120, 80))))
    for draw in range(_DRAWS):
        seed = _seed(7, draw)
        image, _ = compiled(tf.constant(""), seed, pixels)
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
            image, _ = compiled(jpeg, _seed(0, draw))
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
    monkeypatch.setattr(build, "library", lambda: tmp_path / "none.so")
    random_crop._load.cache_clear()
    try:
        with pytest.raises(random_crop.MissingKernelError, match="tools/setup"):
            random_crop.load()
        assert random_crop.find(DataConfig()) is None
        broken = tmp_path / "broken.so"
        broken.write_bytes(b"no library")
        monkeypatch.setattr(build, "library", lambda: broken)
        random_crop._load.cache_clear()
        with pytest.raises(random_crop.MissingKernelError, match=r"broken\.so"):
            random_crop.load()
    finally:
        random_crop._load.cache_clear()


def test_a_tensorflow_of_unknown_version_has_none(monkeypatch):
    monkeypatch.setattr(build, "_DISTRIBUTIONS", ["no-tensorflow"])
    random_crop._load.cache_clear()
    try:
        assert random_crop.find(DataConfig()) is None
    finally:
        random_crop._load.cache_clear()


def test_a_libjpeg_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(random_crop, "_jpeg_library", lambda: "/nowhere.so")
    random_crop._load.cache_clear()
    try:
        with pytest.raises(random_crop.MissingKernelError, match="nowhere"):
            random_crop.load()
    finally:
        random_crop._load.cache_clear()


def test_what_the_compiler_says_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "_FOLDER", tmp_path)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match=r"random_crop\.cc"):
        build.compile_library()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        build.compile_library()
    assert list(tmp_path.iterdir()) == []
