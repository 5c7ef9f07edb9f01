"""What several test files need: real images, made once."""

import os
import pathlib
import signal
import subprocess
import sys

# As the programs do, and for those of tests/programs; before TensorFlow is
# imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import pytest

import image_data
import jobs
import mlperf
import used_run
from hvd_imagenet import export, sources
from hvd_imagenet.inference.options import ExportOptions

_REPOSITORY = pathlib.Path(__file__).parent.parent
# Modules of a tool, which test_reproduce.py imports.
sys.path.append(str(_REPOSITORY / "tools" / "reproduce"))


def pytest_configure(config):
    # Shells without job control start what is in the background with SIGINT
    # ignored, nohup everything with SIGHUP ignored, and every process that a
    # test starts would inherit it.
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


# The longest, by which two workers end at about the same time.
_FIRST = (
    "test_worlds",
    "test_faults",
    "test_recipes",
    "test_train",
    "test_elastic",
    "test_benchmark",
    "test_distributed",
)


# Before pytest-xdist looks at the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    def place(item):
        name = item.path.stem
        return _FIRST.index(name) if name in _FIRST else len(_FIRST)

    items.sort(key=place)
    for item in items:
        # What is made once for a file is to be made once; and the network
        # between the hosts of tests/cluster is there once.
        in_cluster = item.path.parent.name == "cluster"
        group = "cluster" if in_cluster else item.path.stem
        if "used_run_dir" in getattr(item, "fixturenames", ()):
            group = "used_run"
        item.add_marker(pytest.mark.xdist_group(group))


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


@pytest.fixture(scope="session")
def patterns(tmp_path_factory):
    """Noisy patterns as TFRecords: 930 for training, 310 for validation.

    To compare runs number by number takes noise: in the smooth regions of the
    digits and of photographs a rounding error moves all pixels across the kink
    of a ReLU at once, so that even another number of threads in one process
    changes the loss visibly within a few steps.
    """
    directory = tmp_path_factory.mktemp("data") / "patterns"
    for seed, (split, count) in enumerate(
        {"train": 930, "validation": 310}.items()
    ):
        source = sources.SyntheticSource(
            count, num_classes=10, image_size=40, seed=seed
        )
        examples = [
            image_data.example(encoded, label + 1)
            for encoded, label in map(source.read, range(count))
        ]
        image_data.write_shards(
            directory, split, [examples[0::2], examples[1::2]]
        )
    return directory


@pytest.fixture(scope="session")
def used_run_dir(tmp_path_factory):
    """Work directory of a run whose result is used, beside its data."""
    return used_run.train(tmp_path_factory.mktemp("used"))


@pytest.fixture(scope="session")
def exported(used_run_dir, tmp_path_factory):
    """What is exported of that run, in this process."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    options = ExportOptions(
        checkpoint=str(used_run_dir), output_dir=str(folder)
    )
    assert export.main(options) == 0
    return folder


@pytest.fixture(scope="session")
def runs(patterns, tmp_path_factory):
    """Work directory by ranks, all on this host, of the same recipe."""
    return _Runs(patterns, tmp_path_factory.mktemp("runs"))


class _Runs(dict):
    """Trains when a number of ranks is first asked for."""

    def __init__(self, data_dir, folder):
        super().__init__()
        self._data_dir = data_dir
        self._folder = folder

    def __missing__(self, ranks):
        workdir = self._folder / str(ranks)
        jobs.train(
            ranks,
            *jobs.RECIPE,
            *mlperf.SUBMITTER,
            f"--data_dir={self._data_dir}",
            f"--workdir={workdir}",
        )
        self[ranks] = workdir
        return workdir
