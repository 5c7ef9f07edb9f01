"""The library is there as hvd_imagenet/README.md lists it, and documented."""

import importlib
import inspect
import pathlib
import re

import pytest

import hvd_imagenet
from hvd_imagenet import callbacks, processes

_LIST = pathlib.Path(hvd_imagenet.__file__).parent / "README.md"
_NAMES = re.findall(r"^\| `([\w.]+)` \|", _LIST.read_text(), re.MULTILINE)


def _find(name):
    """The object of a name of the package."""
    module, *names = name.split(".")
    found = importlib.import_module(f"hvd_imagenet.{module}")
    for name in names:
        found = getattr(found, name)
    return found


def _documentation(listed):
    """Docstrings of an object, and of what makes it."""
    texts = [inspect.getdoc(listed)]
    if inspect.isclass(listed):
        texts.append(inspect.getdoc(listed.__init__) or "")
    return "\n".join(texts)


@pytest.mark.parametrize("name", _NAMES)
def test_what_is_listed_says_what_its_arguments_are(name):
    listed = _find(name)
    assert listed.__doc__, name
    # Those of a dataclass stand by their fields' names; `config` has helps.
    if name.startswith("config."):
        return
    text = _documentation(listed)
    arguments = [
        parameter.name
        for parameter in inspect.signature(listed).parameters.values()
        if parameter.name != "self"
        and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if arguments:
        assert "Args:" in text or "Attributes:" in text
    missing = [a for a in arguments if not re.search(rf"^ +{a}: ", text, re.M)]
    assert missing == []


def test_the_list_leaves_nothing_out():
    assert len(_NAMES) == len(set(_NAMES)) > 30
    for prefix, owner in (
        ("callbacks", callbacks),
        ("processes.Processes", processes.Processes),
    ):
        public = {
            f"{prefix}.{name}"
            for name, member in vars(owner).items()
            if not name.startswith("_")
            and inspect.isroutine(member)
            | (getattr(member, "__module__", "") == callbacks.__name__)
        }
        assert public <= set(_NAMES)
