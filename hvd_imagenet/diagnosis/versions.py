"""Versions of what is installed, and whether they were ever tried together."""

import importlib.metadata
import platform

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

_DISTRIBUTION = "hvd_imagenet"

# Of our requirements those whose version a result can depend on. Both names of
# TensorFlow provide the same module, one of them is installed.
_TENSORFLOW = ("tensorflow", "tensorflow-cpu")
_NAMED = ("keras", "numpy")

# Compiled by tools/setup, so it is no requirement of the package.
HOROVOD = "==0.28.1"


def untried() -> list[str]:
    """What is installed here and was not tried with this package.

    Returns:
        A phrase each, such as "keras 3.5.0 (tried: ==3.15.1)"; one that says
        so if the package itself is not installed and cannot tell.
    """
    try:
        metadata = importlib.metadata.metadata(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ["hvd_imagenet, which is not installed but found on the path"]
    tried = {"horovod": {SpecifierSet(HOROVOD)}}
    for text in metadata.get_all("Requires-Dist") or ():
        if _applies(requirement := Requirement(text)):
            # TensorFlow has several, one an extra.
            tried.setdefault(requirement.name, set()).add(requirement.specifier)
    found = [
        f"{name} {version} (tried: {' or '.join(sorted(map(str, specifiers)))})"
        for name, specifiers in tried.items()
        if (version := installed(name)) is not None
        and not any(specifier.contains(version) for specifier in specifiers)
    ]
    python = SpecifierSet(metadata["Requires-Python"])
    if not python.contains(platform.python_version()):
        found.append(f"Python {platform.python_version()} (tried: {python})")
    return sorted(found)


def installed(name: str) -> str | None:
    """Version of an installed distribution; None if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _applies(requirement: Requirement) -> bool:
    """Whether a requirement is one that is judged, in this Python."""
    if requirement.name in _TENSORFLOW:
        return True
    marker = requirement.marker
    return requirement.name in _NAMED and (
        marker is None or marker.evaluate({"extra": ""})
    )
