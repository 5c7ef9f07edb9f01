"""Training over several hosts, each with its own network, sshd and processes.

The installed package runs on all of them, as from a shared file system; see
hosts.py for what a host is here. Rank 0 is not on the host of the launcher.
"""

import json
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest

import jobs
from hosts import PORT, Hosts, missing

pytestmark = [
    pytest.mark.horovod,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

_HERE = pathlib.Path(__file__).parent
_TELL = str(_HERE.parent / "programs" / "train_and_tell.py")
_MANY = str(_HERE.parent / "programs" / "many_ranks.py")
_TRAIN = ("-m", "hvd_imagenet.train")
# Horovod remembers its checks of hosts, and other hosts had the same names.
_NO_MEMORY = "--disable-cache"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts"), 4) as running:
        yield running


def _horovodrun(hosts, places, ranks, *command, seconds=jobs.TIMEOUT_SECONDS):
    """Runs Python on `ranks` slots of `places`, launched on host1."""
    return hosts.run(
        "host1",
        "horovodrun",
        *("-np", str(ranks), "-H", places, _NO_MEMORY),
        *("-p", str(PORT), "-i", str(hosts.key)),
        *command,
        environment=jobs.environment(),
        seconds=seconds,
    )


def _result(finished):
    """What a program's rank 0 printed behind RESULT."""
    (text,) = re.findall(r"RESULT (.*)", finished.stdout)
    return json.loads(text)


def _recipe(hosts, data_dir, workdir):
    """Flags of the recipe of `runs`; the work directory is no shared one."""
    return (
        *jobs.TINY,
        *jobs.RECIPE,
        f"--data_dir={data_dir}",
        f"--workdir={hosts.own / workdir}",
    )


def _assert_trained_like(ours, theirs):
    for name in ("step", "loss", "learning_rate"):
        np.testing.assert_allclose(
            [m[name] for m in jobs.metrics(ours)],
            [m[name] for m in jobs.metrics(theirs)],
            rtol=1e-4,
        )
    assert jobs.result(ours)["examples"] == jobs.result(theirs)["examples"]


def _hosts_with(hosts, workdir):
    return [
        name for name in hosts.names if (hosts.files(name) / workdir).exists()
    ]


@pytest.fixture(scope="module")
def two_hosts(hosts, patterns):
    """2 hosts x 2 ranks, by Gloo over a given interface; what they printed."""
    return _horovodrun(
        hosts,
        "host2:2,host1:2",
        4,
        "--gloo",
        "--network-interface=eth0",
        *(sys.executable, _TELL),
        *_recipe(hosts, patterns, "two"),
    ).stdout


def test_every_rank_is_where_it_belongs(two_hosts):
    places = [json.loads(p) for p in re.findall(r"PLACE (.*)", two_hosts)]
    assert sorted(places, key=lambda place: place["rank"]) == [
        {
            "rank": rank,
            "size": 4,
            "local_rank": local_rank,
            "local_size": 2,
            "host": host,
        }
        for rank, local_rank, host in (
            (0, 0, "host2"),
            (1, 1, "host2"),
            (2, 0, "host1"),
            (3, 1, "host1"),
        )
    ]


def test_two_hosts_train_like_one(two_hosts, hosts, runs):
    _assert_trained_like(hosts.files("host2") / "two", runs[4])


def test_the_host_of_rank_0_alone_writes(two_hosts, hosts):
    assert _hosts_with(hosts, "two") == ["host2"]
    workdir = hosts.files("host2") / "two"
    for kind in ("train", "validation"):
        assert len(list((workdir / "tensorboard" / kind).iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["gloo", "mpi"])
def test_the_interface_is_found(hosts, patterns, runs, transport):
    """On three hosts with unequal numbers of ranks, launched on a fourth."""
    if transport == "mpi":
        import horovod.tensorflow as hvd

        if not hvd.mpi_built():
            pytest.skip("Horovod is built without MPI (HOROVOD_WITH_MPI=1)")
    _horovodrun(
        hosts,
        "host2:1,host3:1,host4:2",
        4,
        f"--{transport}",
        *(sys.executable, *_TRAIN),
        *_recipe(hosts, patterns, transport),
    )
    assert _hosts_with(hosts, transport) == ["host2"]
    _assert_trained_like(hosts.files("host2") / transport, runs[4])


@pytest.mark.slow
def test_a_slurm_job_trains_on_its_nodes(hosts, patterns, runs):
    """By the script for sbatch, from the variables that Slurm sets."""
    finished = hosts.run(
        "host1",
        str(_HERE.parent.parent / "docker" / "train.sbatch"),
        *_recipe(hosts, patterns, "slurm"),
        environment=jobs.environment()
        | {
            "SLURM_JOB_NODELIST": "host[2-3]",
            "SLURM_NTASKS_PER_NODE": "2",
            "VENV": str(pathlib.Path(sys.executable).parent.parent),
        },
        seconds=jobs.TIMEOUT_SECONDS,
    )
    # The doctor's table came first.
    assert re.search(r"clocks +ok +within", finished.stdout)
    assert _hosts_with(hosts, "slurm") == ["host2"]
    _assert_trained_like(hosts.files("host2") / "slurm", runs[4])


@pytest.mark.slow
def test_the_control_plane_carries_32_ranks(hosts):
    places = ("host2", "host3", "host4", "host1")
    finished = _horovodrun(
        hosts,
        ",".join(f"{host}:8" for host in places),
        32,
        "--gloo",
        "--network-interface=eth0",
        # 32 processes take minutes to start on a few cores, and the first one
        # waits for the last; 30 s is what Gloo gives them by itself.
        "--gloo-timeout-seconds=600",
        *(sys.executable, _MANY),
        seconds=1200,
    )
    ranks = _result(finished)
    assert [(r["host"], r["local_rank"], r["local_size"]) for r in ranks] == [
        (host, local_rank, 8) for host in places for local_rank in range(8)
    ]
    (one,) = _result(jobs.run(0, _MANY))
    for rank in ranks:
        np.testing.assert_allclose(rank["losses"], one["losses"], rtol=1e-5)
        assert rank["weights"] == ranks[0]["weights"]
    # It must be training for the comparison to mean something.
    assert one["losses"][-1] < 0.9 * one["losses"][0]


def test_hosts_do_not_outlive_a_killed_test(tmp_path):
    program = (
        "import pathlib, sys, time, hosts\n"
        "with hosts.Hosts(pathlib.Path(sys.argv[1]), 2):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=_HERE,
        stdout=subprocess.PIPE,
        text=True,
    ) as test:
        assert test.stdout.readline() == "up\n"
        processes = psutil.Process(test.pid).children(recursive=True)
        names = [process.name() for process in processes]
        test.send_signal(signal.SIGKILL)
    assert names.count("sshd") == 2
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
