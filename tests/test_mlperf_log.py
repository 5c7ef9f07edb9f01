"""MLPerf's log, held to the compliance checker of mlcommons/logging."""

import builtins
import pathlib
import re
import time

import keras
import psutil
import pytest

import mlperf
from hvd_imagenet import flags, imagenet, mlperf_keys, mlperf_log
from hvd_imagenet.plan import make_plan
from hvd_imagenet.processes import Processes

_FLAGS = pathlib.Path(__file__).parent.parent / "flags"


def _config(recipe, workdir, *more):
    return flags.parse_apart(
        [
            "train",
            f"--flagfile={_FLAGS / recipe}.flags",
            f"--workdir={workdir}",
            *mlperf.SUBMITTER,
            *more,
        ]
    )


def _plan(config, world_size=1):
    return make_plan(
        config,
        world_size=world_size,
        train_images=imagenet.TRAIN_IMAGES,
        validation_images=imagenet.VALIDATION_IMAGES,
    )


@pytest.fixture(autouse=True)
def process_start(monkeypatch):
    """When this process is said to have begun, in s since 1970.

    The rules allow 30 minutes from there to the end of initialization, and the
    one that runs all tests may be older.
    """
    start = time.time() - 60
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: start)
    return start


def _write(config, accuracies, first_epoch=0, stopped=False):
    """Logs epochs, without training, as `job.run` and Keras call the log."""
    plan = _plan(config)
    log = mlperf_log.start(config, Processes())
    log.set_model(keras.Model())
    log.model.stop_training = stopped
    log.begin(plan)
    log.on_train_begin()
    every = config.run.evaluation_every_epochs
    for epoch, top1 in enumerate(accuracies, first_epoch):
        log.on_epoch_begin(epoch)
        if (epoch + 1) % every and epoch + 1 != plan.epochs:
            log.on_epoch_end(epoch, {})
            continue
        log.evaluation_begins(epoch)
        log.on_epoch_end(epoch, {"val_top1": top1})
    log.on_train_end()
    return pathlib.Path(config.run.workdir) / "mlperf.log"


# --- Keys. ---


def test_the_keys_of_mlperfs_point_for_4096_images():
    # Less the model's and input's own, by the reference convergence points
    # and decay = steps of training - steps of warmup + 1.
    config = _config("mlperf_lars_4k", "run")
    assert dict(mlperf_keys.hyperparameters(config, _plan(config, 16))) == {
        "seed": 0,
        "train_samples": 1_281_167,
        "eval_samples": 50_000,
        "global_batch_size": 4096,
        "gradient_accumulation_steps": 4,
        "model_bn_span": 64,
        "opt_name": "lars",
        "lars_opt_base_learning_rate": 10,
        "lars_opt_learning_rate_warmup_epochs": 5,
        "lars_opt_weight_decay": 0.0002,
        "lars_opt_momentum": 0.9,
        "lars_epsilon": 0,
        "lars_opt_end_learning_rate": 0.0001,
        "lars_opt_learning_rate_decay_poly_power": 2,
        # 42 and 5 epochs of 312.785 steps, rounded up.
        "lars_opt_learning_rate_decay_steps": 13137 - 1564 + 1,
    }


def test_the_keys_of_the_point_for_32768_images():
    config = _config("mlperf_lars_32k", "run")
    keys = dict(mlperf_keys.hyperparameters(config, _plan(config)))
    assert keys["global_batch_size"] == 32768
    assert keys["gradient_accumulation_steps"] == 256
    assert keys["lars_opt_base_learning_rate"] == 21.2
    assert keys["lars_opt_learning_rate_warmup_epochs"] == 16
    assert keys["lars_opt_momentum"] == 0.94
    assert keys["lars_opt_weight_decay"] == 2.5e-05


def test_momentum_is_mlperfs_sgd():
    config = _config("goyal2017", "run")
    keys = dict(mlperf_keys.hyperparameters(config, _plan(config)))
    assert keys["opt_name"] == "sgd"
    assert keys["sgd_opt_base_learning_rate"] == pytest.approx(3.2)
    assert keys["sgd_opt_momentum"] == 0.9
    assert keys["sgd_opt_weight_decay"] == 0.0001
    assert keys["opt_learning_rate_warmup_epochs"] == 5
    assert keys["model_bn_span"] == 32
    assert not any("poly_power" in key for key in keys)


_SGD_MISSES = (
    "'sgd_opt_end_learning_rate'",
    "'sgd_opt_learning_rate_decay_poly_power'",
    "'sgd_opt_learning_rate_decay_steps'",
)


# What the closed division has against a recipe, were it accurate enough. Of
# other update rules than these the checker takes no log.
@pytest.mark.parametrize(
    ("recipe", "against"),
    [
        ("mlperf_lars_4k", ()),
        ("mlperf_lars_32k", ()),
        ("goyal2017", _SGD_MISSES),
        (
            "you2017_lars_32k",
            ("'lars_opt_end_learning_rate'", "'lars_opt_weight_decay'"),
        ),
        ("jia2018_lars_64k", ()),
        (
            "fastai2018",
            (
                "'global_batch_size'",
                "'model_bn_span'",
                *_SGD_MISSES,
            ),
        ),
    ],
)
def test_what_the_closed_division_has_against_a_recipe(
    tmp_path, recipe, against
):
    config = _config(recipe, tmp_path)
    path = _write(config, [0.76] * config.optimization.epochs)
    found = mlperf.complaints(path)
    assert [re.search(r"'\w+'", text).group() for text in found] == sorted(
        against
    )


# --- The course of a run. ---


def test_a_run_succeeds_where_it_reaches_the_target(tmp_path, process_start):
    config = _config("mlperf_lars_4k", tmp_path, "--evaluation_every_epochs=4")
    # Reached once, at epoch 40, and lost again.
    path = _write(config, [0.7] * 39 + [0.7591, 0.7, 0.7])
    assert mlperf.complaints(path) == []
    lines = mlperf.read(path)
    (begun,) = (line for line in lines if line.key == "init_start")
    assert begun.timestamp == int(process_start * 1e3)
    assert lines[-1].key == "run_stop"
    assert lines[-1].value["metadata"]["status"] == "success"
    evaluated = [
        (line.value["value"], line.value["metadata"]["epoch_num"])
        for line in lines
        if line.key == "eval_accuracy"
    ]
    assert evaluated == [
        *((0.7, epoch) for epoch in range(4, 40, 4)),
        (0.7591, 40),
    ]
    blocks = [
        (
            line.key,
            line.value["metadata"]["first_epoch_num"],
            line.value["metadata"]["epoch_count"],
        )
        for line in lines
        if line.key.startswith("block_")
    ]
    assert blocks == [
        (f"block_{end}", first, 4)
        for first in range(1, 40, 4)
        for end in ("start", "stop")
    ]


def test_a_run_that_misses_the_target_is_aborted(tmp_path):
    config = _config("mlperf_lars_4k", tmp_path, "--evaluation_every_epochs=5")
    path = _write(config, [0.7589] * 42)
    (complaint,) = mlperf.complaints(path)
    assert complaint.startswith(mlperf.TOO_LOW)
    lines = mlperf.read(path)
    assert lines[-1].value["metadata"]["status"] == "aborted"
    # The last evaluation comes early.
    assert [
        line.value["metadata"]["epoch_count"]
        for line in lines
        if line.key == "block_start"
    ] == [5] * 8 + [2]


def test_a_resumed_run_goes_on_in_its_log(tmp_path):
    config = _config("mlperf_lars_4k", tmp_path)
    path = _write(config, [0.1] * 10, stopped=True)
    text = path.read_text()
    assert "run_stop" not in text
    # The epoch that had ended is evaluated again.
    _write(config, [0.1, *[0.76] * 32], first_epoch=9)
    assert path.read_text().startswith(text)
    assert mlperf.complaints(path) == []
    # One that has ended says no more.
    text = path.read_text()
    _write(config, [0.77], first_epoch=41)
    assert path.read_text() == text


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path, caplog):
    (tmp_path / "mlperf.log").mkdir()
    _write(_config("mlperf_lars_4k", tmp_path), [0.1] * 42)
    warned = [r.getMessage() for r in caplog.records]
    assert sum("cannot be written" in text for text in warned) == 1
    assert re.search(
        r"Lost: (\d+) of \1 lines of mlperf.log could not", warned[-1]
    )


def test_a_package_that_is_missing_is_named(monkeypatch):
    real = builtins.__import__

    def without_mlperf(name, *arguments):
        if name.startswith("mlperf_logging"):
            raise ImportError(f"No module named '{name}'")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_mlperf)
    config = _config("mlperf_lars_4k", "run")
    with pytest.raises(ValueError, match=r"pip install hvd_imagenet\[mlperf"):
        mlperf_log.start(config, Processes())
