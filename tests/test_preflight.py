"""The first look at the hosts: real answers, by real ssh, and their meaning."""

import copy
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

import ssh_server
from hvd_imagenet.cluster import host_facts, preflight, survey
from hvd_imagenet.cluster.hosts import Cluster, Host

_REPOSITORY = pathlib.Path(__file__).parent.parent
_RECIPE = "flags/goyal2017.flags"
_REQUEST = {
    "backend": "gloo",
    "data_dir": "tests",
    "flagfiles": [_RECIPE],
    "interface": "lo",
    "launcher": None,
}


def _question(**changes):
    question = survey.Question(
        python=sys.executable,
        remote=(),
        ssh_port=None,
        ssh_identity_file=None,
        environment={"PATH": os.environ["PATH"]},
        directory=str(_REPOSITORY),
        request=_REQUEST,
    )
    return dataclasses.replace(question, **changes)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if ssh_server.missing():
        pytest.skip(ssh_server.missing())
    with ssh_server.Server(tmp_path_factory.mktemp("ssh")).running() as running:
        yield running


def _by_ssh(server, *hosts, **changes):
    """A question to these hosts by ssh, and its answers within 30 seconds."""
    defaults = {
        "remote": hosts,
        "ssh_port": server.port,
        "ssh_identity_file": str(server.key),
        "environment": {"PATH": server.path},
    }
    return survey.ask(hosts, _question(**{**defaults, **changes}), 30)


# --- Asking. ---


def test_this_host_answers_without_ssh():
    facts = survey.ask(["localhost"], _question(), 30)["localhost"].facts
    major, minor = sys.version_info[:2]
    assert facts["python"] == f"{major}.{minor}"
    assert facts["packages"]["horovod"] == "0.28.1"
    assert facts["packages"]["keras"].startswith("3.")
    assert len(facts["code"]) == 8
    assert len(facts["flagfiles"][_RECIPE]) == 8
    assert facts["address"] == "127.0.0.1"
    assert facts["data"]["entries"] > 10
    assert facts["data"]["filesystem"] != "unknown"
    assert facts["launcher_error"] is None


def test_another_host_answers_by_ssh_as_this_one_does(server):
    here = survey.ask(["localhost"], _question(), 30)["localhost"]
    there = _by_ssh(server, ssh_server.HOST)[ssh_server.HOST]
    assert there.error == ""
    assert there.facts == here.facts


def test_other_hosts_get_the_variables_of_the_job(server, tmp_path):
    # The code that is asked about is the one PYTHONPATH leads to.
    package = tmp_path / "hvd_imagenet"
    package.mkdir()
    (package / "__init__.py").write_text("")
    environment = {"PATH": server.path, "PYTHONPATH": str(tmp_path)}
    answers = _by_ssh(
        server,
        ssh_server.HOST,
        environment=environment,
        directory=str(tmp_path),
    )
    assert answers[ssh_server.HOST].facts["code"] == host_facts._digest(
        [package / "__init__.py"]
    )


def test_a_host_that_does_not_answer_is_told_apart(server):
    answers = _by_ssh(server, ssh_server.OTHER_HOST, ssh_server.HOST)
    assert answers[ssh_server.HOST].facts is not None
    error = answers[ssh_server.OTHER_HOST].error
    assert error.startswith("cannot be reached by ssh (ssh: connect to host")
    assert "Connection refused); make ssh work without a password" in error


def test_a_host_that_says_nothing_is_waited_for_no_longer_than_asked(server):
    begun = time.monotonic()
    hosts = (ssh_server.SILENT_HOST, ssh_server.HOST)
    answers = survey.ask(
        hosts,
        _question(
            remote=hosts,
            ssh_port=server.port,
            ssh_identity_file=str(server.key),
            environment={"PATH": server.path},
        ),
        4,
    )
    assert time.monotonic() - begun < 10
    silent = answers[ssh_server.SILENT_HOST]
    assert silent.error == "did not answer within 4 seconds"
    assert answers[ssh_server.HOST].facts is not None


def test_a_key_that_is_not_accepted_is_said(server, tmp_path):
    other = tmp_path / "other"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)],
        check=True,
        timeout=60,
    )
    answers = _by_ssh(server, ssh_server.HOST, ssh_identity_file=str(other))
    assert "Permission denied (publickey)" in answers[ssh_server.HOST].error


def test_a_host_without_the_interpreter_is_said(server):
    answers = _by_ssh(server, ssh_server.HOST, python="/opt/none/bin/python")
    assert answers[ssh_server.HOST].error == (
        "has no /opt/none/bin/python; install the package on every host at the"
        " same path"
    )


def test_a_host_that_greets_is_understood(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('Welcome!')")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    answer = survey.ask(["a"], _question(environment=environment), 30)["a"]
    assert answer.facts["packages"]


def test_a_program_that_fails_is_told_by_its_last_line():
    question = _question(request={**_REQUEST, "flagfiles": None})
    answer = survey.ask(["a"], question, 30)["a"]
    assert answer.error.startswith("failed to answer (TypeError")


# --- What is asked. ---


def _facts(**request):
    return host_facts.gather({**_REQUEST, **request})


def test_the_code_is_told_apart_from_any_other(tmp_path):
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in paths:
        path.write_text("x = 1\n")
    before = host_facts._digest(paths)
    paths[1].write_text("x = 2\n")
    assert host_facts._digest(paths) != before
    assert host_facts._digest([*paths, tmp_path / "c.py"]) is None


def test_code_in_folders_of_the_package_counts(tmp_path):
    path = tmp_path / "hvd_imagenet" / "cluster" / "hosts.py"
    path.parent.mkdir(parents=True)
    (tmp_path / "hvd_imagenet" / "__init__.py").write_text("")
    path.write_text("x = 1\n")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}

    def code():
        question = _question(environment=environment, directory=str(tmp_path))
        return survey.ask(["a"], question, 30)["a"].facts["code"]

    before = code()
    path.write_text("x = 2\n")
    assert code() != before


def test_data_are_told_apart_by_names_and_sizes(tmp_path):
    (tmp_path / "train-00000-of-00001").write_bytes(b"12")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "n01440764").mkdir()
    before = _facts(data_dir=str(tmp_path))["data"]
    assert before["entries"] == 2
    # The index that the trainer keeps there does not count.
    (tmp_path / ".train.index.npz").write_bytes(b"1")
    assert _facts(data_dir=str(tmp_path))["data"] == before
    (tmp_path / "train" / "n01443537").mkdir()
    more = _facts(data_dir=str(tmp_path))["data"]
    assert more["entries"] == 3 and more["digest"] != before["digest"]
    (tmp_path / "train" / "n01443537").rmdir()
    (tmp_path / "train-00000-of-00001").write_bytes(b"123")
    assert _facts(data_dir=str(tmp_path))["data"]["digest"] != before["digest"]


def test_what_is_not_there_is_nothing():
    facts = _facts(
        data_dir="nowhere", flagfiles=["none.flags"], interface="none0"
    )
    assert facts["data"] is None
    assert facts["flagfiles"] == {"none.flags": None}
    assert facts["address"] is None


def test_the_launcher_is_connected_to():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        assert _facts(launcher=address)["launcher_error"] is None
    assert "refused" in _facts(launcher=address)["launcher_error"]


_GPUS = "0, GPU-aa, 3\n1, GPU-bb, 40000\n2, GPU-cc, 1023\n3, GPU-dd, [N/A]\n"


@pytest.mark.parametrize(
    ("visible", "free"),
    [
        (None, [True, False, True, True]),
        ("1,2", [False, True]),
        ("GPU-dd", [True]),
        ("-1", []),
        ("", []),
    ],
)
def test_free_gpus_are_those_that_are_visible_and_unused(
    tmp_path, monkeypatch, visible, free
):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{_GPUS}'\n".replace("%", "%%"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _facts()["gpus_free"] == free


def test_a_driver_that_fails_has_no_gpus(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho no devices were found\nexit 6\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert _facts()["gpus_free"] == []


# --- What the answers mean. ---

_CLUSTER = Cluster(
    hosts=tuple(Host(name=f"host{n}", slots=2) for n in (1, 2, 3)),
    source="test",
)


@pytest.fixture(scope="module")
def alike():
    """Facts of a host with four free GPUs, by host."""
    facts = _facts()
    facts["packages"] = {
        "tensorflow": "2.18.1",
        "keras": "3.15.1",
        "horovod": "0.28.1",
    }
    facts["gpus_free"] = [True] * 4
    facts["own_name_resolves"] = True  # Where an image is built it does not.
    return {name: copy.deepcopy(facts) for name in _CLUSTER.names}


def _problems(facts_by_host, **request):
    answers = {
        host: survey.Answer(facts=facts)
        for host, facts in facts_by_host.items()
    }
    return preflight.problems(_CLUSTER, answers, {**_REQUEST, **request})


def test_hosts_that_are_alike_have_no_problem(alike):
    assert _problems(alike) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"python": "3.9"},
            "Python is PYTHON on host1, host2 and 3.9 on host3; install the"
            " same on all hosts.",
        ),
        (
            {"packages": {"tensorflow": "2.18.1", "keras": "3.15.1"}},
            "horovod is 0.28.1 on host1, host2 and missing on host3; install"
            " the same on all hosts.",
        ),
        (
            {"code": "00000000"},
            "the code of hvd_imagenet is CODE on host1, host2 and 00000000 on"
            " host3; install the same on all hosts.",
        ),
        (
            {"own_name_resolves": False, "own_name": "n3"},
            "host3 does not know the address of its own name, n3, without"
            " which Gloo aborts; add it to /etc/hosts there.",
        ),
        (
            {"address": None, "interfaces": ["lo", "ens5"]},
            "host3 has no IPv4 address on lo, but lo, ens5; choose one that"
            " all hosts have with --network_interface.",
        ),
        (
            {"launcher_error": "timed out"},
            "host3 cannot connect to this host, 10.0.0.1 port 4242 (timed"
            " out); open all TCP ports between the hosts.",
        ),
        (
            {"flagfiles": {_RECIPE: None}},
            f"host3 cannot read --flagfile={_RECIPE}; copy it there, to the"
            " same path.",
        ),
        (
            {"flagfiles": {_RECIPE: "00000000"}},
            f"--flagfile={_RECIPE} is another one on host3; copy it again.",
        ),
        (
            {"data": None},
            "host3 cannot read --data_dir=tests; mount or copy it there, to"
            " the same path.",
        ),
        (
            {"data": {"entries": 7, "digest": "", "filesystem": "ext4"}},
            "--data_dir=tests differs: ENTRIES entries on host1, host2 and 7"
            " entries on host3; make it the same on all hosts.",
        ),
        (
            {"gpus_free": [True, False, False]},
            "host3 has 1 free GPUs of 3, but 2 slots; free some, or lower its"
            " slots.",
        ),
        (
            {"gpus_free": []},
            "host3 has 0 free GPUs of 0, but 2 slots; free some, or lower its"
            " slots.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_host_that_differs_is_named(alike, changes, sentence):
    expected = (
        sentence.replace("PYTHON", alike["host1"]["python"])
        .replace("CODE", alike["host1"]["code"])
        .replace("ENTRIES", str(alike["host1"]["data"]["entries"]))
    )
    facts = {**alike, "host3": {**alike["host3"], **changes}}
    assert _problems(facts, launcher=("10.0.0.1", 4242)) == [expected]


def test_mpi_does_without_a_known_own_name(alike):
    facts = {
        host: {**f, "own_name_resolves": False} for host, f in alike.items()
    }
    assert _problems(facts, backend="mpi") == []
    assert len(_problems(facts)) == 3


def test_hosts_that_do_not_answer_are_named_with_the_reason():
    answers = dict.fromkeys(
        _CLUSTER.names, survey.Answer(error="did not answer within 60 seconds")
    )
    assert preflight.problems(_CLUSTER, answers, _REQUEST) == [
        "host1, host2, host3 did not answer within 60 seconds."
    ]


def test_many_hosts_are_counted():
    cluster = Cluster(
        hosts=tuple(Host(name=f"n{n}", slots=1) for n in range(256)),
        source="test",
    )
    answers = dict.fromkeys(cluster.names, survey.Answer(error="sleeps"))
    assert preflight.problems(cluster, answers, _REQUEST) == [
        "n0, n1, n2 and 253 more hosts sleeps."
    ]


def test_what_no_host_has_is_missing_too(alike):
    facts = {
        host: {**f, "code": None, "packages": {}} for host, f in alike.items()
    }
    assert _problems(facts) == [
        "hvd_imagenet is not installed; install the same on all hosts.",
        "Horovod is not installed; install the same on all hosts.",
    ]


def test_cpus_need_no_gpus(alike):
    without = {host: {**f, "gpus_free": []} for host, f in alike.items()}
    assert _problems(without) == []
    cpu = {"packages": {"tensorflow-cpu": "2.18.1", "horovod": "0.28.1"}}
    busy = {"gpus_free": [False] * 4}
    assert _problems({h: {**f, **cpu, **busy} for h, f in alike.items()}) == []


def test_the_table_has_a_line_for_every_host(alike):
    answers = {
        host: survey.Answer(facts=facts) for host, facts in alike.items()
    }
    answers["host2"] = survey.Answer(error="sleeps")
    header, *lines = preflight.table(_CLUSTER, answers).splitlines()
    assert header.split()[:4] == ["host", "slots", "python", "horovod"]
    assert lines[1] == "host2  2      no answer"
    filesystem = alike["host1"]["data"]["filesystem"]
    assert lines[0].startswith("host1  2 ") and "0.28.1" in lines[0]
    assert f" on {filesystem} " in lines[0]
    assert lines[0].endswith("4 of 4")
