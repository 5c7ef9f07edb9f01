"""The program that predicts scaling, from its flags to the picture."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jobs
from hvd_imagenet import imagenet
from hvd_imagenet.config import (
    Config,
    ModelConfig,
    OptimizationConfig,
    PhaseConfig,
    ScheduleConfig,
)
from hvd_imagenet.plan import make_plan
from hvd_imagenet.scaling import inputs, plot, prediction
from hvd_imagenet.scaling.options import ScalingOptions

_FLAGS = pathlib.Path(__file__).parent.parent / "flags"
_GOYAL = (
    f"--flagfile={_FLAGS / 'goyal2017.flags'}",
    f"--flagfile={_FLAGS / 'networks' / 'goyal2017.flags'}",
)
_LEAST = ("--step_seconds=0.3", "--bandwidth_gbit=10")


def _run(*arguments):
    return jobs.run(
        0, "-m", "hvd_imagenet.predict_scaling", *arguments, check=False
    )


def _predict(*arguments):
    finished = _run(*arguments, "--json_file=-")
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


# --- Goyal 2017, figures 7 and 8. ---


def test_goyal_with_halving_and_doubling(tmp_path):
    finished = _run(
        *_GOYAL,
        f"--json_file={tmp_path / 'scaling.json'}",
        f"--plot={tmp_path / 'scaling.png'}",
    )
    assert finished.returncode == 0, finished.stderr
    said = json.loads((tmp_path / "scaling.json").read_text())
    assert said["gradient_tensors"] == 161
    assert said["gradient_elements"] == 25_557_032
    assert said["wire_bytes"] == 102_228_128
    assert said["backward_seconds"] == pytest.approx(0.120, abs=1e-6)
    # What is not predicted is said, here and in the text.
    assert said["fitted"] == ["latency_seconds", "tail_seconds"]
    assert (
        "latency_seconds=2e-05, tail_seconds=0.0258: fitted, not predicted"
        in finished.stdout
    )
    by_workers = {p["workers"]: p for p in said["predictions"]}
    assert list(by_workers) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 352]
    for workers, predicted in by_workers.items():
        assert predicted["hosts"] == max(1, workers // 8)
        if workers <= 8:
            assert predicted["efficiency"] == 1.0
        else:
            assert f"{predicted['efficiency']:.1%}" == "90.0%"
    # ImageNet in one hour; 352 workers do not divide 8,192 images.
    training = by_workers[256]["training"]
    assert (training["accumulation_steps"], training["steps"]) == (1, 14_076)
    assert training["seconds"] == pytest.approx(14_076 * 0.2576)
    assert by_workers[8]["training"]["accumulation_steps"] == 32
    assert by_workers[352]["training"] is None
    assert "352 processes" in by_workers[352]["training_error"]
    assert "352 processes" in finished.stdout
    rows = [line.split() for line in finished.stdout.splitlines()]
    assert ["0.2576", "90.0%", "31,801", "1", "14,076", "1.0", "h"] in [
        row[-7:] for row in rows
    ]
    with Image.open(tmp_path / "scaling.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    # The curve that was asked for, and the ring beside it.
    assert {(31, 119, 180), (255, 127, 14)} <= set(map(tuple, pixels.tolist()))


def test_goyal_with_rings():
    said = _predict(*_GOYAL, "--algorithm=ring")
    assert [
        f"{p['efficiency']:.1%}" for p in said["predictions"] if p["hosts"] > 1
    ] == ["90.0%", "90.0%", "90.0%", "87.5%", "62.8%", "51.9%"]


# --- The flags of the training. ---


def test_compression_halves_the_bytes():
    full, half = (
        _predict(*_LEAST, "--max_workers=2", f"--compression={compression}")
        for compression in ("none", "fp16")
    )
    assert half["wire_format"] == "float16"
    assert full["wire_bytes"] == 2 * half["wire_bytes"]
    assert full["fitted"] == half["fitted"] == []


def test_a_measured_step_and_another_network(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(
        '{"compute_seconds_per_step": 5.0, "accumulation_steps": 2,'
        ' "model": "another"}'
    )
    said = _predict(
        f"--measured={path}",
        "--bandwidth_gbit=1",
        "--gradient_elements=1000,2000",
        "--train_images=6400",
        "--max_workers=4",
        "--warmup_epochs=0",
        "--epochs=2",
    )
    assert said["step_seconds"] == 2.5
    assert said["step_source"] == f"measured, {path}"
    assert said["backward_seconds"] == pytest.approx(2.5 * 2 / 3)
    assert said["backward_source"] == "two thirds, an assumption"
    assert said["wire_bytes"] == 12_000
    # Without a global batch every worker adds to it.
    assert [p["training"]["steps"] for p in said["predictions"]] == [
        400,
        200,
        100,
    ]
    assert said["predictions"][0]["training"]["seconds"] == 400 * 2.5


def test_a_step_of_another_batch_is_refused(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(
        '{"compute_seconds_per_step": 2.5, "batch_size_per_process": 64}'
    )
    finished = _run(f"--measured={path}", _LEAST[1])
    assert finished.returncode == 1
    assert "batch_size_per_process=64, and 32 is asked" in finished.stderr


def test_phases_take_what_their_images_take():
    config = Config(
        model=ModelConfig(image_size=128),
        optimization=OptimizationConfig(
            epochs=2,
            global_batch_size=256,
            batch_size_per_process=64,
        ),
        schedule=ScheduleConfig(warmup="none"),
        phases=PhaseConfig(
            phase_epochs=(1.0,),
            phase_image_sizes=(256,),
            phase_batch_sizes_per_process=(32,),
        ),
    )
    options = ScalingOptions(step_seconds=0.5, bandwidth_gbit=10.0)
    made = inputs.make_inputs(options, config)
    # ResNet-50 without the last layer: four times the pixels, four times the
    # products.
    cost = made.image_cost(256) / made.image_cost(128)
    assert cost == pytest.approx(4, rel=0.01)

    def seconds(workers):
        plan = make_plan(
            config,
            world_size=workers,
            train_images=25_600,
            validation_images=imagenet.VALIDATION_IMAGES,
        )
        return prediction.training_seconds(made.model, plan, made.image_cost)

    # 100 steps of 4 x 64 images, 100 of 8 x 32 larger ones.
    alone = 100 * 4 * 0.5 + 100 * 8 * 0.5 * cost / 2
    assert seconds(1) == pytest.approx(alone)
    # On 4 workers as many of each share are computed, with 200 exchanges.
    exposed = seconds(4) - alone / 4
    first = made.model.step(4).exposed_seconds
    assert 100 * first < exposed <= 200 * first + 1e-9


# --- What cannot be. ---


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["--step_seconds", "--measured", "neither"]),
        (["--step_seconds=1"], ["--bandwidth_gbit", "missing"]),
        ([*_LEAST, "--measured=a"], ["--step_seconds", "both"]),
        ([*_LEAST, "--backward_share=2"], ["--backward_share=2", "at most 1"]),
        (
            [*_LEAST, "--workers_per_host=8", "--max_workers=12"],
            ["--max_workers=12", "--workers_per_host=8", "multiple"],
        ),
        ([*_LEAST, "--fitted=tail"], ["--fitted=tail", "tail_seconds"]),
        ([*_LEAST, "--json_file=/none/a"], ["--json_file=/none/a"]),
        ([*_LEAST, "--plot=/none/a.png"], ["--plot=/none/a.png"]),
        (["--measured=/none/a", _LEAST[1]], ["--measured=/none/a"]),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments, named):
    finished = _run(*arguments)
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert "Traceback" not in finished.stderr
    for words in named:
        assert words in finished.stderr


def test_a_missing_matplotlib_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"needs matplotlib .* extra report"):
        plot.draw({"ring": [(1, 1.0)]}, [], str(tmp_path / "scaling.png"))


def test_help_shows_units_and_limits():
    finished = _run("--help")
    for words in ("--bandwidth_gbit", "in Gbit/s", "--tail_seconds", "fitted"):
        assert words in finished.stdout


def test_predictions_are_made_without_tensorflow():
    program = (
        "import sys\n"
        "from hvd_imagenet import predict_scaling\n"
        "print({'tensorflow', 'keras', 'horovod', 'matplotlib'}\n"
        "      & sys.modules.keys())\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=jobs.TIMEOUT_SECONDS,
        check=True,
    )
    assert finished.stdout == "set()\n"
