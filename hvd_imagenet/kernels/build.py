"""Compiles the operation of random_crop.cc for the TensorFlow of this Python.

    python -m hvd_imagenet.kernels.build

tools/setup does it. The library comes beside the packages of this Python, under
a name that follows from its source and from TensorFlow's version: one that
belongs to others is never loaded. Done in a moment where it is there already.
CXX names another compiler than g++.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import sysconfig
import tempfile

_SOURCE = pathlib.Path(__file__).parent / "random_crop.cc"
_FOLDER = pathlib.Path(sysconfig.get_path("platlib"), "hvd_imagenet_kernels")
# Of the packages that are TensorFlow.
_DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
_SECONDS = 600


def library() -> pathlib.Path:
    """Where the compiled operation is, or has to be."""
    key = hashlib.sha256(
        _SOURCE.read_bytes() + " ".join(_options()).encode()
    ).hexdigest()
    return _FOLDER / f"random_crop-tf{_tensorflow()}-{key[:12]}.so"


def compile_library() -> None:
    """Makes `library()`.

    Raises:
        RuntimeError: what the compiler said.
    """
    # Takes seconds, and is not needed where there is nothing to do.
    import tensorflow as tf

    path = library()
    path.parent.mkdir(exist_ok=True)
    # Whole or not at all, whoever else compiles.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = pathlib.Path(folder, path.name)
        command = [
            os.environ.get("CXX", "g++"),
            *_options(),
            *tf.sysconfig.get_compile_flags(),
            # Its headers are full of warnings.
            *("-isystem", tf.sysconfig.get_include()),
            str(_SOURCE),
            *("-o", str(made)),
            *tf.sysconfig.get_link_flags(),
            "-ldl",
        ]
        try:
            finished = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{error}") from None
        if finished.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{finished.stderr}")
        made.replace(path)


def _options() -> list[str]:
    # Rounded after every operation, as TensorFlow does it.
    options = ["-O3", "-ffp-contract=off", "-fPIC", "-shared"]
    # Which TensorFlow's wheels ask for as well.
    return [*options, "-mavx"] if platform.machine() == "x86_64" else options


def _tensorflow() -> str:
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    raise RuntimeError(
        f"there is no TensorFlow in {sys.prefix}; tools/setup installs one"
    )


def main() -> None:
    # TensorFlow's greeting.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        if not library().exists():
            compile_library()
    except RuntimeError as error:
        sys.exit(f"the input kernel cannot be compiled: {error}")


if __name__ == "__main__":
    main()
