"""Validation images without class folders get the right labels, or none."""

import os

import pytest

import image_data
from hvd_imagenet import splits
from hvd_imagenet.config import Config, DataConfig, ModelConfig

# Classes of ImageNet's first validation images: sea snake, alp, Shetland
# sheepdog, soup bowl, cradle. Their places in this list are 0, 4, 1, 3, 2.
_OFFICIAL = ("n01751748", "n09193705", "n02105855", "n04263257", "n03125729")
_CLASSES = sorted(_OFFICIAL)
_PLACES = [0, 4, 1, 3, 2]
_NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 6)]


def _write(directory, names=_NAMES, classes=_CLASSES):
    """Images in class folders for training, and in none for validation."""
    image_data.write_folders(
        directory / "train", {name: {"1.JPEG": b""} for name in classes}
    )
    image_data.write_folders(
        directory, {"val": {name: name.encode() for name in names}}
    )
    return directory


@pytest.fixture
def data_dir(tmp_path):
    return _write(tmp_path / "data")


def _open(data_dir, labels=None, *, data_format="auto", num_classes=5):
    """The validation split, with `labels` in its label file."""
    path = None
    if labels is not None:
        path = data_dir / "labels.txt"
        path.write_text("".join(f"{line}\n" for line in labels))
    config = Config(
        model=ModelConfig(num_classes=num_classes),
        data=DataConfig(
            data_dir=os.fspath(data_dir),
            data_format=data_format,
            validation_labels=path and os.fspath(path),
        ),
    )
    return splits.open_split(config, "validation")


def _content(source):
    return [source.read(index) for index in range(len(source))]


def _refused(data_dir, labels=None, **options):
    with pytest.raises(ValueError) as caught:
        _open(data_dir, labels, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message
    return message


def _expected(names=_NAMES, places=_PLACES):
    return [(n.encode(), p) for n, p in zip(names, places, strict=True)]


def test_imagenet_s_own_names_need_no_labels(data_dir):
    source = _open(data_dir)
    assert _content(source) == _expected()
    assert source.features is None
    assert source.description == (
        "image files, labels by ImageNet's own file names"
    )
    assert source.where(2) == f"{data_dir}/val/{_NAMES[2]}"


def test_own_names_are_labelled_by_number_and_not_by_place(data_dir):
    for number in (0, 3):
        (data_dir / "val" / _NAMES[number]).unlink()
    assert _content(_open(data_dir)) == [
        (_NAMES[number].encode(), _PLACES[number]) for number in (1, 2, 4)
    ]


@pytest.mark.parametrize(
    "lines",
    [
        list(_OFFICIAL),
        ["", *_OFFICIAL, ""],
        # In any order, with or without a folder.
        [f"{n} {s}" for n, s in zip(_NAMES, _OFFICIAL, strict=True)][::-1],
        [f"val/{n}\t{s}" for n, s in zip(_NAMES, _OFFICIAL, strict=True)],
        [str(place) for place in _PLACES],
        [f"{n} {p}" for n, p in zip(_NAMES, _PLACES, strict=True)][::-1],
    ],
)
def test_a_label_file_labels_images(data_dir, lines):
    source = _open(data_dir, lines)
    assert _content(source) == _expected()
    assert source.description == (
        f"image files, labels by {data_dir}/labels.txt"
    )


def test_lines_follow_the_sorted_names(tmp_path):
    names = ["b.png", "a10.jpg", "a9.jpeg"]
    _write(tmp_path, names, ("cat", "dog"))
    source = _open(tmp_path, ["dog", "cat", "dog"], num_classes=2)
    assert _content(source) == _expected(
        ["a10.jpg", "a9.jpeg", "b.png"], [1, 0, 1]
    )


def test_folders_that_are_named_by_numbers_are_names(tmp_path):
    # Sorted, they are 1, 10 and 2.
    _write(tmp_path, ["a.jpg", "b.jpg"], ("1", "2", "10"))
    source = _open(tmp_path, ["10", "2"], num_classes=3)
    assert [label for _, label in _content(source)] == [1, 2]


def test_images_of_any_other_name_need_labels(tmp_path):
    _write(tmp_path, [*_NAMES, "one.JPEG"])
    message = _refused(tmp_path)
    assert f"{tmp_path}/val has images and no class folders" in message
    assert "--validation_labels" in message


def test_a_class_that_is_not_trained_is_refused(tmp_path):
    classes = [*_CLASSES[:2], "n00000000", *_CLASSES[3:]]
    _write(tmp_path, classes=classes)
    message = _refused(tmp_path)
    assert f"{tmp_path}/val/{_NAMES[4]} is of class {_CLASSES[2]}" in message


@pytest.mark.parametrize("lines", [["1", "4", "2", "5", "3"], ["490"] * 5])
def test_numbers_from_one_are_refused(data_dir, lines):
    # As those of the development kit are, in an order that is not told.
    message = _refused(data_dir, lines)
    assert "ILSVRC2012_validation_ground_truth.txt has another order" in message
    assert "write names of classes instead, or leave the flag out" in message


def test_numbers_of_images_with_other_names_begin_at_zero_or_are_refused(
    tmp_path,
):
    names = ["a.jpg", "b.jpg", "c.jpg"]
    _write(tmp_path, names)
    assert "has the numbers 1 to 4," in _refused(tmp_path, ["1", "4", "2"])
    source = _open(tmp_path, ["0", "4", "2"])
    assert [label for _, label in _content(source)] == [0, 4, 2]


def test_numbers_that_are_too_large_are_refused(data_dir):
    message = _refused(data_dir, ["0", "3", "1", "5", "2"])
    assert "has the numbers 0 to 5, and places" in message
    assert "of the 5 classes are 0 to 4" in message


def test_numbers_that_contradict_imagenet_s_labels_are_refused(data_dir):
    # The development kit's, less one.
    message = _refused(data_dir, ["4", "3", "1", "0", "2"])
    assert f"gives {_NAMES[0]} the number 4, which is the class" in message
    assert f"n09193705, but ImageNet's label is {_OFFICIAL[0]}" in message


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (_OFFICIAL[:4], "has 4 labels for 5 images"),
        ([*_OFFICIAL[:4], "n1"], "has the label n1, which is neither one of"),
        ([*_OFFICIAL[:4], "a b c"], "has lines of 1 to 3 words"),
        ([*_OFFICIAL[:4], "-1"], "has the label -1"),
        ([], "has 0 labels for 5 images"),
        ([f"{n} 0" for n in ["x.JPEG", *_NAMES[1:]]], f"for {_NAMES[0]}"),
        ([f"{n} 0" for n in [_NAMES[1], *_NAMES[1:]]], f"for {_NAMES[0]}"),
    ],
)
def test_label_files_that_do_not_fit_are_refused(data_dir, lines, said):
    message = _refused(data_dir, lines)
    assert f"--validation_labels={data_dir}/labels.txt" in message
    assert said in message


def test_a_label_file_that_cannot_be_read_is_refused(data_dir):
    (data_dir / "labels.txt").mkdir()
    config = Config(
        model=ModelConfig(num_classes=5),
        data=DataConfig(
            data_dir=os.fspath(data_dir),
            validation_labels=os.fspath(data_dir / "labels.txt"),
        ),
    )
    with pytest.raises(ValueError, match="txt cannot be read"):
        splits.open_split(config, "validation")
    # It is the other split's affair.
    assert len(splits.open_split(config, "train")) == 5


def test_labels_that_nothing_needs_are_refused(data_dir):
    (data_dir / "val" / _CLASSES[0]).mkdir()
    message = _refused(data_dir, _OFFICIAL)
    assert "is not needed" in message
    assert "leave the flag out" in message
    image_data.write_shards(data_dir, "validation", [[b"record"]])
    message = _refused(data_dir, _OFFICIAL, data_format="tfrecord")
    assert "is for --data_format=folder, and this is tfrecord" in message
