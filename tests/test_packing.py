"""Packed sets against Pillow, readers, and all that can go wrong on the way."""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import image_data
import jobs
from hvd_imagenet import raw_images, splits
from hvd_imagenet.config import Config, DataConfig, ModelConfig
from hvd_imagenet.examples import ExampleFeatures
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.packing import job, manifest, records
from hvd_imagenet.packing.options import PackOptions

_TOOL = pathlib.Path(__file__).parent.parent / "tools" / "pack"
_CLASSES = 5
_TRAIN, _VALIDATION = 30, 6
# Reduced to a shorter side of 24: height and width before and after.
_SIZES = {
    (48, 72): (24, 36),
    (50, 37): (32, 24),
    (25, 200): (24, 192),
    (24, 30): (24, 30),
    (7, 90): (7, 90),
}


def _number(split, place):
    return place + (1000 if split == "validation" else 0)


def _shape(number):
    return list(_SIZES)[number % len(_SIZES)]


def _jpeg(number):
    return image_data.encode(image_data.pixels(*_shape(number), seed=number))


def _example(number, encoded=None):
    """With what the builder scripts say beside image and label."""
    message = tf.train.Example.FromString(
        image_data.example(encoded or _jpeg(number), number % _CLASSES + 1)
    )
    for name, value in (
        ("image/filename", f"n_{number}.JPEG"),
        ("image/class/synset", f"n{number % _CLASSES:08d}"),
        ("image/class/text", f"word {number % _CLASSES}, other word"),
    ):
        message.features.feature[name].bytes_list.value.append(value.encode())
    message.features.feature["image/object/bbox/xmin"].float_list.value.append(
        0.25
    )
    return message.SerializeToString()


def _write(directory, spoil=lambda number, record: record):
    for split, count in (("train", _TRAIN), ("validation", _VALIDATION)):
        written = [
            spoil(_number(split, place), _example(_number(split, place)))
            for place in range(count)
        ]
        image_data.write_shards(directory, split, [written[::2], written[1::2]])
    return directory


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("source"))


def _flags(source, output, **flags):
    return {
        "data_dir": os.fspath(source),
        "output_dir": os.fspath(output),
        "num_classes": _CLASSES,
        "shorter_side": 24,
        "train_shards": 4,
        "validation_shards": 2,
        "processes": 1,
    } | flags


def _pack(source, output, **flags):
    return job.pack(PackOptions(**_flags(source, output, **flags)))


def _arguments(source, output, **flags):
    flags = _flags(source, output, **flags)
    return [f"--{name}={value}" for name, value in flags.items()]


def _run(*arguments, check=True, **options):
    finished = subprocess.run(
        [sys.executable, str(_TOOL), *arguments],
        env=jobs.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=jobs.TIMEOUT_SECONDS,
        **options,
    )
    if check:
        assert finished.returncode == 0, finished.stderr
    return finished


def _features(directory, split):
    """The records by file name of the image."""
    paths = sorted(map(str, directory.glob(f"{split}-*of-*")))
    found = {}
    for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        (name,) = features["image/filename"].bytes_list.value
        found[name.decode()] = features
    return found


def _files(directory):
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


def _value(features, name):
    kind = features[name].WhichOneof("kind")
    (value,) = getattr(features[name], kind).value
    return value


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("packed") / "jpeg"
    return output, _pack(source, output)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_packed_images_are_the_reduced_ones(packed, split):
    output, _ = packed
    count = {"train": _TRAIN, "validation": _VALIDATION}[split]
    found = _features(output, split)
    assert len(found) == count
    for place in range(count):
        number = _number(split, place)
        features = found[f"n_{number}.JPEG"]
        before = Image.open(io.BytesIO(_jpeg(number)))
        height, width = _SIZES[_shape(number)]
        encoded = _value(features, "image/encoded")
        if before.size == (width, height):
            assert encoded == _jpeg(number)
        else:
            expected = before.resize((width, height), Image.Resampling.LANCZOS)
            assert encoded == image_data.encode(expected, quality=90)
        expected = {
            "image/format": b"JPEG",
            "image/colorspace": b"RGB",
            "image/channels": 3,
            "image/height": height,
            "image/width": width,
            "image/class/label": number % _CLASSES + 1,
            "image/class/synset": f"n{number % _CLASSES:08d}".encode(),
            "image/object/bbox/xmin": 0.25,
        }
        assert expected == {name: _value(features, name) for name in expected}


def test_every_file_is_a_sample_and_validation_keeps_its_order(source, packed):
    output, _ = packed
    names = list(_features(output, "validation"))
    assert names == list(_features(source, "validation"))
    assert list(_features(output, "train")) != list(_features(source, "train"))
    files = sorted(path.name for path in output.glob("train-*"))
    assert files == [f"train-{n:05d}-of-00004" for n in range(4)]
    labels = [
        {
            _value(features, "image/class/label")
            for features in _features(output, name).values()
        }
        for name in [f"train-{n:05d}" for n in range(4)]
    ]
    assert min(map(len, labels)) >= 3


def test_the_manifest_says_what_there_is(source, packed):
    output, content = packed
    assert json.loads((output / manifest.NAME).read_text()) == content
    assert content["format_version"] == 1
    assert content["label_offset"] == 1
    found = content["source"]
    assert found["data_dir"] == os.path.realpath(source)
    assert found["images"] == {"train": _TRAIN, "validation": _VALIDATION}
    assert found["description"]["train"].startswith(
        "2 TFRecord files, labels from 1 (record "
    )
    assert content["settings"]["source_label_offset"] == 1
    assert content["settings"]["shorter_side"] == 24
    assert content["classes"] == [
        {
            "label": label,
            "synset": f"n{label:08d}",
            "text": f"word {label}, other word",
        }
        for label in range(_CLASSES)
    ]
    for split, count in (("train", _TRAIN), ("validation", _VALIDATION)):
        facts = content["splits"][split]
        assert facts["records"] == sum(facts["class_counts"]) == count
        numbers = [_number(split, place) for place in range(count)]
        assert facts["class_counts"] == [
            sum(number % _CLASSES == label for number in numbers)
            for label in range(_CLASSES)
        ]
        assert facts["source_bytes"] == sum(
            len(_example(number)) for number in numbers
        )
        assert facts["copied"] == sum(
            _SIZES[_shape(number)] == _shape(number) for number in numbers
        )
        for shard in facts["shards"]:
            data = (output / shard["file"]).read_bytes()
            assert shard["bytes"] == len(data)
            assert shard["crc32c"] == f"{google_crc32c.value(data):08x}"
        assert facts["bytes"] == sum(
            shard["bytes"] for shard in facts["shards"]
        )


def test_a_training_finds_what_was_packed(packed):
    output, _ = packed
    config = Config(
        model=ModelConfig(num_classes=_CLASSES),
        data=DataConfig(data_dir=str(output)),
    )
    assert len(splits.open_split(config, "train")) == _TRAIN
    assert len(splits.open_split(config, "validation")) == _VALIDATION


def test_raw_records_have_the_reduced_pixels(source, tmp_path):
    content = _pack(source, tmp_path / "raw", encoding="raw", split="train")
    assert list(content["splits"]) == ["train"]
    found = _features(tmp_path / "raw", "train")
    assert len(found) == _TRAIN
    for number in range(_TRAIN):
        features = found[f"n_{number}.JPEG"]
        height, width = _SIZES[_shape(number)]
        before = Image.open(io.BytesIO(_jpeg(number)))
        expected = before.resize((width, height), Image.Resampling.LANCZOS)
        assert _value(features, "image/encoded") == raw_images.encode(
            np.asarray(expected)
        )
        assert _value(features, "image/format") == b"PPM"


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        ({"max_side": 40}, (40, 27)),
        ({"shorter_side": 30}, (45, 30)),
        ({"shorter_side": 48}, (72, 48)),
        ({"max_side": 1000}, (72, 48)),
        ({}, (72, 48)),
    ],
)
def test_sides_are_limited_and_never_enlarged(flags, size):
    assert PackOptions(**flags).size(72, 48) == size


def test_a_long_image_keeps_a_pixel():
    assert PackOptions(max_side=8).size(2000, 3) == (8, 1)


def _packed_image(encoded, **flags):
    packed = records.pack(encoded, 0, "folder/name", None, PackOptions(**flags))
    features = tf.train.Example.FromString(packed.record).features.feature
    return _value(features, "image/encoded"), packed.is_copy


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_what_is_no_rgb_jpeg_becomes_one(mode):
    image = Image.fromarray(image_data.pixels(20, 30)).convert(mode)
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    encoded = image_data.encode(image, kind)
    packed, is_copy = _packed_image(encoded)
    assert not is_copy
    found = Image.open(io.BytesIO(packed))
    assert (found.format, found.mode, found.size) == ("JPEG", "RGB", (30, 20))
    expected = Image.open(io.BytesIO(encoded)).convert("RGB")
    assert packed == image_data.encode(expected, quality=90)


def test_small_images_are_encoded_again_on_request():
    packed, is_copy = _packed_image(_jpeg(0), copy_small=False, quality=50)
    assert not is_copy
    assert len(packed) < len(_jpeg(0))


def test_decoding_at_a_fraction_of_the_size_is_close():
    # Smooth, as photographs are at this size.
    image = Image.fromarray(image_data.pixels(1536, 2048))
    encoded = image_data.encode(image, quality=95)
    packed, _ = _packed_image(encoded, encoding="raw", shorter_side=96)
    found = np.asarray(Image.open(io.BytesIO(packed)), float)
    whole = Image.open(io.BytesIO(encoded)).resize(
        (128, 96), Image.Resampling.LANCZOS
    )
    difference = np.abs(found - np.asarray(whole, float))
    assert difference.mean() < 0.6
    assert difference.max() <= 5


def test_sixteen_bits_are_not_cut_silently():
    image = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20))
    with pytest.raises(CorruptRecordError, match=r"folder/name .* 8 bits"):
        _packed_image(image_data.encode(image, "PNG"))


def test_what_is_there_is_checked_and_the_rest_packed(
    source, packed, tmp_path, capsys
):
    output = tmp_path / "again"
    _pack(source, output)
    expected = _files(packed[0])
    assert _files(output) == expected
    times = {path: path.stat().st_mtime_ns for path in output.glob("*-of-*")}
    # One is gone, one cut, one damaged, one killed before it was noted, and
    # the journal's last line is half.
    gone, cut, damaged = sorted(output.glob("train-*"))[:3]
    gone.unlink()
    os.truncate(cut, cut.stat().st_size - 1)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    journal = output / ".pack" / "journal.jsonl"
    os.truncate(journal, journal.stat().st_size - 9)
    (output / ".train-00000-of-00004.tmp").write_bytes(b"half")
    (output / manifest.NAME).unlink()
    capsys.readouterr()
    _pack(source, output)
    assert _files(output) == expected
    assert not list(output.glob(".*.tmp"))
    said = capsys.readouterr().err
    assert "2 of 6 shards are there already." in said
    for path in (gone, cut, damaged):
        assert f"{path.name} is damaged or missing" in said
    same = [p for p in times if p.stat().st_mtime_ns == times[p]]
    assert len(same) == 2


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"shorter_side": 25}, "shorter_side was 24 and is 25 now;"),
        ({"encoding": "raw"}, 'encoding was "jpeg" and is "raw" now'),
        ({"seed": 1}, "seed was 0 and is 1 now;"),
        ({"split": "train"}, "images was"),
    ],
)
def test_other_settings_are_refused(source, packed, flags, named):
    before = _files(packed[0])
    with pytest.raises(ValueError, match=r"begun with other settings: ") as e:
        _pack(source, packed[0], **flags)
    assert named in str(e.value)
    assert _files(packed[0]) == before


def test_two_at_once_are_refused(source, packed):
    with open(packed[0] / ".pack" / "journal.jsonl") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="written by another process"):
            _pack(source, packed[0])


def test_files_of_others_are_not_touched(source):
    with pytest.raises(ValueError, match=r"has 2 files like train-00000-of"):
        _pack(source, source)


def _spoil(number, record):
    """A cut JPEG, a label that is too large, and no example at all."""
    if number == 3:
        return _example(number, _jpeg(number)[:-200])
    if number == 8:
        return image_data.example(_jpeg(number), _CLASSES + 1)
    if number == 1002:
        return b"no example"
    return record


def test_a_corrupt_record_ends_with_its_name(tmp_path):
    _write(tmp_path / "source", _spoil)
    with pytest.raises(CorruptRecordError, match=r"record \d+ of .*/source/"):
        _pack(tmp_path / "source", tmp_path / "packed")
    # Nothing half done, and the rest is packed on request in the same place.
    assert not list((tmp_path / "packed").glob(".*.tmp"))
    content = _pack(tmp_path / "source", tmp_path / "packed", on_corrupt="skip")
    # Number 3 is the second of the second file.
    train, validation = (content["splits"][s] for s in content["splits"])
    assert (train["records"], validation["records"]) == (28, 5)
    cut, label = sorted(
        train["skipped"], key=lambda name: "has the label" in name
    )
    path = tmp_path / "source" / "train-00001-of-00002"
    assert cut.startswith(f"record 1 of {path} (at byte ")
    assert "cannot be decoded" in cut
    assert "has the label 5 counted from 0, outside the 5 classes" in label
    assert "is no tf.train.Example" in validation["skipped"][0]


def test_a_folder_is_packed_with_its_class_names(tmp_path):
    for split in ("train", "val"):
        image_data.write_folders(
            tmp_path / "images" / split,
            {
                f"n{label:08d}": {f"{label}.JPEG": _jpeg(label)}
                for label in range(_CLASSES)
            },
        )
    content = _pack(
        tmp_path / "images",
        tmp_path / "packed",
        train_shards=None,
        validation_shards=None,
    )
    assert content["splits"]["train"]["class_counts"] == [1] * _CLASSES
    assert len(content["splits"]["train"]["shards"]) == 1
    assert content["classes"][3] == {
        "label": 3,
        "synset": "n00000003",
        "text": "",
    }
    found = _features(tmp_path / "packed", "validation")
    assert set(found) == {f"{label}.JPEG" for label in range(_CLASSES)}


def test_records_of_other_data_sets_become_those_of_imagenet():
    record = image_data.example(_jpeg(3), 4, image="image", label="label")
    message = tf.train.Example.FromString(record)
    message.features.feature["file_name"].bytes_list.value.append(b"a.jpg")
    packed = records.pack(
        message.SerializeToString(),
        -1,
        "record 0",
        ExampleFeatures(image="image", label="label", label_offset=0),
        PackOptions(),
    )
    assert packed.label == 4
    features = tf.train.Example.FromString(packed.record).features.feature
    assert _value(features, "image/encoded") == _jpeg(3)
    assert _value(features, "image/class/label") == 5
    assert _value(features, "image/filename") == b"a.jpg"
    assert not {"image", "label", "file_name"} & set(features)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"shorter_side": 8, "max_side": 9}, "are both given; leave one away"),
        ({"quality": 101}, "--quality=101 must be at most 100"),
        ({"encoding": "webp"}, "must be one of jpeg, raw"),
    ],
)
def test_impossible_options_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        PackOptions(**flags)


def test_mistakes_are_told_in_a_sentence_and_help_explains():
    told = _run("--help", check=False)
    for words in ("tools/pack --data_dir=", "--shorter_side", "--on_corrupt"):
        assert words in told.stdout
    refused = _run("--shorter_side=8", "--max_side=9", check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: --shorter_side=8 and")
    assert refused.stderr.endswith("See --help for the flags.\n")


def test_more_files_than_images_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match=r"--train_shards=31 is more than the"):
        _pack(source, tmp_path, train_shards=31)


@pytest.mark.slow
def test_two_processes_pack_what_one_does(source, packed, tmp_path):
    finished = _run(*_arguments(source, tmp_path / "two", processes=2))
    assert _files(tmp_path / "two") == _files(packed[0])
    facts = packed[1]["splits"]["train"]
    assert "train: 30 images in 4 files, " in finished.stdout
    assert f"({facts['bytes'] / facts['source_bytes']:.0%})" in finished.stdout
    assert "bytes for 36 images" in finished.stderr.replace("KB", "bytes")


# --- Slow: interruptions and full disks of the whole program. ---


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Images that take a while: 3 s of one core."""
    directory = tmp_path_factory.mktemp("large")
    for split, count in (("train", 300), ("validation", 20)):
        examples = [
            image_data.example(
                image_data.encode(image_data.pixels(700, 900, seed=n % 7)),
                n % _CLASSES + 1,
            )
            for n in range(count)
        ]
        image_data.write_shards(directory, split, [examples])
    return directory


def _large(source, output, **flags):
    flags = {
        "shorter_side": 256,
        "train_shards": 30,
        "validation_shards": 2,
        "processes": 2,
    } | flags
    return _arguments(source, output, **flags)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)],
)
def test_an_interrupted_run_goes_on(large, tmp_path, sent, status):
    output = tmp_path / "packed"
    process = subprocess.Popen(
        [sys.executable, str(_TOOL), *_large(large, output)],
        env=jobs.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + jobs.TIMEOUT_SECONDS
        while len(list(output.glob("train-*"))) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # As a terminal does.
        else:
            process.send_signal(sent)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status, said
    if sent != signal.SIGKILL:
        assert said.splitlines()[-1].startswith("interrupted; the same command")
        assert "Traceback" not in said
        assert not list(output.glob(".*.tmp"))
    deadline = time.monotonic() + 60
    while any(str(output) in words for _, words in jobs.processes()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    done = len(list(output.glob("*-of-*")))
    assert 3 <= done < 32
    finished = _run(*_large(large, output))
    # At most the ones that were renamed but not yet noted are packed twice.
    there = int(finished.stderr.split(" of 32 shards are there")[0].split()[-1])
    assert done - 2 <= there <= done
    whole = tmp_path / "whole"
    _run(*_large(large, whole))
    assert _files(output) == _files(whole)
    assert not list(output.glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_is_an_error_that_loses_nothing(large, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    )
    if mounted.returncode:
        pytest.skip("this root cannot mount")
    try:
        output = disk / "packed"
        refused = _run(*_large(large, output, encoding="raw"), check=False)
        assert refused.returncode == 1
        assert "has too little space: about 80" in refused.stderr
        assert refused.stderr.count("\n") == 1
        # Room enough at first; others take it meanwhile.
        shutil.rmtree(output)
        process = subprocess.Popen(
            [sys.executable, str(_TOOL), *_large(large, output)],
            env=jobs.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + jobs.TIMEOUT_SECONDS
            while len(list(output.glob("train-*"))) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            with (
                open(disk / "others", "wb", buffering=0) as others,
                contextlib.suppress(OSError),
            ):
                while others.write(bytes(1 << 16)):
                    pass
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 1
        error = said.splitlines()[-1]
        assert error.startswith(f"error: --output_dir={output}: there is no")
        assert "No space left on device" in error
        assert "Traceback" not in said
        done = {path: path.read_bytes() for path in output.glob("*-of-*")}
        assert len(done) >= 3
        assert not list(output.glob(".*.tmp"))
        (disk / "others").unlink()
        _run(*_large(large, output))
        assert (
            done.items()
            <= {
                path: path.read_bytes() for path in output.glob("*-of-*")
            }.items()
        )
        _run(*_large(large, tmp_path / "whole"))
        assert _files(output) == _files(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_an_error(large, tmp_path):
    finished = _run(
        *_large(large, tmp_path, train_shards=1, encoding="raw"),
        check=False,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)
        ),
    )
    assert finished.returncode == 1
    error = finished.stderr.splitlines()[-1]
    assert "there is no more space" in error
    assert "File too large" in error
    assert not list(tmp_path.glob(".*.tmp"))
