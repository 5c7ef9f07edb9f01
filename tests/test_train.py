"""The training program as a user meets it: plan, errors, odd data, Ctrl-C."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

import image_data
import jobs

_REPOSITORY = pathlib.Path(__file__).parent.parent
_GOYAL = f"--flagfile={_REPOSITORY / 'flags' / 'goyal2017.flags'}"
_SMALL = ("--batch_size_per_process=16", "--epochs=1")


def _program(*flags):
    return jobs.run(0, "-m", "hvd_imagenet.train", *flags, check=False)


def _dry_run(*flags):
    finished = _program("--dry_run", *flags)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_a_dry_run_plans_the_paper_for_another_world():
    plan = _dry_run(_GOYAL, "--world_size=256")
    assert plan["world_size"] == 256
    (phase,) = plan["phases"]
    assert phase["global_batch_size"] == 8192
    assert phase["batch_size_per_process"] == 32
    assert phase["accumulation_steps"] == 1
    assert plan["train_images"] == 1_281_167
    assert plan["learning_rate"][0] == [0, 0.1]
    assert _dry_run(_GOYAL)["phases"][0]["accumulation_steps"] == 256


def test_a_dry_run_counts_the_data(patterns):
    plan = _dry_run(f"--data_dir={patterns}", "--num_classes=10")
    assert (plan["train_images"], plan["validation_images"]) == (930, 310)


def test_a_dry_run_without_data_takes_the_counts_given():
    plan = _dry_run("--train_images=1277952", "--validation_images=7", _GOYAL)
    assert plan["warmup_steps"] == 780
    assert plan["validation_images"] == 7


def test_help_names_every_knob_with_its_default():
    finished = _program("--help")
    assert "--batch_size_per_process: Images of a micro-batch" in (
        finished.stdout
    )
    assert "(default: '32')" in finished.stdout
    assert "in images; at least 1; part of the recipe" in finished.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dry_rum"], ["Unknown command line flag 'dry_rum'", "dry_run"]),
        (["train"], ["'train' is no flag"]),
        (["--epochs=0"], ["--epochs=0", "at least 1 epochs"]),
        (["--flagfile=none.flags"], ["none.flags"]),
        (["--world_size=4"], ["--world_size=4", "--dry_run", "horovodrun"]),
        (
            ["--dry_run", "--world_size=3", _GOYAL],
            ["--global_batch_size=8192", "32 x 3 processes = 96", "2 or 4"],
        ),
        (["--dry_run", "--data_dir=nowhere"], ["--data_dir=nowhere"]),
        (["--workdir=run"], ["--data_dir is not given"]),
        (["--data_format=synthetic"], ["--workdir is not given"]),
        (
            ["--data_format=synthetic", "--workdir=/proc/version/run"],
            ["--workdir=/proc/version/run", "cannot be written", "another"],
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(flags, words):
    finished = _program(*flags)
    assert finished.returncode == 1
    for word in words:
        assert word in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_recipe_with_an_unknown_line_is_refused(tmp_path):
    recipe = tmp_path / "wrong.flags"
    recipe.write_text("--epochs=3\nmomentum 0.9\n")
    finished = _program(f"--flagfile={recipe}", "--dry_run")
    assert finished.returncode == 1
    assert "'momentum 0.9' is no flag" in finished.stderr


def test_a_work_directory_of_another_recipe_is_refused(tmp_path, patterns):
    flags = [f"--data_dir={patterns}", f"--workdir={tmp_path}", *_SMALL]
    jobs.train(0, *flags)
    before = (tmp_path / "result.json").read_text()
    finished = jobs.train(0, *flags, "--weight_decay=0.01", check=False)
    assert finished.returncode == 1
    assert "weight_decay was 0.0001 and is 0.01 now" in finished.stderr
    assert (tmp_path / "result.json").read_text() == before
    # The same again finds nothing left to train, and evaluates the same.
    jobs.train(0, *flags)
    again = jobs.result(tmp_path)
    assert again["top1"] == json.loads(before)["top1"]
    assert again["images_per_second"] is None


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    """An image folder with the kinds of files that ImageNet holds."""
    directory = tmp_path_factory.mktemp("odd")
    for split in ("train", "val"):
        image_data.write_folders(
            directory / split,
            {
                f"n0000000{label}": {
                    f"{kind}_{number}.JPEG": image_data.encode(
                        Image.fromarray(
                            image_data.pixels(50, 40, seed=10 * label + number)
                        ).convert(mode),
                        file_format,
                    )
                    for kind, (mode, file_format) in {
                        "plain": ("RGB", "JPEG"),
                        "png": ("RGB", "PNG"),
                        "cmyk": ("CMYK", "JPEG"),
                        "grey": ("L", "JPEG"),
                    }.items()
                    for number in range(4)
                }
                for label in range(2)
            },
        )
    return directory


def test_an_image_folder_with_odd_files_trains(odd_folder, tmp_path):
    jobs.train(
        0,
        f"--data_dir={odd_folder}",
        f"--workdir={tmp_path}",
        "--num_classes=2",
        "--precision=bfloat16",
        *_SMALL,
    )
    assert jobs.result(tmp_path)["examples"] == 32


def test_a_corrupt_image_stops_the_run_by_name_or_is_counted(
    odd_folder, tmp_path
):
    (train_file,) = [odd_folder / "train" / "n00000001" / "plain_2.JPEG"]
    (validation_file,) = [odd_folder / "val" / "n00000000" / "grey_1.JPEG"]
    kept = {p: p.read_bytes() for p in (train_file, validation_file)}
    try:
        for path, data in kept.items():
            path.write_bytes(data[: len(data) // 8])
        flags = [
            f"--data_dir={odd_folder}",
            f"--workdir={tmp_path}",
            "--num_classes=2",
            *_SMALL,
        ]
        finished = jobs.train(0, *flags, check=False)
        assert finished.returncode == 1
        assert f"{train_file} cannot be used" in finished.stderr
        assert "--on_corrupt=skip" in finished.stderr
        assert "Traceback" not in finished.stderr
        finished = jobs.train(0, *flags, "--on_corrupt=skip")
        assert f"skipped: {train_file}" in finished.stderr
        assert f"skipped: {validation_file}" in finished.stderr
        assert jobs.metrics(tmp_path)[-1]["skipped_images"] == 1
        result = jobs.result(tmp_path)
        assert (result["examples"], result["skipped"]) == (31, 1)
    finally:
        for path, data in kept.items():
            path.write_bytes(data)


def test_a_diverging_loss_ends_the_run(patterns, tmp_path):
    finished = jobs.train(
        0,
        f"--data_dir={patterns}",
        f"--workdir={tmp_path}",
        "--base_learning_rate=1000",
        "--batch_norm_epsilon=1e-8",
        "--weight_decay=1",
        "--batch_size_per_process=16",
        "--epochs=3",
        check=False,
    )
    assert finished.returncode == 1
    said = r"error: in step \d+ .+ is inf or nan on rank 0 .+lower the learning"
    assert re.match(said, jobs.own_lines(finished.stderr)[0])
    # Logged after every step, the bad one not.
    assert all(record["loss"] < 1e30 for record in jobs.metrics(tmp_path))


def test_ctrl_c_saves_and_says_how_to_go_on(patterns, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hvd_imagenet.train",
            *jobs.TINY,
            f"--data_dir={patterns}",
            f"--workdir={tmp_path}",
            "--epochs=90",
            "--batch_size_per_process=16",
        ],
        env=jobs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + jobs.TIMEOUT_SECONDS
        while not list(tmp_path.glob("checkpoints/*.npz")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "SIGINT: all ranks will stop after a step" in stderr
    assert "Traceback" not in stderr
    stopped = re.search(
        r"stopped on request after step (\d+); the same command goes on", stdout
    )
    saved = max(tmp_path.glob("checkpoints/*.npz"))
    assert int(stopped[1]) == int(saved.stem.removeprefix("step_"))
