"""Raw images: the same batches as of a lossless file of the same pixels."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import image_data
from hvd_imagenet import (
    buffers,
    dataset,
    examples,
    preprocessing,
    raw_images,
    splits,
)
from hvd_imagenet.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizationConfig,
    ScheduleConfig,
)
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.plan import make_plan
from hvd_imagenet.world import World

_IMAGES = 40
_BATCH = 10
_SHAPES = [(24, 36), (40, 30), (1, 70), (64, 64)]


def _pixels(number):
    return image_data.pixels(*_SHAPES[number % 4], seed=number)


def _other_order(record):
    """As a program may write it that has parsed it."""
    return tf.train.Example.FromString(record).SerializeToString(
        deterministic=True
    )


def _png(number):
    png = image_data.encode(_pixels(number), "PNG")
    return image_data.example(png, number % 5 + 1)


def _raw(number):
    return image_data.raw_example(_pixels(number), number % 5 + 1)


def _mixed(number):
    kinds = (_png, _raw, lambda number: _other_order(_raw(number)))
    return kinds[number % 3](number)


def _write(directory, make):
    records = [make(number) for number in range(_IMAGES)]
    for split in ("train", "validation"):
        image_data.write_shards(directory, split, [records[::2], records[1::2]])
    return directory


def _config(directory, **data):
    return Config(
        model=ModelConfig(num_classes=5, image_size=32),
        data=DataConfig(data_dir=str(directory), label_offset=1, **data),
        optimization=OptimizationConfig(
            epochs=2, batch_size_per_process=_BATCH
        ),
        schedule=ScheduleConfig(warmup_epochs=0.0),
    )


def _batches(config, split):
    source = splits.open_split(config, split)
    plan = make_plan(
        config,
        world_size=1,
        train_images=len(source),
        validation_images=len(source),
    )
    make = {
        "train": dataset.training_batches,
        "validation": dataset.evaluation_batches,
    }[split]
    world = World(rank=0, size=1, local_rank=0, local_size=1)
    return make(config, plan, source, world, threads=2)


@pytest.fixture(scope="module")
def png_dir(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("png"), _png)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("make", [_raw, _mixed])
@pytest.mark.parametrize("on_corrupt", ["fail", "skip"])
def test_batches_are_those_of_a_lossless_file(
    png_dir, tmp_path, split, make, on_corrupt
):
    directory = _write(tmp_path, make)
    expected = list(_batches(_config(png_dir), split))
    actual = list(_batches(_config(directory, on_corrupt=on_corrupt), split))
    assert len(actual) == len(expected) > 3
    for one, other in zip(actual, expected, strict=True):
        for field, wanted in zip(one, other, strict=True):
            if wanted is not None:
                np.testing.assert_array_equal(field, wanted)


def test_a_raw_image_in_a_string_is_the_same_image():
    pixels = _pixels(0)
    prepare = preprocessing.make_preprocessing(DataConfig(), 32)
    raw, png = (
        prepare.evaluation_image(encoded)
        for encoded in (
            raw_images.encode(pixels),
            image_data.encode(pixels, "PNG"),
        )
    )
    np.testing.assert_array_equal(raw, png)


@pytest.mark.parametrize("shape", [*_SHAPES, (300, 400), (99_999, 1)])
def test_it_is_found_and_any_reader_understands_it(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    record = image_data.raw_example(pixels, 3)
    start, length, _ = examples.find(record, examples.imagenet(1))
    assert raw_images.find(record, start, length) == shape
    start += raw_images.HEADER_BYTES
    assert record[start : start + pixels.size] == pixels.tobytes()
    # TensorFlow, protobuf and Pillow see one plain example.
    encoded, label = preprocessing.parse_example(record, examples.imagenet(1))
    assert int(label) == 2
    features = tf.train.Example.FromString(record).features.feature
    assert features["image/encoded"].bytes_list.value == [encoded.numpy()]
    np.testing.assert_array_equal(
        Image.open(io.BytesIO(encoded.numpy())), pixels
    )


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"P6",
        b"P6\n   10    10\n255\n",
        b"P6\n   10    10\n255\n" + bytes(299),
        b"P6\n   10    10\n255\n" + bytes(301),
        b"P6\n    0    10\n255\n",
        b"P6\n1 1 1    10\n255\n" + bytes(3000),
        b"P6\n           \n255\n" + bytes(3000),
        # As others write it: for Pillow to decode.
        b"P6\n10 10\n255\n" + bytes(300),
        image_data.encode(_pixels(0)),
    ],
)
def test_what_is_no_raw_image_is_not_found(encoded):
    assert raw_images.find(encoded, 0, len(encoded)) is None
    around = b"P6\n" + encoded + bytes(3000)
    assert raw_images.find(around, 3, len(encoded)) is None


def test_a_raw_image_without_all_its_pixels_is_named(tmp_path):
    cut = raw_images.encode(_pixels(0))[:-1]
    _write(tmp_path, lambda number: image_data.example(cut, 1))
    with pytest.raises(CorruptRecordError, match=r"record \d+ of .* cannot be"):
        next(_batches(_config(tmp_path), "train"))


def test_memory_is_used_again_when_nobody_has_it_any_more():
    memory = buffers.Buffers()
    first, second = memory.take(1000), memory.take(1000)
    addresses = [first.ctypes.data, second.ctypes.data]
    assert not np.shares_memory(first, second)
    assert all(address % 64 == 0 for address in addresses)
    part = second[10:]
    first[:], part[:] = 1, 2
    del first, second
    assert memory.take(900).ctypes.data == addresses[0]
    assert len(memory.take(5000)) == 5000
    # What one batch needed, others may need.
    assert len(memory.take(100)) == 5000
    # A part keeps all of it.
    assert np.all(part == 2)
    del part
    assert memory.take(1000).ctypes.data == addresses[1]
