"""What several test files need: real images, made once."""

import pathlib
import subprocess
import sys

import pytest

_REPOSITORY = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """scikit-learn's handwritten digits as TFRecords, as the quick start's."""
    directory = tmp_path_factory.mktemp("data") / "digits"
    subprocess.run(
        [
            sys.executable,
            str(_REPOSITORY / "tools" / "make_digits"),
            str(directory),
        ],
        check=True,
        timeout=120,
    )
    return directory
