"""The image for CPUs: what it is made of, and training over hosts from it."""

import json
import re
import subprocess

import numpy as np
import pytest

import hosts as hosts_lib
import jobs
from image import ImageHosts, Store, missing

pytestmark = [
    pytest.mark.horovod,
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    with Store(tmp_path_factory.mktemp("image")) as store:
        yield store.build()


@pytest.fixture(scope="module")
def hosts(image, patterns, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    with ImageHosts(folder, 3, image=image, data_dir=patterns) as running:
        yield running


def _run(hosts, host, *command, seconds=60):
    return hosts.run(
        host, *command, environment={"PATH": hosts_lib.SBIN}, seconds=seconds
    ).stdout


def test_no_layer_has_a_secret(image):
    # Of no stage, and whatever a later layer may have removed.
    found = subprocess.run(
        ["grep", "-rlF", image.store.mark, str(image.store.folder)],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1, found.stdout + found.stderr
    keys = subprocess.run(
        ["grep", "-rlIE", "^-+BEGIN .*PRIVATE KEY", str(image.store.folder)],
        capture_output=True,
        text=True,
    )
    # Those of tests of other packages are no keys to anything.
    assert [p for p in keys.stdout.split() if "site-packages" not in p] == []
    assert list(image.root.glob("etc/ssh/ssh_host_*")) == []


def test_it_says_how_to_run_it(image):
    config = image.config
    assert config["User"] == "1000"
    assert config["Entrypoint"] == ["tini", "--", "entrypoint.sh"]
    assert config["Cmd"] == ["sshd"]
    assert list(config["ExposedPorts"]) == [f"{hosts_lib.PORT}/tcp"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "hvd_imagenet"
    tests = (image.root / "opt/hvd_imagenet/tests.txt").read_text()
    assert re.search(r"\d{3,} passed", tests.splitlines()[-1])


def test_it_has_what_runs_and_not_what_builds(image):
    packages = image.root / "opt/hvd_imagenet/lib/python3.11/site-packages"
    assert (packages / "hvd_imagenet" / "train.py").exists()
    assert len(list(packages.glob("hvd_imagenet_kernels/*.so"))) == 1
    for name in ("cmake", "pytest", "sklearn", "tensorflow/include"):
        assert not (packages / name).exists(), name
    assert not (image.root / "usr/bin/g++").exists()
    size = int(
        subprocess.run(
            ["du", "-sm", "--one-file-system", str(image.root)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()[0]
    )
    # MiB; 1,723 when it was first built.
    assert size < 2000


def test_sshd_runs_for_one_user_by_key_alone(hosts):
    processes = _run(hosts, "host1", "sh", "-c", "cat /proc/[0-9]*/status")
    names = re.findall(r"Name:\t(.*)", processes)
    users = re.findall(r"Uid:\t(\d+)", processes)
    assert "sshd" in names
    assert {
        user
        for name, user in zip(names, users, strict=True)
        if name in ("sshd", "tini")
    } == {"1000"}
    ssh = ("ssh", "-o", "BatchMode=yes")
    assert _run(hosts, "host1", *ssh, "host2", "hostname") == "host2\n"
    for refused in (
        ("-o", "IdentitiesOnly=yes", "-i", "/dev/null", "host2"),
        ("root@host2",),
    ):
        with pytest.raises(AssertionError, match="Permission denied"):
            _run(
                hosts,
                "host1",
                *(*ssh, "-F", "none", "-p", str(hosts_lib.PORT)),
                *("-o", "StrictHostKeyChecking=no"),
                *("-o", "UserKnownHostsFile=/dev/null"),
                *refused,
                "hostname",
            )
    # Each has a key of its own, made when it came up.
    keys = {
        _run(hosts, name, "cat", "/home/trainer/.ssh/host_key.pub")
        for name in hosts.names
    }
    assert len(keys) == len(hosts.names)


@pytest.mark.parametrize("transport", ["gloo", "mpi"])
@pytest.mark.parametrize("interface", ["given", "found"])
def test_hosts_train_like_one(hosts, runs, transport, interface):
    """Two ranks each on the two hosts besides the launcher's."""
    workdir = f"{transport}-{interface}"
    given = ("--network-interface=eth0",) if interface == "given" else ()
    _run(
        hosts,
        "host1",
        *("horovodrun", "-np", "4", "-H", "host2:2,host3:2", "-p"),
        *(str(hosts_lib.PORT), f"--{transport}", *given),
        *("python", "-m", "hvd_imagenet.train", *jobs.TINY, *jobs.RECIPE),
        *("--data_dir=/data", f"--workdir=/runs/{workdir}"),
        seconds=jobs.TIMEOUT_SECONDS,
    )
    # The other one keeps its index of the data there, as /data is read-only.
    assert [
        name
        for name in hosts.names
        if (hosts.files(name) / workdir / "tensorboard").exists()
    ] == ["host2"]
    ours = hosts.files("host2") / workdir
    for kind in ("train", "validation"):
        assert len(list((ours / "tensorboard" / kind).iterdir())) == 1
    for name in ("loss", "learning_rate"):
        np.testing.assert_allclose(
            [m[name] for m in jobs.metrics(ours)],
            [m[name] for m in jobs.metrics(runs[4])],
            rtol=1e-4,
        )
    environment = json.loads((ours / "environment.json").read_text())
    assert environment["world"]["local_size"] == 2
