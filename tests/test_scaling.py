"""Scaling: which worlds are measured, what their times mean, the report."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import PIL.Image
import pytest

import jobs
import ssh_server
from hvd_imagenet import flags
from hvd_imagenet.cluster import hosts
from hvd_imagenet.cluster.options import HostOptions
from hvd_imagenet.config import (
    Config,
    DataConfig,
    OptimizationConfig,
    PhaseConfig,
    ScheduleConfig,
)
from hvd_imagenet.environment import Environment
from hvd_imagenet.measuring import (
    scaling_picture,
    scaling_report,
    scaling_runs,
    scaling_worlds,
)
from hvd_imagenet.measuring.options import BenchmarkOptions
from hvd_imagenet.measuring.scaling_report import Run

_TOY = (
    *("-m", "hvd_imagenet.benchmark", "--mode=scaling", *jobs.TINY),
    *("--batch_size_per_process=4", "--warmup_steps=1"),
)
_HERE = ("--hosts=localhost:2", "--data_format=synthetic")


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])],
)
def test_worlds_double(most, sizes):
    assert scaling_worlds.sizes(most) == sizes


def test_every_process_has_the_same_work_in_every_world():
    config = Config(
        optimization=OptimizationConfig(
            global_batch_size=512, batch_size_per_process=32, compression="fp16"
        ),
        data=DataConfig(data_dir="/data", label_offset=1),
        phases=PhaseConfig(phase_epochs=(30.0,), phase_image_sizes=(288,)),
    )
    worlds = list(scaling_worlds.worlds(config, 4))
    found = [
        (w.curve, w.processes, w.config.optimization.global_batch_size)
        for w in worlds
    ]
    # 4 micro-batches of 32 images each, as in the world of 4.
    assert found == [
        ("synthetic, float32", 1, 128),
        ("data, fp16", 1, 128),
        ("synthetic, float32", 2, 256),
        ("synthetic, fp16", 2, 256),
        ("data, fp16", 2, 256),
        ("synthetic, float32", 4, 512),
        ("synthetic, fp16", 4, 512),
        ("data, fp16", 4, 512),
    ]
    kinds = [
        (w.config.optimization.compression, w.config.data.data_dir)
        for w in worlds[-3:]
    ]
    assert kinds == [("none", None), ("fp16", None), ("fp16", "/data")]
    assert {w.config.phases for w in worlds} == {PhaseConfig()}


def test_the_command_asks_for_the_same_config():
    config = Config(schedule=ScheduleConfig(decay_epochs=()))
    world = list(scaling_worlds.worlds(config, 3))[1]
    worlds_of_jobs = scaling_runs.Jobs(
        options=BenchmarkOptions(mode="scaling", report_dir="/r", steps=7),
        host_options=HostOptions(),
        cluster=hosts.Cluster(
            hosts=hosts.parse_list("localhost:3", None), source="test"
        ),
        environment=Environment(passed={}, secret=(), other=()),
    )
    words = worlds_of_jobs.command(world)
    assert words[words.index("-H") + 1] == "localhost:2"
    place = words.index("hvd_imagenet.benchmark")
    own = {"--mode=train", "--steps=7", "--warmup_steps=10", "--host_slots=3"}
    assert own <= set(words)
    rest = [word for word in words[place:] if word not in own]
    assert flags.parse_apart(rest) == world.config


def _run(processes, step, communication, waited, curve="a", ci95=None):
    parts = {
        "step": step,
        "communication": communication,
        "data_wait": waited,
        "compute": step - communication - waited,
    }
    return Run(
        curve=curve,
        baseline="a",
        processes=processes,
        result={
            "images_per_second": 32 * processes / step,
            **{
                f"{name}_seconds": {
                    "mean": value,
                    "ci95": ci95 and ci95 * value,
                }
                for name, value in parts.items()
            },
        },
    )


_RUNS = (
    # Computes 0.9 and waits 0.1.
    _run(1, 1.0, 0.0, 0.1, ci95=0.03),
    # Computes 1.0 and waits 0.2: 0.1 more of either.
    _run(4, 1.6, 0.4, 0.2, ci95=0.04),
    _run(4, 1.25, 0.25, 0.1, curve="b"),
)


def test_what_is_lost_adds_up():
    one, four, other = scaling_report.points(_RUNS)
    assert (one.efficiency, one.ci95, one.without_communication) == (1, 0, 1)
    assert four.efficiency == pytest.approx(1 / 1.6)
    # Relative errors of two independent times.
    assert four.ci95 == pytest.approx(0.05 / 1.6)
    assert four.without_communication == pytest.approx(1 / 1.2)
    lost = (four.lost_to_communication, four.lost_to_data_wait)
    assert lost == pytest.approx((0.4 / 1.6, 0.1 / 1.6))
    assert four.lost_to_rest == pytest.approx(0.1 / 1.6)
    assert sum(lost) + four.lost_to_rest == pytest.approx(1 - four.efficiency)
    assert (other.efficiency, other.ci95) == (pytest.approx(0.8), None)
    assert other.lost_to_rest == pytest.approx(0.0)


def test_the_picture_has_a_colour_for_each_loss(tmp_path):
    path = tmp_path / "scaling.png"
    scaling_picture.draw(scaling_report.points(_RUNS), "title", path)
    with PIL.Image.open(path) as picture:
        assert picture.width > 1000
        colours = {c for _, c in picture.convert("RGB").getcolors(2**24)}
    red, orange, gray = (214, 39, 40), (255, 127, 14), (127, 127, 127)
    assert {red, orange, gray} <= colours


# --- The program. ---


def _said(options, config=None, **host_options):
    with pytest.raises(ValueError) as caught:
        scaling_runs.measure(
            options, HostOptions(**host_options), config or Config()
        )
    return str(caught.value)


@pytest.fixture
def options(tmp_path):
    return BenchmarkOptions(mode="scaling", report_dir=str(tmp_path / "report"))


def test_what_is_missing_is_said_before_work(options, tmp_path, monkeypatch):
    assert "localhost:4" in _said(options, hosts="localhost:1")
    blocked = dataclasses.replace(options, report_dir="/proc/none")
    assert "--report_dir=/proc/none cannot be" in _said(
        blocked, hosts="localhost:2"
    )
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    assert "without horovodrun" in _said(options, hosts="localhost:2")
    monkeypatch.delenv("HOROVOD_SIZE")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install matplotlib" in _said(options, hosts="localhost:2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mode=scaling"], "mode=scaling writes a report"),
        (["--report_dir=/r"], "mode=scaling writes a report"),
        (["--hosts=localhost:2"], "flags about hosts are for --mode=scaling"),
    ],
)
def test_flags_that_do_not_fit_are_refused(arguments, words):
    finished = jobs.run(
        0, "-m", "hvd_imagenet.benchmark", *arguments, check=False
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    assert words in finished.stderr


@jobs.needs_own_name
@pytest.mark.horovod
def test_a_world_that_fails_is_named_with_its_reason(tmp_path):
    finished = jobs.run(
        0,
        *(*_TOY, *_HERE),
        f"--report_dir={tmp_path}",
        "--steps=4",
        "--train_images=16",
        "--epochs=1",
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    assert (
        "error: the world of 1 process, synthetic, float32, gave no result"
        in finished.stderr
    )
    assert "--steps=4 and --warmup_steps=1 make 5 steps" in finished.stderr
    assert "Traceback" not in finished.stderr


@jobs.needs_own_name
@pytest.mark.slow
@pytest.mark.horovod
def test_worlds_of_one_and_two_are_compared(tmp_path):
    finished = jobs.run(
        0, *_TOY, *_HERE, f"--report_dir={tmp_path}", "--steps=4"
    )
    report = json.loads(finished.stdout)
    assert report == json.loads((tmp_path / "scaling.json").read_text())
    assert report["is_complete"]
    found = [(p["curve"], p["processes"]) for p in report["points"]]
    assert found == [
        ("synthetic, float32", 1),
        ("synthetic, float32", 2),
        ("synthetic, fp16", 2),
    ]
    results = [run["result"] for run in report["runs"]]
    assert [r["processes"] for r in results] == [1, 2, 2]
    assert [r["compression"] for r in results] == ["none", "none", "fp16"]
    # The world of one has the cores of one of two.
    assert len({r["threads_per_process"] for r in results}) == 1
    assert {r["steps"] for r in results} == {4}
    assert PIL.Image.open(tmp_path / "scaling.png").width > 1000


@jobs.needs_own_name
@pytest.mark.slow
@pytest.mark.horovod
@pytest.mark.skipif(ssh_server.missing() is not None, reason="needs sshd")
def test_hosts_and_data_are_the_jobs_own(patterns, tmp_path):
    folder = tmp_path / "ssh"
    folder.mkdir()
    with ssh_server.Server(folder).running() as server:
        finished = jobs.run(
            0,
            *_TOY,
            # The second one is reached by ssh.
            f"--hosts=127.0.0.1:1,{ssh_server.HOST}:1",
            "--network_interface=lo",
            f"--ssh_port={server.port}",
            f"--ssh_identity_file={server.key}",
            f"--data_dir={patterns}",
            f"--report_dir={tmp_path}",
            "--steps=2",
            PATH=server.path,
        )
    runs = json.loads(finished.stdout)["runs"]
    found = [
        (run["curve"], run["processes"], run["result"]["source"].split()[0])
        for run in runs
    ]
    assert found == [
        ("synthetic, float32", 1, "synthetic"),
        ("data, float32", 1, "2"),
        ("synthetic, float32", 2, "synthetic"),
        ("synthetic, fp16", 2, "synthetic"),
        ("data, float32", 2, "2"),
    ]
    local_sizes = [
        run["result"]["variables"].get("HOROVOD_LOCAL_SIZE") for run in runs
    ]
    assert local_sizes == ["1"] * 5


@jobs.needs_own_name
@pytest.mark.slow
@pytest.mark.horovod
def test_ctrl_c_ends_every_world(tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, *_TOY, *_HERE, f"--report_dir={tmp_path}"),
            "--steps=100000",
        ],
        env=jobs.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )

    def ranks():
        own = f"{sys.executable} -m hvd_imagenet.benchmark --mode=train"
        return [
            words
            for _, words in jobs.processes()
            if " ".join(words).startswith(own) and "--steps=100000" in words
        ]

    try:
        deadline = time.monotonic() + jobs.TIMEOUT_SECONDS
        while not ranks():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)  # Within its work.
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert ranks() == []
