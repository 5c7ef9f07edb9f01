"""Checkpoints: whole or not there, the newest valid one, the same run."""

import json
import os
import zipfile

import keras
import numpy as np
import pytest

from hvd_imagenet import checkpoints

_FACTS = {"model": "tiny", "decay_epochs": (30.0, 60.0)}


def _variables(value=0.0):
    layer = keras.layers.Dense(3, name="dense")
    layer.build((None, 4))
    for variable in layer.variables:
        variable.assign(np.full(variable.shape, value, np.float32))
    return layer.variables


def _saved(directory, steps, keep=10):
    store = checkpoints.Checkpoints(str(directory), keep=keep)
    for step in steps:
        store.save(step, _variables(float(step)), _FACTS)
    return store


def _values(variables):
    return {float(np.unique(v.numpy()).item()) for v in variables}


def test_the_newest_is_restored(tmp_path):
    store = _saved(tmp_path / "c", [10, 2, 30])
    variables = _variables()
    assert store.restore(variables, _FACTS) == 30
    assert _values(variables) == {30.0}


def test_nothing_there_is_step_zero(tmp_path):
    store = checkpoints.Checkpoints(str(tmp_path / "none"), keep=1)
    assert store.restore(_variables(), _FACTS) == 0


def test_it_is_plain_numpy(tmp_path):
    path = checkpoints.Checkpoints(str(tmp_path), keep=1).save(
        7, _variables(1.5), _FACTS
    )
    with np.load(path) as stored:
        assert set(stored) == {"dense/kernel", "dense/bias", "facts"}
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


def _truncate(path):
    os.truncate(path, os.path.getsize(path) - 100)


def _empty(path):
    os.truncate(path, 0)


def _flip_a_bit_of_a_weight(path):
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("dense/kernel.npy")
    data = bytearray(path.read_bytes())
    # Past the entry's own header and the array's.
    data[info.header_offset + info.file_size] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_truncate, _empty, _flip_a_bit_of_a_weight])
def test_a_damaged_one_is_passed_over(tmp_path, damage, caplog):
    store = _saved(tmp_path, [1, 2])
    damage(tmp_path / "step_00000002.npz")
    variables = _variables()
    assert store.restore(variables, _FACTS) == 1
    assert _values(variables) == {1.0}
    assert "step_00000002.npz is damaged" in caplog.text


def test_all_damaged_is_an_error_not_a_new_start(tmp_path):
    store = _saved(tmp_path, [1, 2])
    for path in tmp_path.iterdir():
        _empty(path)
    with pytest.raises(ValueError, match="None of the 2 checkpoints"):
        store.restore(_variables(), _FACTS)


def test_an_interrupted_write_is_not_a_checkpoint(tmp_path):
    store = _saved(tmp_path, [1])
    left = tmp_path / "step_00000002.npz.123.tmp"
    left.write_bytes(b"half")
    assert store.restore(_variables(), _FACTS) == 1
    # The next write cleans up.
    store.save(3, _variables(3.0), _FACTS)
    assert not left.exists()


def test_another_recipe_is_refused_with_the_differences(tmp_path):
    store = _saved(tmp_path, [1])
    other = {"model": "large", "decay_epochs": (30.0, 60.0)}
    with pytest.raises(ValueError) as raised:
        store.restore(_variables(), other)
    assert "model was tiny and is large now" in str(raised.value)
    assert "decay_epochs" not in str(raised.value)


def test_other_variables_are_refused(tmp_path):
    store = _saved(tmp_path, [1])
    layer = keras.layers.Dense(3, name="other")
    layer.build((None, 4))
    with pytest.raises(ValueError, match="dense/bias"):
        store.restore(layer.variables, _FACTS)


def test_a_failed_write_leaves_the_old_ones(tmp_path):
    store = _saved(tmp_path, [1])
    # A directory in the way of the rename, as root may write anything.
    (tmp_path / "step_00000002.npz").mkdir()
    with pytest.raises(OSError):
        store.save(2, _variables(2.0), _FACTS)
    assert not list(tmp_path.glob("*.tmp"))
    (tmp_path / "step_00000002.npz").rmdir()
    assert store.restore(_variables(), _FACTS) == 1
