"""Storage that changes or fails under a run that is reading from it."""

import io
import os
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import image_data
from hvd_imagenet import dataset, order, preprocessing, splits
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
_BATCH = 2
# So long a run that its end is not yet read when its second batch is taken.
_EPOCHS = 3
_BATCHES = _EPOCHS * _IMAGES // _BATCH
_SHARD = "train-00001-of-00002"


def _record(number):
    encoded = image_data.encode(image_data.pixels(24, 24, number))
    return image_data.example(encoded, number % 2 + 1)


@pytest.fixture
def data_dir(tmp_path):
    records = [_record(number) for number in range(_IMAGES)]
    half = _IMAGES // 2
    image_data.write_shards(tmp_path, "train", [records[:half], records[half:]])
    return tmp_path


def _config(data_dir, **data):
    return Config(
        model=ModelConfig(num_classes=2, image_size=16),
        data=DataConfig(data_dir=os.fspath(data_dir), label_offset=1, **data),
        optimization=OptimizationConfig(
            epochs=_EPOCHS,
            global_batch_size=_BATCH,
            batch_size_per_process=_BATCH,
        ),
        schedule=ScheduleConfig(warmup_epochs=0.0),
    )


def _batches(config, source=None):
    source = source or splits.open_split(config, "train")
    plan = make_plan(
        config, world_size=1, train_images=_IMAGES, validation_images=1
    )
    return dataset.training_batches(config, plan, source, World(), threads=2)


def _all_indices():
    images, _ = order.images_at(range(_EPOCHS * _IMAGES), 0, _IMAGES)
    return images


def _overwrite(path):
    """Other bytes, of the same length, at the same time of modification."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.write(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


_CHANGES = {
    "cut": (
        lambda path: os.truncate(path, 100),
        "was cut since it was indexed",
    ),
    "overwritten": (_overwrite, "does not match its CRC-32C"),
}


@pytest.mark.parametrize("change", _CHANGES)
def test_a_shard_that_changes_under_a_run_ends_it_with_its_name(
    data_dir, change
):
    spoil, reason = _CHANGES[change]
    batches = _batches(_config(data_dir))
    done = [*next(batches).indices.numpy(), *next(batches).indices.numpy()]
    spoil(data_dir / _SHARD)
    with pytest.raises(CorruptRecordError, match=reason) as caught:
        for batch in batches:
            done.extend(batch.indices.numpy())
    # Up to there nothing is missing, and nothing is said to be complete.
    assert done == _all_indices()[: len(done)].tolist()
    assert len(done) < _EPOCHS * _IMAGES
    match = re.match(
        rf"record (\d+) of {data_dir}/{_SHARD} ", str(caught.value)
    )
    following = _all_indices()[len(done) :][:_BATCH]
    assert int(match[1]) + _IMAGES // 2 in following


@pytest.mark.parametrize("change", _CHANGES)
def test_what_a_changed_shard_lost_is_counted(data_dir, change):
    spoil, _ = _CHANGES[change]
    batches = _batches(_config(data_dir, on_corrupt="skip"))
    arrays = [next(batches), next(batches)]
    spoil(data_dir / _SHARD)
    arrays.extend(batches)
    # Every image has its place, and those without weight are those named.
    indices = np.concatenate([batch.indices for batch in arrays])
    np.testing.assert_array_equal(indices, _all_indices())
    weights = np.concatenate([batch.weights for batch in arrays])
    lost = indices[weights == 0]
    assert len(batches.skipped) == len(lost) > _IMAGES // 2
    assert np.all(lost >= _IMAGES // 2)
    assert all(f"/{_SHARD} " in name for name in batches.skipped)


def test_a_deleted_shard_is_read_to_the_end_of_the_run(data_dir):
    whole = [batch.images.numpy() for batch in _batches(_config(data_dir))]
    batches = _batches(_config(data_dir))
    rest = [next(batches).images.numpy()]
    (data_dir / _SHARD).unlink()
    rest.extend(batch.images.numpy() for batch in batches)
    np.testing.assert_array_equal(rest, whole)
    # The next run is told.
    with pytest.raises(ValueError, match=r"has 1 files train-.* there are 2"):
        splits.open_split(_config(data_dir), "train")


def test_other_data_under_an_index_that_seems_to_fit_is_no_data(data_dir):
    # As a copy that keeps times leaves it: records of other lengths, in a
    # file of the same name, size and time.
    splits.open_split(_config(data_dir), "train")
    path = data_dir / _SHARD
    status, content = path.stat(), path.read_bytes()
    size = 16 + len(_record(_IMAGES // 2))
    path.write_bytes(content[size:] + content[:size])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CorruptRecordError, match=f"{_SHARD}.*CRC-32C"):
        list(_batches(_config(data_dir)))


@pytest.mark.parametrize("on_corrupt", ["fail", "skip"])
def test_an_error_of_the_file_system_names_the_record(data_dir, on_corrupt):
    config = _config(data_dir, on_corrupt=on_corrupt)
    source = splits.open_split(config, "train")
    # Reads of this descriptor fail from now on, as those of a file that its
    # server has forgotten.
    (descriptor,) = (
        int(link.name)
        for link in pathlib.Path("/proc/self/fd").iterdir()
        if os.path.realpath(link) == os.fspath(data_dir / _SHARD)
    )
    folder = os.open(data_dir, os.O_RDONLY)
    os.dup2(folder, descriptor)
    os.close(folder)
    batches = _batches(config, source)
    if on_corrupt == "fail":
        with pytest.raises(
            CorruptRecordError,
            match=rf"^record \d+ of .*/{_SHARD} .*cannot be read: Is a direc",
        ):
            list(batches)
    else:
        weights = np.concatenate([batch.weights for batch in batches])
        assert weights.sum() == _EPOCHS * _IMAGES / 2
        assert len(batches.skipped) == _EPOCHS * _IMAGES / 2


class _Moody:
    """A source that fails once for every record, and then reads it."""

    def __init__(self, source):
        self._source = source
        self._failed = set()

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self._source)

    def read(self, index):
        if index >= _IMAGES // 2 and index not in self._failed:
            self._failed.add(index)
            raise CorruptRecordError(
                f"{self.where(index)} cannot be read: Input/output error."
            )
        return self._source.read(index)


def test_a_failure_that_does_not_come_again_is_named(data_dir):
    config = _config(data_dir)
    source = _Moody(splits.open_split(config, "train"))
    with pytest.raises(
        CorruptRecordError,
        match=rf"^record \d+ of {data_dir}/{_SHARD} \(at byte \d+\) cannot be"
        r" read: Input/output error\. It can be read now; [^\n]+$",
    ):
        list(_batches(config, source))


# --- What reaches the model, without a fault. ---


def test_the_input_of_the_model_is_that_of_an_independent_path(data_dir):
    """From the files on to float32, against Pillow and NumPy.

    The decoders round to whole grey levels, and so does the resize: 2 levels
    of 255 at most, 0.5 on average, over the deviation of about 57.
    """
    (data_dir / "validation-00000-of-00001").write_bytes(
        (data_dir / _SHARD).read_bytes()
    )
    config = _config(data_dir, dct_method="accurate", evaluation_resize=24)
    source = splits.open_split(config, "validation")
    plan = make_plan(
        config,
        world_size=1,
        train_images=_IMAGES,
        validation_images=len(source),
    )
    batches = dataset.evaluation_batches(
        config, plan, source, World(), threads=2
    )
    inputs = np.concatenate(
        [preprocessing.normalise(b.images) for b in batches]
    )
    assert inputs.shape == (_IMAGES // 2, 16, 16, 3)
    mean = np.array([0.485, 0.456, 0.406])
    deviation = np.array([0.229, 0.224, 0.225])
    for number, image in enumerate(inputs, _IMAGES // 2):
        encoded = image_data.encode(image_data.pixels(24, 24, number))
        pixels = np.asarray(Image.open(io.BytesIO(encoded)), np.float64)
        expected = (pixels[4:20, 4:20] / 255 - mean) / deviation
        difference = np.abs(image - expected)
        assert difference.max() < 2 / 255 / deviation.min()
        assert difference.mean() < 0.5 / 255 / deviation.min()
