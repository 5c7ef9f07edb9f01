"""What a host is like, told by a program that needs nothing but Python.

    python - REQUEST < host_facts.py

Sent to hosts on which the package may be missing or another one, so it imports
nothing of it. Writes `MARK` and a JSON object, after whatever the shell says.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import struct
import subprocess
import sys

MARK = "hvd_imagenet host facts: "

_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "horovod", "numpy")

# ioctl(2) of Linux for the IPv4 address of an interface.
_SIOCGIFADDR = 0x8915

_CONNECT_SECONDS = 5
# Without its daemon nvidia-smi first wakes up every GPU.
_NVIDIA_SMI_SECONDS = 40

# A GPU on which less is used is free; a process that trains uses more.
_FREE_MEBIBYTES = 1024


def gather(request):
    """The facts of this host.

    Args:
        request: "data_dir" and "interface", or None; "flagfiles", a list of
            paths; "launcher", the address and port to connect to, or None.

    Returns:
        A dictionary for JSON.
    """
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "packages": _packages(),
        "code": _code(),
        "flagfiles": {path: _digest([path]) for path in request["flagfiles"]},
        "own_name": socket.gethostname(),
        "own_name_resolves": resolves(socket.gethostname()),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "address": _interface_address(request["interface"]),
        "launcher_error": _connect(request["launcher"]),
        "data": _data(request["data_dir"]),
        "gpus_free": _gpus(),
    }


def _packages():
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _code():
    """Eight digits that differ where the package's code does."""
    spec = importlib.util.find_spec("hvd_imagenet")
    if spec is None or not spec.submodule_search_locations:
        return None
    (top,) = spec.submodule_search_locations
    return _digest(
        os.path.join(folder, name)
        for folder, names in _sorted_walk(top)
        for name in names
        if name.endswith(".py")
    )


def _sorted_walk(top):
    for folder, folders, names in os.walk(top):
        folders.sort()
        yield folder, sorted(names)


def _digest(paths):
    """Eight digits of the names and contents of files; None without them."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            digest.update(os.path.basename(path).encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(file.read() + b"\0")
    except OSError:
        return None
    return digest.hexdigest()[:8]


def resolves(name):
    """Whether a host name has an IPv4 address here."""
    try:
        socket.gethostbyname(name)
    except OSError:
        return False
    return True


def _interface_address(interface):
    if interface is None:
        return None
    name = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            found = fcntl.ioctl(any_socket, _SIOCGIFADDR, name)
        except OSError:
            return None
    return socket.inet_ntoa(found[20:24])


def _connect(address):
    """Why a connection to the launcher fails; None if it does not."""
    if address is None:
        return None
    try:
        socket.create_connection(tuple(address), _CONNECT_SECONDS).close()
    except OSError as error:
        return str(error)
    return None


def _data(folder):
    """Entries of a directory, what tells them from others', its system."""
    if folder is None or not os.path.isdir(folder):
        return None
    entries = []
    try:
        # Names with a dot are what we keep there ourselves.
        for name in sorted(n for n in os.listdir(folder) if n[0] != "."):
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                entries += [f"{name}/{n}" for n in sorted(os.listdir(path))]
            else:
                entries.append(f"{name} {os.path.getsize(path)}")
    except OSError:
        return None
    text = "\n".join(entries)
    return {
        "entries": len(entries),
        "digest": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(),
        "filesystem": _filesystem(folder),
    }


def _filesystem(path):
    """Type of the file system that holds `path`, such as ext4 or nfs4."""
    path = os.path.realpath(path) + "/"
    best, found = "", "unknown"
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        for line in file:
            _, mounted_at, kind = line.split()[:3]
            # Blanks are written as \040.
            mounted_at = mounted_at.replace("\\040", " ").rstrip("/") + "/"
            # The last one wins: it hides those before.
            if path.startswith(mounted_at) and len(mounted_at) >= len(best):
                best, found = mounted_at, kind
    return found


def _gpus():
    """Of every NVIDIA GPU that may be used here, whether it is free."""
    try:
        answer = subprocess.run(
            [
                "nvidia-smi",
                "--query-gpu=index,uuid,memory.used",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode:
        return []
    gpus = [line.split(", ") for line in answer.stdout.splitlines()]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        visible = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        gpus = [gpu for gpu in gpus if visible and _is_named(gpu, visible)]
    # Some systems do not tell the memory.
    return [
        not used.isdecimal() or int(used) < _FREE_MEBIBYTES
        for _, _, used in gpus
    ]


def _is_named(gpu, visible):
    index, uuid, _ = gpu
    return any(n and (n == index or uuid.startswith(n)) for n in visible)


if __name__ == "__main__":
    sys.stdout.write(MARK + json.dumps(gather(json.loads(sys.argv[1]))) + "\n")
