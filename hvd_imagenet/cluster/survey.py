"""Asks all hosts of a job at once what they are like."""

import contextlib
import dataclasses
import json
import shlex
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hvd_imagenet.cluster import host_facts

# For the slowest host: a first start of Python from a busy file server.
TIMEOUT_SECONDS = 60
_CONNECT_SECONDS = 10

# As horovodrun calls it, but for never asking a question.
_SSH = (
    "ssh",
    "-o",
    "BatchMode=yes",
    "-o",
    f"ConnectTimeout={_CONNECT_SECONDS}",
    "-o",
    "ControlMaster=no",
    "-o",
    "PasswordAuthentication=no",
    "-o",
    "StrictHostKeyChecking=no",
)

_SSH_FAILED = 255
_NOT_FOUND = (126, 127)  # As shells report a program that is not there.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and how the hosts are reached.

    Attributes:
        python: path of the interpreter on every host.
        remote: names of the hosts to ask by ssh; the others are this one.
        ssh_port: None for ssh's own.
        ssh_identity_file: None for ssh's own.
        environment: variables that the processes of the job get.
        directory: where they start.
        request: as `host_facts.gather` takes it.
    """

    python: str
    remote: Collection[str]
    ssh_port: int | None
    ssh_identity_file: str | None
    environment: Mapping[str, str]
    directory: str
    request: Mapping[str, Any]

    def command(self, host: str) -> list[str]:
        """The command that asks a host, its program given as input."""
        program = [self.python, "-", json.dumps(self.request)]
        if host not in self.remote:
            return program
        options = []
        if self.ssh_port is not None:
            options += ["-p", str(self.ssh_port)]
        if self.ssh_identity_file is not None:
            options += ["-i", self.ssh_identity_file]
        # In the directory and with the variables that horovodrun gives its
        # processes: it does not pass this one on.
        variables = (
            f"{name}={value}"
            for name, value in self.environment.items()
            if name != "CUDA_VISIBLE_DEVICES"
        )
        remote_command = (
            f"cd {shlex.quote(self.directory)} > /dev/null 2>&1;"
            f" {shlex.join(['env', *variables, *program])}"
        )
        return [*_SSH, *options, host, remote_command]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a host said.

    Attributes:
        facts: as `host_facts.gather` returns them, None if it did not.
        error: why it did not, a sentence without the host's name.
    """

    facts: Mapping[str, Any] | None = None
    error: str = ""


def ask(
    hosts: Sequence[str],
    question: Question,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> dict[str, Answer]:
    """The answers of all hosts, asked at once, within the timeout."""
    deadline = time.monotonic() + timeout_seconds
    processes, answers = {}, {}
    with contextlib.ExitStack() as stack:
        for host in hosts:
            # A file, not a pipe: what a host says does not fill it, and a
            # connection that ssh keeps for later does not hold it open.
            output = stack.enter_context(tempfile.TemporaryFile())
            with open(host_facts.__file__, "rb") as program:
                process = subprocess.Popen(
                    question.command(host),
                    stdin=program,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=question.directory,
                    env=dict(question.environment),
                )
            stack.callback(_end, process)
            processes[host] = process, output
        for host, (process, output) in processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                answers[host] = Answer(
                    error=f"did not answer within {timeout_seconds:.0f} seconds"
                )
            else:
                output.seek(0)
                answers[host] = _answer(
                    question,
                    process.returncode,
                    output.read().decode(errors="replace"),
                )
    return answers


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def _answer(question: Question, status: int, text: str) -> Answer:
    _, mark, facts = text.rpartition(host_facts.MARK)
    if mark and status == 0:
        return Answer(facts=json.loads(facts.partition("\n")[0]))
    said = text.strip().splitlines() or [f"exit status {status}"]
    if status == _SSH_FAILED:
        return Answer(
            error=f"cannot be reached by ssh ({said[-1].strip()}); make ssh"
            " work without a password, see --ssh_port and --ssh_identity_file"
        )
    if status in _NOT_FOUND:
        return Answer(
            error=f"has no {question.python}; install the package on every"
            " host at the same path"
        )
    return Answer(error=f"failed to answer ({said[-1].strip()})")
