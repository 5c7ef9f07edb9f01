"""Checkpoints: whole or not there, the newest valid one, whatever happens."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import faults
from hvd_imagenet import checkpoint_files, checkpoints
from hvd_imagenet.atomic_files import NotWrittenError

_FACTS = {"model": "tiny", "decay_epochs": [30.0, 60.0]}


def _arrays(value=0.0):
    return {
        "dense/kernel": np.full((4, 3), value, np.float32),
        "dense/bias": np.full(3, value, np.float32),
        "iteration": np.array(7, np.int64),
    }


def _saved(directory, steps, keep=10):
    store = checkpoints.Checkpoints(str(directory), keep=keep)
    for step in steps:
        store.save(step, _arrays(float(step)), _FACTS)
    return store


def _assert_is(checkpoint, step):
    assert (checkpoint.step, checkpoint.facts) == (step, _FACTS)
    expected = _arrays(float(step))
    assert checkpoint.arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert checkpoint.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(checkpoint.arrays[name], array)


def test_the_newest_is_read(tmp_path):
    _assert_is(_saved(tmp_path / "c", [10, 2, 30]).newest(), 30)


def test_nothing_there_is_nothing(tmp_path):
    store = checkpoints.Checkpoints(str(tmp_path / "none"), keep=1)
    assert store.newest() is None
    assert store.newest_path is None


def test_it_is_plain_numpy(tmp_path):
    path = checkpoints.Checkpoints(str(tmp_path), keep=1).save(
        7, _arrays(1.5), _FACTS
    )
    with np.load(path) as stored:
        assert set(stored) == {*_arrays(), "facts"}
        np.testing.assert_array_equal(
            stored["dense/kernel"], np.full((4, 3), 1.5)
        )
        assert json.loads(str(stored["facts"]))["step"] == 7


def test_only_the_newest_are_kept(tmp_path):
    _saved(tmp_path, [1, 2, 3, 4], keep=2)
    assert sorted(os.listdir(tmp_path)) == [
        "step_00000003.npz",
        "step_00000004.npz",
    ]


# --- Damage. ---


def _truncate(path):
    os.truncate(path, os.path.getsize(path) - 100)


def _empty(path):
    os.truncate(path, 0)


def _become_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_truncate, _empty, _become_a_folder])
def test_a_damaged_one_is_passed_over(tmp_path, damage, caplog):
    store = _saved(tmp_path, [1, 2])
    damage(tmp_path / "step_00000002.npz")
    _assert_is(store.newest(), 1)
    assert "step_00000002.npz is damaged" in caplog.text


def test_all_damaged_is_an_error_not_a_new_start(tmp_path):
    store = _saved(tmp_path, [1, 2])
    for path in tmp_path.iterdir():
        _empty(path)
    with pytest.raises(ValueError, match="None of the 2 checkpoints"):
        store.newest()


def test_a_damaged_one_of_a_later_step_pushes_none_out(tmp_path):
    store = _saved(tmp_path, [1, 3], keep=1)
    _empty(tmp_path / "step_00000003.npz")
    store.save(2, _arrays(2.0), _FACTS)
    _assert_is(store.newest(), 2)


def _read(data):
    """As from a file; None if it is found to be damaged."""
    try:
        return checkpoint_files.read(io.BytesIO(data))
    except checkpoint_files.DamagedError:
        return None


def _whole(step=3):
    file = io.BytesIO()
    checkpoint_files.write(file, _arrays(step), {**_FACTS, "step": step})
    return file.getvalue()


def _assert_found_or_harmless(data):
    """Damage is found, unless it is where the zip format says things twice."""
    found = _read(data)
    if found is None:
        return True
    arrays, facts = found
    facts = dict(facts)
    _assert_is(
        checkpoints.Checkpoint(
            path="", step=facts.pop("step"), arrays=arrays, facts=facts
        ),
        3,
    )
    return False


def test_no_flipped_bit_changes_what_is_read():
    whole = _whole()
    assert _read(whole) is not None
    found = 0
    for position in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            found += _assert_found_or_harmless(bytes(data))
    # The rest: times, versions, attributes, and what stands there twice.
    assert found > 0.7 * 8 * len(whole)


def test_no_cut_is_a_checkpoint():
    whole = _whole()
    for length in range(len(whole)):
        assert _read(whole[:length]) is None


def test_arrays_of_another_checkpoint_are_found():
    # Every member is whole, but they do not belong together.
    first, second = _whole(3), _whole(4)
    mixed = bytearray(first)

    def member(data):
        return data.index(b"dense/bias.npy"), data.index(b"iteration.npy")

    def entry(data):  # In the directory: 46 bytes, then the name.
        end = data.rindex(b"dense/bias.npy")
        return end - 46, end

    for part in (member, entry):
        mixed[slice(*part(first))] = second[slice(*part(second))]
    with np.load(io.BytesIO(bytes(mixed))) as stored:
        assert stored["dense/bias"][0] == 4.0
        assert stored["dense/kernel"][0, 0] == 3.0
    assert _read(bytes(mixed)) is None


_FEW = hypothesis.settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@_FEW
@hypothesis.given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_are_no_checkpoint(data, is_zip):
    assert _read(b"PK\3\4" + data if is_zip else data) is None


@_FEW
@hypothesis.given(
    st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True),
            st.integers(0, 40),
            st.binary(max_size=40),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_checkpoints_are_found(changes):
    data = _whole()
    for place, length, new in changes:
        at = int(place * len(data))
        data = data[:at] + new + data[at + length :]
    _assert_found_or_harmless(data)


@_FEW
@hypothesis.given(
    st.dictionaries(
        st.sampled_from(["facts", "dense/bias", "x"]),
        st.one_of(
            st.text(max_size=20),
            st.recursive(
                st.none() | st.integers() | st.text(max_size=5),
                lambda c: (
                    st.lists(c, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["step", "crc32", "x"]), c, max_size=3
                    )
                ),
            ).map(json.dumps),
        ),
    )
)
def test_other_npz_files_are_no_checkpoints(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "step_00000001.npz"
    np.savez(path, **{name: np.array(text) for name, text in texts.items()})
    try:
        checkpoint = checkpoints.read(str(path))
    except checkpoint_files.DamagedError:
        return
    assert checkpoint.arrays == {}  # It had all that makes a checkpoint.
    assert isinstance(checkpoint.step, int)


# --- Disks that do not take it. ---


def test_a_file_that_may_not_grow_leaves_the_old_ones(tmp_path):
    store = _saved(tmp_path, [1])
    big = {"big": np.random.default_rng(0).random(100_000)}
    with faults.file_size_limit(200_000):
        with pytest.raises(
            NotWrittenError,
            match=r"step_00000002.npz could not be written: writing .*"
            r"\(File too large\)",
        ):
            store.save(2, big, _FACTS)
    assert os.listdir(tmp_path) == ["step_00000001.npz"]
    _assert_is(store.newest(), 1)
    store.save(2, big, _FACTS)
    assert store.newest().step == 2


@pytest.mark.parametrize("room", range(0, 1100, 100))
def test_a_full_disk_leaves_the_old_ones(tmp_path, room):
    # Full at the beginning, within arrays, and in what the zip file ends with.
    with faults.small_disk(tmp_path / "disk", "2m") as disk:
        store = _saved(disk, [1])
        ballast = faults.fill(disk)
        os.truncate(ballast, ballast.stat().st_size - (room << 10))
        big = {str(k): np.full(50_000, k) for k in range(3)}
        with pytest.raises(NotWrittenError, match="No space left on device"):
            store.save(2, big, _FACTS)
        assert sorted(os.listdir(disk)) == ["ballast", "step_00000001.npz"]
        ballast.unlink()
        _assert_is(store.newest(), 1)
        store.save(2, big, _FACTS)
        assert store.newest().step == 2


def test_a_name_that_is_taken_leaves_the_old_ones(tmp_path):
    # A directory in the way of the rename, as root may write anything.
    store = _saved(tmp_path, [1])
    (tmp_path / "step_00000002.npz").mkdir()
    with pytest.raises(NotWrittenError, match=r"renaming .*directory"):
        store.save(2, _arrays(2.0), _FACTS)
    assert not list(tmp_path.glob("*.tmp"))
    _assert_is(store.newest(), 1)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    store = checkpoints.Checkpoints(str(tmp_path / "file" / "c"), keep=1)
    with pytest.raises(NotWrittenError, match="making its folder failed"):
        store.save(1, _arrays(), _FACTS)


# --- kill -9. ---

_WRITER = """
import itertools, sys
import numpy as np
from hvd_imagenet.checkpoints import Checkpoints
store = Checkpoints(sys.argv[1], keep=2)
for step in itertools.count(int(sys.argv[2])):
    arrays = {str(k): np.full(100_000, step) for k in range(5)}
    store.save(step, arrays, {"recipe": 1})
    print(step, flush=True)
"""


def test_killed_at_any_moment_it_goes_on_from_the_last(tmp_path):
    store = checkpoints.Checkpoints(str(tmp_path), keep=2)
    moments = random.Random(0)
    step, left = 0, 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(step + 1)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert int(process.stdout.readline()) == step + 1
            time.sleep(moments.uniform(0, 0.05))
        finally:
            os.kill(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
        said = [int(line) for line in said.split()]
        left += len(list(tmp_path.glob("*.tmp")))
        newest = store.newest()
        # What it said is there; one more may be, that it could not say.
        least = max([step + 1, *said])
        assert newest.step in (least, least + 1)
        assert {int(a[0]) for a in newest.arrays.values()} == {newest.step}
        assert all((a == newest.step).all() for a in newest.arrays.values())
        step = newest.step
    assert left > 0  # Else none was killed while it wrote.
    store.save(step + 1, _arrays(), _FACTS)
    assert not list(tmp_path.glob("*.tmp"))
