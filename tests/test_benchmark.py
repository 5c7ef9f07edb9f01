"""The benchmark: what it prints, of real runs."""

import json
from collections import Counter

import pytest

import jobs
from hvd_imagenet.config import Config
from hvd_imagenet.measuring import exchange_speed, training_speed
from hvd_imagenet.measuring.options import BenchmarkOptions
from hvd_imagenet.processes import Processes
from hvd_imagenet.world import World

_INPUT = (
    *("-m", "hvd_imagenet.benchmark", "--mode=input", *jobs.TINY),
    *("--steps=4", "--warmup_steps=1", "--batch_size_per_process=32"),
)
_SYNTHETIC = ("--data_format=synthetic",)
_TRAIN = (
    *("-m", "hvd_imagenet.benchmark", *jobs.TINY, *_SYNTHETIC),
    *("--steps=4", "--warmup_steps=1", "--batch_size_per_process=4"),
)


def _result(finished):
    """The one JSON object, behind what horovodrun puts before it."""
    (line,) = (x for x in finished.stdout.splitlines() if "{" in x)
    return json.loads(line[line.index("{") :])


# --- Input. ---


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


# --- Training. ---


def _assert_is_parted(result):
    shares = result["shares"]
    assert set(shares) == {"data_wait", "compute", "communication"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert 0 < shares["data_wait"] < 1
    assert 0 < shares["compute"] < 1
    assert result["images_per_second"] == pytest.approx(
        result["global_batch_size"] / result["step_seconds"]["mean"]
    )
    # The same whatever the machine: 32 pixels, 10 classes.
    assert result["flops"]["forward_multiply_adds_per_image"] == 18_142_208
    assert 0 < result["flops"]["share_of_matrix_product"] < 1.5
    assert result["peak_memory"]["host_bytes"] > 100_000_000


def test_a_step_of_one_process_is_measured_and_profiled(tmp_path):
    # Of TensorFlow's own, what TensorBoard reads.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    finished = jobs.run(
        0, *_TRAIN, "--global_batch_size=8", f"--profile_dir={tmp_path}"
    )
    result = _result(finished)
    _assert_is_parted(result)
    assert result["mode"] == "train"
    assert result["processes"] == 1
    assert result["accumulation_steps"] == 2
    assert result["batch_size_per_process"] == 4
    assert result["global_batch_size"] == 8
    assert result["shares"]["communication"] == 0
    assert len(result["rank0_step_seconds"]) == result["steps"] == 4
    assert "images/s" in finished.stderr
    (profile,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    planes = xplane_pb2.XSpace.FromString(profile.read_bytes()).planes
    names = {
        event.name
        for plane in planes
        for event in plane.event_metadata.values()
    }
    assert any("Conv2D" in name for name in names)
    assert "train" in names


def _exchanges(timeline):
    """How often each gradient was averaged."""
    events = json.loads(timeline.read_text())
    names = {
        event["pid"]: event["args"].get("name", "")
        for event in events
        if event.get("name") == "process_name"
    }
    times = Counter(
        names[event["pid"]]
        for event in events
        if event.get("name") == "ALLREDUCE"
    )
    # What is summed beside gradients has this name.
    times.pop("HorovodAllreduce", None)
    return times


@pytest.mark.horovod
def test_a_step_of_ranks_is_measured_with_and_without_exchange(tmp_path):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    finished = jobs.run(
        2,
        *_TRAIN,
        f"--timeline_file={after}",
        # Horovod's own, until the other one begins.
        HOROVOD_TIMELINE=str(before),
    )
    result = _result(finished)
    _assert_is_parted(result)
    assert result["processes"] == len(result["ranks"]) == 2
    assert result["global_batch_size"] == 8
    assert result["compression"] == "none"
    assert result["compute_seconds_per_step"] > 0
    # Every gradient of ResNet-10 and the signals of the ranks, in one step of
    # warm-up and four measured ones, none in as many that are compared with
    # them, and three for the file.
    assert sorted(_exchanges(before).values()) == [1 + 4] * 39
    assert sorted(_exchanges(after).values()) == [3] * 39


# --- Exchange. ---


@pytest.mark.horovod
def test_averages_are_measured():
    finished = jobs.run(
        2,
        *("-m", "hvd_imagenet.benchmark", "--mode=allreduce", *jobs.TINY),
        *("--steps=3", "--warmup_steps=1", "--largest_mib=1"),
    )
    result = _result(finished)
    assert (result["mode"], result["processes"]) == ("allreduce", 2)
    exchanges = {(e["what"], e["format"]): e for e in result["exchanges"]}
    whats = ("4 KiB", "32 KiB", "256 KiB", "1 MiB", "gradients")
    whats = (*whats, "gradients, as one")
    formats = ("float32", "float16")
    assert list(exchanges) == [(w, f) for f in formats for w in whats]
    for (what, number_format), exchange in exchanges.items():
        assert exchange["tensors"] == (38 if what == "gradients" else 1)
        factor = 1 if number_format == "float32" else 2
        wire_bytes = exchange["wire_bytes"]
        assert wire_bytes * factor == exchange["gradient_bytes"]
        assert exchange["times"] == 3
        # Of two processes each sends half of it, and gets the other's.
        assert exchange["bus_bandwidth"] == exchange["algorithm_bandwidth"]
        assert exchange["algorithm_bandwidth"] == pytest.approx(
            wire_bytes / exchange["seconds"]
        )
    # Of ResNet-10 with 10 classes.
    assert exchanges["gradients", "float32"]["wire_bytes"] == 4 * 4_910_922
    assert "bus MB/s" in finished.stderr


def test_a_wrong_average_is_an_error():
    # These two ranks hear nothing of each other.
    deaf = Processes(World(rank=0, size=2, local_rank=0, local_size=2))
    with pytest.raises(ValueError, match=r"is wrong by 0\.75 on rank 0"):
        exchange_speed.time_exchange(
            deaf, [(7,)], "none", BenchmarkOptions(steps=1)
        )


def test_one_process_has_nobody_to_average_with():
    with pytest.raises(ValueError, match="start it with horovodrun -np 2"):
        exchange_speed.measure(BenchmarkOptions(mode="allreduce"), Config())


def test_sizes_reach_the_largest():
    assert exchange_speed.sizes(1) == [2**12, 2**15, 2**18, 2**20]
    assert exchange_speed.sizes(128) == [2**n for n in range(12, 28, 3)]


# --- What cannot be measured. ---


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            [*_INPUT, "--data_dir=/nowhere"],
            "--data_dir=/nowhere is not a directory",
        ),
        (
            [*_INPUT, *_SYNTHETIC, "--train_images=64", "--epochs=2"],
            "--steps=4 and --warmup_steps=1 are more than the 4 batches",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(flags, words):
    finished = jobs.run(0, *flags, check=False)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert f"error: {words}" in finished.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeline_file": "/tmp/none"}, "--timeline_file=/tmp/none is of"),
        ({"profile_dir": "/proc/none"}, "/proc/none cannot be written"),
    ],
)
def test_what_cannot_be_recorded_is_known_before(options, words):
    with pytest.raises(ValueError, match=words):
        training_speed.measure(BenchmarkOptions(**options), Config())


def test_recordings_are_of_steps():
    with pytest.raises(ValueError, match="add --mode=train"):
        BenchmarkOptions(mode="input", profile_dir="/tmp/none")
