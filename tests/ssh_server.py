"""A real sshd on addresses that horovodrun does not take for this host."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

# Loopback has 127.0.0.0/8, but only 127.0.0.1 is the address of an interface,
# by which horovodrun tells its own host from others.
HOST, SILENT_HOST, OTHER_HOST = "127.0.0.2", "127.0.0.3", "127.0.0.4"

_SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
_START_SECONDS = 20


def missing() -> str | None:
    """Why there can be no server here; None if there can."""
    if _SSHD is None or not all(map(shutil.which, ("ssh", "ssh-keygen"))):
        return "sshd, ssh and ssh-keygen are not all installed"
    if not sys.platform.startswith("linux"):
        return "other loopback addresses than 127.0.0.1 are Linux's own"
    return None


class Server:
    """Answers on HOST; SILENT_HOST connects and says nothing.

    Attributes:
        port: of both.
        key: path of a private key that it accepts.
        path: value of PATH with which ssh leaves the user's files alone.
    """

    def __init__(self, folder: pathlib.Path):
        self.key = folder / "key"
        for name in ("key", "host_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name],
                cwd=folder,
                check=True,
                timeout=60,
            )
        binaries = folder / "bin"
        binaries.mkdir()
        wrapper = binaries / "ssh"
        wrapper.write_text(
            f"#!/bin/sh\nexec {shutil.which('ssh')} -F none"
            ' -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$@"\n'
        )
        wrapper.chmod(0o755)
        python = os.path.dirname(sys.executable)
        self.path = f"{binaries}:{python}:{os.environ['PATH']}"
        self._folder = folder

    @contextlib.contextmanager
    def running(self):
        """Runs it; yields itself."""
        with contextlib.ExitStack() as stack:
            silent = stack.enter_context(socket.create_server((SILENT_HOST, 0)))
            self.port = silent.getsockname()[1]
            stack.enter_context(_privilege_separation_folder())
            config = self._folder / "sshd_config"
            config.write_text(
                f"Port {self.port}\n"
                f"ListenAddress {HOST}\n"
                f"HostKey {self._folder / 'host_key'}\n"
                f"AuthorizedKeysFile {self.key}.pub\n"
                "PidFile none\n"
                "StrictModes no\n"
                "UsePAM no\n"
                "PasswordAuthentication no\n"
                "KbdInteractiveAuthentication no\n"
            )
            log = stack.enter_context(open(self._folder / "log", "w"))
            process = subprocess.Popen(
                [_SSHD, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
            try:
                self._wait(process)
                yield self
            finally:
                process.terminate()
                process.wait()

    def _wait(self, process):
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    text = (self._folder / "log").read_text()
                    raise AssertionError(f"sshd: {text}") from None
                time.sleep(0.05)


@contextlib.contextmanager
def _privilege_separation_folder():
    """Where sshd started by root locks up its children; services make it."""
    folder = pathlib.Path("/run/sshd")
    if os.getuid() != 0 or folder.is_dir():
        yield
        return
    folder.mkdir(mode=0o755, parents=True)
    try:
        yield
    finally:
        # Another one may have begun to use it.
        with contextlib.suppress(OSError):
            folder.rmdir()
