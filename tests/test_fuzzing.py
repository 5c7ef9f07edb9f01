"""Whatever a flagfile, a TFRecord file or a stored index holds.

Examples are Hypothesis's, the same in every run.
"""

import dataclasses
import os
import pathlib
import struct

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from absl import flags as absl_flags
from hypothesis import strategies as st

import image_data
from hvd_imagenet import flags, framing, tfrecords
from hvd_imagenet.config import Config
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.record_streams import RecordStream

_FLAGS = pathlib.Path(__file__).parent.parent / "flags"
_RECIPES = sorted(_FLAGS.glob("*.flags"))


def _examples(count):
    return hypothesis.settings(
        max_examples=count, derandomize=True, deadline=None, database=None
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzing")


@st.composite
def _mutated(draw, wholes):
    """One of the byte strings, with parts of it changed, moved or lost."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 3))):
        places = st.integers(0, len(data))
        start, end = sorted((draw(places), draw(places)))
        change = draw(st.sampled_from(["flip", "cut", "lose", "copy", "put"]))
        if change == "flip" and data:
            data[min(start, len(data) - 1)] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del data[start:]
        elif change == "lose":
            del data[start:end]
        elif change == "copy":
            at = draw(places)
            data[at:at] = data[start:end]
        elif change == "put":
            data[start:start] = draw(st.binary(max_size=20))
    return bytes(data)


# --- Flagfiles and command lines. ---

_NAMES = sorted(name for group in Config().groups() for name in vars(group))
_VALUES = st.one_of(
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.floats()).map(lambda values: ",".join(map(str, values))),
    st.sampled_from(["true", "false", "none", "auto", "", "=", "0", "-1"]),
)
_ARGUMENTS = st.one_of(
    st.text(max_size=20),
    st.builds("--{}={}".format, st.sampled_from(_NAMES), _VALUES),
    st.builds("--no{}".format, st.sampled_from(_NAMES)),
    st.builds(
        "{}{}".format,
        st.sampled_from(["--", "-", "--flagfile", "--flagfile=", "--undefok="]),
        st.text(max_size=8),
    ),
)


def _require_config_or_error(path):
    try:
        config = flags.read(os.fspath(path))
    except ValueError as error:
        assert str(path) in str(error)
    else:
        _require_repeatable(config, path)


def _require_repeatable(config, path):
    """What was understood can be written down and read again."""
    path.write_text(flags.to_text(config), encoding="utf-8")
    elsewhere = dataclasses.replace(config.run, workdir=None)
    expected = dataclasses.replace(config, run=elsewhere)
    assert flags.read(os.fspath(path)) == expected


@_examples(60)
@hypothesis.given(lines=st.lists(_ARGUMENTS, max_size=6))
def test_any_text_is_a_config_or_one_error(folder, lines):
    path = folder / "fuzzed.flags"
    path.write_text("\n".join(lines), encoding="utf-8")
    _require_config_or_error(path)


@_examples(60)
@hypothesis.given(content=_mutated([p.read_bytes() for p in _RECIPES]))
def test_a_changed_recipe_is_a_config_or_one_error(folder, content):
    path = folder / "fuzzed.flags"
    path.write_bytes(content)
    _require_config_or_error(path)


@_examples(60)
@hypothesis.given(arguments=st.lists(_ARGUMENTS, max_size=6))
@hypothesis.example(arguments=["--flagfile"])
@hypothesis.example(arguments=["--flagfile=/"])
@hypothesis.example(arguments=["--flagfile=\0"])
@hypothesis.example(arguments=["--data_dir=two\nlines"])
@hypothesis.example(arguments=["--data_dir= spaces "])
@hypothesis.example(arguments=["--data_dir=bytes\udcff"])
@hypothesis.example(arguments=["--validation_labels="])
def test_any_command_line_is_a_config_or_one_error(folder, arguments):
    try:
        config = flags.parse_apart(["program", *arguments])
    except absl_flags.Error as error:
        assert str(error)
    else:
        _require_repeatable(config, folder / "written.flags")


def test_flagfiles_that_read_each_other_end(folder):
    first, second = folder / "first.flags", folder / "second.flags"
    first.write_text(f"--flagfile={second}\n--epochs=7\n")
    second.write_text(f"--flagfile={first}\n--flagfile={second}\n--seed=3\n")
    config = flags.read(os.fspath(first))
    assert (config.optimization.epochs, config.run.seed) == (7, 3)


# --- TFRecord files and their index. ---


def _framed(*records):
    return b"".join(b"".join(framing.framed(record)) for record in records)


def _endless(length):
    """A header that promises more than any file has."""
    data = struct.pack("<Q", length)
    footer = framing.framed(data)[2]
    return data + footer + b"some data"


_SHARDS = [
    _framed(b"a", b"", b"record" * 9, bytes(40)),
    _framed(*[b"of one length %d" % number for number in range(5)]),
    _framed(_framed(b"inner", b"records"), b"outer"),
    *(_framed(b"x") + _endless(2**n - 1) for n in (31, 32, 63, 64)),
    b"",
]


def _by_tensorflow(path):
    """(records up to the first that is wrong, whether there is one)."""
    records = []
    try:
        for record in tf.data.TFRecordDataset(os.fspath(path)):
            records.append(record.numpy())
    except tf.errors.OpError:
        return records, True
    return records, False


def _at_random(path):
    index = tfrecords.build_index([path])
    return tfrecords.RecordReader([os.fspath(path)], index)


@_examples(100)
@hypothesis.given(content=st.one_of(_mutated(_SHARDS), st.binary(max_size=80)))
def test_any_file_has_tensorflows_records_or_an_error(folder, content):
    path = folder / "train-00000-of-00001"
    path.write_bytes(content)
    expected, is_wrong = _by_tensorflow(path)
    # To it, less than a header at the end is nothing.
    is_wrong |= sum(16 + len(record) for record in expected) < len(content)
    try:
        reader = _at_random(path)
        found = [reader.read(number) for number in range(len(reader))]
    except CorruptRecordError:
        assert is_wrong
    else:
        assert not is_wrong
        assert found == expected
    stream, found = RecordStream(os.fspath(path), read_bytes=16), []
    try:
        while (record := stream.next_record()) is not None:
            found.append(record)
    except CorruptRecordError:
        assert is_wrong
    else:
        assert not is_wrong
    assert found == expected


@pytest.fixture(scope="module")
def indexed(folder):
    """(paths of shards, their index, what is stored of it)."""
    shards = [[b"a" * n for n in range(9)], [], [b"bb", b"ccc"] * 20]
    paths = image_data.write_shards(folder / "data", "train", shards)
    cache = folder / "index.npz"
    index = tfrecords.load_or_build_index(paths, [cache])
    return paths, index, cache.read_bytes()


@_examples(150)
@hypothesis.given(data=st.data())
def test_any_stored_index_is_the_files_or_is_not_used(folder, indexed, data):
    paths, index, stored = indexed
    cache = folder / "fuzzed.npz"
    cache.write_bytes(data.draw(_mutated([stored])))
    found = tfrecords.load_or_build_index(paths, [cache])
    np.testing.assert_array_equal(found.firsts, index.firsts)
    np.testing.assert_array_equal(found.bounds, index.bounds)


def test_the_index_of_other_files_is_not_used(folder, indexed):
    paths, _, stored = indexed
    cache = folder / "swapped.npz"
    for order in ([0, 1], [1, 0, 2], [2, 1, 0], [0, 0, 2]):
        cache.write_bytes(stored)
        chosen = [paths[number] for number in order]
        found = tfrecords.load_or_build_index(chosen, [cache])
        expected = tfrecords.build_index(chosen)
        np.testing.assert_array_equal(found.firsts, expected.firsts)
        np.testing.assert_array_equal(found.bounds, expected.bounds)
