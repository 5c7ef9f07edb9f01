"""Compiles the operations of this folder for the TensorFlow of this Python.

    python -m hvd_imagenet.kernels.build

tools/setup does it. Every library comes beside the packages of this Python,
under a name that follows from its sources and from TensorFlow's version: one
that belongs to others is never loaded. Done in a moment where they are there
already. CXX names another compiler than g++.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection

_HERE = pathlib.Path(__file__).parent
_FOLDER = pathlib.Path(sysconfig.get_path("platlib"), "hvd_imagenet_kernels")
# Of the packages that are TensorFlow.
_DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
_SECONDS = 600

_OPTIMIZED = ("-O3", "-fPIC")
_IS_X86 = platform.machine() == "x86_64"


@dataclasses.dataclass(frozen=True)
class _Part:
    """A source that is compiled by itself, without TensorFlow's headers."""

    source: str
    name: str
    options: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Library:
    """How a library comes about: of NAME.cc, and of parts.

    Left out where the compiler does not know the options that it `needs`.
    """

    options: tuple[str, ...]
    needs: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    parts: tuple[_Part, ...] = ()


# What blocks are compiled for, by the names that their users know them by.
_PROCESSORS = {"kGeneric": ()}
if _IS_X86:
    _PROCESSORS["kAvx2"] = ("-march=haswell",)
    _PROCESSORS["kAvx512"] = (
        "-march=skylake-avx512",
        "-mprefer-vector-width=512",
    )


def _blocks(source: str, processors: Collection[str]) -> tuple[_Part, ...]:
    """A source for some processors, of those that this architecture has."""
    return tuple(
        _Part(
            source,
            name,
            # Comparisons raise no signals, which lets vectors be compared.
            (
                f"-DPROCESSOR={name}",
                "-std=c++17",
                "-fno-trapping-math",
                *options,
            ),
        )
        for name, options in _PROCESSORS.items()
        if name in processors
    )


_LIBRARIES = {
    "random_crop": _Library(
        # Rounded after every operation, as TensorFlow does it; and what
        # TensorFlow's wheels ask for as well.
        options=("-ffp-contract=off", *(["-mavx"] if _IS_X86 else [])),
    ),
    "batch_norm": _Library(
        options=(),
        headers=(
            "batch_norm_blocks.h",
            "numbers.h",
            "processors.h",
            "threads.h",
        ),
        parts=_blocks("batch_norm_blocks.cc", ("kGeneric", "kAvx2", "kAvx512")),
    ),
    "winograd": _Library(
        options=(),
        headers=(
            "convolution.h",
            "processors.h",
            "threads.h",
            "winograd_blocks.h",
        ),
        parts=_blocks("winograd_blocks.cc", ("kGeneric", "kAvx2", "kAvx512")),
    ),
    "half": _Library(
        options=(),
        headers=("half_blocks.h", "numbers.h", "processors.h", "threads.h"),
        # Of wider vectors memory would make nothing.
        parts=_blocks("half_blocks.cc", ("kGeneric", "kAvx2")),
    ),
    "shared_mean": _Library(
        options=(),
        headers=("shared_mean_blocks.h", "numbers.h", "processors.h"),
        # As above.
        parts=_blocks("shared_mean_blocks.cc", ("kGeneric", "kAvx2")),
    ),
}
_AMX = ("-mamx-tile", "-mamx-bf16")
if _IS_X86:
    _LIBRARIES["amx"] = _Library(
        options=(),
        needs=_AMX,
        headers=("amx_blocks.h", "amx_plan.h", "convolution.h", "threads.h"),
        parts=(
            _Part(
                "amx_blocks.cc",
                "amx",
                ("-std=c++17", *_PROCESSORS["kAvx512"], *_AMX),
            ),
        ),
    )


def library(name: str) -> pathlib.Path:
    """Where the compiled library of `name`.cc is, or has to be."""
    plan = _LIBRARIES.get(name)
    if plan is None:
        raise RuntimeError(f"{name} is not for {platform.machine()}")
    sources = dict.fromkeys(
        [f"{name}.cc", *plan.headers, *(part.source for part in plan.parts)]
    )
    key = hashlib.sha256(repr(plan).encode())
    for source in sources:
        key.update((_HERE / source).read_bytes())
    return _FOLDER / f"{name}-tf{_tensorflow()}-{key.hexdigest()[:12]}.so"


def wanted_compiler(name: str) -> str:
    """In words, what compiler the library of `name`.cc takes."""
    needs = " ".join(_LIBRARIES[name].needs)
    return f"a compiler that knows {needs}, as GCC from 11 on" if needs else ""


def compile_library(name: str) -> None:
    """Makes `library(name)`.

    Raises:
        RuntimeError: what the compiler said.
    """
    # Takes seconds, and is not needed where there is nothing to do.
    import tensorflow as tf

    plan = _LIBRARIES[name]
    path = library(name)
    path.parent.mkdir(exist_ok=True)
    # Whole or not at all, whoever else compiles.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = []
        for part in plan.parts:
            objects.append(str(pathlib.Path(folder, f"{part.name}.o")))
            source = str(_HERE / part.source)
            _compile(*part.options, "-c", source, "-o", objects[-1])
        made = pathlib.Path(folder, path.name)
        _compile(
            *plan.options,
            "-shared",
            *tf.sysconfig.get_compile_flags(),
            # Its headers are full of warnings.
            *("-isystem", tf.sysconfig.get_include()),
            *(str(_HERE / f"{name}.cc"), *objects),
            *("-o", str(made)),
            *tf.sysconfig.get_link_flags(),
            "-ldl",
        )
        made.replace(path)


def _is_known(options: Collection[str]) -> bool:
    """Whether the compiler knows them all."""
    try:
        _compile(*options, "-x", "c++", "-E", os.devnull, "-o", os.devnull)
    except RuntimeError:
        return False
    return True


def _compile(*arguments: str) -> None:
    command = [os.environ.get("CXX", "g++"), *_OPTIMIZED, *arguments]
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{error}") from None
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{finished.stderr}")


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
        for name, plan in _LIBRARIES.items():
            if library(name).exists():
                continue
            if plan.needs and not _is_known(plan.needs):
                sys.stderr.write(
                    f"{name} is left out: it takes {wanted_compiler(name)}\n"
                )
                continue
            compile_library(name)
    except RuntimeError as error:
        sys.exit(f"our operations cannot be compiled: {error}")


if __name__ == "__main__":
    main()
