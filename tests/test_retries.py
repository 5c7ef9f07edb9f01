"""Reads that fail for a while, by faults of the operating system's own.

A descriptor of /proc/self/mem stands in for one of failing storage: reads at
low addresses end with EIO.
"""

import contextlib
import logging
import os
import threading
import time
from concurrent import futures

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

import image_data
from hvd_imagenet import (
    arrayrecords,
    dataset,
    folders,
    retries,
    splits,
    tfrecords,
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
from hvd_imagenet.record_streams import RecordStream
from hvd_imagenet.world import World

# That do not compress: array_record would keep them all in one small block.
_RECORDS = [np.random.default_rng(n).bytes(50_000) for n in range(20)]


def _break_descriptors(path):
    """All that this process has open of a file fails from now on."""
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    with pytest.raises(OSError, match="Input/output error"):
        os.pread(memory, 1, 0)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.path.realpath(f"/proc/self/fd/{name}") == os.fspath(path):
                os.dup2(memory, int(name))
    os.close(memory)


@contextlib.contextmanager
def _absent_for(seconds, path):
    """A file or folder that is back after so many seconds."""
    away = path.with_name(f"{path.name}.away")
    path.rename(away)
    timer = threading.Timer(seconds, away.rename, [path])
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.fixture
def pauses(monkeypatch):
    monkeypatch.setattr(retries, "_PAUSES", (0.05, 0.1, 0.2, 0.4))


@pytest.fixture(params=["tfrecord", "array_record"])
def opened(request, tmp_path):
    """(path, reader of its 20 records)."""
    path = tmp_path / "train-00000-of-00001"
    if request.param == "tfrecord":
        image_data.write_records(path, _RECORDS)
        index = tfrecords.build_index([path])
        reader = tfrecords.RecordReader([os.fspath(path)], index)
        return path, reader
    writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
    for record in _RECORDS:
        writer.write(record)
    writer.close()
    reader = arrayrecords.ArrayRecordReader([os.fspath(path)])
    reader.read(0)  # It opens what it reads when that is first asked for.
    return path, reader


def _warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARN]


def test_all_is_tried_for_fifteen_seconds_at_most():
    assert sum(retries._PAUSES) == 15
    assert len(retries._PAUSES) == 4


def test_a_descriptor_that_fails_is_replaced_and_named_once(
    opened, pauses, caplog
):
    path, reader = opened
    _break_descriptors(path)
    with futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(reader.read, range(len(_RECORDS))))
    assert read == _RECORDS
    warnings = _warnings(caplog)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{path} cannot be read: ")
    assert "Input/output error" in warnings[0]


def test_a_file_that_comes_back_is_opened_anew(opened, pauses):
    path, reader = opened
    assert reader.read(3) == _RECORDS[3]
    _break_descriptors(path)
    with _absent_for(0.1, path):
        assert reader.read(4) == _RECORDS[4]


def test_storage_that_stays_away_is_named_and_then_believed(
    opened, pauses, monkeypatch
):
    path, reader = opened
    path.rename(path.with_name("away"))
    _break_descriptors(path.with_name("away"))
    begin = time.monotonic()
    with pytest.raises(
        CorruptRecordError,
        match=rf"^record 7 of {path}.* cannot be read: .*Input/output error.*,"
        r" in 5 tries over 1 s\.$",
    ):
        reader.read(7)
    assert 0.75 <= time.monotonic() - begin < 10
    # Who leaves out what cannot be read does not wait at every record.
    begin = time.monotonic()
    for record in range(len(_RECORDS)):
        with pytest.raises(CorruptRecordError, match=r"output error[^,]*\.$"):
            reader.read(record)
    assert time.monotonic() - begin < 1
    monkeypatch.setattr(retries, "_BELIEVED_SECONDS", 0.0)
    reader._retries._believed_until = 0.0
    with pytest.raises(CorruptRecordError, match="in 5 tries"):
        reader.read(7)
    path.with_name("away").rename(path)
    assert reader.read(7) == _RECORDS[7]


def test_a_file_of_other_records_in_its_place_is_no_data(opened, pauses):
    path, reader = opened
    _break_descriptors(path)
    image_data.write_records(path.with_name("new"), _RECORDS[::-1][:10])
    path.with_name("new").rename(path)
    with pytest.raises(CorruptRecordError, match=r"^record 4 of "):
        reader.read(4)


def test_damage_is_not_tried_again(opened, monkeypatch, caplog):
    monkeypatch.setattr(retries, "_PAUSES", (60.0,))
    path, reader = opened
    content = path.read_bytes()
    place = content.index(_RECORDS[5][:1000])
    with path.open("r+b") as file:
        file.seek(place + 100)
        file.write(b"x")
    begin = time.monotonic()
    with pytest.raises(CorruptRecordError, match=r"^record 5 of "):
        reader.read(5)
    assert time.monotonic() - begin < 30
    assert _warnings(caplog) == []


def test_no_other_error_is_tried_again(monkeypatch, tmp_path):
    monkeypatch.setattr(retries, "_PAUSES", (60.0,))
    begin = time.monotonic()
    for path, words in (
        (tmp_path, "Is a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        source = folders.FolderSource([os.fspath(path)], [0], "")
        with pytest.raises(CorruptRecordError, match=f"read: {words}.$"):
            source.read(0)
    assert time.monotonic() - begin < 30


def test_an_image_file_that_comes_back_is_read(tmp_path, pauses, caplog):
    path = tmp_path / "a.jpeg"
    path.write_bytes(b"content")
    source = folders.FolderSource([os.fspath(path)], [3], "")
    with _absent_for(0.2, path):
        assert source.read(0) == (b"content", 3)
    assert _warnings(caplog) == [
        f"{path} cannot be read: No such file or directory; trying again for"
        " 1 s"
    ]
    path.unlink()
    with pytest.raises(
        CorruptRecordError,
        match=rf"^{path} cannot be read: No such file or directory, in 5 tries",
    ):
        source.read(0)


def test_a_streamed_file_that_comes_back_is_read(tmp_path, pauses):
    path = tmp_path / "train-00000-of-00001"
    image_data.write_records(path, _RECORDS)
    stream = RecordStream(os.fspath(path), read_bytes=60_000)
    with _absent_for(0.2, path):
        assert stream.next_record() == _RECORDS[0]
    # And one that fails in its middle is opened again at the same byte.
    _break_descriptors(path)
    for record in _RECORDS[1:]:
        assert stream.next_record() == record
    assert stream.next_record() is None


def test_a_streamed_file_that_fails_for_good_is_named(pauses):
    stream = RecordStream("/proc/self/mem")
    with pytest.raises(
        CorruptRecordError,
        match=r"^/proc/self/mem cannot be read: .*Input/output error,"
        r" in 5 tries over",
    ):
        stream.next_record()


@pytest.mark.parametrize("data_format", ["tfrecord", "folder"])
def test_a_mount_that_comes_back_loses_no_image(
    data_format, tmp_path, monkeypatch
):
    """The batches of an outage are those of a run without one."""
    monkeypatch.setattr(retries, "_PAUSES", (0.2, 0.4, 2.0))
    data_dir = tmp_path / "data"
    images = 40
    encoded = [
        image_data.encode(image_data.pixels(24, 24, number))
        for number in range(images)
    ]
    if data_format == "tfrecord":
        records = [image_data.example(e, 1) for e in encoded]
        image_data.write_shards(data_dir, "train", [records[:20], records[20:]])
    else:
        for split in ("train", "val"):
            image_data.write_folders(
                data_dir / split,
                {
                    f"n{label}": {f"{n}.JPEG": encoded[n] for n in numbers}
                    for label, numbers in enumerate((range(20), range(20, 40)))
                },
            )
    config = Config(
        model=ModelConfig(num_classes=2, image_size=16),
        data=DataConfig(
            data_dir=os.fspath(data_dir),
            data_format=data_format,
            label_offset=1 if data_format == "tfrecord" else None,
        ),
        optimization=OptimizationConfig(
            epochs=3, global_batch_size=2, batch_size_per_process=2
        ),
        schedule=ScheduleConfig(warmup_epochs=0.0),
    )
    plan = make_plan(
        config, world_size=1, train_images=images, validation_images=1
    )

    def batches():
        source = splits.open_split(config, "train")
        return dataset.training_batches(
            config, plan, source, World(), threads=2
        )

    whole = [batch.images.numpy() for batch in batches()]
    assert len(whole) == 60
    reading = batches()
    rest = [next(reading).images.numpy()]
    for path in data_dir.iterdir():
        if path.is_file():
            _break_descriptors(path)
    with _absent_for(0.3, data_dir):
        rest.extend(batch.images.numpy() for batch in reading)
    np.testing.assert_array_equal(rest, whole)
