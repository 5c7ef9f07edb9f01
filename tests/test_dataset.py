"""Batches are the same for any world, threads and start; damage is named."""

import collections
import dataclasses
import functools
import gc
import os
import re
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf

import image_data
from hvd_imagenet import dataset, mixing, order, preprocessing, retries, splits
from hvd_imagenet.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizationConfig,
    PhaseConfig,
    RunConfig,
    ScheduleConfig,
)
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.pipeline import Batch
from hvd_imagenet.plan import make_plan
from hvd_imagenet.world import World

_SIZE = 16
_CLASSES = 5
_TRAIN_IMAGES = 23
_VALIDATION_IMAGES = 13
_MICRO_BATCH = 2
_GLOBAL_BATCH = 8
_EPOCHS = 2
# 46 images in steps of 8: the last step takes 2 more, of a further epoch.
_STEPS = 6

# The window is all of a square image, so that damage to any part shows.
_WHOLE = {"crop_area_min": 1.0, "crop_aspect_min": 1.0, "crop_aspect_max": 1.0}


def _encoded(split, number):
    """An image of its own, square, some of them PNG."""
    pixels = image_data.pixels(40, 40, [split == "train", number])
    return image_data.encode(pixels, "JPEG" if number % 4 else "PNG")


def _label(number):
    return number % _CLASSES


def _write(directory, spoil=None):
    """Both splits in shards of different lengths.

    Args:
        directory: to write to.
        spoil: function of (split, number, record) that gives the record to
            write in its place.
    """
    for split, sizes in (("train", (9, 3, 11)), ("validation", (6, 7))):
        numbers = iter(range(sum(sizes)))
        shards = []
        for size in sizes:
            records = []
            for _ in range(size):
                number = next(numbers)
                encoded = _encoded(split, number)
                record = image_data.example(encoded, _label(number) + 1)
                if spoil is not None:
                    record = spoil(split, number, record)
                records.append(record)
            shards.append(records)
        image_data.write_shards(directory, split, shards)
    return directory


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("clean"))


def _config(data_dir, *, seed=3, global_batch_size=_GLOBAL_BATCH, **data):
    return Config(
        model=ModelConfig(num_classes=_CLASSES, image_size=_SIZE),
        data=DataConfig(
            data_dir=data_dir and os.fspath(data_dir),
            **{"label_offset": 1, **data},
        ),
        optimization=OptimizationConfig(
            epochs=_EPOCHS,
            global_batch_size=global_batch_size,
            batch_size_per_process=_MICRO_BATCH,
        ),
        schedule=ScheduleConfig(warmup_epochs=0.0),
        run=RunConfig(seed=seed),
    )


def _plan(config, source, split, size=1):
    images = {
        "train": config.data.train_images or _TRAIN_IMAGES,
        "validation": config.data.validation_images or _VALIDATION_IMAGES,
    }
    assert len(source) == images[split]
    return make_plan(
        config,
        world_size=size,
        train_images=images["train"],
        validation_images=images["validation"],
    )


def _batches(config, split, *, rank=0, size=1, threads=2, first_step=0):
    source = splits.open_split(config, split)
    plan = _plan(config, source, split, size)
    world = World(rank=rank, size=size, local_rank=rank, local_size=size)
    if split == "train":
        return dataset.training_batches(
            config,
            plan,
            source,
            world,
            threads=threads,
            first_step=first_step,
        )
    return dataset.evaluation_batches(
        config, plan, source, world, threads=threads
    )


def _arrays(batches):
    """The batches as NumPy arrays, of exactly their documented types."""
    arrays = [
        Batch(*(None if field is None else field.numpy() for field in each))
        for each in batches
    ]
    for batch in arrays:
        count = _MICRO_BATCH
        assert batch.images.shape == (count, _SIZE, _SIZE, 3)
        assert batch.images.dtype == np.uint8
        for name, dtype in (
            ("labels", np.int32),
            ("weights", np.float32),
            ("indices", np.int64),
        ):
            assert getattr(batch, name).shape == (count,)
            assert getattr(batch, name).dtype == dtype
    return arrays


def _stream(config, size=1, **options):
    """The training micro-batches of all ranks, in the order of the stream.

    Micro-batch i of rank r is number i x size + r.
    """
    by_rank = [
        _arrays(_batches(config, "train", rank=rank, size=size, **options))
        for rank in range(size)
    ]
    assert len(set(map(len, by_rank))) == 1
    return [batch for group in zip(*by_rank, strict=True) for batch in group]


def _assert_same(first, second):
    """The same bits in every field of every batch."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in Batch._fields:
            np.testing.assert_array_equal(
                getattr(one, name), getattr(other, name), name
            )


def _joined(batches, name):
    return np.concatenate([getattr(batch, name) for batch in batches])


def _images(batches):
    """[(index, image)] in order, padding too."""
    indices, images = _joined(batches, "indices"), _joined(batches, "images")
    return [(int(i), image) for i, image in zip(indices, images, strict=True)]


@pytest.fixture(scope="module")
def stream(data_dir):
    """All training micro-batches of one rank alone."""
    return _stream(_config(data_dir))


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_together_see_what_one_sees(data_dir, stream, size):
    _assert_same(_stream(_config(data_dir), size), stream)


@pytest.mark.parametrize("on_corrupt", ["fail", "skip"])
def test_randaugment_sees_neither_ranks_nor_threads(
    data_dir, stream, on_corrupt
):
    config = _config(
        data_dir,
        randaugment_layers=2,
        randaugment_magnitude=6.0,
        randaugment_magnitude_std=0.5,
        on_corrupt=on_corrupt,
    )
    alone = _stream(config, threads=1)
    _assert_same(_stream(config, 2, threads=3), alone)
    np.testing.assert_array_equal(
        _joined(alone, "indices"), _joined(stream, "indices")
    )
    pairs = zip(_images(alone), _images(stream), strict=True)
    same = [np.array_equal(one[1], other[1]) for one, other in pairs]
    # A quarter, by chance of two operations that are both not done.
    assert 0.05 < np.mean(same) < 0.5


def test_every_epoch_sees_every_image_once(stream):
    indices = _joined(stream, "indices")
    assert len(indices) == _STEPS * _GLOBAL_BATCH
    for epoch in range(_EPOCHS):
        seen = indices[epoch * _TRAIN_IMAGES :][:_TRAIN_IMAGES]
        assert sorted(seen) == list(range(_TRAIN_IMAGES))
    first, second = np.split(indices[: 2 * _TRAIN_IMAGES], 2)
    assert not np.array_equal(first, second)
    # The rest belongs to an epoch that the run does not finish.
    assert len(set(indices[2 * _TRAIN_IMAGES :])) == 2
    np.testing.assert_array_equal(_joined(stream, "weights"), 1)


def test_labels_are_those_of_the_images(stream):
    indices = _joined(stream, "indices")
    np.testing.assert_array_equal(_joined(stream, "labels"), _label(indices))


def test_images_are_cropped_by_seed_epoch_and_image(data_dir, stream):
    config = _config(data_dir)
    prepare = preprocessing.make_preprocessing(config.data, _SIZE)
    crops = collections.defaultdict(set)
    for position, (index, image) in enumerate(_images(stream)):
        epoch = position // _TRAIN_IMAGES
        seed = tf.constant([(3 << 32) + epoch, index], tf.int64)
        expected = prepare.train_image(_encoded("train", index), seed)
        np.testing.assert_array_equal(image, expected)
        crops[index].add(image.tobytes())
    # Every epoch crops an image anew.
    assert all(len(of_image) >= 2 for of_image in crops.values())


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_change_nothing(data_dir, stream, threads):
    _assert_same(_stream(_config(data_dir), threads=threads), stream)


@pytest.mark.parametrize(
    ("size", "first_step"), [(1, 1), (1, 3), (2, 2), (4, 5), (1, _STEPS)]
)
def test_a_resumed_run_gets_the_rest(data_dir, stream, size, first_step):
    rest = _stream(_config(data_dir), size, first_step=first_step)
    done = first_step * _GLOBAL_BATCH // _MICRO_BATCH
    _assert_same(rest, stream[done:])


def test_another_seed_is_another_order_and_other_crops(data_dir, stream):
    other = _stream(_config(data_dir, seed=4))
    first, second = (_joined(each, "indices") for each in (stream, other))
    assert not np.array_equal(first, second)

    first, second = (
        {
            index: image.tobytes()
            for index, image in _images(each)[:_TRAIN_IMAGES]
        }
        for each in (stream, other)
    )
    assert first.keys() == second.keys()
    assert all(first[index] != second[index] for index in first)


@pytest.mark.parametrize("on_corrupt", ["fail", "skip"])
def test_draws_are_by_the_place_in_the_stream(data_dir, stream, on_corrupt):
    assert all(batch.mixing is None for batch in stream)
    mixed = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}
    config = _config(data_dir, on_corrupt=on_corrupt, **mixed)
    one = _stream(config)
    for number, batch in enumerate(one):
        expected = mixing.draw(config.data, 3, number * _MICRO_BATCH)
        np.testing.assert_array_equal(batch.mixing, expected)
    assert len({batch.mixing.tobytes() for batch in one}) == len(one)
    # Mixing is left to the device.
    _assert_same([batch._replace(mixing=None) for batch in one], stream)
    _assert_same(_stream(config, 2), one)
    done = 2 * _GLOBAL_BATCH // _MICRO_BATCH
    _assert_same(_stream(config, 4, first_step=2), one[done:])
    assert all(b.mixing is None for b in _batches(config, "validation"))


# TensorFlow itself keeps all functions that it has ever called.
@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    "knobs", [{}, {"on_corrupt": "skip"}, {"mixup_alpha": 0.2}]
)
def test_files_are_let_go_with_the_batches(data_dir, split, knobs):
    config = _config(data_dir, **knobs)
    before = len(os.listdir("/proc/self/fd"))
    source = splits.open_split(config, split)
    plan = _plan(config, source, split)
    make = {
        "train": dataset.training_batches,
        "validation": dataset.evaluation_batches,
    }[split]
    world = World(rank=0, size=1, local_rank=0, local_size=1)
    batches = make(config, plan, source, world, threads=2)
    next(batches)
    held = weakref.ref(source)
    del source
    gc.collect()
    assert held() is not None  # By the batches, which are not over.
    for _ in batches:
        pass
    del batches
    gc.collect()
    assert held() is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_evaluation_images_are_in_order_and_cropped_in_the_center(data_dir):
    config = _config(data_dir)
    batches = _arrays(_batches(config, "validation"))
    prepare = preprocessing.make_preprocessing(config.data, _SIZE)
    images = _joined(batches, "images")
    for index in range(_VALIDATION_IMAGES):
        expected = prepare.evaluation_image(_encoded("validation", index))
        np.testing.assert_array_equal(images[index], expected)
    np.testing.assert_array_equal(
        _joined(batches, "labels")[:_VALIDATION_IMAGES],
        _label(np.arange(_VALIDATION_IMAGES)),
    )


# 13 images in batches of 2: of 3 ranks one has half a batch at the end and the
# others an empty one, of 8 ranks the last has no image at all.
@pytest.mark.parametrize(
    ("size", "steps", "empty_ranks"), [(1, 7, 0), (3, 3, 0), (8, 1, 1)]
)
def test_evaluation_counts_every_image_once(data_dir, size, steps, empty_ranks):
    config = _config(data_dir, global_batch_size=None)
    clean = _arrays(_batches(config, "validation"))
    images = dict(_images(clean))
    seen, empty = [], 0
    for rank in range(size):
        batches = _arrays(_batches(config, "validation", rank=rank, size=size))
        # As many for all ranks, or their collectives would not meet.
        assert len(batches) == steps
        indices = _joined(batches, "indices")
        weights = _joined(batches, "weights")
        padding = indices == -1
        np.testing.assert_array_equal(weights, np.where(padding, 0, 1))
        assert not _joined(batches, "images")[padding].any()
        assert not _joined(batches, "labels")[padding].any()
        for index, image in _images(batches):
            np.testing.assert_array_equal(image, images[index])
        seen.extend(indices[~padding])
        empty += bool(padding.all())
    assert sorted(seen) == list(range(_VALIDATION_IMAGES))
    assert empty == empty_ranks


def test_evaluation_has_a_batch_size_of_its_own(data_dir):
    config = _config(data_dir)
    config = Config(
        model=config.model,
        data=config.data,
        optimization=config.optimization,
        schedule=config.schedule,
        run=RunConfig(evaluation_batch_size_per_process=5),
    )
    batches = list(_batches(config, "validation"))
    assert [len(batch.indices) for batch in batches] == [5, 5, 5]
    indices = np.concatenate([batch.indices for batch in batches])
    np.testing.assert_array_equal(indices, [*range(13), -1, -1])


def _example(encoded, number):
    return image_data.example(encoded, _label(number) + 1)


def _not_an_image(split, number, record):
    return _example(b"no image \xff\xfe", number)


def _truncated(split, number, record):
    encoded = image_data.encode(image_data.pixels(40, 40, number))
    return _example(encoded[: len(encoded) * 2 // 3], number)


def _label_too_large(split, number, record):
    return image_data.example(_encoded(split, number), _CLASSES + 1)


def _label_too_small(split, number, record):
    # What data that counts from 0 has for the first class.
    return image_data.example(_encoded(split, number), 0)


def _not_an_example(split, number, record):
    # No text: TensorFlow repeats it in its error nevertheless.
    return b"\xff\xfe\xfd no example"


def _without_label(split, number, record):
    feature = tf.train.Feature(
        bytes_list=tf.train.BytesList(value=[_encoded(split, number)])
    )
    features = tf.train.Features(feature={"image/encoded": feature})
    return tf.train.Example(features=features).SerializeToString()


def _bad_crc(split, number, record):
    return record  # Damaged in the file, below.


# Number of the train image that is spoilt, in the second or third shard, and
# its number there; the same for validation.
_BAD = {"train": (10, "train-00001-of-00003", 1)}
_BAD["validation"] = (8, "validation-00001-of-00002", 2)

# What is done to a record, and what the message says of it.
_DAMAGES = {
    "not an image": (_not_an_image, "Unknown image file format"),
    "truncated": (_truncated, "Invalid JPEG"),
    "label too large": (
        _label_too_large,
        "outside the 5 classes of --num_classes",
    ),
    "label too small": (_label_too_small, "--label_offset=1"),
    "not an Example": (_not_an_example, "(?i)example"),
    "without label": (_without_label, "image/class/label"),
    "bad CRC": (_bad_crc, "does not match its CRC-32C"),
}


def _flip_data(path, record):
    """Flips a bit in the data of the first record of a file with it."""
    content = bytearray(path.read_bytes())
    position = content.index(record) + len(record) // 2
    content[position] ^= 1
    path.write_bytes(bytes(content))


def _write_spoilt(directory, damages):
    """Data in which images are spoilt: {(split, number): damage}."""
    crc = []

    def spoil(split, number, record):
        damage = damages.get((split, number))
        if damage is None:
            return record
        if damage is _bad_crc:
            crc.append((split, record))
        return damage(split, number, record)

    _write(directory, spoil)
    for split, record in crc:
        (path,) = [
            path
            for path in directory.glob(f"{split}-*")
            if record in path.read_bytes()
        ]
        _flip_data(path, record)
    return directory


@pytest.mark.parametrize("damage", _DAMAGES)
@pytest.mark.parametrize(
    ("split", "kernel"),
    [("train", "auto"), ("train", "tensorflow"), ("validation", "auto")],
)
def test_damage_stops_the_run_and_is_named(tmp_path, split, kernel, damage):
    spoil, reason = _DAMAGES[damage]
    number, shard, record = _BAD[split]
    _write_spoilt(tmp_path, {(split, number): spoil})
    config = _config(tmp_path, input_kernel=kernel, **_WHOLE)
    batches = _batches(config, split)
    if split == "train":
        stream, _ = order.images_at(range(_TRAIN_IMAGES), 3, _TRAIN_IMAGES)
        position = int(np.argmax(stream == number))
    else:
        position = number
    done = []
    with pytest.raises(CorruptRecordError) as caught:
        for batch in batches:
            done.extend(batch.indices.numpy())
    # All batches before the one that needs it were delivered.
    assert len(done) == position // _MICRO_BATCH * _MICRO_BATCH
    assert len(done) > 0
    message = str(caught.value)
    assert message.startswith(f"record {record} of {tmp_path}/{shard} ")
    assert re.search(reason, message)
    assert message.endswith("with --on_corrupt=skip.")
    # For people: no traces of the graph.
    assert "\n" not in message
    assert "node" not in message
    assert "tf.Tensor" not in message


_SKIPPED = {
    "train": (2, 5, 7, 9, 14, 20, 22),
    "validation": (0, 1, 3, 6, 7, 11, 12),
}


@pytest.fixture(scope="module")
def spoilt_dir(tmp_path_factory):
    """Every kind of damage, once in each split."""
    damages = {
        (split, number): spoil
        for split, numbers in _SKIPPED.items()
        for number, (spoil, _) in zip(numbers, _DAMAGES.values(), strict=True)
    }
    return _write_spoilt(tmp_path_factory.mktemp("spoilt"), damages)


def _assert_skipped(actual, clean, bad):
    """As without damage, but for the images in `bad`."""
    assert len(actual) == len(clean)
    for one, other in zip(actual, clean, strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        damaged = np.isin(other.indices, bad)
        np.testing.assert_array_equal(
            one.weights, np.where(damaged, 0, other.weights)
        )
        np.testing.assert_array_equal(
            one.images,
            np.where(damaged[:, None, None, None], 0, other.images),
        )
        np.testing.assert_array_equal(
            one.labels[~damaged], other.labels[~damaged]
        )
        # A label that the loss can be computed for, though it is not counted.
        assert np.all((one.labels >= 0) & (one.labels < _CLASSES))


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("threads", [1, 3])
def test_damage_is_skipped_and_named_on_request(
    data_dir, spoilt_dir, split, threads
):
    bad = _SKIPPED[split]
    clean = _arrays(_batches(_config(data_dir, **_WHOLE), split))
    config = _config(spoilt_dir, on_corrupt="skip", **_WHOLE)
    batches = _batches(config, split, threads=threads)
    assert batches.skipped == []
    _assert_skipped(_arrays(batches), clean, bad)
    # In the order of the batches, and once for every time it was needed.
    source = splits.open_split(config, split)
    indices = _joined(clean, "indices")
    assert batches.skipped == [
        source.where(index) for index in indices if index in bad
    ]
    assert len(set(batches.skipped)) == len(bad)


@pytest.mark.parametrize("on_corrupt", ["fail", "skip"])
def test_the_compiled_operation_makes_the_same_batches(
    data_dir, spoilt_dir, on_corrupt
):
    directory = data_dir if on_corrupt == "fail" else spoilt_dir
    knobs = {"on_corrupt": on_corrupt, "mixup_alpha": 0.2}
    batches, plain = (
        _batches(_config(directory, input_kernel=kernel, **knobs), "train")
        for kernel in ("auto", "tensorflow")
    )
    _assert_same(_arrays(batches), _arrays(plain))
    assert batches.skipped == plain.skipped
    assert bool(plain.skipped) == (on_corrupt == "skip")


def test_skipping_is_the_same_for_any_world(spoilt_dir):
    config = _config(spoilt_dir, on_corrupt="skip", **_WHOLE)
    alone = _stream(config)
    assert (_joined(alone, "weights") == 0).any()
    _assert_same(_stream(config, 2), alone)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_skip_changes_nothing_about_clean_data(data_dir, split):
    fail = _arrays(_batches(_config(data_dir), split))
    batches = _batches(_config(data_dir, on_corrupt="skip"), split)
    _assert_same(_arrays(batches), fail)
    assert batches.skipped == []


def test_labels_may_count_from_zero(data_dir):
    # Stored labels are 1 to 5; counted from 0 that is one class too many.
    config = _config(data_dir, label_offset=0)
    with pytest.raises(CorruptRecordError, match="--label_offset=0"):
        list(_batches(config, "validation"))
    config = Config(
        model=ModelConfig(num_classes=_CLASSES + 1, image_size=_SIZE),
        data=config.data,
        optimization=config.optimization,
        schedule=config.schedule,
    )
    batches = _arrays(_batches(config, "validation"))
    labels = _joined(batches, "labels")[:_VALIDATION_IMAGES]
    np.testing.assert_array_equal(
        labels, _label(np.arange(_VALIDATION_IMAGES)) + 1
    )


class _SlowSource:
    """Images that take their time to be read."""

    features = None
    seconds = 0.05

    def __len__(self):
        return _VALIDATION_IMAGES

    def read(self, index):
        time.sleep(self.seconds)
        return _encoded("validation", index), 0

    def where(self, index):
        return str(index)


def test_waiting_is_measured_and_starts_again_when_taken():
    config = _config(None)
    source = _SlowSource()
    plan = _plan(config, source, "validation")
    batches = dataset.evaluation_batches(
        config, plan, source, World(), threads=1
    )
    start = time.perf_counter()
    next(batches)
    passed = time.perf_counter() - start
    waited = batches.take_wait_seconds()
    # Two images to a batch.
    assert 2 * source.seconds <= waited <= passed
    assert batches.take_wait_seconds() == 0
    # What others do meanwhile is no waiting for data.
    time.sleep(3 * source.seconds)
    assert batches.take_wait_seconds() == 0


@functools.cache
def _folder_images(split):
    images = collections.defaultdict(dict)
    count = _TRAIN_IMAGES if split == "train" else _VALIDATION_IMAGES
    for number in range(count):
        name = f"{number:02d}.JPEG"
        images[f"n{_label(number):08d}"][name] = _encoded(split, number)
    return images


@pytest.fixture
def folder(tmp_path):
    """The images of the TFRecords, in an image folder."""
    for split, name in (("train", "train"), ("validation", "val")):
        image_data.write_folders(tmp_path / name, _folder_images(split))
    return tmp_path


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_folder_gives_batches(folder, split):
    config = _config(folder)
    batches = _arrays(_batches(config, split))
    source = splits.open_split(config, split)
    prepare = preprocessing.make_preprocessing(config.data, _SIZE)
    weights = _joined(batches, "weights")
    indices = _joined(batches, "indices")[weights == 1]
    assert set(indices) == set(range(len(source)))
    for position, index in enumerate(indices):
        encoded, label = source.read(int(index))
        if split == "train":
            epoch = position // _TRAIN_IMAGES
            seed = tf.constant([(3 << 32) + epoch, index], tf.int64)
            expected = prepare.train_image(encoded, seed)
        else:
            expected = prepare.evaluation_image(encoded)
        batch, place = divmod(position, _MICRO_BATCH)
        np.testing.assert_array_equal(batches[batch].images[place], expected)
        assert batches[batch].labels[place] == label


def test_a_missing_or_spoilt_image_of_a_folder_stops_the_run(
    folder, monkeypatch
):
    monkeypatch.setattr(retries, "_PAUSES", (0.01,))
    missing = folder / "val" / "n00000000" / "05.JPEG"
    spoilt = folder / "val" / "n00000003" / "08.JPEG"
    spoilt.write_bytes(b"no image")
    config = _config(folder)
    batches = _batches(config, "validation")
    # After it was listed, and before anything was read.
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(
        CorruptRecordError,
        match=f"^{re.escape(str(missing))} cannot be read: No such file.*skip",
    ):
        list(batches)
    missing.write_bytes(content)
    with pytest.raises(
        CorruptRecordError,
        match=f"^{re.escape(str(spoilt))} cannot be used: Unknown image.*skip",
    ):
        list(_batches(config, "validation"))


def test_missing_and_spoilt_images_of_a_folder_are_skipped(folder, monkeypatch):
    monkeypatch.setattr(retries, "_PAUSES", (0.01,))
    missing = folder / "val" / "n00000000" / "05.JPEG"
    spoilt = folder / "val" / "n00000003" / "08.JPEG"
    spoilt.write_bytes(b"no image")
    batches = _batches(_config(folder, on_corrupt="skip"), "validation")
    missing.unlink()
    arrays = _arrays(batches)
    assert _joined(arrays, "weights").sum() == _VALIDATION_IMAGES - 2
    assert batches.skipped == [str(missing), str(spoilt)]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_synthetic_images_give_batches(split):
    config = _config(
        None,
        data_format="synthetic",
        train_images=_TRAIN_IMAGES,
        validation_images=_VALIDATION_IMAGES,
    )
    batches = _arrays(_batches(config, split))
    weights = _joined(batches, "weights")
    indices = _joined(batches, "indices")[weights == 1]
    labels = _joined(batches, "labels")[weights == 1]
    images = {image.tobytes() for image in _joined(batches, "images")}
    np.testing.assert_array_equal(labels, indices % _CLASSES)
    if split == "train":
        assert len(indices) == _STEPS * _GLOBAL_BATCH
        assert len(images) == len(indices)
        _assert_same(_stream(config, 2), batches)
    else:
        np.testing.assert_array_equal(indices, range(_VALIDATION_IMAGES))


# --- Phases. ---


def _phased(data_dir):
    """_SIZE pixels in batches of _MICRO_BATCH, later 24 in batches of 2."""
    return dataclasses.replace(
        _config(
            data_dir,
            crop_area_min=1.0,
            horizontal_flip=False,
            mixup_alpha=1.0,
        ),
        phases=PhaseConfig(
            phase_epochs=(1.0,),
            phase_image_sizes=(24,),
            phase_global_batch_sizes=(2 * _GLOBAL_BATCH,),
            phase_batch_sizes_per_process=(2,),
        ),
    )


def test_a_phase_changes_image_size_and_batch(data_dir):
    config = _phased(data_dir)
    source = splits.open_split(config, "train")
    plan = _plan(config, source, "train", 2)
    first, second = plan.phases.phases
    per_rank = [_batches(config, "train", rank=r, size=2) for r in range(2)]
    for step in range(plan.total_steps):
        phase = second if step >= second.first_step else first
        size = phase.image_size
        begun, taken = plan.images_before(step), []
        for _ in range(phase.accumulation_steps):
            for batches in per_rank:
                batch = next(batches)
                np.testing.assert_array_equal(
                    batch.mixing,
                    mixing.draw(config.data, 3, begun + len(taken)),
                )
                assert batch.images.shape == (
                    phase.batch_size_per_process,
                    size,
                    size,
                    3,
                )
                taken.extend(batch.indices.numpy().tolist())
        images, _ = order.images_at(
            range(begun, begun + phase.global_batch_size),
            config.run.seed,
            plan.train_images,
        )
        assert taken == images.tolist()
    for batches in per_rank:
        with pytest.raises(StopIteration):
            next(batches)


@pytest.mark.parametrize("later", [-1, 0, 1])
def test_a_run_is_resumed_around_the_beginning_of_a_phase(data_dir, later):
    config = _phased(data_dir)
    source = splits.open_split(config, "train")
    plan = _plan(config, source, "train")
    second = plan.phases.phases[1]
    done = second.first_step + later
    whole = list(_batches(config, "train"))
    rest = list(_batches(config, "train", first_step=done))
    per_step = [plan.phase(s).accumulation_steps for s in range(done)]
    assert len(whole) == sum(per_step) + len(rest)
    for ours, theirs in zip(rest, whole[sum(per_step) :], strict=True):
        for field, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(field, expected)


def test_a_corrupt_record_of_a_later_phase_is_named(tmp_path):
    number, shard, record = _BAD["train"]
    _write_spoilt(tmp_path, {("train", number): _not_an_image})
    config = _phased(tmp_path)
    plan = _plan(config, splits.open_split(config, "train"), "train")
    second = plan.phases.phases[1]
    stream, _ = order.images_at(
        range(second.first_position, second.first_position + _TRAIN_IMAGES),
        config.run.seed,
        _TRAIN_IMAGES,
    )
    position = int(np.argmax(stream == number))
    done = []
    with pytest.raises(CorruptRecordError) as caught:
        for batch in _batches(config, "train", first_step=second.first_step):
            done.extend(batch.indices.numpy())
    assert len(done) == position // 2 * 2 > 0
    assert str(caught.value).startswith(
        f"record {record} of {tmp_path}/{shard} "
    )
