"""Several hosts on one machine: namespaces, a bridge and an sshd in each.

Each host has its own network, host name, processes and mounts, and its own
content under a path that all of them share, so a file tells where it was
written. The machine's other files are the same for all, like those of a shared
file system.

Nothing is left behind, whatever happens: a host is one tree of processes whose
first one reads from a pipe that we hold. When the pipe closes, if only because
we were killed, the first process ends, and the kernel ends the others and takes
mounts, network and bridge away with them.
"""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence

import psutil

PORT = 12345

# What a host needs to come up or to run a check; a job has its own bound.
_SECONDS = 60

# Where commands for the administrator are, too.
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

# Waits for its network, becomes a host, says so and lives as long as its pipe.
# /run and /dev/shm are memory of its own, so that nothing is found in them that
# another host left, nor left in them for the machine.
_BEGIN = """
set -eu
name=$1 folder=$2
read -r _
hostname "$name"
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
"""
_END = """
echo ready
read -r _ || true
"""
_SSHD = """
mkdir /run/sshd
mount --bind "$folder/hosts" /etc/hosts
mount --bind "$folder/ssh_config" /etc/ssh/ssh_config
mount --bind "$folder/only/$name" "$folder/own"
PATH=$PATH:/usr/sbin:/sbin
"$(command -v sshd)" -f "$folder/sshd_config" -E "$folder/$name.log"
"""

_SSH_CONFIG = """
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
IdentityFile {folder}/key
Port {port}
"""

# StrictModes would refuse keys under a folder that everybody may write in, such
# as /tmp.
_SSHD_CONFIG = """
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
MaxStartups 100
PidFile none
"""


def missing() -> str | None:
    """Why there can be no hosts on this machine; None where there can."""
    if os.geteuid() != 0:
        return "hosts as namespaces need root"
    commands = ("ip", "mount", "nsenter", "ssh", "sshd", "ssh-keygen")
    for command in (*commands, "unshare"):
        if shutil.which(command, path=SBIN) is None:
            return (
                f"there is no {command}; on Debian or Ubuntu: apt-get install"
                " iproute2 openssh-client openssh-server util-linux"
            )
    trial = subprocess.run(
        [
            *("unshare", "--net", "--mount", "--uts", "--pid", "--fork"),
            *("sh", "-ec", "ip link add type veth; ip link add type bridge"),
        ],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if trial.returncode:
        return f"namespaces are not allowed here: {trial.stderr.strip()}"
    return None


class Hosts:
    """host1, host2 and so on, while in its `with` block.

    Attributes:
        names: of the hosts.
        own: a path under which every host sees other files.
        key: the private key that every host accepts.
    """

    def __init__(self, folder: pathlib.Path, count: int):
        """Prepares hosts.

        Args:
            folder: an empty directory, seen by all hosts.
            count: number of hosts, 1 to 250.
        """
        self.names = [f"host{number + 1}" for number in range(count)]
        self.own = folder / "own"
        self.key = folder / "key"
        self._folder = folder
        self._processes = []
        self._first = {}  # Process number by name, "switch" for the bridge.

    def __enter__(self):
        try:
            self._write_files()
            self._start("switch", _END)
            self._expect_ready(self._processes[0], "switch")
            self._ip("switch", "link add bridge type bridge")
            self._ip("switch", "link set bridge up")
            for number, name in enumerate(self.names, start=1):
                self._start(name, f"{_BEGIN}{self._begin(name)}{_END}")
                self._connect(name, f"10.77.0.{number}/24")
            for name, process in zip(
                self.names, self._processes[1:], strict=True
            ):
                process.stdin.write("\n")
                process.stdin.flush()
                self._expect_ready(process, name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(_SECONDS)
            finally:
                process.kill()
                process.stdout.close()

    def files(self, name: str) -> pathlib.Path:
        """Where `own` of a host lies, as seen from outside."""
        return self._folder / "only" / name

    def run(
        self,
        name: str,
        *command: str,
        environment: Mapping[str, str],
        seconds: float,
        check: bool = True,
    ) -> subprocess.CompletedProcess:
        """Runs a command on a host, as root.

        Raises:
            AssertionError: it did not end in time, or failed, where that is
                to be checked.
        """
        try:
            finished = subprocess.run(
                [*self._enter(name, "--all"), *self._inside(name, command)],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise AssertionError(
                f"{command} took over {seconds} s\n"
                f"{_tail(error.stdout)}\n{_tail(error.stderr)}"
            ) from error
        if check and finished.returncode:
            raise AssertionError(
                f"{command} exited with {finished.returncode}\n"
                f"{_tail(finished.stdout)}\n{_tail(finished.stderr)}"
            )
        return finished

    def _begin(self, name: str) -> str:
        """Shell commands that make what runs on a host besides its network."""
        return _SSHD

    def _inside(self, name: str, command: Sequence[str]) -> Sequence[str]:
        """The command that runs `command` in a host's files."""
        return command

    def _write_files(self) -> None:
        for name in ("key", "host_key"):
            subprocess.run(
                [
                    *("ssh-keygen", "-q", "-t", "ed25519", "-N", ""),
                    *("-f", str(self._folder / name)),
                ],
                check=True,
                timeout=_SECONDS,
            )
        addresses = ["127.0.0.1 localhost"] + [
            f"10.77.0.{number} {name}"
            for number, name in enumerate(self.names, start=1)
        ]
        (self._folder / "hosts").write_text("\n".join(addresses) + "\n")
        for name, text in (
            ("ssh_config", _SSH_CONFIG),
            ("sshd_config", _SSHD_CONFIG),
        ):
            (self._folder / name).write_text(
                text.format(folder=self._folder, port=PORT)
            )
        self.own.mkdir()
        for name in self.names:
            self.files(name).mkdir(parents=True)

    def _start(self, name: str, script: str) -> None:
        process = subprocess.Popen(
            [
                *("unshare", "--net", "--uts", "--ipc", "--mount", "--pid"),
                *("--fork", "--kill-child", "--mount-proc"),
                *("sh", "-c", script, "sh", name, str(self._folder)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        # unshare forks into the new namespaces.
        while not (children := psutil.Process(process.pid).children()):
            if process.poll() is not None:
                raise RuntimeError(f"{name} did not start")
        self._first[name] = children[0].pid

    def _connect(self, name: str, address: str) -> None:
        switch = self._first["switch"]
        self._ip(name, "link set lo up")
        # One interface name on all hosts, as Horovod needs it.
        self._ip(
            name,
            f"link add eth0 type veth peer name {name} netns {switch}",
        )
        self._ip(name, f"address add {address} dev eth0")
        self._ip(name, "link set eth0 up")
        self._ip("switch", f"link set {name} master bridge up")

    def _ip(self, name: str, command: str) -> None:
        subprocess.run(
            [*self._enter(name, "--net"), "ip", *command.split()],
            check=True,
            timeout=_SECONDS,
            env={"PATH": SBIN},
        )

    def _enter(self, name: str, *namespaces: str) -> Sequence[str]:
        return ("nsenter", f"--target={self._first[name]}", *namespaces)

    def _expect_ready(self, process: subprocess.Popen, name: str) -> None:
        if process.stdout.readline() != "ready\n":
            log = self._folder / f"{name}.log"
            text = log.read_text() if log.exists() else ""
            raise RuntimeError(f"{name} did not come up\n{_tail(text)}")


def _tail(output: str | bytes | None) -> str:
    if isinstance(output, bytes):
        output = output.decode(errors="replace")
    return (output or "")[-8000:]
