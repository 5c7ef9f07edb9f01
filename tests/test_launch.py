"""The launcher: its commands, what it keeps secret, and real jobs."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest
from absl import flags as absl_flags

import jobs
import ssh_server
from hvd_imagenet import config, flags
from hvd_imagenet.cluster import hosts, launch_job
from hvd_imagenet.cluster.command import HorovodRun
from hvd_imagenet.cluster.containers import Containers
from hvd_imagenet.cluster.options import LaunchOptions

_REPOSITORY = pathlib.Path(__file__).parent.parent
_GOYAL = f"--flagfile={_REPOSITORY / 'flags' / 'goyal2017.flags'}"
_SYNTHETIC = ("--data_format=synthetic", "--workdir=run")
_CLUSTER = hosts.Cluster(
    hosts=hosts.parse_list("host1:8,host2:8", None), source="test"
)


# --- Commands. ---


def _words(script):
    """The words of a script of one command."""
    return shlex.split(script.replace("\\\n", " "), comments=True)


def test_the_command_of_a_cluster_with_everything():
    command = HorovodRun(
        horovodrun="/v/horovodrun",
        python="/v/python",
        cluster=_CLUSTER,
        network_interface="eth0",
        ssh_port=12345,
        ssh_identity_file="/k/id",
        start_timeout_seconds=76,
        gloo_timeout_seconds=75,
        training=("--workdir=my run", "--epochs=1"),
    )
    text = command.text(["PATH", "NCCL_DEBUG"])
    assert text == (
        'env -i PATH="$PATH" NCCL_DEBUG="$NCCL_DEBUG" \\\n'
        "  /v/horovodrun --gloo --disable-cache \\\n"
        "  -np 16 -H host1:8,host2:8 \\\n"
        "  -p 12345 \\\n"
        "  -i /k/id \\\n"
        "  --network-interface eth0 \\\n"
        "  --start-timeout 76 \\\n"
        "  --gloo-timeout-seconds 75 \\\n"
        "  /v/python -m hvd_imagenet.train \\\n"
        "  '--workdir=my run' \\\n"
        "  --epochs=1\n"
    )
    assert _words(text)[4:] == command.arguments()


def test_the_command_of_one_host_is_short():
    command = HorovodRun(
        horovodrun="horovodrun",
        python="python",
        cluster=hosts.Cluster(
            hosts=hosts.parse_list("localhost:2", None), source="test"
        ),
        backend="mpi",
    )
    assert shlex.join(command.arguments()) == (
        "horovodrun --mpi --disable-cache -np 2 -H localhost:2"
        " python -m hvd_imagenet.train"
    )


def test_the_printed_command_runs_as_the_started_one(tmp_path):
    program = tmp_path / "horovodrun"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps([sys.argv, dict(os.environ)]))\n"
    )
    program.chmod(0o755)
    passed = {"PATH": os.environ["PATH"], "NCCL_X": "two words; $HOME 'and'"}
    command = HorovodRun(
        horovodrun=str(program),
        python=sys.executable,
        cluster=_CLUSTER,
        training=("--workdir=it's $HOME",),
    )
    finished = subprocess.run(
        ["sh", "-c", command.text(passed)],
        env={**passed, "MY_TOKEN": "hidden"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    argv, environ = json.loads(finished.stdout)
    assert argv == command.arguments()
    # Python sets the locale's.
    assert {n: v for n, v in environ.items() if n != "LC_CTYPE"} == passed


def _command(environ=None, remote=None, **options):
    return launch_job.make_command(
        LaunchOptions(network_interface="lo", **options),
        _CLUSTER,
        {"host2": "10.0.0.2"} if remote is None else remote,
        None,
        (),
        environ or {},
    )


def test_timeouts_grow_with_the_processes_unless_given():
    command = _command()
    assert command.start_timeout_seconds == 60 + 16
    assert command.gloo_timeout_seconds == 60 + 16
    command = _command(start_timeout_seconds=500)
    assert command.start_timeout_seconds == 500
    assert command.gloo_timeout_seconds == 500
    command = _command(
        {"HOROVOD_START_TIMEOUT": "9", "HOROVOD_GLOO_TIMEOUT_SECONDS": "9"}
    )
    assert command.start_timeout_seconds is None
    assert command.gloo_timeout_seconds is None


def test_one_host_keeps_horovods_own_interface_and_timeouts():
    command = _command(remote={})
    assert command.network_interface is None
    assert command.start_timeout_seconds is None
    assert command.gloo_timeout_seconds is None
    assert command.horovodrun == str(
        pathlib.Path(sys.executable).parent / "horovodrun"
    )


def test_paths_that_horovodrun_does_not_quote_are_refused(
    tmp_path, monkeypatch
):
    folder = tmp_path / "my runs"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"the current directory, .*my runs"):
        _command()
    assert _command(remote={}).training == ()


@pytest.mark.parametrize(
    ("arguments", "paths"),
    [
        (["--flagfile=a.flags", "--epochs=1"], ["a.flags"]),
        (["-flagfile", "a.flags", "--flagfile=b"], ["a.flags", "b"]),
        (["--epochs=1"], []),
    ],
)
def test_flagfiles_are_found(arguments, paths):
    assert flags.flagfiles(arguments) == paths


# --- Containers. ---


def _containers(remote=("host2", "host3"), **changes):
    values = {
        "options": LaunchOptions(
            image="site/image:1", ssh_port=2222, pass_variables=("SITE",)
        ),
        "cluster": _CLUSTER,
        "remote": remote,
        "identity_file": "/keys/my key",
        "config": config.Config(
            data=config.DataConfig(data_dir="/mnt/image net"),
            run=config.RunConfig(workdir="/mnt/runs/goyal"),
        ),
        "training": ("--epochs=90",),
        "variables": ("HOME", "NCCL_DEBUG", "PATH", "SITE"),
    }
    return Containers(**{**values, **changes})


@pytest.fixture
def recorded(tmp_path):
    """Runs a script where docker tells its words, and ssh acts as ssh does."""
    record = tmp_path / "record"
    programs = {
        "docker": f"#!{sys.executable}\nimport json, os, sys\n"
        f"with open({str(record)!r}, 'a') as file:\n"
        "    host = os.environ.get('ON', 'here')\n"
        "    file.write(json.dumps([host, *sys.argv[1:]]) + '\\n')\n",
        # The port, the host, and words that a shell there gets as one line.
        "ssh": '#!/bin/sh\n[ "$1 $2" = "-p 2222" ] || exit 9\n'
        'shift 2\nON=$1\nexport ON\nshift\nexec sh -c "$*"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(script):
        path = f"{tmp_path}:{os.environ['PATH']}"
        subprocess.run(
            ["sh", "-euc", script],
            env=os.environ | {"PATH": path},
            check=True,
            timeout=60,
        )
        return [json.loads(line) for line in record.read_text().splitlines()]

    return run


def test_containers_wait_on_the_other_hosts_and_run_here(recorded):
    shared = [
        *("--network", "host", "--gpus", "all"),
        *("--shm-size", "8g", "--ulimit", "memlock=-1"),
        *("--volume", "/mnt/runs:/runs"),
        *("--volume", "/mnt/image net:/data:ro"),
        *("--volume", "/keys/my key:/run/secrets/ssh/id_ed25519:ro"),
        *("--volume", "/keys/my key.pub:/run/secrets/ssh/id_ed25519.pub:ro"),
    ]
    waiting = ["run", "--detach", "--rm", "--name", "hvd_imagenet", *shared]
    waiting += ["site/image:1", "sshd"]
    job = ["run", "--rm", *shared, "--env", "NCCL_DEBUG", "--env", "SITE"]
    job += ["site/image:1", "python", "-m", "hvd_imagenet.launch"]
    job += ["--hosts=host1:8,host2:8", "--backend=gloo"]
    job += ["--pass_variables=SITE", "--ssh_port=12345"]
    job += ["--run", "--", "--epochs=90"]
    job += ["--workdir=/runs/goyal", "--data_dir=/data"]
    assert recorded(_containers().text()) == [
        ["host2", *waiting],
        ["host3", *waiting],
        ["here", *job],
        ["host2", "stop", "hvd_imagenet"],
        ["host3", "stop", "hvd_imagenet"],
    ]


def test_one_host_needs_no_waiting_container_and_no_key(recorded):
    alone = _containers(remote=(), identity_file=None)
    ((host, *words),) = recorded(alone.text())
    assert host == "here"
    assert "sshd" not in words and "--ssh_port=12345" not in words


def test_containers_on_several_hosts_need_a_key():
    with pytest.raises(ValueError, match="needs --ssh_identity_file"):
        _containers(identity_file=None)


def test_the_own_names_are_not_remote():
    cluster = hosts.Cluster(
        hosts=hosts.parse_list(
            f"localhost:1,127.0.0.1:1,{ssh_server.HOST}:1", None
        ),
        source="test",
    )
    remote = launch_job.find_remote(cluster)
    assert remote == {ssh_server.HOST: ssh_server.HOST}


# --- The program. ---


@pytest.mark.parametrize(
    "field", dataclasses.fields(LaunchOptions), ids=lambda field: field.name
)
def test_every_option_is_a_flag_with_whole_sentences(field):
    values = absl_flags.FlagValues()
    flags.define_group(LaunchOptions, values)
    text = field.metadata["knob"].help
    assert text[0].isupper() and text.endswith(".")
    assert text in values[field.name].help
    parsed = flags.parse_group(LaunchOptions, ["launch"], values)
    assert parsed == LaunchOptions()


def _launch(*arguments, **variables):
    return jobs.run(
        0, "-m", "hvd_imagenet.launch", *arguments, check=False, **variables
    )


def test_it_prints_the_command_and_no_more():
    finished = _launch(
        "--hosts=localhost:2",
        "--pass_variables=SITE,TERM",
        "--",
        *_SYNTHETIC,
        MY_API_KEY="hidden",
        SITE="lab",
        TERM="dumb",
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("env -i ")
    words = _words(finished.stdout)
    begin = next(n for n, w in enumerate(words) if w.endswith("/horovodrun"))
    assert words[begin + 1 :] == [
        *("--gloo", "--disable-cache", "-np", "2", "-H", "localhost:2"),
        *(sys.executable, "-m", "hvd_imagenet.train", *_SYNTHETIC),
    ]
    assert {"SITE=$SITE", "TERM=$TERM"} < set(words[:begin])
    assert "MY_API_KEY" in finished.stderr
    assert "hidden" not in finished.stderr + finished.stdout
    assert not (pathlib.Path.cwd() / "run").exists()


def test_containers_need_no_flagfile():
    finished = _launch(
        "--hosts=localhost:8",
        "--image=hvd_imagenet:gpu",
        "--",
        _GOYAL,
        *_SYNTHETIC,
        "--seed=3",
    )
    assert finished.returncode == 0, finished.stderr
    assert "flagfile" not in finished.stdout
    training = _words(finished.stdout)
    training = training[training.index("--") + 1 :]
    inside = flags.parse_apart(["", *training])
    outside = flags.parse_apart(["", _GOYAL, *_SYNTHETIC, "--seed=3"])
    assert inside.recipe() == outside.recipe()
    assert inside.run.workdir == "/runs/run"


def test_an_interface_for_one_host_is_said_to_be_unused():
    finished = _launch(
        "--hosts=localhost:2", "--network_interface=eth0", "--", *_SYNTHETIC
    )
    assert "--network_interface is not used" in finished.stderr
    assert "--network-interface" not in finished.stdout


def test_hosts_of_slurm_are_found():
    finished = _launch(
        "--",
        *_SYNTHETIC,
        SLURM_JOB_NODELIST="localhost",
        SLURM_GPUS_ON_NODE="4",
    )
    assert "-np 4 -H localhost:4 " in finished.stdout
    assert "4 processes on 1 host (the Slurm job): " in finished.stderr


def test_a_dry_run_of_the_paper_fits_its_256_processes():
    finished = _launch(
        "--hosts=node[01-32]:8",
        "--network_interface=lo",
        "--",
        _GOYAL,
        "--data_dir=/data",
        "--workdir=run",
    )
    assert "8,192 images a step = 32 x 256 processes\n" in finished.stderr
    assert "--start-timeout 316 " in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hosts=a:1"], "are missing; write them behind --"),
        (["--", *_SYNTHETIC], "--hosts=host1:8,host2:8"),
        (["--hosts=a:1", "--", "--epoch=1"], "command line flag 'epoch'"),
        (["--hosts=a:1", "--", "python", "-m"], "'python' is no flag"),
        (["--host=a:1", "--", *_SYNTHETIC], "command line flag 'host'"),
        (
            ["--hosts=a:3", "--", _GOYAL, *_SYNTHETIC],
            "--global_batch_size=8192 is not divisible by"
            " --batch_size_per_process=32 x 3 processes",
        ),
        (["--hosts=a:1", "--", "--workdir=run"], "--data_dir is not given"),
        (
            ["--hosts=a:1", "--", "--data_format=synthetic"],
            "--workdir is not given",
        ),
        (
            ["--hosts=a:2", "--", "--dry_run", *_SYNTHETIC],
            "--dry_run needs no hosts",
        ),
        (
            ["--hosts=a:2", "--", "--elastic", *_SYNTHETIC],
            "start horovodrun with --min-np and --host-discovery-script",
        ),
        (
            ["--hosts=a:1", "--hostfile=b", "--", *_SYNTHETIC],
            "both name the hosts",
        ),
        (
            ["--hosts=a:1", "--image=x", "--run", "--", *_SYNTHETIC],
            "--image=x only prints commands",
        ),
        (
            ["--hosts=a:1", "--ssh_port=70000", "--", *_SYNTHETIC],
            "--ssh_port=70000 must be at most 65,535",
        ),
        (
            [
                f"--hosts={ssh_server.HOST}:1",
                "--ssh_identity_file=none",
                "--",
                *_SYNTHETIC,
            ],
            "--ssh_identity_file=none is not a file",
        ),
        (
            [
                f"--hosts={ssh_server.HOST}:1",
                "--network_interface=ib9",
                "--",
                *_SYNTHETIC,
            ],
            "--network_interface=ib9 has no IPv4 address",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments, words):
    finished = _launch(*arguments)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert words in finished.stderr
    assert finished.stderr.count("error: ") == 1
    assert "Traceback" not in finished.stderr


def test_help_names_the_flags():
    finished = _launch("--help")
    assert "--ssh_identity_file: Private key for ssh." in finished.stdout
    assert "--[no]run: Start the command" in finished.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if ssh_server.missing():
        pytest.skip(ssh_server.missing())
    with ssh_server.Server(tmp_path_factory.mktemp("ssh")).running() as running:
        yield running


def _over_ssh(server, *hosts):
    """Flags to reach hosts on the loopback, whose name all hosts know."""
    return [
        f"--hosts={','.join(f'{host}:1' for host in hosts)}",
        "--network_interface=lo",
        f"--ssh_port={server.port}",
        f"--ssh_identity_file={server.key}",
    ]


@jobs.needs_own_name
def test_a_check_names_who_is_missing_and_starts_nothing(server, tmp_path):
    workdir = tmp_path / "run"
    finished = _launch(
        *_over_ssh(server, "127.0.0.1", ssh_server.HOST, ssh_server.OTHER_HOST),
        "--run",
        "--",
        "--data_dir=nowhere",
        f"--workdir={workdir}",
        PATH=server.path,
    )
    assert finished.returncode == 1
    lines = finished.stderr.splitlines()
    assert any(f"{ssh_server.HOST}  1      3." in line for line in lines)
    assert f"{ssh_server.OTHER_HOST}  1      no answer" in lines
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 2
    assert errors[0].startswith(f"error: {ssh_server.OTHER_HOST} cannot be")
    assert errors[1].startswith(
        f"error: 127.0.0.1, {ssh_server.HOST} cannot read --data_dir=nowhere"
    )
    assert not workdir.exists()


class _Job:
    """A real job, watched for the secret that its launcher has.

    Attributes:
        secret: value of a variable of the launcher.
        told: command lines that it shows in.
        environments: variables of its ranks, by rank.
    """

    def __init__(self, tmp_path, *arguments, **variables):
        self.secret = uuid.uuid4().hex
        self.told, self.environments = set(), {}
        self.workdir = tmp_path / "run"
        self._output = tmp_path / "output"
        with open(self._output, "w") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "hvd_imagenet.launch", "--run"),
                    *arguments,
                    f"--workdir={self.workdir}",
                ],
                env=jobs.environment()
                | {"WANDB_API_KEY": self.secret, "NCCL_DEBUG": "WARN"}
                | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # What a failed test leaves.
        for process in (self.process, *self.ranks()):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()

    def watch(self, until):
        """Looks at all processes of this host until a function is true."""
        deadline = time.monotonic() + jobs.TIMEOUT_SECONDS
        while not until():
            assert time.monotonic() < deadline, self.output
            self.ranks()
            time.sleep(0.1)  # Else it takes the cores that the job needs.

    def ranks(self):
        """The ranks that are running."""
        found = []
        for process, words in jobs.processes():
            if any(self.secret in word for word in words):
                self.told.add(" ".join(words))
            if f"--workdir={self.workdir}" in words:
                with contextlib.suppress(psutil.Error):
                    environ = process.environ()
                    if "HOROVOD_RANK" in environ:
                        self.environments[environ["HOROVOD_RANK"]] = environ
                        found.append(process)
        return found

    @property
    def output(self):
        return self._output.read_text()


_TINY_JOB = (
    *jobs.TINY,
    "--data_format=synthetic",
    "--train_images=64",
    "--validation_images=16",
    "--batch_size_per_process=16",
)


def _require_secret_kept(job):
    """Nowhere but in the launcher itself, in what every user could read."""
    assert job.told == set()
    assert len(job.environments) == 2
    for environ in job.environments.values():
        assert job.secret not in environ.values()
        assert environ["NCCL_DEBUG"] == "WARN"


@pytest.mark.horovod
def test_a_job_on_this_host_trains_without_the_launchers_secrets(tmp_path):
    with _Job(
        tmp_path, "--hosts=localhost:2", "--", *_TINY_JOB, "--epochs=1"
    ) as job:
        job.watch(lambda: job.process.poll() is not None)
        assert job.process.returncode == 0, job.output
        assert jobs.result(job.workdir)["examples"] == 16
        assert "not passed on, looks secret: WANDB_API_KEY" in job.output
        assert "localhost  2      3." in job.output
        _require_secret_kept(job)


@pytest.mark.horovod
def test_a_job_over_ssh_ends_by_ctrl_c_everywhere(server, tmp_path):
    with _Job(
        tmp_path,
        *_over_ssh(server, "127.0.0.1", ssh_server.HOST),
        "--",
        *_TINY_JOB,
        "--epochs=1000",
        PATH=server.path,
    ) as job:
        metrics = job.workdir / "metrics.jsonl"
        job.watch(
            lambda: (
                job.process.poll() is not None
                or (metrics.exists() and metrics.read_text())
            )
        )
        assert job.process.poll() is None, job.output
        by_ssh = ["SSH_CONNECTION" in e for e in job.environments.values()]
        assert sorted(by_ssh) == [False, True]
        job.process.send_signal(signal.SIGINT)
        job.watch(lambda: job.process.poll() is not None)
        assert job.process.returncode == 130
        assert "the same command resumes" in job.output
        job.watch(lambda: not job.ranks())
        _require_secret_kept(job)
