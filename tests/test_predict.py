"""What images show, asked of a run and of what was exported of it."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

import image_data
import jobs
import used_run
from hvd_imagenet import predict
from hvd_imagenet.inference import image_files, predicting
from hvd_imagenet.inference.options import PredictOptions


def _lines(text):
    return [json.loads(line) for line in text.splitlines()]


def _main(capsys, *arguments, **options):
    """(status, standard output, standard error) of the program."""
    status = predict.main(
        PredictOptions(
            **{
                k: str(v) if k == "checkpoint" else v
                for k, v in options.items()
            }
        ),
        [str(argument) for argument in arguments],
    )
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, said.out, said.err


def _validation(run):
    return run.parent / "data" / "val"


@pytest.fixture(scope="module")
def by_run(used_run_dir):
    """What the run says of all its validation images, by path."""
    classifier = predicting.open_classifier(
        PredictOptions(checkpoint=str(used_run_dir))
    )
    found = predicting.predict(
        classifier,
        image_files.find([str(_validation(used_run_dir))]),
        top=5,
        batch_size=16,
    )
    return {prediction.image: prediction.top for prediction in found}


def test_the_classes_are_those_of_the_result(used_run_dir, by_run):
    result = jobs.result(used_run_dir)
    assert len(by_run) == result["examples"]
    hits = [
        used_run.CLASSES[top[0][0]] == pathlib.Path(path).parent.name
        for path, top in by_run.items()
    ]
    assert np.mean(hits) == result["top1"]
    # Neither all nor none, or the mean would prove little.
    assert 0.3 < result["top1"] < 1
    # Sorted by folders and names, which the folders here are not made in.
    assert list(by_run) == sorted(by_run)
    for top in by_run.values():
        shares = [share for _, share in top]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)


def test_what_was_exported_says_the_same(
    exported, used_run_dir, by_run, capsys
):
    status, out, err = _main(
        capsys,
        _validation(used_run_dir),
        checkpoint=exported,
        json=True,
        batch_size=20,
    )
    assert status == 0 and err == ""
    lines = _lines(out)
    assert [line["image"] for line in lines] == list(by_run)
    for line, top in zip(lines, by_run.values(), strict=True):
        classes = line["classes"]
        found = [(each["class"], each["probability"]) for each in classes]
        assert found[0][0] == top[0][0]
        assert dict(found) == pytest.approx(dict(top), abs=1e-5)
        names = [each["id"] for each in classes]
        assert names == [used_run.CLASSES[number] for number, _ in found]


def test_what_cannot_be_read_is_named_behind_the_others(
    exported, used_run_dir, tmp_path, capsys
):
    first, second = list(_validation(used_run_dir).rglob("*.jpeg"))[:2]
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes(first.read_bytes()[:300])
    bad = [tmp_path / name for name in ("empty", "text.jpg", "cut.jpg", "none")]
    odd = tmp_path / os.fsdecode(b"odd\xff\n.any")
    odd.write_bytes(second.read_bytes())
    status, out, err = _main(
        capsys, first, *bad, odd, checkpoint=exported, json=True, top=1
    )
    assert status == 1
    lines = _lines(out)
    assert [line["image"] for line in lines] == [
        str(path) for path in (first, *bad, odd)
    ]
    assert [len(line.get("classes", ())) for line in lines] == [
        1,
        0,
        0,
        0,
        0,
        1,
    ]
    reasons = {
        line["image"]: line["error"] for line in lines if "error" in line
    }
    assert "there is no image in this folder" in reasons[str(bad[0])]
    assert "is no image (Unknown image file format." in reasons[str(bad[1])]
    assert reasons[str(bad[2])].startswith("is no image (")
    assert reasons[str(bad[3])] == "cannot be read (No such file or directory)"
    assert all(len(reason) < 200 for reason in reasons.values())
    said = [f"error: {path} {reasons[str(path)]}" for path in bad]
    assert err.splitlines() == said
    # The same for people.
    status, out, err = _main(
        capsys, first, *bad, odd, checkpoint=exported, top=1
    )
    assert status == 1 and err.splitlines() == said
    assert [line for line in out.splitlines() if "%" not in line][2:] == [
        str(first),
        f"{tmp_path}/odd\\udcff",
        ".any",
    ]


def test_standard_input(exported, used_run_dir, capsys, monkeypatch):
    image = next(_validation(used_run_dir).rglob("*.png"))

    class Stdin:
        buffer = io.BytesIO(image.read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    _, out, _ = _main(capsys, "-", checkpoint=exported, json=True)
    Stdin.buffer = io.BytesIO(f"{image}\n\n{image.parent}\n".encode())
    _, of_files, _ = _main(
        capsys, checkpoint=exported, json=True, files_from="-"
    )
    by_stdin, *by_name = _lines(out) + _lines(of_files)
    assert by_stdin.pop("image") == "-"
    assert by_name[0].pop("image") == str(image)
    for one, other in zip(
        by_stdin["classes"], by_name[0]["classes"], strict=True
    ):
        # In a batch of another size.
        assert one == {
            **other,
            "probability": pytest.approx(other["probability"], abs=1e-5),
        }
    assert len(by_name) == 1 + len(list(image.parent.iterdir()))


def test_folders_are_searched_through(tmp_path):
    for name in ("b/2.PNG", "b/1.jpg", "a/c/3.gif", ".h/4.jpg", "a/.5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    found = image_files.find([str(tmp_path), "-", f"{tmp_path}/notes.txt"])
    names = [os.path.relpath(path, tmp_path) for path in found if path != "-"]
    assert names == ["a/c/3.gif", "b/1.jpg", "b/2.PNG", "notes.txt"]


def _damaged(exported, tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "export.json").write_text("{}")
    return {"checkpoint": path}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda *_: {}, "--checkpoint is not given"),
        (
            lambda exported, _: {"checkpoint": exported, "weights": "last"},
            "--weights=last is for a run or a checkpoint",
        ),
        (_damaged, "cannot be read ('format_version'); export it again."),
        (
            lambda exported, _: {"files_from": f"{exported}/none"},
            "/none cannot be read (No such file or directory); name a text",
        ),
    ],
)
def test_what_is_wrong_is_said(exported, tmp_path, capsys, make, words):
    status, out, err = _main(capsys, "image.jpg", **make(exported, tmp_path))
    assert status == 1 and out == ""
    assert err.startswith("error: ") and words in err


def test_no_image_is_said(capsys):
    status, _, err = _main(capsys, checkpoint="run")
    assert status == 1 and "no image is named" in err


def test_the_program(exported, used_run_dir):
    # Flags behind the images, as people write them.
    image = next(_validation(used_run_dir).rglob("*.jpeg"))
    finished = jobs.run(
        0,
        "-m",
        "hvd_imagenet.predict",
        str(image),
        f"--checkpoint={exported}",
        "--top=2",
    )
    head, names, path, first, second = finished.stdout.splitlines()
    assert head == f"resnet10, {exported}, step 16, average weights"
    assert names == f"class names: {used_run_dir.parent}/data"
    assert path == str(image)
    assert all("%  " in line and "  n0" in line for line in (first, second))


@pytest.mark.slow
def test_ctrl_c_is_told_to_the_shell(exported, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hvd_imagenet.predict",
            f"--checkpoint={exported}",
            "-",
        ],
        env=jobs.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        # It waits for the rest of an image, in a thread.
        process.stdin.write(image_data.encode(image_data.pixels(40, 40)))
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(20)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
    assert process.returncode == 130
