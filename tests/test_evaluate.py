"""A checkpoint evaluated as its training did, on other ranks and views."""

import csv
import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from absl import flags as absl_flags
from PIL import Image

import image_data
import jobs
import used_run
from hvd_imagenet import (
    checkpoint_files,
    checkpoints,
    distributed,
    evaluate,
    flags,
    imagenet,
)
from hvd_imagenet.config import Config, DataConfig, ModelConfig
from hvd_imagenet.evaluation import Answers
from hvd_imagenet.inference import class_names, evaluating, trained
from hvd_imagenet.inference.class_names import ClassNames
from hvd_imagenet.inference.options import EvaluateOptions
from hvd_imagenet.inference.per_class import ByClass
from hvd_imagenet.processes import Processes

_EXAMPLES = 51


class _Supervisor:
    """Nobody to supervise in a world of one."""

    def at(self, step, doing):
        pass

    def watch(self, batches):
        pass


def _evaluate(run, **options):
    """(result, class by class, task) in this process."""
    task = evaluating.prepare(
        EvaluateOptions(checkpoint=str(run), **options), Processes()
    )
    found = evaluating.evaluate(task, Processes(), _Supervisor())
    return *found, task


def _program(ranks, *flags, check=True):
    return jobs.run(ranks, "-m", "hvd_imagenet.evaluate", *flags, check=check)


def _expected(run):
    result = jobs.result(run)
    return {name: result[name] for name in ("loss", "top1", "top5", "examples")}


def test_the_digits_are_those_of_the_run(used_run_dir, tmp_path):
    path = tmp_path / "result.json"
    table = tmp_path / "classes.csv"
    finished = _program(
        0,
        f"--checkpoint={used_run_dir}",
        f"--json_file={path}",
        f"--csv_file={table}",
        "--worst_classes=3",
    )
    content = json.loads(path.read_text())
    assert content["result"] == _expected(used_run_dir)
    assert content["weights"] == "average" and content["evaluation_flip"]
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    for read, row in zip(rows, content["classes"], strict=True):
        assert read == {
            name: "" if value is None else str(value)
            for name, value in row.items()
        }
    assert [row["id"] for row in rows] == list(used_run.CLASSES)
    assert rows[0]["text"] == "tench, Tinca tinca"
    # What people read.
    result = content["result"]
    lines = finished.stdout.splitlines()
    assert "averaged weights" in lines[0]
    assert lines[-1] == (
        f"result: top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%},"
        f" loss {result['loss']:.4f} on {_EXAMPLES} images"
    )
    assert sum(line.startswith(tuple("01234")) for line in lines) >= 3


@pytest.mark.horovod
@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_they_are_on_more_ranks_too(used_run_dir, tmp_path, ranks):
    path = tmp_path / "result.json"
    _program(ranks, f"--checkpoint={used_run_dir}", f"--json_file={path}")
    content = json.loads(path.read_text())
    expected = _expected(used_run_dir)
    assert content["processes"] == ranks
    # The sum over ranks is another one in float64, the convolutions of another
    # number of threads are in float32.
    assert content["result"].pop("loss") == pytest.approx(
        expected.pop("loss"), rel=1e-6
    )
    assert content["result"] == expected


def test_classes_sum_to_the_total(used_run_dir):
    result, by_class, _ = _evaluate(used_run_dir, weights="last")
    rows = list(by_class.rows())
    assert [row["images"] for row in rows] == [11, 10, 10, 10, 10]
    assert sum(row["predicted"] for row in rows) == _EXAMPLES
    for name in ("top1", "top5"):
        count = sum(row["images"] * row[name] for row in rows)
        assert count == pytest.approx(_EXAMPLES * result[name])
    right = sum(row["predicted"] * (row["precision"] or 0) for row in rows)
    assert right == pytest.approx(_EXAMPLES * result["top1"])
    wrong = sum(images for _, _, images in by_class.confused())
    assert wrong + round(right) == _EXAMPLES
    # They are other weights, or the choice would do nothing.
    assert result["loss"] != _expected(used_run_dir)["loss"]


def test_rows_of_classes():
    answers = Answers(
        images=np.arange(6),
        labels=np.array([0, 0, 0, 1, 1, 3], np.int32),
        predicted=np.array([0, 1, 1, 1, 0, 3], np.int32),
        in_top5=np.array([True, True, False, True, True, True]),
    )
    names = ClassNames(
        ids=("a", "b", "c", "d"), texts=("A", "", "", "d"), source=""
    )
    by_class = ByClass.of(answers, names)
    assert by_class.confused() == [(0, 1, 2), (1, 0, 1)]
    assert [tuple(row.values()) for row in by_class.rows()] == [
        (0, "a", "A", 3, 1 / 3, 2 / 3, 2, 1 / 2),
        (1, "b", "", 2, 1 / 2, 1.0, 3, 1 / 3),
        (2, "c", "", 0, None, None, 0, None),
        (3, "d", "d", 1, 1.0, 1.0, 1, 1.0),
    ]
    # A class without images is none of the worst.
    assert [row["class"] for row in by_class.worst(3)] == [0, 1, 3]
    assert [names[number] for number in range(4)] == ["a A", "b", "c", "d"]


def test_ten_crops_are_those_of_the_paper(used_run_dir, tmp_path):
    # So that nothing is resized, which Pillow does in another way: the shorter
    # side is that of the squares already.
    resize, size = 40, 32
    shapes = [(40, 40), (40, 47), (53, 40), (40, 44), (61, 40)]
    pictures = [
        image_data.pixels(*shape, seed=50 + label)
        for label, shape in enumerate(shapes)
    ]
    for name, image in zip(used_run.CLASSES, pictures, strict=True):
        image_data.write_folders(
            tmp_path / "val", {name: {"0.png": image_data.encode(image, "PNG")}}
        )
    result, _, _ = _evaluate(
        used_run_dir,
        data_dir=str(tmp_path),
        crops="5",
        evaluation_flip=True,
        evaluation_resize=resize,
        evaluation_batch_size_per_process=2,
    )
    _, model = trained.load(
        EvaluateOptions(checkpoint=str(used_run_dir)), Processes()
    )

    def probabilities(path):
        image = Image.open(path).convert("RGB")
        left = (image.width - resize) // 2
        top = (image.height - resize) // 2
        square = image.crop((left, top, left + resize, top + resize))
        far, middle = resize - size, (resize - size) // 2
        corners = [(0, 0), (far, 0), (0, far), (far, far), (middle, middle)]
        crops = [square.crop((x, y, x + size, y + size)) for x, y in corners]
        crops += [
            crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for crop in crops
        ]
        pixels = np.stack([np.asarray(crop) for crop in crops]) / 255
        normal = (pixels - imagenet.MEAN_RGB) / imagenet.STDDEV_RGB
        logits = model(normal.astype(np.float32), training=False).numpy()
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)

    found = [
        probabilities(tmp_path / "val" / name / "0.png")
        for name in used_run.CLASSES
    ]
    losses = [-np.log(shares[label]) for label, shares in enumerate(found)]
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    hits = [shares.argmax() == label for label, shares in enumerate(found)]
    assert result["top1"] == np.mean(hits)
    # The center alone is another number.
    center, _, _ = _evaluate(
        used_run_dir, data_dir=str(tmp_path), evaluation_resize=resize
    )
    assert abs(center["loss"] - result["loss"]) > 1e-3


def test_validation_images_alone_are_enough(used_run_dir, tmp_path):
    # TFRecords, of a set that has no train split.
    source = used_run_dir.parent / "data" / "val"
    records = [
        image_data.example(path.read_bytes(), label + 1, synset=name)
        for label, name in enumerate(used_run.CLASSES)
        for path in sorted((source / name).iterdir())
    ]
    image_data.write_shards(tmp_path, "validation", [records])
    checkpoint = sorted(used_run_dir.glob("checkpoints/*.npz"))[-1]
    result, by_class, task = _evaluate(checkpoint, data_dir=str(tmp_path))
    assert result == pytest.approx(_expected(used_run_dir))
    assert "labels from 1" in task.source.description
    assert by_class.names.ids == used_run.CLASSES


def _without_run(
    used_run_dir, tmp_path, change=lambda arrays: None, **more_facts
):
    """A checkpoint elsewhere, where no run.flags is beside it."""
    newest = sorted(used_run_dir.glob("checkpoints/*.npz"))[-1]
    saved = checkpoints.read(str(newest))
    arrays, facts = dict(saved.arrays), dict(saved.facts)
    change(arrays)
    path = tmp_path / "saved.npz"
    with open(path, "wb") as file:
        facts = {**facts, **more_facts, "step": saved.step}
        checkpoint_files.write(file, arrays, facts)
    return path


def test_a_checkpoint_alone_says_what_it_is_of(used_run_dir, tmp_path):
    path = _without_run(used_run_dir, tmp_path)
    found, _ = trained.load(EvaluateOptions(checkpoint=str(path)), Processes())
    flagfile = flags.read(str(used_run_dir / "run.flags"))
    assert found.run is None
    # But for how a set is read, which is no matter of the result.
    same = {**flagfile.recipe(), "shuffle": "global"}
    assert found.config.recipe() == same


def test_a_checkpoint_of_other_flags_is_refused(used_run_dir, tmp_path):
    # Which may mean another network.
    path = _without_run(used_run_dir, tmp_path, squeeze_ratio=4)
    with pytest.raises(ValueError, match=r"squeeze_ratio is no known flag"):
        trained.load(EvaluateOptions(checkpoint=str(path)), Processes())


def _drop(name):
    return lambda arrays: arrays.pop(name)


def _enlarge(arrays):
    arrays["logits/kernel"] = np.zeros([512, 9], np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop("stem_conv/kernel"), "stem_conv/kernel is missing"),
        (_enlarge, "logits/kernel is [512, 9] and should be [512, 5]"),
    ],
)
def test_another_network_is_refused(used_run_dir, tmp_path, change, words):
    path = _without_run(used_run_dir, tmp_path, change)
    with pytest.raises(ValueError, match=re.escape(words)):
        trained.load(
            EvaluateOptions(checkpoint=str(path), weights="last"), Processes()
        )


def test_averages_that_are_not_there_are_refused(used_run_dir, tmp_path):
    def drop_averages(arrays):
        for name in [name for name in arrays if name.startswith("average/")]:
            del arrays[name]

    path = _without_run(used_run_dir, tmp_path, drop_averages)
    options = EvaluateOptions(checkpoint=str(path), weights="average")
    with pytest.raises(ValueError, match="had no --ema_decay"):
        trained.load(options, Processes())
    options = dataclasses.replace(options, weights="auto")
    assert trained.load(options, Processes())[0].weights == "last"


def _cut_checkpoints(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:5000])
    return [f"--checkpoint={tmp_path}/run"]


def _another_class(run, tmp_path):
    used_run.write_data(tmp_path / "data")
    (tmp_path / "data" / "train" / "n09999999").mkdir()
    return [f"--checkpoint={run}", f"--data_dir={tmp_path}/data"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda run, tmp: [], "--checkpoint is not given"),
        (
            lambda run, tmp: [f"--checkpoint={tmp}"],
            "has no checkpoints/step_*.npz; name the directory of a run",
        ),
        (
            lambda run, tmp: [f"--checkpoint={tmp}/run"],
            "/run does not exist; name the directory of a run",
        ),
        (_cut_checkpoints, "checkpoints can be read"),
        (
            _another_class,
            "has 6 class folders, but --num_classes=5; set --num_classes=6 or"
            " complete the data. The network of",
        ),
        (
            lambda run, tmp: [f"--checkpoint={run}", f"--csv_file={tmp}"],
            "cannot be written (Is a directory); choose another.",
        ),
    ],
)
def test_what_is_wrong_is_said(used_run_dir, tmp_path, capsys, make, words):
    argv = make(used_run_dir, tmp_path)
    options = flags.parse_group(
        EvaluateOptions, ["evaluate", *argv], _defined()
    )
    assert _main(options) == 1
    said = capsys.readouterr()
    assert words in said.err and said.err.startswith("error: ")
    assert "Traceback" not in said.err and said.out == ""


def _defined():
    values = absl_flags.FlagValues()
    flags.define_group(EvaluateOptions, values)
    return values


def _main(options):
    # Threads are chosen once per process, which the tests have done already.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "start", lambda: Processes())
        return evaluate.main(options)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("one\ntwo\n", "has 2 lines, and the network has 5 classes"),
        (b"\xff\xfe\x00", "cannot be read (it is no text)"),
    ],
)
def test_files_of_names_that_do_not_fit(tmp_path, content, words):
    path = tmp_path / "names.txt"
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(words)):
        class_names.find(Config(model=ModelConfig(num_classes=5)), str(path))


def test_names_of_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text(
        "n01440764 tench, Tinca tinca\nn01443537\ngreat white shark"
    )
    names = class_names.find(
        Config(model=ModelConfig(num_classes=3)), str(path)
    )
    assert names.ids == ("n01440764", "n01443537", "great white shark")
    assert names.texts == ("tench, Tinca tinca", "", "")


def test_a_thousand_classes_are_taken_for_imagenets():
    names = class_names.find(Config())
    assert names[0] == "n01440764" and names[999] == "n15075141"
    assert "taken to be ImageNet's" in names.source
    few = class_names.find(Config(model=ModelConfig(num_classes=3)))
    assert few[2] == "2" and few.source == "unknown"


def test_names_of_a_packed_set(tmp_path):
    image_data.write_shards(tmp_path, "validation", [[b""]])
    content = {
        "classes": [
            {"label": 0, "synset": "n01", "text": "one"},
            {"label": 2, "synset": "", "text": "three"},
        ]
    }
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    config = Config(
        model=ModelConfig(num_classes=3),
        data=DataConfig(data_dir=str(tmp_path)),
    )
    names = class_names.find(config)
    assert [names[number] for number in range(3)] == ["n01 one", "1", "three"]


def test_ctrl_c_is_told_to_the_shell(used_run_dir):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hvd_imagenet.evaluate",
            f"--checkpoint={used_run_dir}",
            "--data_format=synthetic",
            "--validation_images=10000000",
        ],
        env=jobs.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + jobs.TIMEOUT_SECONDS
        while psutil.Process(process.pid).num_threads() < 8:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=jobs.TIMEOUT_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stderr.endswith("interrupted; nothing was written.\n")


@pytest.mark.horovod
@pytest.mark.slow
def test_all_ranks_end_where_an_image_is_damaged(used_run_dir, tmp_path):
    used_run.write_data(tmp_path / "data")
    path = sorted((tmp_path / "data" / "val").rglob("*.jpeg"))[-1]
    path.write_bytes(path.read_bytes()[:400])
    flags_of_data = (
        f"--checkpoint={used_run_dir}",
        f"--data_dir={tmp_path}/data",
    )
    finished = _program(2, *flags_of_data, check=False)
    said = finished.stdout + finished.stderr
    assert finished.returncode != 0
    # One of them says so.
    assert said.count(f"error: {path} cannot be used: ") == 1
    assert "<stderr>:Traceback" not in said
    assert "result:" not in said
    skipping = _program(0, *flags_of_data, "--on_corrupt=skip")
    assert " on 50 images, 1 skipped\n" in skipping.stdout
