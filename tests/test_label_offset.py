"""The number of the first class is detected, or asked for."""

import os
import time

import numpy as np
import pytest

import image_data
from hvd_imagenet import label_offset, splits
from hvd_imagenet.config import Config, DataConfig, ModelConfig

# Places 0, 1, 5 and 999 of the sorted list of ImageNet's synsets.
_SYNSETS = {
    "n01440764": 0,
    "n01443537": 1,
    "n01496331": 5,
    "n15075141": 999,
}


def _write(directory, train, validation=(), *, shards=1):
    """Records with these labels, or (label, synset)."""
    for name, labels in (("train", train), ("validation", validation)):
        records = []
        for label in labels or [2]:
            label, synset = label if isinstance(label, tuple) else (label, None)
            records.append(image_data.example(b"image", label, synset=synset))
        image_data.write_shards(
            directory, name, [records[i::shards] for i in range(shards)]
        )
    return directory


def _sources(data_dir, num_classes, **data):
    config = Config(
        model=ModelConfig(num_classes=num_classes),
        data=DataConfig(data_dir=os.fspath(data_dir), **data),
    )
    return [splits.open_split(config, s) for s in ("train", "validation")]


def _settled(data_dir, num_classes, **data):
    """The offset, checked to be known to all sources."""
    sources = _sources(data_dir, num_classes, **data)
    offset = label_offset.settle(sources, num_classes)
    for source in sources:
        assert source.features.label_offset == offset
        assert f"labels from {offset} (" in source.description
    return offset


def _refused(data_dir, num_classes):
    sources = _sources(data_dir, num_classes)
    with pytest.raises(ValueError) as caught:
        label_offset.settle(sources, num_classes)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("train", "validation", "expected"),
    [
        ([1, 2, 3, 4, 5], [3], 1),
        ([0, 1, 2, 3, 4], [3], 0),
        # One split alone proves it.
        ([2, 3], [1, 5], 1),
        ([2, 3], [4, 0, 4], 0),
        ([0], [2], 0),
    ],
)
def test_labels_at_either_end_prove_the_way(
    tmp_path, train, validation, expected
):
    _write(tmp_path, train, validation, shards=2)
    assert _settled(tmp_path, 5) == expected


@pytest.mark.parametrize("offset", [0, 1])
def test_a_synset_proves_it_for_imagenet(tmp_path, offset):
    # No label at an end.
    labels = [(_SYNSETS[s] + offset, s) for s in ("n01443537", "n01496331")]
    _write(tmp_path, labels)
    assert _settled(tmp_path, 1000) == offset
    (source, _) = _sources(tmp_path, 1000)
    label_offset.settle([source], 1000)
    assert f"has label {1 + offset} for n01443537" in source.description


def test_synsets_in_an_order_of_their_own_prove_nothing(tmp_path):
    labels = [(1, "n01443537"), (8, "n01496331")]
    _write(tmp_path, labels)
    assert "do not tell" in _refused(tmp_path, 1000)
    _write(tmp_path, [*labels, 1000])
    assert _settled(tmp_path, 1000) == 1


def test_synsets_of_other_classes_prove_nothing(tmp_path):
    # Ten classes of ImageNet have other numbers than the thousand.
    _write(tmp_path, [(5, "n01496331")])
    assert "do not tell" in _refused(tmp_path, 10)


def test_the_reason_names_the_record(tmp_path):
    _write(tmp_path, [2, 3, 5])
    sources = _sources(tmp_path, 5)
    label_offset.settle(sources, 5)
    assert sources[0].description == (
        f"1 TFRecord file, labels from 1 (record 2 of {tmp_path}"
        f"/train-00000-of-00001 (at byte {_byte(sources[0], 2)}) has label 5)"
    )


def _byte(source, index):
    return int(source.where(index).rpartition(" ")[2].rstrip(")"))


def test_what_was_asked_for_is_not_looked_at(tmp_path):
    _write(tmp_path, [0, 1, 2])
    assert _settled(tmp_path, 5, label_offset=1) == 1
    (source, _) = _sources(tmp_path, 5, label_offset=1)
    assert source.description.endswith("labels from 1 (--label_offset)")


def test_a_sample_that_proves_nothing_is_refused(tmp_path):
    _write(tmp_path, [2, 3], [4])
    message = _refused(tmp_path, 5)
    assert "labels of 3 records, 2 to 4, do not tell whether the 5" in message
    assert "--label_offset=0 or --label_offset=1" in message


def test_both_ways_at_once_are_refused(tmp_path):
    _write(tmp_path, [0, 1, 2], [5])
    message = _refused(tmp_path, 5)
    assert "train-00000-of-00001 (at byte 0) has label 0 and record 0" in (
        message
    )
    assert "validation-00000-of-00001 (at byte 0) has label 5, which" in message
    assert "--num_classes=5" in message


def test_records_that_cannot_be_read_are_left_for_later(tmp_path):
    image_data.write_shards(
        tmp_path,
        "train",
        [[b"\xff no example", image_data.example(b"image", 5)]],
    )
    path = tmp_path / "train-00000-of-00001"
    image_data.write_records(
        tmp_path / "validation-00000-of-00001",
        [image_data.example(b"image", 0, label="other")],
    )
    assert _settled(tmp_path, 5) == 1
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # The last byte of the good record.
    path.write_bytes(bytes(content))
    message = _refused(tmp_path, 5)
    assert "with image/class/label; name a directory of" in message


def test_the_sample_is_bounded_and_quick(tmp_path, monkeypatch):
    # The proof is at the last place of the order, and every read counts.
    labels = np.full(label_offset._LIMIT * 2, 7)
    _write(tmp_path, labels.tolist())
    sources = _sources(tmp_path, 1000)
    reads = []
    read = sources[0].read
    monkeypatch.setattr(
        sources[0], "read", lambda index: reads.append(index) or read(index)
    )
    start = time.monotonic()
    with pytest.raises(ValueError, match="do not tell"):
        label_offset.settle(sources, 1000)
    assert time.monotonic() - start < 10
    assert len(reads) == len(set(reads)) == label_offset._LIMIT // 2
    # The order is the same for every rank; where it begins is read first.
    first, last = reads[:2]
    assert {first, last} <= {0, len(labels) - 1}
    reads.clear()
    _write(tmp_path, [*labels[:-1].tolist(), 1000])
    sources = _sources(tmp_path, 1000)
    read = sources[0].read
    monkeypatch.setattr(
        sources[0], "read", lambda index: reads.append(index) or read(index)
    )
    assert label_offset.settle(sources, 1000) == 1
    assert len(reads) == label_offset._CHUNK // 2


def test_other_sources_know_their_labels(tmp_path):
    image_data.write_folders(tmp_path / "train", {"a": {}, "b": {}})
    image_data.write_folders(tmp_path / "val", {"a": {"1.png": b""}})
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"")
    sources = _sources(tmp_path, 2, data_format="folder")
    assert label_offset.settle(sources, 2) is None
