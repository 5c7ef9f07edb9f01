"""Every layout of data gives the right images and labels, or says why not."""

import io
import os
import re

import numpy as np
import pytest
from PIL import Image

import image_data
from hvd_imagenet import examples, imagenet, retries, splits
from hvd_imagenet.config import Config, DataConfig, ModelConfig, RunConfig
from hvd_imagenet.framing import CorruptRecordError

# In another order than they are sorted in.
_CLASSES = ("n02113799", "n01440764", "n01768244")
_SORTED = sorted(_CLASSES)


def _config(data_dir, *, num_classes=3, workdir=None, image_size=16, **data):
    return Config(
        model=ModelConfig(num_classes=num_classes, image_size=image_size),
        data=DataConfig(data_dir=data_dir and os.fspath(data_dir), **data),
        run=RunConfig(workdir=workdir and os.fspath(workdir)),
    )


def _open(data_dir, split="train", **options):
    return splits.open_split(_config(data_dir, **options), split)


def _refused(data_dir, split="train", **options):
    """The message of the ValueError, checked to be one sentence."""
    with pytest.raises(ValueError) as caught:
        _open(data_dir, split, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message
    return message


def _content(source):
    return [source.read(index) for index in range(len(source))]


def _records(split, counts):
    return [
        [b"%s %d %d" % (split.encode(), shard, number) for number in range(n)]
        for shard, n in enumerate(counts)
    ]


@pytest.fixture
def shards(tmp_path):
    """TFRecord shards of both splits, one of them empty."""
    directory = tmp_path / "tfrecords"
    for split, counts in (("train", (3, 0, 4)), ("validation", (2, 1))):
        image_data.write_shards(directory, split, _records(split, counts))
    return directory


def _write_folder(directory, validation="val"):
    """An image folder; the bytes of every file are its class and name."""
    for split, classes, count in (
        ("train", _CLASSES, 4),
        (validation, _CLASSES, 2),
    ):
        image_data.write_folders(
            directory / split,
            {
                name: {
                    f"{name}_{number}.JPEG": f"{split} {name} {number}".encode()
                    for number in range(count)
                }
                for name in classes
            },
        )
    return directory


@pytest.fixture
def folder(tmp_path):
    return _write_folder(tmp_path / "folder")


@pytest.mark.parametrize("data_format", ["auto", "tfrecord"])
@pytest.mark.parametrize(
    ("split", "counts"), [("train", (3, 0, 4)), ("validation", (2, 1))]
)
def test_tfrecords_are_the_records_of_all_shards(
    shards, split, counts, data_format
):
    source = _open(shards, split, data_format=data_format)
    expected = [
        (record, -1) for shard in _records(split, counts) for record in shard
    ]
    assert source.features == examples.imagenet(None)
    assert len(source) == sum(counts)
    assert _content(source) == expected


def test_a_validation_split_named_val_is_found(tmp_path):
    for name in ("train", "val"):
        image_data.write_shards(tmp_path, name, [[name.encode()]])
    assert _content(_open(tmp_path, "validation")) == [(b"val", -1)]


def test_other_files_beside_the_shards_are_left_alone(shards):
    for name in (
        "train-notes.txt",
        "train-00000-of-00003.md5",
        "pretrain-00000-of-00001",
        "synset_labels.txt",
    ):
        (shards / name).write_bytes(b"no record")
    assert len(_open(shards)) == 7


def test_a_directory_with_glob_characters_is_read(tmp_path):
    directory = tmp_path / "data[1]*"
    image_data.write_shards(directory, "train", [[b"one"]])
    assert len(_open(directory)) == 1


def test_a_record_is_named_by_shard(shards):
    source = _open(shards)
    expected = f"record 1 of {shards}/train-00002-of-00003 "
    assert source.where(4).startswith(expected)


def test_the_index_is_cached_with_the_data(shards, tmp_path):
    workdir = tmp_path / "work"
    for split in ("train", "validation"):
        _open(shards, split, workdir=workdir)
        assert (shards / f".{split}.index.npz").is_file()
    assert not workdir.exists()


def test_the_index_is_cached_in_the_workdir_of_read_only_data(shards, tmp_path):
    # Root may write to read-only folders; a folder in the way stops it, too.
    (shards / ".train.index.npz").mkdir()
    workdir = tmp_path / "work"
    source = _open(shards, workdir=workdir)
    assert len(source) == 7
    assert (workdir / "index" / "train.npz").is_file()


@pytest.mark.parametrize("data_format", ["auto", "folder"])
@pytest.mark.parametrize("validation", ["val", "validation"])
def test_a_folder_gives_images_by_sorted_class(
    tmp_path, validation, data_format
):
    directory = _write_folder(tmp_path / "folder", validation)
    for split, folder, count in (
        ("train", "train", 4),
        ("validation", validation, 2),
    ):
        source = _open(directory, split, data_format=data_format)
        assert source.features is None
        assert _content(source) == [
            (f"{folder} {name} {number}".encode(), label)
            for label, name in enumerate(_SORTED)
            for number in range(count)
        ]


def test_an_image_of_a_folder_is_named_by_its_path(folder):
    source = _open(folder)
    assert source.where(5) == f"{folder}/train/{_SORTED[1]}/{_SORTED[1]}_1.JPEG"


def test_labels_hold_where_validation_misses_a_class(folder):
    for path in (folder / "val" / _SORTED[0]).iterdir():
        path.unlink()
    (folder / "val" / _SORTED[0]).rmdir()
    source = _open(folder, "validation")
    assert [label for _, label in _content(source)] == [1, 1, 2, 2]


def test_a_folder_holds_images_of_many_suffixes_and_nothing_else(folder):
    inside = folder / "train" / _SORTED[0]
    for name in ("a.jpg", "b.JPG", "c.png", "f.jpeg"):
        (inside / name).write_bytes(name.encode())
    # What archives, viewers and people leave behind.
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "jpeg", "d.Bmp"):
        (inside / name).write_bytes(b"no image")
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "README.txt").write_bytes(b"no class")
    source = _open(folder)
    names = [os.path.basename(source.where(i)) for i in range(len(source))]
    assert sorted(n for n in names if n[0] != "n") == [
        "a.jpg",
        "b.JPG",
        "c.png",
        "f.jpeg",
    ]
    assert len(source) == 12 + 4


def test_hidden_files_are_no_images(folder):
    # What macOS writes beside every file on a foreign file system.
    resource_fork = folder / "train" / _SORTED[0] / f"._{_SORTED[0]}_0.JPEG"
    resource_fork.write_bytes(b"\x00\x05\x16\x07")
    assert len(_open(folder)) == 12


def test_an_image_that_cannot_be_read_is_named(folder, monkeypatch):
    monkeypatch.setattr(retries, "_PAUSES", (0.01,))
    source = _open(folder)
    path = folder / "train" / _SORTED[0] / f"{_SORTED[0]}_1.JPEG"
    path.unlink()
    with pytest.raises(CorruptRecordError, match=re.escape(f"{path} cannot")):
        source.read(1)
    assert source.read(2)[1] == 0


def test_auto_prefers_shards_to_a_folder(folder):
    image_data.write_shards(folder, "train", [[b"one"]])
    assert _open(folder).features is not None
    assert _open(folder, data_format="folder").features is None


def test_no_data_dir_is_refused():
    message = _refused(None)
    assert "--data_dir is not given" in message
    assert "--data_format=synthetic" in message


def test_a_data_dir_that_is_not_there_is_refused(tmp_path):
    message = _refused(tmp_path / "nowhere")
    assert f"--data_dir={tmp_path}/nowhere is not a directory" in message
    assert "TFRecords or an image folder" in message


def test_a_file_as_data_dir_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert "is not a directory" in _refused(tmp_path / "file")


def test_a_directory_of_neither_layout_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    message = _refused(tmp_path)
    assert f"--data_dir={tmp_path} has neither" in message
    assert "train-*-of-*" in message
    assert "train/" in message


@pytest.mark.parametrize(
    ("data_format", "what"),
    [
        ("tfrecord", "no files named validation-*-of-* or val-*-of-*"),
        ("folder", "no folder validation/ or val/"),
    ],
)
def test_a_missing_validation_split_is_refused(tmp_path, data_format, what):
    if data_format == "tfrecord":
        image_data.write_shards(tmp_path, "train", [[b"one"]])
    else:
        image_data.write_folders(
            tmp_path / "train", {name: {} for name in _CLASSES}
        )
    message = _refused(tmp_path, "validation")
    assert f"--data_dir={tmp_path} has {what}" in message
    assert "name the directory" in message


@pytest.mark.parametrize("data_format", ["tfrecord", "folder"])
def test_the_layout_asked_for_must_be_there(tmp_path, data_format):
    (tmp_path / "other").mkdir()
    message = _refused(tmp_path, data_format=data_format)
    assert f"--data_dir={tmp_path} has no" in message
    assert "train" in message


def test_missing_shards_are_counted(tmp_path):
    image_data.write_shards(tmp_path, "train", [[b"one"]] * 8)
    for number in (2, 5, 7):
        (tmp_path / f"train-{number:05d}-of-00008").unlink()
    message = _refused(tmp_path)
    assert f"{tmp_path} has 5 files train-*-of-*" in message
    assert "say there are 8" in message
    assert "copy the missing ones" in message


def test_shards_of_two_sets_are_refused(tmp_path):
    image_data.write_shards(tmp_path, "train", [[b"one"]] * 2)
    image_data.write_shards(tmp_path, "train", [[b"two"]] * 3)
    message = _refused(tmp_path)
    assert "has 5 files train-*-of-*" in message
    assert "2 and 3" in message
    assert "remove those of another set" in message


def test_two_names_of_one_split_are_not_added_up(tmp_path):
    # Twice the validation images, should they be the same ones.
    image_data.write_shards(tmp_path, "train", [[b"one"]])
    for name in ("validation", "val"):
        image_data.write_shards(tmp_path, name, [[b"the same"]])
    message = _refused(tmp_path, "validation")
    assert "validation-*-of-*" in message
    assert "val-*-of-*" in message


@pytest.mark.parametrize("split", ["train", "validation"])
def test_empty_shards_are_refused(tmp_path, split):
    for name in ("train", "validation"):
        image_data.write_shards(tmp_path, name, [[], []])
    message = _refused(tmp_path, split)
    assert f"The {split} split of --data_dir={tmp_path} has no images" in (
        message
    )
    assert "make the data again" in message


@pytest.mark.parametrize("split", ["train", "validation"])
def test_empty_folders_are_refused(tmp_path, split):
    for name in ("train", "val"):
        image_data.write_folders(
            tmp_path / name, {name: {} for name in _CLASSES}
        )
    assert f"The {split} split of" in _refused(tmp_path, split)


@pytest.mark.parametrize("num_classes", [2, 4, 1000])
def test_another_number_of_class_folders_is_refused(folder, num_classes):
    for split in ("train", "validation"):
        message = _refused(folder, split, num_classes=num_classes)
        assert f"{folder}/train has 3 class folders" in message
        assert f"--num_classes={num_classes}" in message
        assert "set --num_classes=3" in message


def test_a_class_of_validation_alone_is_refused(folder):
    os.rename(folder / "val" / _SORTED[2], folder / "val" / "n99999999")
    message = _refused(folder, "validation")
    assert f"{folder}/val/n99999999 is a class that the train split" in message
    assert "remove or rename it" in message


@pytest.mark.parametrize(("split", "images"), [("train", 7), ("validation", 3)])
def test_an_image_count_that_contradicts_the_data_is_refused(
    shards, split, images
):
    flag = f"{split}_images"
    message = _refused(shards, split, **{flag: images + 1})
    assert f"--{flag}={images + 1}" in message
    assert f"has {images};" in message
    assert "leave the flag away" in message
    # The right count, or one for the other split, is no contradiction.
    other = "validation_images" if split == "train" else "train_images"
    assert len(_open(shards, split, **{flag: images, other: 99})) == images


def test_a_damaged_shard_is_refused_when_it_is_opened(shards):
    path = shards / "train-00002-of-00003"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(
        CorruptRecordError, match=re.escape(f"record 3 of {path} ")
    ):
        _open(shards)


def _synthetic(split="train", **options):
    return _open(None, split, data_format="synthetic", **options)


def test_synthetic_needs_no_data_and_counts_as_imagenet():
    assert len(_synthetic()) == imagenet.TRAIN_IMAGES
    assert len(_synthetic("validation")) == imagenet.VALIDATION_IMAGES


def test_synthetic_takes_the_counts_asked_for():
    counts = {"train_images": 21, "validation_images": 6}
    assert len(_synthetic(**counts)) == 21
    assert len(_synthetic("validation", **counts)) == 6


def test_synthetic_is_the_same_every_time():
    first, second = (_synthetic(train_images=20) for _ in range(2))
    assert first.features is None
    assert _content(first) == _content(second)
    assert len({image for image, _ in _content(first)}) == 20


def test_synthetic_splits_differ_but_share_the_patterns():
    counts = {"train_images": 6, "validation_images": 6}
    train = _content(_synthetic(**counts))
    validation = _content(_synthetic("validation", **counts))
    assert not {image for image, _ in train} & {im for im, _ in validation}

    def array(image):
        return np.asarray(Image.open(io.BytesIO(image)), np.float32)

    # The same class is closer in the other split than another class is: what
    # is learned from one shows in the other.
    for image, label in train:
        nearest = min(
            validation,
            key=lambda other: np.abs(array(other[0]) - array(image)).mean(),
        )
        assert nearest[1] == label


def test_synthetic_labels_are_balanced():
    source = _synthetic(train_images=1500, num_classes=3)
    labels = [source.read(index)[1] for index in range(1500)]
    counts = np.bincount(labels)
    assert len(counts) == 3
    # The pool of images need not be a multiple of the classes.
    assert counts.max() - counts.min() <= 3


@pytest.mark.parametrize("image_size", [16, 28])
def test_synthetic_images_are_jpegs_of_the_size_that_is_cropped(image_size):
    source = _synthetic(train_images=3, image_size=image_size)
    for index in range(3):
        encoded, label = source.read(index)
        image = Image.open(io.BytesIO(encoded))
        image.load()
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        # 256 for 224, in that proportion.
        assert image.size == (round(image_size * 8 / 7),) * 2
        assert label == index
        assert source.where(index) == f"synthetic image {index}"
