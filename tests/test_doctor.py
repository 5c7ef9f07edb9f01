"""The doctor: what facts and measurements mean, and real examinations.

Faults of whole hosts are injected in cluster/test_doctor_of_hosts.py.
"""

import itertools
import json
import os
import pathlib
import re
import resource
import socket
import subprocess
import sys

import pytest

import jobs
from hvd_imagenet.cluster import finding
from hvd_imagenet.cluster.finding import Level
from hvd_imagenet.diagnosis import (
    examination,
    exchange,
    files,
    installation,
    limits,
    links,
    storage,
    support,
    units,
    versions,
)
from hvd_imagenet.diagnosis.links import Link

_REPOSITORY = pathlib.Path(__file__).parent.parent
_GIB = 2**30


_NO_KERNEL_MISSES = {
    "input kernel": None,
    "batch normalization": None,
    "convolutions": None,
    "exchange within a host": None,
    "half precision": None,
}


def _host(**changes):
    """Facts of a host with two free GPUs on which all is well."""
    return {
        "host": "host1",
        "python": "3.11",
        "packages": {"tensorflow": "2.18.1", "horovod": "0.28.1"},
        "code": "12345678",
        "own_name": "host1",
        "own_name_resolves": True,
        "interfaces": ["lo", "eth0"],
        "address": "10.0.0.1",
        "data": {"entries": 1024, "digest": "1", "filesystem": "nfs4"},
        "flagfiles": {},
        "gpus_free": [True, True],
        "untried": [],
        "build": {"gloo": True, "mpi": False, "nccl": 22105},
        "tensorflow_gpus": 2,
        "missing_kernels": _NO_KERNEL_MISSES,
        "recipe": "87654321",
        "open_files": (65_536, 1_048_576),
        "shared_memory": _GIB,
        **changes,
    }


def _hosts(**changes):
    """Two hosts, the second one changed."""
    return {"host1": _host(), "host2": _host(host="host2", **changes)}


_SLOTS = {"host1": 2, "host2": 2}


def _judge(facts, backend="gloo", is_launched=True, slots=None):
    slots = slots or _SLOTS
    return [
        *installation.software(facts, is_launched),
        *installation.horovod(facts, backend, is_launched),
        *installation.support(facts, wants_xla=False),
        *installation.gpus(facts, slots),
        *installation.kernels(facts),
        *installation.recipe(facts, []),
        *limits.shared_memory(facts, slots, backend),
        *limits.open_files(facts, 16),
        *limits.host_names(facts, {}, backend),
        *limits.interfaces(facts, "eth0"),
    ]


def test_hosts_on_which_all_is_well_have_one_ok_per_check():
    findings = _judge(_hosts())
    assert finding.worst(findings) is Level.OK
    checks = [found.check for found in findings]
    assert len(set(checks)) == len(checks) == 14


def test_operations_are_examined_where_they_have_a_use():
    without = {"missing_kernels": {"input kernel": None}}
    findings = installation.kernels(_hosts(**without))
    assert [found.text for found in findings] == [
        "its compiled operation works on 2 hosts",
        *["its compiled operation works on 1 host"] * 4,
    ]


_CPU = {"tensorflow_gpus": 0, "gpus_free": []}


@pytest.mark.parametrize(
    ("changes", "check", "level", "words"),
    [
        ({"untried": ["keras 2.0"]}, "software", "WARNING", "host2: keras 2.0"),
        ({"code": "0"}, "software", "FAILURE", "is 12345678 on host1 and 0 on"),
        (
            {
                "missing_kernels": {
                    **_NO_KERNEL_MISSES,
                    "batch normalization": "no file",
                }
            },
            "batch normalization",
            "WARNING",
            "is not used on host2: no file",
        ),
        ({"build": "no file"}, "Horovod", "FAILURE", "on host2 (no file)"),
        (
            {"build": {"gloo": False, "mpi": True, "nccl": 1}},
            "Horovod",
            "FAILURE",
            "is built with MPI and NCCL on host2, and was started by gloo",
        ),
        (
            {"build": {"gloo": True, "mpi": True, "nccl": 1}},
            "Horovod",
            "FAILURE",
            "is built otherwise on some hosts",
        ),
        (
            {"build": {"gloo": True, "mpi": False, "nccl": 0}},
            "Horovod",
            "WARNING",
            "without NCCL on host2",
        ),
        ({"gpus_free": [True, False]}, "GPUs", "FAILURE", "has 1 free GPUs"),
        (
            {"tensorflow_gpus": 0},
            "GPUs",
            "FAILURE",
            "the driver of host2 has 2 GPUs, TensorFlow sees 0",
        ),
        ({"recipe": "0"}, "recipe", "FAILURE", "87654321 on host1 and 0 on"),
        (
            {"shared_memory": 64 * 2**20},
            "shared memory",
            "FAILURE",
            "/dev/shm of host2 has 64.0 MiB free, of 256 MiB",
        ),
        (
            {"shared_memory": None},
            "shared memory",
            "FAILURE",
            "/dev/shm of host2 has 0 B free",
        ),
        (
            {"open_files": (512, -1)},
            "open files",
            "FAILURE",
            "host2 may open 512 files, and may need 1584",
        ),
        (
            {"open_files": (1024, 1500)},
            "open files",
            "FAILURE",
            "host2 may open 1500 files, and may need 1584",
        ),
        (
            {"own_name_resolves": False},
            "host names",
            "FAILURE",
            "host2 does not know the address of its own name",
        ),
        (
            {"address": None},
            "interfaces",
            "FAILURE",
            "host2 has no IPv4 address on eth0, but lo, eth0",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_host_that_differs_is_named(changes, check, level, words):
    findings = _judge(_hosts(**changes))
    (found,) = (f for f in findings if f.level is not Level.OK)
    assert (found.check, found.level.name) == (check, level)
    assert words in found.text
    assert found.remedy


def test_what_one_process_on_the_cpu_does_without():
    facts = {"host1": _host(build="not installed", **_CPU)}
    facts["host1"]["packages"] = {"tensorflow-cpu": "2.18.1"}
    facts["host1"]["shared_memory"] = 0
    findings = _judge(facts, is_launched=False, slots={"host1": 1})
    assert {f.check for f in findings if f.level is Level.WARNING} == {
        "software",
        "Horovod",
        "shared memory",
    }
    assert finding.worst(findings) is Level.WARNING


@pytest.mark.parametrize(
    ("backend", "slots", "level"),
    [("gloo", 8, "WARNING"), ("mpi", 1, "WARNING"), ("mpi", 8, "FAILURE")],
)
def test_mpi_needs_shared_memory_on_the_cpu_too(backend, slots, level):
    facts = {"host1": _host(shared_memory=2**20, **_CPU)}
    (found,) = limits.shared_memory(facts, {"host1": slots}, backend)
    assert found.level.name == level


# --- Between hosts. ---

_NAMES = ("host1", "host2", "host3", "host4")
_GIGABIT = 1e9 / 8


def _links(rate=lambda first, second: 10 * _GIGABIT, offset=lambda host: 0.0):
    return [
        Link(
            first=first,
            second=second,
            round_trip=4e-5,
            clock_offset=offset(second) - offset(first),
            forth=rate(first, second),
            back=10 * _GIGABIT,
        )
        for first, second in itertools.combinations(range(4), 2)
    ]


def test_links_that_are_alike_are_fine():
    (found,) = exchange.network(_links(), _NAMES)
    assert found.level is Level.OK
    assert found.text.startswith("10.0 Gbit/s to 10.0 Gbit/s")
    assert "40 to 40 us there and back" in found.text
    (found,) = exchange.clocks(_links(), _NAMES)
    assert (found.level, found.text) == (Level.OK, "within 0.0 ms")


def test_a_slow_host_is_told_from_a_slow_way():
    def slow_host(first, second):
        return _GIGABIT * (2 if 2 in (first, second) else 10)

    (found,) = exchange.network(_links(slow_host), _NAMES)
    assert found.text.startswith("host3 is slow: 2.0 Gbit/s")

    def slow_way(first, second):
        return _GIGABIT * (2 if (first, second) == (1, 3) else 10)

    (found,) = exchange.network(_links(slow_way), _NAMES)
    assert found.text.startswith("the way between host2 and host4 is slow")


def test_a_network_that_is_slow_everywhere_is_said():
    slow = [_GIGABIT / 5] * 2
    link = Link(first=0, second=1, forth=slow[0], back=slow[1])
    (found,) = exchange.network([link], _NAMES[:2])
    assert found.level is Level.WARNING
    assert "102 MB takes over 4.1 s" in found.text


def test_hosts_that_cannot_talk_are_named():
    link = Link(first=0, second=1, error="Connection refused")
    (found,) = exchange.network([link], _NAMES[:2])
    assert found.level is Level.FAILURE
    assert found.text == (
        "host1 cannot exchange data with host2 (Connection refused)"
    )


@pytest.mark.parametrize("wrong", range(4))
def test_the_wrong_clock_is_named_even_if_it_is_the_first(wrong):
    links = _links(offset=lambda host: -7.0 if host == wrong else 0.0)
    (found,) = exchange.clocks(links, _NAMES)
    assert found.text == f"differ from the others': {_NAMES[wrong]} by -7.0 s"


def test_an_exchange_with_another_result_is_a_failure():
    measured = {"error": "the mean was 2, not 1"}
    (found,) = exchange.allreduce(measured, [], _NAMES)
    assert found.level is Level.FAILURE


def test_a_host_that_reads_slowly_is_named():
    def reading(rate, seconds=1.0):
        return storage.Reading(
            files=1, bytes=int(rate * seconds), seconds=seconds
        )

    readings = {
        "host1": reading(500e6),
        "host2": reading(100e6),
        "host3": reading(400e6),
    }
    facts = {name: _host() for name in readings}
    (found,) = files.data(facts, "d", readings)
    assert found.text == "host2 reads 100 MB/s, the others 400 MB/s"
    # A block or two may just have waited.
    hasty = {**readings, "host2": reading(100e6, seconds=0.015)}
    (found,) = files.data(facts, "d", hasty)
    assert found.level is Level.OK
    readings["host2"] = storage.Reading(error="d/x cannot be read (EIO)")
    (found,) = files.data(facts, "d", readings)
    assert (found.level, found.text) == (
        Level.FAILURE,
        "host2: d/x cannot be read (EIO)",
    )


# --- Measuring. ---


@pytest.mark.parametrize("hosts", [1, 2, 3, 8, 9, 32, 256])
def test_everyone_meets_once_and_never_two_at_a_time(hosts):
    met = []
    for meetings in links.rounds(hosts):
        busy = [host for pair in meetings for host in pair]
        assert len(set(busy)) == len(busy)
        met += map(frozenset, meetings)
    assert len(set(met)) == len(met)
    if hosts <= 32:
        assert len(met) == hosts * (hosts - 1) // 2
    else:
        assert len(met) == 31 * hosts // 2


def test_a_link_is_measured_both_ways():
    token = os.urandom(16)
    with links.answering("127.0.0.1", token) as address:
        link = links.measure(3, 5, address, token)
        assert (link.first, link.second, link.error) == (3, 5, "")
        assert 0 < link.round_trip < 1
        assert abs(link.clock_offset) < 0.1
        assert min(link.forth, link.back) > 1e6
        stranger = links.measure(3, 5, address, os.urandom(16))
        assert stranger.error
    # Nobody listens any more.
    assert links.measure(3, 5, address, token).error == "Connection refused"


def test_reading_begins_at_the_hosts_share(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.JPEG").write_bytes(bytes(1000))
    (tmp_path / ".hidden").write_bytes(bytes(5))
    reading = storage.read(str(tmp_path), 0.5)
    assert (reading.files, reading.bytes, reading.error) == (2, 2000, "")
    (tmp_path / "b" / "1.JPEG").unlink()
    (tmp_path / "b" / "1.JPEG").symlink_to("nowhere")
    reading = storage.read(str(tmp_path), 0.5)
    assert reading.error.endswith("b/1.JPEG cannot be read (No such file or"
                                  " directory)")  # fmt: skip


def test_room_is_looked_for_where_the_run_will_be(tmp_path):
    room = storage.look_for_room(str(tmp_path / "not" / "there"))
    assert room.folder == str(tmp_path)
    assert room.rate > 0 and not room.error
    assert list(tmp_path.iterdir()) == []
    (found,) = files.run_directory(room, room.free // 4 + 1, 3)
    assert found.level is Level.FAILURE
    (found,) = files.run_directory(room, room.free // 4 - 1, 3)
    assert found.level is Level.OK


def test_a_directory_that_cannot_be_written_is_said():
    room = storage.look_for_room("/proc/run")
    (found,) = files.run_directory(room, 1, 3)
    assert found.level is Level.FAILURE
    assert found.text.startswith("/proc cannot be written (")


def test_what_setup_installs_is_what_was_tried():
    assert versions.untried() == []
    pinned = (_REPOSITORY / "tools/horovod/requirements.txt").read_text()
    assert f"\nhorovod{versions.HOROVOD} --hash=sha256:" in pinned


def test_a_version_that_was_never_tried_is_named(monkeypatch):
    installed = {"tensorflow-cpu": "2.20.0", "keras": "3.15.1"}
    monkeypatch.setattr(versions, "installed", installed.get)
    assert [what for what in versions.untried() if "tensorflow" in what] == [
        "tensorflow-cpu 2.20.0 (tried: ==2.18.1 or ==2.21.0)"
    ]


def _combined(tensorflow, python, **build):
    build = {"gloo": True, "mpi": False, "nccl": 0} | build
    packages = {"tensorflow": tensorflow, "horovod": "0.28.1"}
    return _host(packages=packages, python=python, build=build, **_CPU)


def test_what_is_tested_together_is_told_from_what_is_not():
    facts = {
        "host1": _combined("2.21.0", "3.13", mpi=True),
        "host2": _combined("2.18.1", "3.12", nccl=22105),
        "host3": _combined("2.18.1", "3.13"),
        "host4": _combined("2.20.0", "3.12"),
    }
    one, two, three, four = installation.support(facts, wants_xla=False)
    assert one.level is two.level is Level.OK
    assert one.text == (
        "TensorFlow 2.21.0, Python 3.13, Gloo tested, MPI tested on host1"
    )
    assert "3.12, Gloo tested, NCCL compiles and loads on host2" in two.text
    assert three.level is four.level is Level.WARNING
    assert three.text == (
        "TensorFlow 2.18.1, Python 3.13 were not tried together, on host3"
    )
    assert "TensorFlow 2.20.0, Python 3.12 were not" in four.text
    assert "2.18.1 with Python 3.10 to 3.12 or 2.21.0 with" in four.remedy


def test_xla_operations_that_are_not_built_are_said():
    old, new = ({"host1": _combined(v, "3.12")} for v in support.STACKS)
    assert installation.support(old, wants_xla=True)[0].level is Level.OK
    (found,) = installation.support(new, wants_xla=True)
    assert found.level is Level.WARNING
    assert found.text.startswith("HOROVOD_ENABLE_XLA_OPS has no effect")


def test_the_readme_has_the_table_of_what_is_tried():
    readme = (_REPOSITORY / "README.md").read_text()
    for version, stack in support.STACKS.items():
        oldest, *_, newest = stack.pythons
        states = f"{stack.gloo} | {stack.mpi} | {stack.nccl}"
        row = rf"\| {version}( \(default\))? \| 3.{oldest} to 3.{newest} \| "
        assert re.search(row + re.escape(states), readme), version
    setup = (_REPOSITORY / "tools" / "setup").read_text()
    offered = re.findall(r"^  (2[\d.]+)\) newest=3\.(\d+) ;;", setup, re.M)
    assert offered == [
        (version, str(stack.pythons[-1]))
        for version, stack in support.STACKS.items()
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (3 * 2**50, "3,072 TiB"),
    ],
)
def test_sizes_are_short(count, text):
    assert units.size(count) == text


def test_containers_of_one_name_are_told_apart_by_rank():
    everyone = [({"host": "box"}, local) for local in (0, 1, 0, 1)]
    by_host, numbers = examination.number_hosts(everyone)
    assert list(by_host) == ["box", "box (rank 2)"]
    assert numbers == [0, 0, 1, 1]


def test_ranks_dealt_out_over_hosts_are_counted_by_name():
    everyone = [
        ({"host": host}, local) for local in (0, 1) for host in ("a", "b")
    ]
    by_host, numbers = examination.number_hosts(everyone)
    assert list(by_host) == ["a", "b"]
    assert numbers == [0, 1, 0, 1]


# --- The program. ---


def _doctor(*flags, **variables):
    return jobs.run(
        0, "-m", "hvd_imagenet.doctor", *flags, check=False, **variables
    )


@jobs.needs_own_name
def test_one_process_examines_its_host(digits, tmp_path):
    finished = _doctor(
        *jobs.TINY,
        f"--data_dir={digits}",
        f"--workdir={tmp_path / 'run'}",
        f"--json_file={tmp_path / 'found.json'}",
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    header, *rows = finished.stdout.splitlines()
    assert header.split() == ["check", "result", "found"]
    assert len(rows) == 19
    said = json.loads((tmp_path / "found.json").read_text())
    assert said["worst"] == "ok"
    assert len(said["findings"]) == 19
    (host,) = said["hosts"]
    assert host["slots"] == 1
    (reading,) = said["readings"].values()
    assert reading["bytes"] == sum(
        path.stat().st_size for path in digits.glob("[!.]*")
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.horovod
def test_two_processes_average(tmp_path):
    finished = jobs.run(
        2,
        *("-m", "hvd_imagenet.doctor", "--data_format=synthetic"),
        "--compression=fp16",
        f"--json_file={tmp_path / 'found.json'}",
    )
    said = json.loads((tmp_path / "found.json").read_text())
    assert said["worst"] == "ok", finished.stdout
    assert said["allreduce"]["processes"] == 2
    assert said["allreduce"]["format"] == "fp16"
    assert said["allreduce"]["transport"] == "shared memory"
    assert "over 2 processes by shared memory in" in finished.stdout
    assert said["allreduce"]["bytes"] / said["allreduce"]["seconds"] > 1e6
    assert said["hosts"][0]["slots"] == 2


@jobs.needs_own_name
def test_missing_data_fail_with_the_remedy():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    finished = _doctor("--data_dir=/nowhere", "--json_file=-")
    assert finished.returncode == 1
    said = json.loads(finished.stdout)
    assert said["worst"] == "failure"
    (found,) = (f for f in said["findings"] if f["level"] == "failure")
    assert found["check"] == "data"
    assert found["text"].endswith("cannot read --data_dir=/nowhere")
    assert said["hosts"][0]["open_files"] == [soft, hard]
    assert said["hosts"][0]["host"] == socket.gethostname()


@jobs.needs_own_name
def test_a_launcher_that_horovod_does_not_know_is_found():
    """As mpirun is to a Horovod without MPI: every process is alone."""
    import horovod.tensorflow as hvd

    if hvd.mpi_built():
        pytest.skip("Horovod is built with MPI")
    finished = _doctor(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    assert finished.returncode == 1
    assert (
        "A launcher started 2 processes, but Horovod joined 1"
        in finished.stdout
    )


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--timeout_seconds=1", "must be at least 5 seconds."),
        ("--json_file=/nowhere/x", "cannot be written (No such file or"),
    ],
)
def test_flags_are_checked_before_anything_starts(flag, words):
    finished = _doctor(flag)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert f"error: {flag} {words}" in finished.stderr


def test_a_step_that_takes_too_long_ends_the_process():
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            "import time\nfrom hvd_imagenet.diagnosis.watch import Watch\n"
            "watch = Watch(0.5, 'host7')\n"
            "watch.begin('quick'); watch.begin('waiting'); time.sleep(30)\n",
        ],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert finished.returncode == 1
    assert "host7 gave up waiting after 0.5 seconds" in finished.stderr


def test_a_host_that_does_not_answer_for_itself_is_not_waited_for(tmp_path):
    """A driver that hangs; so would the mount of the data."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{jobs.environment()['PATH']}"
    finished = _doctor("--timeout_seconds=5", PATH=path)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "gave up looking at itself" in finished.stderr
