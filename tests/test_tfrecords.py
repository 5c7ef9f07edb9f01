"""Random access equals TensorFlow's reader, and damage is named."""

import concurrent.futures
import io
import json
import os
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import image_data
from hvd_imagenet import framing, tfrecords

_HEADER_BYTES = 12
_FOOTER_BYTES = 4

# Lengths of the records per shard: shards of different lengths, one without
# any record, and records of no and of one byte.
_LENGTHS = ((5, 0, 300), (), (1,), (70_000, 2, 7, 8))


def _data(seed, length):
    return np.random.default_rng([seed, length]).bytes(length)


_RECORDS = [
    [_data(shard, length) for length in lengths]
    for shard, lengths in enumerate(_LENGTHS)
]


@pytest.fixture
def paths(tmp_path):
    return image_data.write_shards(tmp_path / "data", "train", _RECORDS)


@pytest.fixture
def path(tmp_path):
    """One file of three records of 10, 20 and 30 bytes."""
    path = tmp_path / "train-00000-of-00001"
    image_data.write_records(path, [_data(0, n) for n in (10, 20, 30)])
    return os.fspath(path)


def _start(record):
    """Byte at which the header of a record of `path` begins."""
    lengths = (10, 20, 30)[:record]
    return sum(lengths) + (_HEADER_BYTES + _FOOTER_BYTES) * record


def _reader(paths, *cache_paths):
    index = tfrecords.load_or_build_index(paths, cache_paths)
    return tfrecords.RecordReader(paths, index)


def _all(reader):
    return [reader.read(record) for record in range(len(reader))]


def _flip(path, position):
    """Changes every bit of one byte."""
    with open(path, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 0xFF]))


def _tamper(cache_path):
    """Takes the last record out of a stored index, leaving it valid."""
    with np.load(cache_path) as stored:
        arrays = dict(stored)
    arrays["bounds"] = arrays["bounds"][:-1]
    arrays["firsts"][-1] -= 1
    with open(cache_path, "wb") as file:
        np.savez(file, **arrays)


def test_records_are_those_of_tensorflows_reader_in_order(paths):
    expected = list(tf.data.TFRecordDataset(paths).as_numpy_iterator())
    assert len(expected) == sum(map(len, _LENGTHS))
    assert _all(_reader(paths)) == expected


def test_records_are_read_at_random(paths):
    reader = _reader(paths)
    records = [record for shard in _RECORDS for record in shard]
    chosen = np.random.default_rng(0).integers(0, len(records), 50)
    for record in chosen:
        assert reader.read(record) == records[record]


def test_a_record_is_named_by_file_and_number_in_the_file(paths):
    reader = _reader(paths)
    # 3 + 0 + 1 records stand before the last shard's.
    assert reader.where(6).startswith(f"record 2 of {paths[3]} (at byte ")
    assert reader.where(3).startswith(f"record 0 of {paths[2]} (at byte ")


def test_only_empty_files_are_no_records(tmp_path):
    paths = image_data.write_shards(tmp_path, "train", [[], []])
    assert len(_reader(paths)) == 0


def test_many_threads_read_the_right_data(paths):
    reader = _reader(paths)
    records = [record for shard in _RECORDS for record in shard]
    chosen = np.random.default_rng(1).integers(0, len(records), 2000)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(reader.read, chosen))
    assert read == [records[record] for record in chosen]


def test_the_cached_index_is_used(paths, tmp_path):
    cache_path = os.fspath(tmp_path / "cache" / "train.npz")
    whole = _all(_reader(paths, cache_path))
    # A shorter answer can only come from the cache.
    _tamper(cache_path)
    assert _all(_reader(paths, cache_path)) == whole[:-1]


def test_a_new_cache_holds_the_same_index(paths, tmp_path):
    cache_path = os.fspath(tmp_path / "train.npz")
    built = tfrecords.load_or_build_index(paths, [cache_path])
    loaded = tfrecords.load_or_build_index(paths, [cache_path])
    for name in ("firsts", "bounds"):
        expected = getattr(built, name)
        actual = getattr(loaded, name)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    # In memory once for all processes of a host.
    assert isinstance(loaded.bounds, np.memmap)
    assert not loaded.bounds.flags.writeable
    # Nothing but the cache stays behind, and others may read it.
    assert sorted(os.listdir(tmp_path)) == ["data", "train.npz"]
    assert os.stat(cache_path).st_mode & 0o777 == 0o644


@pytest.mark.parametrize("change", ["size", "time", "name"])
def test_the_index_is_rebuilt_when_a_file_changes(paths, tmp_path, change):
    cache_path = os.fspath(tmp_path / "train.npz")
    expected = _all(_reader(paths, cache_path))
    _tamper(cache_path)
    last = paths[-1]
    before = os.stat(last)
    if change == "size":
        image_data.write_records(last, [*_RECORDS[-1], b"one more"])
        expected.append(b"one more")
        os.utime(last, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert os.stat(last).st_mtime_ns == before.st_mtime_ns
    elif change == "time":
        os.utime(last, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    else:
        paths[-1] = f"{last}-renamed"
        os.rename(last, paths[-1])
    assert _all(_reader(paths, cache_path)) == expected
    # And kept again: the rebuilt index is the one that is found next time.
    _tamper(cache_path)
    assert _all(_reader(paths, cache_path)) == expected[:-1]


def test_the_second_cache_is_used_where_the_first_cannot_be(paths, tmp_path):
    # A path below a regular file: root, too, cannot make that folder.
    first = os.fspath(f"{paths[0]}/below/train.npz")
    second = os.fspath(tmp_path / "work" / "index" / "train.npz")
    whole = _all(_reader(paths, first, second))
    assert os.path.isfile(second)
    _tamper(second)
    assert _all(_reader(paths, first, second)) == whole[:-1]


def test_the_first_cache_is_preferred(paths, tmp_path):
    first, second = (os.fspath(tmp_path / name) for name in ("a", "b"))
    _reader(paths, first, second)
    assert os.path.isfile(first)
    assert not os.path.exists(second)


@pytest.mark.parametrize("cached", [False, True])
def test_it_works_where_nothing_can_be_cached(paths, cached):
    cache_paths = [f"{paths[0]}/below/train.npz"] if cached else []
    whole = [record for shard in _RECORDS for record in shard]
    assert _all(_reader(paths, *cache_paths)) == whole


def _nothing(cache):
    return b""


def _garbage(cache):
    return b"not an index at all"


def _half(cache):
    return cache[: len(cache) // 2]


def _damaged_array(cache):
    position = cache.index(b"\x93NUMPY") + 200
    return cache[:position] + b"\xff" + cache[position + 1 :]


def _damaged_directory(cache):
    # The version that a reader of the archive's first member must have.
    position = cache.index(b"PK\x01\x02") + 6
    return cache[:position] + b"\xff" + cache[position + 1 :]


def _another_array(cache):
    # What np.load makes of this is no archive.
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


def _another_archive(cache):
    buffer = io.BytesIO()
    np.savez(buffer, offsets=np.arange(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "spoil",
    [
        _nothing,
        _garbage,
        _half,
        _damaged_array,
        _damaged_directory,
        _another_array,
        _another_archive,
    ],
)
def test_a_spoilt_cache_is_replaced(paths, tmp_path, spoil):
    cache_path = tmp_path / "train.npz"
    whole = _all(_reader(paths, cache_path))
    cache = cache_path.read_bytes()
    spoilt = spoil(cache)
    assert spoilt != cache
    cache_path.write_bytes(spoilt)
    assert _all(_reader(paths, cache_path)) == whole
    with np.load(cache_path) as stored:
        assert stored["firsts"][-1] == len(whole)


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(_start(2) + 1, id="in the length"),
        pytest.param(_start(2) + 8, id="before the length's CRC"),
        pytest.param(_start(2) + _HEADER_BYTES, id="before the data"),
        pytest.param(_start(2) + _HEADER_BYTES + 17, id="in the data"),
        pytest.param(_start(3) - _FOOTER_BYTES, id="before the footer"),
        pytest.param(_start(3) - 1, id="in the footer"),
    ],
)
def test_a_cut_file_is_named_with_record_and_byte(path, cut):
    os.truncate(path, cut)
    with pytest.raises(framing.CorruptRecordError) as caught:
        tfrecords.build_index([path])
    message = str(caught.value)
    assert message.startswith(f"record 2 of {path} (at byte {_start(2)})")
    assert f"only {cut} bytes" in message
    assert "make it again" in message


def test_a_file_cut_between_records_is_only_shorter(path):
    # Nothing in the format can tell; the plan's count of images does.
    os.truncate(path, _start(2))
    assert len(tfrecords.build_index([path])) == 2


@pytest.mark.parametrize("byte", [0, 7, 8, 11])
def test_a_damaged_length_is_found_at_index_time(path, byte):
    _flip(path, _start(1) + byte)
    with pytest.raises(
        framing.CorruptRecordError,
        match=re.escape(f"record 1 of {path} (at byte {_start(1)}) has a"),
    ):
        tfrecords.build_index([path])


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "train-00000-of-00001"
    path.write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(
        framing.CorruptRecordError, match=r"record 0 of .* no TFRecord file"
    ):
        tfrecords.build_index([os.fspath(path)])


@pytest.mark.parametrize(
    "byte",
    [
        pytest.param(_HEADER_BYTES, id="first byte"),
        pytest.param(_HEADER_BYTES + 19, id="last byte"),
        pytest.param(_HEADER_BYTES + 20, id="CRC"),
    ],
)
def test_damaged_data_is_named_when_read_and_harms_no_other(path, byte):
    whole = _all(_reader([path]))
    _flip(path, _start(1) + byte)
    reader = _reader([path])
    with pytest.raises(
        framing.CorruptRecordError,
        match=re.escape(f"record 1 of {path} ") + ".*CRC-32C",
    ):
        reader.read(1)
    assert reader.read(0) == whole[0]
    assert reader.read(2) == whole[2]


def test_a_file_cut_after_it_was_indexed_is_named_when_read(path):
    reader = _reader([path])
    whole = _all(reader)
    os.truncate(path, _start(1) + _HEADER_BYTES + 3)
    with pytest.raises(
        framing.CorruptRecordError,
        match=re.escape(f"record 1 of {path} ") + ".* after 3 of 24 bytes",
    ):
        reader.read(1)
    with pytest.raises(
        framing.CorruptRecordError, match=r"record 2 of .* after 0 of 34"
    ):
        reader.read(2)
    assert reader.read(0) == whole[0]


def test_a_length_beyond_the_file_is_a_cut_record(tmp_path):
    # A valid CRC over a length that no file can have.
    length = struct.pack("<Q", 2**40)
    path = tmp_path / "train-00000-of-00001"
    # TensorFlow's writer puts the masked CRC of its data behind them.
    image_data.write_records(path, [length])
    masked = path.read_bytes()[-_FOOTER_BYTES:]
    path.write_bytes(length + masked + b"data")
    with pytest.raises(framing.CorruptRecordError, match="is cut"):
        tfrecords.build_index([os.fspath(path)])


_OPEN_WITH_LIMITS = """
import resource
import sys

from hvd_imagenet import tfrecords

soft, hard, *paths = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
index = tfrecords.load_or_build_index(paths, [])
try:
    reader = tfrecords.RecordReader(paths, index)
except ValueError as error:
    print("ValueError", error)
else:
    print(*(reader.read(record).decode() for record in range(len(reader))))
"""


@pytest.fixture
def many_paths(tmp_path):
    return image_data.write_shards(
        tmp_path, "train", [[b"%d" % number] for number in range(200)]
    )


def _open_with_limits(soft, hard, paths):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            _OPEN_WITH_LIMITS,
            str(soft),
            str(hard),
            *paths,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.strip()


def test_a_low_soft_limit_on_open_files_is_raised(many_paths):
    read = _open_with_limits(64, 1024, many_paths)
    assert read == " ".join(map(str, range(200)))


def test_a_low_hard_limit_on_open_files_is_named(many_paths):
    said = _open_with_limits(64, 128, many_paths)
    assert said.startswith("ValueError 200 data files need ")
    assert "the limit of this process is 128" in said
    assert "ulimit -Hn" in said


@pytest.mark.slow
def test_imagenets_index_is_small_shared_and_quick(tmp_path):
    program = pathlib.Path(__file__).parent / "programs" / "index_at_scale.py"
    finished = subprocess.run(
        [sys.executable, program, tmp_path, "2"],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    first, *others = map(json.loads, finished.stdout.splitlines())
    assert len(others) == 2
    assert first["seconds"] < 60
    for facts in others:
        assert facts["seconds"] < 10
        assert facts["resident_mb"] < 300
        # The index itself has 10 MB.
        assert facts["private_mb"] < facts["resident_mb"] - 8
        assert facts["where_us"] < 100
