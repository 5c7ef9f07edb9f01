"""Tar files as image-net.org has them become data that is trained on."""

import collections
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

import image_data
import jobs
from hvd_imagenet import preprocessing, splits
from hvd_imagenet.config import Config, DataConfig

_TOOL = pathlib.Path(__file__).parent.parent / "tools" / "prepare_imagenet"
_FORMATS = ("tfrecord", "array_record")

# Tench, vine snake and Shetland sheepdog in the sorted list of all synsets.
_LABELS = {"n01440764": 0, "n01739381": 59, "n02105855": 230}
# The two files of their kind that TFDS knows by name.
_PNG = "n02105855_2933.JPEG"
_CMYK = "n01739381_1309.JPEG"
# Classes of the first validation images, ILSVRC2012_val_00000001.JPEG and on:
# sea snake, alp, Shetland sheepdog, soup bowl, cradle.
_VALIDATION_LABELS = (65, 970, 230, 809, 516)


def _tool():
    """The program as a module: TensorFlow is not started again for it."""
    loader = importlib.machinery.SourceFileLoader("prepare", str(_TOOL))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("prepare", loader)
    )
    loader.exec_module(module)
    return module


_prepare = _tool()


def _pixels(name):
    return image_data.pixels(40, 44, list(name.encode()))


def _file(name):
    """An image file as ImageNet has it under this name."""
    if name == _PNG:
        return image_data.encode(_pixels(name), "PNG")
    if name == _CMYK:
        return image_data.encode(Image.fromarray(_pixels(name)).convert("CMYK"))
    return image_data.encode(_pixels(name))


def _train_names(synset):
    return [f"{synset}_{number}.JPEG" for number in (7, 10026)] + [
        name for name in (_PNG, _CMYK) if name.startswith(synset)
    ]


def _validation_names(count=5):
    return [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, count + 1)]


def _tar(files):
    """The bytes of a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _write_tars(directory, *, synsets=_LABELS, validation=None):
    directory.mkdir()
    train = {
        f"{synset}.tar": _tar({n: _file(n) for n in _train_names(synset)})
        for synset in synsets
    }
    names = validation or _validation_names()
    # The official one is not in order, either.
    images = {name: _file(name) for name in reversed(names)}
    (directory / "ILSVRC2012_img_train.tar").write_bytes(_tar(train))
    (directory / "ILSVRC2012_img_val.tar").write_bytes(_tar(images))
    # 5.1.0 of TFDS would prepare it, too.
    (directory / "ILSVRC2012_img_test.tar").write_bytes(b"not looked at")
    return directory


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return _write_tars(tmp_path_factory.mktemp("imagenet") / "tars")


class _Prepared(dict):
    """Data directory by file format, made when it is first asked for."""

    def __init__(self, tars):
        super().__init__()
        self._tars = tars

    def __missing__(self, file_format):
        data_dir = self._tars.parent / file_format
        _prepare.prepare(str(data_dir), str(self._tars), file_format, True)
        self[file_format] = data_dir
        return data_dir


@pytest.fixture(scope="module")
def prepared(tars):
    return _Prepared(tars)


def _content(data_dir, split):
    """Encoded images by label, as training gets them."""
    config = Config(
        data=DataConfig(data_dir=os.fspath(data_dir), data_format="tfds")
    )
    source = splits.open_split(config, split)
    content = collections.defaultdict(list)
    for index in range(len(source)):
        record, _ = source.read(index)
        image, label = preprocessing.parse_example(record, source.features)
        content[int(label)].append(image.numpy())
    return content


@pytest.mark.parametrize("file_format", _FORMATS)
def test_train_images_keep_bytes_and_get_the_rank_of_their_synset(
    prepared, file_format
):
    content = _content(prepared[file_format], "train")
    assert set(content) == set(_LABELS.values())
    for synset, label in _LABELS.items():
        names = _train_names(synset)
        same = {_file(name) for name in names if name not in (_PNG, _CMYK)}
        assert len(content[label]) == len(names)
        changed = set(content[label]) - same
        assert len(set(content[label]) & same) == 2
        for encoded in changed:
            (name,) = {*names} & {_PNG, _CMYK}
            image = Image.open(io.BytesIO(encoded))
            assert (image.format, image.mode) == ("JPEG", "RGB")
            difference = np.asarray(image, int) - _pixels(name)
            assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("file_format", _FORMATS)
def test_validation_images_get_the_official_labels(prepared, file_format):
    content = _content(prepared[file_format], "validation")
    assert dict(content) == {
        label: [_file(name)]
        for label, name in zip(
            _VALIDATION_LABELS, _validation_names(), strict=True
        )
    }


def test_the_prepared_data_is_trained_on(prepared, tmp_path):
    jobs.train(
        0,
        "--data_format=tfds",
        f"--data_dir={prepared['array_record']}",
        "--num_classes=1000",
        "--batch_size_per_process=4",
        "--epochs=1",
        f"--workdir={tmp_path / 'run'}",
    )
    assert jobs.result(tmp_path / "run")["examples"] == 5
    steps = jobs.metrics(tmp_path / "run")
    assert steps[-1]["step"] == 2  # 8 images.


def test_what_was_made_is_said(tars, prepared, capsys):
    data_dir = prepared["tfrecord"]
    capsys.readouterr()
    # The second time, of what is there.
    _prepare.prepare(str(data_dir), str(tars), "tfrecord", True)
    said = capsys.readouterr().out
    assert f"{data_dir}/imagenet2012/5.1.0" in said
    assert "tfrecord files" in said
    assert "train: 8 images (ImageNet has 1,281,167)\n" in said
    assert "validation: 5 images (ImageNet has 50,000)\n" in said
    assert f"--data_format=tfds --data_dir={data_dir} " in said


def _refused(tars, data_dir, file_format="tfrecord", allow_incomplete=True):
    with pytest.raises(_prepare.UserError) as caught:
        _prepare.prepare(
            str(data_dir), str(tars), file_format, allow_incomplete
        )
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_data_of_another_format_is_left_alone(tars, prepared):
    message = _refused(tars, prepared["tfrecord"], "array_record")
    assert "imagenet2012/5.1.0 is there already" in message
    assert "format tfrecord; choose another directory" in message


def test_incomplete_data_is_refused_unless_asked_for(tars, prepared, tmp_path):
    message = _refused(tars, tmp_path, allow_incomplete=False)
    assert "ILSVRC2012_img_train.tar has 3 of the 1000 classes" in message
    message = _refused(tars, prepared["tfrecord"], allow_incomplete=False)
    assert "imagenet2012/5.1.0 lacks images" in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"synsets": ["n00000000"]}, "img_train.tar has n00000000.tar, which"),
        # A gap would move the labels of all that follow.
        (
            {"validation": [*_validation_names(2), _validation_names()[-1]]},
            "val_00000005.JPEG in the place of ILSVRC2012_val_00000003.JPEG",
        ),
        (
            {"validation": ["val/", *_validation_names(2)]},
            "has val/ in the place of ILSVRC2012_val_00000003.JPEG",
        ),
    ],
)
def test_tars_of_another_content_are_refused(tmp_path, options, said):
    tars = _write_tars(tmp_path / "tars", **options)
    assert said in _refused(tars, tmp_path / "data")
    assert not (tmp_path / "data" / "imagenet2012").exists()


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_tar_that_was_cut_is_refused(tmp_path, name):
    tars = _write_tars(tmp_path / "tars")
    path = tars / f"ILSVRC2012_img_{name}.tar"
    os.truncate(path, path.stat().st_size // 4)
    message = _refused(tars, tmp_path / "data")
    assert f"{path} is damaged or was cut" in message
    assert "download it again" in message


def test_too_little_space_is_said_before_the_work(tmp_path, monkeypatch):
    tars = _write_tars(tmp_path / "tars")
    usage = _prepare.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        _prepare.shutil, "disk_usage", lambda _: usage._replace(free=10_000)
    )
    message = _refused(tars, tmp_path / "data")
    assert "has 0.0 GB free" in message


def test_missing_tars_are_an_error_of_the_program(tmp_path):
    finished = subprocess.run(
        [sys.executable, _TOOL, f"--manual_dir={tmp_path}", tmp_path / "data"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith(
        f"error: {tmp_path}/ILSVRC2012_img_train.tar and"
        f" {tmp_path}/ILSVRC2012_img_val.tar: no such file;"
    )
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
