"""Data sets that TFDS has prepared are read as TFDS reads them."""

import json
import os
import re
import socket
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest
import tensorflow_datasets as tfds

import tfds_data
from hvd_imagenet import dataset, preprocessing, splits
from hvd_imagenet.config import (
    Config,
    DataConfig,
    ModelConfig,
    ScheduleConfig,
)
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.plan import make_plan
from hvd_imagenet.world import World

_FORMATS = ("tfrecord", "array_record")
_COUNTS = {"train": 23, "test": 7}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """`tiny_FORMAT/plain:1.0.0` of both formats, train and test in 3 files."""
    directory = tmp_path_factory.mktemp("tfds")
    for file_format in _FORMATS:
        tfds_data.prepare(
            directory,
            file_format,
            name=f"tiny_{file_format}",
            config="plain",
            counts=_COUNTS,
            shards=3,
        )
    return directory


def _config(data_dir, name="tiny", *, num_classes=3, **data):
    return Config(
        model=ModelConfig(num_classes=num_classes, image_size=16),
        data=DataConfig(
            data_dir=os.fspath(data_dir),
            tfds_name=name,
            **{"data_format": "tfds", **data},
        ),
        schedule=ScheduleConfig(warmup_epochs=0.0),
    )


def _open(data_dir, name="tiny", split="train", **options):
    return splits.open_split(_config(data_dir, name, **options), split)


def _refused(data_dir, name="tiny", split="train", **options):
    """The message of the ValueError, checked to be one sentence."""
    with pytest.raises(ValueError) as caught:
        _open(data_dir, name, split, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message
    return message


def _content(source):
    """[(encoded image, label)] of a source."""
    content = []
    for index in range(len(source)):
        record, nothing = source.read(index)
        assert nothing == -1
        image, label = preprocessing.parse_example(record, source.features)
        content.append((image.numpy(), int(label)))
    return content


def _expected(data_dir, name, split):
    """The same, by TFDS's own reader."""
    builder = tfds.builder_from_directory(data_dir / name / "plain" / "1.0.0")
    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        # Else it mixes files.
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    return [
        (bytes(each["image"]), int(each["label"]))
        for each in examples.as_numpy_iterator()
    ]


@pytest.mark.parametrize("file_format", _FORMATS)
def test_examples_are_those_of_tfds_in_its_order(data_dir, file_format):
    name = f"tiny_{file_format}"
    source = _open(data_dir, name)
    content = _content(source)
    # TFDS streams TFRecords only; the other format is compared below.
    written = [
        (tfds_data.encoded("train", number), number % 3) for number in range(23)
    ]
    assert sorted(content) == sorted(written)
    if file_format == "tfrecord":
        assert content == _expected(data_dir, name, "train")
    assert f"tiny_{file_format}/plain/1.0.0, split train" in source.description


def test_both_file_formats_hold_the_same_in_the_same_order(data_dir):
    # Keys are shuffled by their hash alone.
    first, second = (
        _content(_open(data_dir, f"tiny_{each}")) for each in _FORMATS
    )
    assert first == second


@pytest.mark.parametrize("file_format", _FORMATS)
@pytest.mark.parametrize(
    "part", ["train[:60%]", "train[5:-2]", "test[2:]+train[:1]"]
)
def test_parts_of_splits_are_those_of_tfds(data_dir, file_format, part):
    source = _open(data_dir, f"tiny_{file_format}", tfds_train_split=part)
    assert _content(source) == _expected(data_dir, "tiny_tfrecord", part)


@pytest.mark.parametrize("file_format", _FORMATS)
def test_a_record_of_a_part_is_named_by_its_place_in_the_file(
    data_dir, file_format
):
    name = f"tiny_{file_format}"
    whole = _open(data_dir, name)
    part = _open(data_dir, name, tfds_train_split="train[5:]")
    assert part.where(0) == whole.where(5)
    assert re.match(
        rf"record \d of {data_dir}/{name}/plain/1.0.0/{name}-train\."
        rf"{file_format}-0000\d-of-00003",
        part.where(0),
    )


def test_validation_falls_back_to_test(data_dir, tmp_path):
    name = "tiny_tfrecord"
    source = _open(data_dir, name, "validation")
    assert _content(source) == _expected(data_dir, name, "test")
    assert "split test" in source.description
    counts = {"train": 3, "test": 1, "validation": 2}
    tfds_data.prepare(tmp_path, "tfrecord", counts=counts)
    assert len(_open(tmp_path, split="validation")) == 2
    options = {"tfds_validation_split": "test"}
    assert len(_open(tmp_path, split="validation", **options)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "tiny_tfrecord",
        "tiny_tfrecord/plain",
        "tiny_tfrecord/plain:1.0.0",
        "tiny_tfrecord/plain:1.*.*",
    ],
)
def test_names_are_written_as_tfds_has_them(data_dir, name):
    assert len(_open(data_dir, name)) == 23


def test_the_newest_version_is_read_unless_one_is_named(tmp_path):
    for number, version in enumerate(["1.0.0", "2.1.0", "10.0.0"], 4):
        counts = {"train": number}
        tfds_data.prepare(
            tmp_path, "array_record", version=version, counts=counts
        )
    assert len(_open(tmp_path)) == 6
    assert len(_open(tmp_path, "tiny:2.1.0")) == 5


def test_features_may_have_any_names(tmp_path):
    features = {
        "picture": tfds.features.Image(encoding_format="jpeg"),
        "kind": tfds.features.ClassLabel(names=tfds_data.CLASSES),
        "number": tfds.features.Scalar(np.int64),
    }
    counts = {"train": 4}
    tfds_data.prepare(tmp_path, "tfrecord", counts=counts, features=features)
    written = [(tfds_data.encoded("train", i), i % 3) for i in range(4)]
    assert sorted(_content(_open(tmp_path))) == sorted(written)


def test_auto_finds_the_data_set_by_its_name(data_dir):
    name = "tiny_array_record/plain:1.0.0"
    assert len(_open(data_dir, name, data_format="auto")) == 23
    message = _refused(data_dir, "other:1.0.0", data_format="auto")
    assert f"--data_dir={data_dir} has neither TFRecords" in message
    assert "nor other/ of TensorFlow Datasets (--tfds_name)" in message


@pytest.mark.parametrize("file_format", _FORMATS)
def test_images_reach_the_batches(data_dir, file_format):
    config = _config(data_dir, f"tiny_{file_format}")
    source = splits.open_split(config, "validation")
    plan = make_plan(config, world_size=1, train_images=23, validation_images=7)
    (batch,) = dataset.evaluation_batches(
        config, plan, source, World(), threads=1
    )
    prepare = preprocessing.make_preprocessing(config.data, 16)
    for number, (image, label) in enumerate(_content(source)):
        np.testing.assert_array_equal(
            batch.images[number], prepare.evaluation_image(image)
        )
        assert int(batch.labels[number]) == label


@pytest.mark.parametrize("file_format", _FORMATS)
def test_many_threads_read_the_same(data_dir, file_format):
    source = _open(data_dir, f"tiny_{file_format}")
    alone = [source.read(index) for index in range(len(source))]
    order = np.random.default_rng(0).integers(0, len(source), 2000)
    with futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda i: source.read(int(i)), order))
    assert together == [alone[index] for index in order]


def test_dry_runs_take_no_tensorflow(data_dir):
    program = (
        "import json, sys\n"
        "from hvd_imagenet import flags, train\n"
        "counts = []\n"
        "for name in ('tiny_tfrecord', 'tiny_array_record'):\n"
        "    config = flags.parse_apart([*sys.argv, f'--tfds_name={name}'])\n"
        "    plan = json.loads(train.dry_run(config))\n"
        "    counts.append([plan['train_images'], plan['validation_images']])\n"
        "heavy = {'tensorflow', 'keras', 'horovod'} & sys.modules.keys()\n"
        "print(json.dumps([counts, sorted(heavy)]))\n"
    )
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            f"--data_dir={data_dir}",
            "--data_format=tfds",
            "--num_classes=3",
            "--batch_size_per_process=4",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == [[[23, 7], [23, 7]], []]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("imagenet2012", "tools/prepare_imagenet --manual_dir=TARS {}"),
        ("mnist", "tfds build mnist --data_dir={}"),
        ("none/such:1.0.0", "tfds build none/such:1.0.0 --data_dir={}"),
    ],
)
def test_what_is_not_prepared_is_refused_with_the_command(
    tmp_path, monkeypatch, name, command
):
    def connect(*_):
        raise AssertionError("It must not ask any other machine.")

    monkeypatch.setattr(socket.socket, "connect", connect)
    message = _refused(tmp_path, name)
    assert f"--tfds_name={name} is not prepared in" in message
    assert f"`{command.format(tmp_path)}`" in message
    assert list(tmp_path.iterdir()) == []


def test_what_is_prepared_instead_is_named(data_dir):
    message = _refused(data_dir, "tiny_tfrecord/plain:2.0.0")
    assert "(which has tiny_tfrecord/plain:1.0.0)" in message


def test_another_number_of_classes_is_refused(data_dir):
    message = _refused(data_dir, "tiny_tfrecord", num_classes=1000)
    assert "tiny_tfrecord/plain/1.0.0 has 3 classes" in message
    assert "--num_classes=1000; set --num_classes=3" in message


def test_labels_count_from_zero(data_dir):
    assert len(_open(data_dir, "tiny_tfrecord", label_offset=0)) == 23
    message = _refused(data_dir, "tiny_tfrecord", label_offset=1)
    assert "--label_offset=1 does not fit --data_format=tfds" in message


@pytest.mark.parametrize("part", ["none", "train[", "train[:500]", "train[x:]"])
def test_splits_that_are_not_there_are_refused(data_dir, part):
    for split in ("train", "validation"):
        flag = f"tfds_{split}_split"
        message = _refused(data_dir, "tiny_tfrecord", split, **{flag: part})
        assert f"--{flag}={part} is no split of tiny_tfrecord" in message
        assert "train (23 images), test (7 images)" in message


@pytest.mark.parametrize("file_format", _FORMATS)
def test_empty_parts_are_refused(data_dir, file_format):
    name = f"tiny_{file_format}"
    message = _refused(data_dir, name, tfds_train_split="train[:0]")
    assert "--tfds_train_split=train[:0]" in message
    assert "has no images" in message


def test_data_sets_without_held_out_images_are_refused(tmp_path):
    tfds_data.prepare(tmp_path, "tfrecord", counts={"train": 4})
    message = _refused(tmp_path, split="validation")
    assert "has neither a split validation nor one named test" in message
    assert "--tfds_validation_split=train[95%:]" in message


def test_data_sets_of_another_kind_are_refused(tmp_path):
    kinds = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "number": tfds.features.Scalar(np.int64),
    }
    tfds_data.prepare(tmp_path, "tfrecord", counts={"train": 1}, features=kinds)
    message = _refused(tmp_path)
    assert "tiny/1.0.0 does not have one image and one class label" in message


def test_files_of_another_format_are_refused(tmp_path):
    folder = tfds_data.prepare(tmp_path, "tfrecord", counts={"train": 1})
    facts = json.loads((folder / "dataset_info.json").read_text())
    facts["fileFormat"] = "parquet"
    (folder / "dataset_info.json").write_text(json.dumps(facts))
    for path in folder.glob("tiny-train.tfrecord-*"):
        path.rename(folder / path.name.replace("tfrecord", "parquet"))
    message = _refused(tmp_path)
    assert "in files of format parquet" in message
    assert "prepare it as tfrecord or array_record" in message


@pytest.mark.parametrize("name", ["two words", "tiny:x.y", ""])
def test_names_that_tfds_does_not_know_are_refused(tmp_path, name):
    assert f"--tfds_name={name}" in _refused(tmp_path, name)


@pytest.fixture(params=_FORMATS)
def spoilable(request, tmp_path):
    """A data set of one's own, in two files."""
    return tfds_data.prepare(
        tmp_path, request.param, counts={"train": 8, "test": 6}, shards=2
    )


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_metadata_is_refused(spoilable, tmp_path, file):
    os.truncate(spoilable / file, 50)
    message = _refused(tmp_path)
    assert f"--tfds_name=tiny cannot be read in --data_dir={tmp_path}" in (
        message
    )
    assert "prepare the data set again" in message


def _shards(folder, split="train"):
    return sorted(folder.glob(f"tiny-{split}.*-of-*"))


def test_a_missing_file_is_refused(spoilable, tmp_path):
    path = _shards(spoilable)[1]
    path.unlink()
    message = _refused(tmp_path)
    assert f"{path} is not there" in message
    assert "of the 2 files of tiny/1.0.0, split train" in message


def test_a_file_of_another_length_is_refused(spoilable, tmp_path):
    path = _shards(spoilable)[1]
    path.write_bytes(_shards(spoilable, "test")[0].read_bytes())
    message = _refused(tmp_path)
    assert f"{path} has " in message
    assert "but the dataset_info.json beside it says" in message


def test_a_file_that_was_cut_is_refused(spoilable, tmp_path):
    path = _shards(spoilable)[0]
    os.truncate(path, path.stat().st_size * 2 // 3)
    with pytest.raises(CorruptRecordError, match=re.escape(str(path))):
        _open(tmp_path)


def test_a_damaged_record_is_named(spoilable, tmp_path):
    source = _open(tmp_path)
    expected = [source.read(index) for index in range(len(source))]
    path = _shards(spoilable)[0]
    content = bytearray(path.read_bytes())
    # Where one of the first images is, and not a length.
    content[500] ^= 1
    path.write_bytes(bytes(content))
    source = _open(tmp_path)
    messages = {}
    for index in range(len(source)):
        try:
            assert source.read(index) == expected[index]
        except CorruptRecordError as error:
            messages[index] = str(error)
    ((index, message),) = messages.items()
    assert message.startswith(f"record {index} of {path}")
    assert message.endswith(".")
    assert "\n" not in message
