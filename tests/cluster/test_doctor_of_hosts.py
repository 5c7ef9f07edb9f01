"""The doctor on hosts with real faults: each is found, and the host named."""

import json
import pathlib
import shutil
import sys

import pytest

import hvd_imagenet
import jobs
from hosts import PORT, SBIN, Hosts, missing

pytestmark = [
    pytest.mark.horovod,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

_SICK = "host2"

# A clock in its namespace cannot be set: Python's is, where it is read.
_OTHER_CLOCK = f"""
import socket, time
if socket.gethostname() == "{_SICK}":
    time.time = lambda time=time.time: time() + 100.0
"""


class _SickHosts(Hosts):
    """Three hosts, everything wrong with the second one."""

    def _write_files(self):
        super()._write_files()
        installed = pathlib.Path(hvd_imagenet.__file__).parent
        shutil.copytree(installed, self._folder / "package")
        with open(self._folder / "package" / "lars.py", "a") as file:
            file.write("# Changed.\n")
        (keras,) = pathlib.Path(sys.prefix).glob(
            "lib/*/site-packages/keras-*.dist-info/METADATA"
        )
        text = keras.read_text().replace("\nVersion: ", "\nVersion: 2.", 1)
        (self._folder / "METADATA").write_text(text)
        self._mounts = {"package": installed, "METADATA": keras}
        (self._folder / "sitecustomize.py").write_text(_OTHER_CLOCK)
        self.names_file = self._folder / "names"
        self.write_names(*self.names[:2])

    def write_names(self, *known):
        """What the sick host knows besides itself."""
        lines = (self._folder / "hosts").read_text().splitlines()
        self.names_file.write_text(
            "\n".join(
                line
                for line in lines
                if line.split()[1] in ("localhost", *known)
            )
            + "\n"
        )

    def _begin(self, name):
        if name != _SICK:
            return super()._begin(name)
        mounts = [
            f'mount --bind "$folder/{source}" "{target}"'
            for source, target in self._mounts.items()
        ]
        return "\n".join(
            [
                "mount -t tmpfs -o size=1m tmpfs /dev/shm",
                *mounts,
                "ulimit -n 400",
                super()._begin(name),
                'mount --bind "$folder/names" /etc/hosts',
                "",
            ]
        )


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with _SickHosts(tmp_path_factory.mktemp("hosts"), 3) as running:
        yield running


def _examine(hosts, *flags):
    """The findings of one process on each host, and all that was said."""
    finished = hosts.run(
        "host1",
        "horovodrun",
        *("-np", "3", "-H", "host1:1,host2:1,host3:1", "--disable-cache"),
        *("-p", str(PORT), "-i", str(hosts.key), "--network-interface=eth0"),
        *(sys.executable, "-m", "hvd_imagenet.doctor"),
        *jobs.TINY,
        *flags,
        environment=jobs.environment() | {"PYTHONPATH": str(hosts._folder)},
        seconds=jobs.TIMEOUT_SECONDS,
        check=False,
    )
    assert finished.returncode != 0
    return finished


def test_every_fault_is_found_and_its_host_named(hosts):
    for name in ("host1", "host3"):
        data = hosts.files(name) / "data"
        data.mkdir()
        (data / "train-00000-of-00001").write_bytes(bytes(2**20))
    hosts.run(
        _SICK,
        *"tc qdisc add dev eth0 root tbf rate 200mbit burst 64kb".split(),
        *("latency", "50ms"),
        environment={"PATH": SBIN},
        seconds=60,
    )
    # On the first host, where the run would be written.
    small = hosts.own / "small"
    hosts.run(
        "host1",
        *("sh", "-ec", f"mkdir {small}; mount -t tmpfs -o size=60m t {small}"),
        environment={"PATH": SBIN},
        seconds=60,
    )
    finished = _examine(
        hosts,
        f"--data_dir={hosts.own / 'data'}",
        f"--workdir={small / 'run'}",
        f"--json_file={hosts.own / 'found.json'}",
    )
    said = json.loads((hosts.files("host1") / "found.json").read_text())
    found = [
        (finding["check"], finding["level"], finding["text"])
        for finding in said["findings"]
        if finding["level"] != "ok"
    ]
    for check, level, words in (
        ("software", "failure", ("keras is", "2.3.", "on host2")),
        ("software", "failure", ("the code of hvd_imagenet", "on host2")),
        ("software", "warning", ("host2: keras 2.3.", "(tried: ==3.")),
        ("shared memory", "warning", ("/dev/shm of host2 has 1.0 MiB free",)),
        ("open files", "failure", ("on host2 may open 400 files",)),
        ("host names", "warning", ("host2 does not know", "host3")),
        ("clocks", "warning", ("host2 by +100.",)),
        ("network", "warning", ("host2 is slow: ", "Mbit/s, where the other")),
        ("allreduce", "warning", ("held up by host2",)),
        ("data", "failure", ("host2 cannot read --data_dir=",)),
        ("run directory", "failure", ("has 60.0 MiB free", "need")),
    ):
        matching = [
            one
            for one in found
            if one[:2] == (check, level) and all(w in one[2] for w in words)
        ]
        assert matching, (check, level, words, found)
        assert all(f["remedy"] for f in said["findings"] if f["level"] != "ok")
        found.remove(matching[0])
    # And nothing else: the other hosts are well.
    assert found == []
    assert "held up by host2" in finished.stdout  # The table.


def test_a_name_without_an_address_is_said_before_gloo_aborts(hosts):
    hosts.write_names("host1", "host3")
    finished = _examine(hosts, "--data_format=synthetic")
    assert (
        "FAILURE  host2 does not know the address of its own name, host2"
        in finished.stdout
    )
