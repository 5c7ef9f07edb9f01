"""The benchmark: what it prints, of real data."""

import json

import pytest

import jobs

_INPUT = (
    *("-m", "hvd_imagenet.benchmark", "--mode=input", *jobs.TINY),
    *("--steps=4", "--warmup_steps=1", "--batch_size_per_process=32"),
)


def _result(finished):
    """The one JSON object, behind what horovodrun puts before it."""
    (line,) = (x for x in finished.stdout.splitlines() if "{" in x)
    return json.loads(line[line.index("{") :])


def _assert_adds_up(result):
    assert result["mode"] == "input"
    assert result["images"] == 930
    assert result["image_size"] == 32
    assert result["source"].startswith("2 TFRecord files, labels from 1")
    assert result["per_core"] == pytest.approx(
        result["images_per_second"] / result["cores"]
    )
    shares = [result[f"{part}_share"] for part in ("read", "decode", "other")]
    assert sum(shares) == pytest.approx(1.0)
    assert 0 < shares[0] < 1
    assert 0 < shares[1] < 1


def test_the_input_is_measured(patterns):
    finished = jobs.run(0, *_INPUT, f"--data_dir={patterns}")
    result = _result(finished)
    _assert_adds_up(result)
    assert result["processes"] == 1
    assert result["images_per_second"] > 0
    # Records of JPEGs of 40 x 40 noisy pixels.
    assert 500 < result["bytes_per_image"] < 5000


@pytest.mark.slow
@pytest.mark.horovod
def test_ranks_are_measured_together(patterns):
    finished = jobs.run(2, *_INPUT, f"--data_dir={patterns}")
    result = _result(finished)
    _assert_adds_up(result)
    assert result["processes"] == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data_dir=/nowhere"], "--data_dir=/nowhere is not a directory"),
        (
            ["--data_format=synthetic", "--train_images=64", "--epochs=2"],
            "--steps=4 and --warmup_steps=1 are more than the 4 batches",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(flags, words):
    finished = jobs.run(0, *_INPUT, *flags, check=False)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert f"error: {words}" in finished.stderr
