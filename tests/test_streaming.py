"""Streams: every image once, in an order of its own, from any file system."""

import dataclasses
import json
import os
import pathlib
import shutil
import threading
import time
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

import image_data
import jobs
import tfds_data
from hvd_imagenet import dataset, label_offset, retries, splits
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
from hvd_imagenet.packing import job as packing_job
from hvd_imagenet.packing.options import PackOptions
from hvd_imagenet.plan import make_plan
from hvd_imagenet.stream_order import LANES, Part, StreamOrder
from hvd_imagenet.streaming import StreamedSource, StreamReader
from hvd_imagenet.world import World

_CLASSES = 5
_SIZES = (9, 3, 0, 14, 11, 10)
_IMAGES = sum(_SIZES)
_VALIDATION_SIZES = (6, 7)
_VALIDATION_IMAGES = sum(_VALIDATION_SIZES)
_BUFFER = 8


def _label(number):
    return number % _CLASSES


def _write(directory):
    for split, sizes in (("train", _SIZES), ("validation", _VALIDATION_SIZES)):
        numbers = iter(range(sum(sizes)))
        shards = []
        for size in sizes:
            shard = []
            for number in (next(numbers) for _ in range(size)):
                pixels = image_data.pixels(24, 24, [split == "train", number])
                encoded = image_data.encode(pixels)
                shard.append(image_data.example(encoded, _label(number) + 1))
            shards.append(shard)
        image_data.write_shards(directory, split, shards)
    return directory


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("stream"))


@pytest.fixture
def own_data_dir(data_dir, tmp_path):
    return pathlib.Path(shutil.copytree(data_dir, tmp_path / "own"))


def _config(data_dir, workdir=None, *, optimization=None, phases=None, **data):
    data = {
        "shuffle": "buffered",
        "shuffle_buffer_size": _BUFFER,
        "label_offset": 1,
    } | data
    return Config(
        model=ModelConfig(num_classes=_CLASSES, image_size=16),
        data=DataConfig(data_dir=os.fspath(data_dir), **data),
        optimization=optimization
        or OptimizationConfig(
            epochs=3,
            global_batch_size=6,
            batch_size_per_process=1,
        ),
        schedule=ScheduleConfig(warmup_epochs=0.0),
        phases=phases or PhaseConfig(),
        run=RunConfig(workdir=workdir and os.fspath(workdir)),
    )


def _plan(config, world_size):
    return make_plan(
        config,
        world_size=world_size,
        train_images=_IMAGES,
        validation_images=_VALIDATION_IMAGES,
    )


def _order(config, world_size, rank, images=_IMAGES, sizes=_SIZES):
    """The stream of a rank, as the training makes it."""
    plan = make_plan(
        config,
        world_size=world_size,
        train_images=images,
        validation_images=1,
    )
    parts = [
        Part(f"file {number}", 0, size, is_end=True)
        for number, size in enumerate(sizes)
    ]
    return StreamOrder(
        parts,
        rows_before=lambda epochs, rank: plan.rows_before(
            epochs * images, rank
        ),
        rank=rank,
        seed=config.run.seed,
        buffer_size=config.data.shuffle_buffer_size,
    )


# --- The order. ---


@pytest.mark.parametrize("world_size", [1, 3, 8, 256])
def test_every_image_once_per_epoch_at_any_world(world_size):
    images, sizes = 30_011, [117] * 256 + [59]
    config = _config(
        "/data",
        optimization=OptimizationConfig(batch_size_per_process=4),
    )
    orders = [
        _order(config, world_size, rank, images, sizes)
        for rank in range(world_size)
    ]
    previous = None
    for epoch in range(3):
        stretches = [order.stretch(epoch) for order in orders]
        everything = np.concatenate([each.images for each in stretches])
        assert sorted(everything) == list(range(images))
        assert previous is None or (everything != previous).mean() > 0.9
        lengths = [len(each) for each in stretches]
        assert max(lengths) - min(lengths) <= 4  # A micro-batch.
        previous = everything


def test_the_same_seed_gives_the_same_order_and_another_one_another():
    first = _order(_config("/data"), 2, 1).images_at(range(60))
    again = _order(_config("/data"), 2, 1).images_at(range(60))
    np.testing.assert_array_equal(first, again)
    config = _config("/data")
    other = dataclasses.replace(config, run=RunConfig(seed=1))
    assert (_order(other, 2, 1).images_at(range(60))[0] != first[0]).any()


def test_the_order_is_kept_between_versions():
    # A run could not be resumed otherwise.
    images, epochs = _order(_config("/data"), 2, 1).images_at(range(20, 30))
    assert images.tolist() == [23, 20, 24, 25, 10, 9, 26, 28, 27, 1]
    assert epochs.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]


def test_no_image_moves_further_than_the_buffer():
    images, sizes = 5_000, [100] * 50
    config = _config("/data", shuffle_buffer_size=64)
    stretch = _order(config, 1, 0, images, sizes).stretch(0)
    moved = stretch.places - np.arange(images)
    assert np.abs(moved).max() <= 64
    # And they do move: uniformly, as if by 64 x (u - 1/2).
    assert moved[100:-100].std() == pytest.approx(64 / 12**0.5, rel=0.05)


def test_files_are_read_in_turn_a_few_at_a_time():
    images, sizes = 5_000, [100] * 50
    stretch = _order(_config("/data"), 1, 0, images, sizes).stretch(0)
    open_files = np.zeros(images, int)
    for piece in stretch.pieces:
        open_files[piece.places[0] : piece.places[-1] + 1] += 1
    assert open_files.max() == LANES
    assert sorted(np.concatenate([p.places for p in stretch.pieces])) == list(
        range(images)
    )


def test_rows_are_those_of_the_plan_in_every_phase():
    config = _config(
        "/data",
        optimization=OptimizationConfig(
            epochs=4,
            global_batch_size=12,
            batch_size_per_process=2,
        ),
        phases=PhaseConfig(
            phase_epochs=(1.5,),
            phase_global_batch_sizes=(6,),
            phase_batch_sizes_per_process=(1,),
        ),
    )
    plan = _plan(config, 3)
    for rank in range(3):
        positions = [
            position
            for step in range(plan.total_steps)
            for index in range(plan.phase(step).accumulation_steps)
            for position in plan.micro_batch(step, index, rank)
        ]
        for position in range(plan.images_before(plan.total_steps)):
            expected = np.searchsorted(positions, position)
            assert plan.rows_before(position, rank) == expected


# --- What comes out. ---


def _batches(config, world_size=1, rank=0, source=None, **keywords):
    source = source or splits.open_split(config, "train")
    return dataset.training_batches(
        config,
        _plan(config, world_size),
        source,
        World(rank=rank, size=world_size),
        threads=2,
        **keywords,
    )


def _all(batches):
    """(images, labels, indices) of all batches."""
    taken = [
        (b.images.numpy(), b.labels.numpy(), b.indices.numpy()) for b in batches
    ]
    return tuple(np.concatenate(parts) for parts in zip(*taken, strict=True))


def _over(scheme, data_dir):
    """The same directory as another file system has it."""
    if scheme == "file":
        return f"file://{data_dir}"
    folder = f"ram://{data_dir}"
    tf.io.gfile.makedirs(folder)
    for path in filter(pathlib.Path.is_file, data_dir.iterdir()):
        there = f"{folder}/{path.name}"
        if tf.io.gfile.exists(there):
            tf.io.gfile.remove(there)
        tf.io.gfile.copy(os.fspath(path), there)
    return folder


@pytest.mark.parametrize("scheme", ["", "file", "ram"])
def test_images_are_those_that_random_access_gives(scheme, data_dir):
    where = _over(scheme, data_dir) if scheme else data_dir
    images, labels, indices = _all(_batches(_config(where)))
    at_random = _all(_batches(_config(data_dir, shuffle="global")))
    # The augmentation depends on epoch and image alone.
    for start in range(0, 3 * _IMAGES - _IMAGES + 1, _IMAGES):
        epoch = slice(start, start + _IMAGES)
        own, other = np.argsort(indices[epoch]), np.argsort(at_random[2][epoch])
        assert sorted(indices[epoch]) == list(range(_IMAGES))
        np.testing.assert_array_equal(
            images[epoch][own], at_random[0][epoch][other]
        )
    np.testing.assert_array_equal(labels, _label(indices))
    assert (indices != at_random[2]).any()


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_every_epoch(world_size, data_dir):
    config = _config(data_dir)
    plan = _plan(config, world_size)
    seen = np.zeros([5, _IMAGES], int)
    for rank in range(world_size):
        _, labels, indices = _all(_batches(config, world_size, rank))
        np.testing.assert_array_equal(labels, _label(indices))
        positions = [
            position
            for step in range(plan.total_steps)
            for index in range(plan.phase(step).accumulation_steps)
            for position in plan.micro_batch(step, index, rank)
        ]
        for position, image in zip(positions, indices, strict=True):
            seen[position // _IMAGES, image] += 1
    assert (seen[:3] == 1).all()


@pytest.mark.parametrize("first_step", [1, 7, 8, 15, 23])
def test_a_resumed_run_has_the_same_images(first_step, data_dir):
    config = _config(data_dir)
    whole = _all(_batches(config, 2, 1))
    rest = _all(_batches(config, 2, 1, first_step=first_step))
    taken = first_step * 6 // 2
    for before, after in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(before[taken:], after)


@pytest.mark.parametrize("scheme", ["", "ram"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_has_every_image_once(world_size, scheme, data_dir):
    config = _config(_over(scheme, data_dir) if scheme else data_dir)
    source = splits.open_split(config, "validation")
    seen = []
    for rank in range(world_size):
        batches = dataset.evaluation_batches(
            config,
            _plan(config, world_size),
            source,
            World(rank=rank, size=world_size),
            threads=2,
        )
        for batch in batches:
            is_image = batch.weights.numpy() == 1
            np.testing.assert_array_equal(
                batch.labels.numpy()[is_image],
                _label(batch.indices.numpy()[is_image]),
            )
            seen.extend(batch.indices.numpy()[is_image])
    assert sorted(seen) == list(range(_VALIDATION_IMAGES))


def test_a_reader_keeps_little_more_than_the_buffer(tmp_path):
    count = 3_000
    image_data.write_shards(
        tmp_path,
        "train",
        [[b"%d" % n for n in range(s, s + 100)] for s in range(0, count, 100)],
    )
    parts = [
        Part(os.fspath(path), 0, 100, is_end=True)
        for path in sorted(tmp_path.iterdir())
    ]
    source = StreamedSource(parts, None, "numbers")
    order = StreamOrder(
        parts,
        rows_before=lambda epochs, rank: epochs * count,
        rank=0,
        seed=0,
        buffer_size=64,
    )
    reader = StreamReader(source, order, 0)
    most = 0
    for start in range(0, 2 * count, 20):
        images, _ = reader.promise(range(start, start + 20))
        for image in images.tolist():
            assert reader.read(image) == (b"%d" % image, -1)
        time.sleep(0.0005)
        most = max(most, sum(map(len, reader._pool._records.values())))
    reader.close()
    assert 64 <= most <= 64 + 256 + 20


def test_threads_end_with_the_reader(data_dir):
    before = set(threading.enumerate())
    batches = _batches(_config(data_dir))
    next(batches)
    own = set(threading.enumerate()) - before
    assert len(own) >= LANES
    del batches
    for thread in own:
        thread.join(30)
    assert not any(thread.is_alive() for thread in own)


# --- Where the counts come from. ---


def _pack(source_dir, output, **options):
    options = PackOptions(
        data_dir=os.fspath(source_dir),
        output_dir=os.fspath(output),
        num_classes=_CLASSES,
        label_offset=1,
        train_shards=4,
        validation_shards=2,
        processes=1,
        **options,
    )
    packing_job.pack(options)
    return output


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_packed_set_says_its_counts_and_labels(
    encoding, data_dir, tmp_path, monkeypatch
):
    packed = _pack(data_dir, tmp_path / "packed", encoding=encoding)
    # Nobody counts: reading them all would take hours.
    monkeypatch.setattr(
        "hvd_imagenet.stream_sources._counts", lambda *_: pytest.fail("counted")
    )
    config = _config(_over("ram", packed), label_offset=None)
    sources = [splits.open_split(config, s) for s in ("train", "validation")]
    assert label_offset.settle(sources, _CLASSES) == 1
    _, labels, indices = _all(_batches(config, source=sources[0]))
    assert sorted(indices[:_IMAGES]) == list(range(_IMAGES))
    assert np.bincount(labels[:_IMAGES]).tolist() == [10, 10, 9, 9, 9]


def test_other_remote_files_are_counted_once(data_dir, tmp_path, monkeypatch):
    config = _config(_over("ram", data_dir), workdir=tmp_path)
    assert len(splits.open_split(config, "train")) == _IMAGES
    monkeypatch.setattr(
        "hvd_imagenet.stream_sources._count", lambda _: pytest.fail("counted")
    )
    assert len(splits.open_split(config, "train")) == _IMAGES


def test_a_changed_remote_file_is_counted_again(own_data_dir, tmp_path):
    config = _config(_over("ram", own_data_dir), workdir=tmp_path)
    splits.open_split(config, "train")
    image_data.write_records(
        own_data_dir / "train-00001-of-00006", [b"one", b"two"]
    )
    _over("ram", own_data_dir)
    assert len(splits.open_split(config, "train")) == _IMAGES - 1


def test_tfds_says_its_counts(tmp_path):
    tfds_data.prepare(
        tmp_path, "tfrecord", counts={"train": 20, "test": 3}, shards=3
    )
    at_random = Config(
        model=ModelConfig(num_classes=len(tfds_data.CLASSES)),
        data=DataConfig(
            data_dir=os.fspath(tmp_path),
            data_format="tfds",
            tfds_name="tiny",
            tfds_train_split="train[20%:70%]",
        ),
    )
    streamed = dataclasses.replace(
        at_random,
        data=dataclasses.replace(at_random.data, shuffle="buffered"),
    )
    one, other = (
        splits.open_split(config, "train") for config in (at_random, streamed)
    )
    assert len(one) == len(other) == 10
    for number in range(len(one)):
        assert one.read(number) == other.read(number)


def test_the_number_of_the_first_class_is_found_in_a_stream(data_dir):
    config = _config(data_dir, label_offset=None)
    sources = [splits.open_split(config, s) for s in ("train", "validation")]
    assert label_offset.settle(sources, _CLASSES) == 1
    assert "labels from 1" in sources[0].description


# --- What goes wrong. ---


def _spoil_bytes(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


_FAULTS = {
    "damaged": (_spoil_bytes, r"record \d+ of .*00003.* CRC-32C", 1, 1),
    "cut": (
        lambda path: os.truncate(path, os.path.getsize(path) * 2 // 3),
        r"record 9 of .*00003.* is cut",
        5,
        5,
    ),
    "gone": (pathlib.Path.unlink, r"00003-of-00006 cannot be read", 14, 14),
    "no TFRecords": (
        lambda path: path.write_bytes(bytes(range(250))),
        r"record 0 of .*00003.* no TFRecord file",
        14,
        14,
    ),
    "shorter": (
        lambda path: image_data.write_records(path, [b"x"] * 0),
        r"00003-of-00006 has fewer than the 14 records",
        14,
        14,
    ),
    "longer": (
        lambda path: path.write_bytes(path.read_bytes() * 2),
        r"00003-of-00006 has more than the 14 records",
        1,
        1,
    ),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_file_that_changes_ends_the_run_by_name(
    fault, own_data_dir, monkeypatch
):
    monkeypatch.setattr(retries, "_PAUSES", (0.01,))
    spoil, message, *_ = _FAULTS[fault]
    config = _config(own_data_dir)
    source = splits.open_split(config, "train")
    spoil(own_data_dir / "train-00003-of-00006")
    with pytest.raises(CorruptRecordError, match=message):
        _all(_batches(config, source=source))


@pytest.mark.parametrize("fault", _FAULTS)
def test_what_cannot_be_read_is_skipped_and_counted(
    fault, own_data_dir, monkeypatch
):
    monkeypatch.setattr(retries, "_PAUSES", (0.01,))
    spoil, _, least, most = _FAULTS[fault]
    config = _config(own_data_dir, on_corrupt="skip")
    source = splits.open_split(config, "train")
    spoil(own_data_dir / "train-00003-of-00006")
    batches = _batches(config, source=source)
    weights = [float(next(batches).weights.numpy()[0]) for _ in range(_IMAGES)]
    assert least <= weights.count(0.0) <= most
    assert len(batches.skipped) == weights.count(0.0)
    assert all("00003-of-00006" in name for name in batches.skipped)


def test_a_read_that_fails_for_a_while_is_tried_again(data_dir, monkeypatch):
    failures = iter([True] * 3)

    class Unsteady(tf.io.gfile.GFile):
        def read(self, n=-1):
            if next(failures, False):
                raise tf.errors.UnavailableError(None, None, "busy")
            return super().read(n)

    monkeypatch.setattr(tf.io.gfile, "GFile", Unsteady)
    monkeypatch.setattr(retries, "_PAUSES", (0.01, 0.01, 0.01))
    _, _, indices = _all(_batches(_config(data_dir)))
    assert sorted(indices[:_IMAGES]) == list(range(_IMAGES))
    assert next(failures, None) is None


def test_storage_that_does_not_answer_ends_the_run(data_dir, monkeypatch):
    def unavailable(self, n=-1):
        raise tf.errors.UnavailableError(None, None, "busy")

    source = splits.open_split(_config(data_dir), "train")
    monkeypatch.setattr(tf.io.gfile.GFile, "read", unavailable)
    monkeypatch.setattr(retries, "_PAUSES", (0.01, 0.01))
    with pytest.raises(CorruptRecordError, match="cannot be read: busy"):
        next(_batches(_config(data_dir), source=source))


@pytest.fixture
def stalled(data_dir, monkeypatch):
    """A reader whose reads do not return until the event is set."""
    held = threading.Event()
    read = tf.io.gfile.GFile.read

    def stall(self, n=-1):
        held.wait(60)
        return read(self, n)

    source = splits.open_split(_config(data_dir), "train")
    monkeypatch.setattr(tf.io.gfile.GFile, "read", stall)
    reader = StreamReader(source, _order(_config(data_dir), 1, 0), 0)
    yield reader, held
    held.set()
    reader.close()


def test_a_read_that_never_returns_is_given_up(stalled, monkeypatch):
    reader, _ = stalled
    monkeypatch.setattr("hvd_imagenet.stream_pool._PATIENCE_SECONDS", 0.5)
    images, _ = reader.promise(range(1))
    with pytest.raises(CorruptRecordError, match="was not read within"):
        reader.read(int(images[0]))


def test_who_waits_for_a_reader_that_ends_is_let_go(stalled):
    # What tf.data reads ahead when a run ends would hold its end up.
    reader, held = stalled
    images, _ = reader.promise(range(1))
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reader.read, int(images[0]))
        with pytest.raises(futures.TimeoutError):
            waiting.result(0.2)
        reader.close()
        with pytest.raises(CorruptRecordError, match="not read any more"):
            waiting.result(20)
    held.set()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"data_format": "folder"}, "--data_format=folder cannot be read in"),
        (
            {"data_dir": "gs://bucket/x", "shuffle": "global"},
            "--data_dir=gs://bucket/x is not a path of this host",
        ),
        ({"data_dir": "hdfs://x/y"}, "cannot read hdfs:// here, only"),
        ({"data_dir": "/no/such"}, "--data_dir=/no/such cannot be listed"),
        ({"label_offset": 0}, "--label_offset=0, but manifest.json"),
    ],
)
def test_what_cannot_be_streamed_is_refused(data, message, data_dir, tmp_path):
    packed = _pack(data_dir, tmp_path / "packed")
    config = _config(packed)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, **data)
    )
    with pytest.raises(ValueError, match=message):
        splits.open_split(config, "train")


def test_a_manifest_of_something_else_is_passed_over(own_data_dir):
    (own_data_dir / "manifest.json").write_text(json.dumps({"name": "app"}))
    source = splits.open_split(_config(own_data_dir), "train")
    assert len(source) == _IMAGES


# --- Real jobs. ---


@pytest.fixture(scope="module")
def streamed_run(patterns, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("streamed") / "run"
    _train(patterns, workdir)
    return workdir


def _train(data_dir, workdir):
    jobs.train(
        2,
        *jobs.RECIPE,
        f"--data_dir=file://{data_dir}",
        "--shuffle=buffered",
        "--shuffle_buffer_size=100",
        f"--workdir={workdir}",
    )


@pytest.mark.slow
def test_two_ranks_train_from_a_url_and_evaluate_exactly(streamed_run):
    losses = [m["loss"] for m in jobs.metrics(streamed_run)]
    assert len(losses) == jobs.RECIPE_STEPS
    assert losses[-1] < losses[0]
    assert jobs.result(streamed_run)["examples"] == 310


@pytest.mark.slow
def test_a_streamed_run_resumes_as_if_it_had_never_ended(
    patterns, streamed_run, tmp_path
):
    resumed = pathlib.Path(shutil.copytree(streamed_run, tmp_path / "resumed"))
    for step in (6, jobs.RECIPE_STEPS):
        (resumed / "checkpoints" / f"step_{step:08d}.npz").unlink()
    _train(patterns, resumed)
    last = f"checkpoints/step_{jobs.RECIPE_STEPS:08d}.npz"
    with (
        np.load(streamed_run / last) as one,
        np.load(resumed / last) as other,
    ):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
