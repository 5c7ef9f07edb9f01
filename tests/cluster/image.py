"""The image, built and run without a container engine or a registry.

Its base is Debian by debootstrap, as the base that the Dockerfile names cannot
be had everywhere. Everything lies in a folder of the test, and hosts run from
it with a layer of their own on top, by what the image's configuration says:
user, directory, variables and entrypoint.
"""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence

import tensorflow as tf

import hosts

_REPOSITORY = pathlib.Path(__file__).parent.parent.parent
_BASE = "localhost/debian-base"
_TAG = "localhost/hvd_imagenet"

# The image takes some minutes by itself, and many on a busy machine.
_SECONDS = 5400

_START_SSHD = """
root="$folder/root/$name"
mkdir -p "$root" "$folder/upper/$name" "$folder/work/$name"
layers="lowerdir=$folder/image,upperdir=$folder/upper/$name"
mount -t overlay -o "$layers,workdir=$folder/work/$name" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount --bind "$folder/hosts" "$root/etc/hosts"
mount --bind -o ro "$folder/keys" "$root/run/secrets/ssh"
mount --bind -o ro "$folder/data" "$root/data"
mount --bind "$folder/only/$name" "$root/runs"
{sshd} 2>"$folder/$name.log" &
tries=0
until {health}; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ]
  sleep 0.5
done
"""


def missing() -> str | None:
    """Why no image can be built on this machine; None where one can."""
    for command in ("buildah", "debootstrap"):
        if shutil.which(command, path=hosts.SBIN) is None:
            return (
                f"there is no {command}; on Debian or Ubuntu: apt-get install"
                " buildah debootstrap runc"
            )
    return hosts.missing()


class Store:
    """Images in a folder, and what they were built with; removed at the end.

    Attributes:
        folder: where all their layers are.
        mark: a text that is in each secret of the builds, and nowhere else.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder / "layers"
        self.mark = f"secret-of-{folder.name}-{os.getpid()}"
        self._other = folder

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # What buildah mounted, last first; by itself it leaves some of it.
        mounts = pathlib.Path("/proc/self/mounts").read_text().splitlines()
        for place in (line.split()[1] for line in reversed(mounts)):
            if place.startswith(f"{self._other}/"):
                _run("umount", place)
        shutil.rmtree(self._other)

    def build(self) -> "Image":
        """Builds the image for CPUs, with the TensorFlow that is here.

        It passes its fast tests meanwhile.
        """
        self._make_base()
        self._buildah(
            *("bud", "--isolation=chroot", "--network=host", "--pull-never"),
            *("--format=docker", "--layers", f"--tag={_TAG}"),
            # Not Buildah's 1,024: TensorFlow keeps what its pipelines call, and
            # so the files of every data set that the tests have opened.
            f"--ulimit=nofile={_open_files()}:{_open_files()}",
            # Buildah 1.28 does not see which stages are wanted by the default.
            *("--build-arg=VARIANT=cpu", f"--build-arg=CPU_BASE={_BASE}"),
            f"--build-arg=TENSORFLOW={tf.__version__}",
            *self._secrets(),
            f"--file={_REPOSITORY / 'docker' / 'Dockerfile'}",
            str(_REPOSITORY),
        )
        inspected = json.loads(self._buildah("inspect", "--type=image", _TAG))
        container = self._buildah("from", "--pull-never", _TAG).strip()
        root = pathlib.Path(self._buildah("mount", container).strip())
        return Image(root, inspected["Docker"], self)

    def _make_base(self) -> None:
        base = self._other / "base"
        # In a namespace, as it leaves mounts behind when it is interrupted.
        _run(
            *("unshare", "--mount"),
            *("debootstrap", "--variant=minbase", "bookworm", str(base)),
        )
        # As Debian's own images: without packages and lists of them.
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(base / folder)
            (base / folder / "partial").mkdir(parents=True)
        container = self._buildah("from", "scratch").strip()
        self._buildah("add", "--quiet", container, str(base), "/")
        self._buildah("commit", "--quiet", container, _BASE)
        shutil.rmtree(base)

    def _secrets(self) -> list[str]:
        """This site's pip settings, as far as they hold inside a build."""
        config = {}
        listed = _run(sys.executable, "-m", "pip", "config", "list")
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            config[name.rpartition(".")[2]] = value.strip("'\"")
        lines = [f"# {self.mark}", "[global]"]
        for name in ("index-url", "extra-index-url", "trusted-host", "proxy"):
            # Folders of this machine are not there.
            if "file://" not in (value := config.get(name, "file://")):
                lines.append(f"{name} = {value}")
        bundle = f"# {self.mark}\n"
        if "cert" in config:
            lines.append("cert = /run/build-ca.crt")
            bundle += pathlib.Path(config["cert"]).read_text()
        arguments = []
        for name, text in (("pipconf", "\n".join(lines)), ("cabundle", bundle)):
            path = self._other / name
            path.write_text(text)
            arguments.append(f"--secret=id={name},src={path}")
        return arguments

    def _buildah(self, *command: str) -> str:
        return _run(
            *("buildah", f"--root={self.folder}"),
            *(f"--runroot={self._other / 'run'}", "--storage-driver=overlay"),
            *command,
        )


class Image:
    """A built image.

    Attributes:
        root: its files.
        config: what it says about running it, as Docker stores it.
        store: where its layers are.
    """

    def __init__(self, root: pathlib.Path, inspected: dict, store: Store):
        self.root = root
        self.config = inspected["config"]
        self.store = store


class ImageHosts(hosts.Hosts):
    """Hosts that each run a container of the image, waiting for horovodrun.

    What a host has to itself is at /runs, and shared data at /data.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        count: int,
        *,
        image: Image,
        data_dir: pathlib.Path,
    ):
        super().__init__(folder, count)
        self._config = image.config
        self._bound = {"image": image.root, "data": data_dir}

    def _write_files(self) -> None:
        super()._write_files()
        user = int(self._config["User"])
        for name in self.names:
            os.chown(self.files(name), user, user)
        # As secrets are mounted: somebody else's, and readable.
        keys = self._folder / "keys"
        keys.mkdir()
        for suffix in ("", ".pub"):
            path = keys / f"id_ed25519{suffix}"
            shutil.copy(self._folder / f"key{suffix}", path)
            path.chmod(0o444)
        for name, path in self._bound.items():
            (self._folder / name).symlink_to(path)

    def _begin(self, name: str) -> str:
        return _START_SSHD.format(
            sshd=" ".join(
                self._container('"$root"', *self._config["Entrypoint"], "sshd")
            ),
            health=" ".join(
                self._container(
                    '"$root"', *self._config["Healthcheck"]["Test"][1:]
                )
            ),
        )

    def _inside(self, name: str, command: Sequence[str]) -> Sequence[str]:
        return self._container(str(self._folder / "root" / name), *command)

    def _container(self, root: str, *command: str) -> Sequence[str]:
        """The command line that runs `command` in a container."""
        config = self._config
        user = config["User"]
        return (
            *("chroot", f"--userspec={user}:{user}", root),
            *("env", "--ignore-environment"),
            f"--chdir={config['WorkingDir']}",
            f"HOME={config['WorkingDir']}",
            *config["Env"],
            *command,
        )


def _open_files() -> int:
    """As many as this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _run(*command: str) -> str:
    finished = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if finished.returncode:
        raise AssertionError(
            f"{command} exited with {finished.returncode}\n"
            f"{finished.stdout[-8000:]}\n{finished.stderr[-8000:]}"
        )
    return finished.stdout
