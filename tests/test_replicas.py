"""Ranks that no longer hold the same values are found, named and stopped."""

import pathlib
import socket

import keras
import numpy as np
import pytest
import tensorflow as tf

import jobs
from hvd_imagenet import normalization, replicas, update_rule
from hvd_imagenet.config import (
    Config,
    ModelConfig,
    OptimizationConfig,
    RunConfig,
    ScheduleConfig,
)
from hvd_imagenet.plan import make_plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.world import World

_OPTIMIZERS = ("momentum", "rmsprop_warmup", "lars", "lars_mlperf", "lamb")
_FLIP_BIT = pathlib.Path(__file__).parent / "programs" / "flip_bit.py"
_KERNEL = "stage1_block1_conv1/kernel"


def _trainer(optimizer="momentum", precision="float32"):
    """Every kind of variable that a run has, after two steps."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input([2, 2, 3]),
            normalization.FusedBatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )
    config = Config(
        model=ModelConfig(precision=precision),
        optimization=OptimizationConfig(optimizer=optimizer, ema_decay=0.5),
    )
    trainer = update_rule.make_trainer(config, model, Processes())
    for _ in range(2):
        gradients = [
            tf.random.normal(v.shape, seed=1) for v in model.trainable_variables
        ]
        trainer.optimizer.apply(gradients, model.trainable_variables)
        trainer.average.update()
    return trainer


# --- The checksum. ---


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("optimizer", _OPTIMIZERS)
def test_a_flipped_bit_of_any_variable_shows_in_its_checksum_alone(
    optimizer, precision
):
    variables = _trainer(optimizer, precision).state
    checksums = replicas.Checksums(variables)
    before = checksums()
    assert before.shape == (len(variables),)
    random = np.random.default_rng(0)
    for number, variable in enumerate(variables):
        values = variable.numpy()
        # The first and the last bit, and any between.
        last = 8 * values.nbytes - 1
        for place in (0, last, *random.integers(0, last, 3)):
            element, bit = divmod(int(place), 8 * values.itemsize)
            spoilt = np.array(values)
            bits = spoilt.reshape(-1).view(f"u{values.itemsize}")
            bits[element] ^= bits.dtype.type(1 << bit)
            variable.assign(spoilt)
            (changed,) = np.nonzero(checksums() != before)
            assert changed.tolist() == [number], (variable.path, place)
        variable.assign(values)
    np.testing.assert_array_equal(checksums(), before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int64"])
def test_golden_checksums(dtype):
    values = np.array([[3, -1], [0, 2]])
    variable = keras.Variable(values, dtype=dtype, trainable=False)
    pattern = {
        # Of 3, -1, 0 and 2: sign, exponent, fraction.
        "float16": [0x4200, 0xBC00, 0, 0x4000],
        "bfloat16": [0x4040, 0xBF80, 0, 0x4000],
        "float32": [0x40400000, 0xBF800000 - 2**32, 0, 0x40000000],
        "int64": [3, -1, 0, 2],
    }[dtype]
    expected = np.dot([1, 3, 5, 7], pattern)
    assert replicas.Checksums([variable])().tolist() == [expected]


def test_exchanged_values_show():
    variable = keras.Variable(np.arange(1000.0), dtype="float32")
    checksums = replicas.Checksums([variable])
    before = checksums()
    for first, second in ((0, 1), (0, 999), (500, 756)):
        values = np.arange(1000.0, dtype=np.float32)
        values[[first, second]] = values[[second, first]]
        variable.assign(values)
        assert checksums() != before


def test_zeros_of_both_signs_and_nans_are_different_bits():
    variable = keras.Variable(np.zeros(3), dtype="float32")
    checksums = replicas.Checksums([variable])
    found = set()
    for value in (0.0, -0.0, np.nan, -np.nan, np.inf):
        variable.assign(np.array([0, value, 0], np.float32))
        found.add(int(checksums()[0]))
        # The same bits again are the same, of nan too.
        assert int(checksums()[0]) in found
    assert len(found) == 5


# --- The comparison. ---


class _Others(Processes):
    """This process as rank 0, beside ranks that give what they are told to."""

    def __init__(self, *answers):
        size = 1 + len(answers)
        super().__init__(World(size=size, local_size=size))
        self._answers = answers

    def gather_object(self, value):
        return [value, *(answer(value) for answer in self._answers)]


def _check(trainer, processes, say=lambda line: None, **knobs):
    config = Config(
        optimization=OptimizationConfig(epochs=1, global_batch_size=192),
        schedule=ScheduleConfig(warmup_epochs=0.0),
    )
    plan = make_plan(
        config, world_size=3, train_images=192 * 10, validation_images=1
    )
    return replicas.CheckReplicas(
        trainer, processes, plan, RunConfig(**knobs), say
    )


def test_running_statistics_are_every_ranks_own():
    trainer = _trainer()
    seen = []

    def like_me(value):
        seen.append(value)
        return value

    check = _check(trainer, _Others(like_me))
    check.check("now")
    for variable in trainer.state:
        if "moving" in variable.path:
            variable.assign(variable.value + 1.0)
    check.check("now")
    trainer.average.variables[0].assign_add([0.0, 0.0, 1.0])
    check.check("now")
    assert seen[0] == seen[1] != seen[2]


def test_it_looks_every_so_often_and_before_checkpoints():
    asked = []
    check = _check(
        _trainer(),
        _Others(lambda value: value),
        check_replicas_steps=4,
        checkpoint_steps=3,
    )
    model = keras.Model()
    model.stop_training = False
    check.set_model(model)
    check.check = asked.append
    check.on_train_begin()
    check.on_epoch_begin(0)
    for step in range(10):  # The last of the epoch is in neither period.
        check.on_train_batch_end(step)
    check.on_train_end()
    steps = [f"after step {step}" for step in (3, 4, 6, 8, 9, 10)]
    assert asked == ["when training began", *steps]
    # As a signal does; a checkpoint follows.
    model.stop_training = True
    check.on_train_end()
    assert asked[-1] == "where the training stopped"


def test_ranks_that_round_differently_are_not_compared():
    said = []
    check = _check(
        _trainer(), _Others(lambda value: "64 threads of a CPU"), said.append
    )
    check.on_train_begin()
    check.check("now")  # The other answers nothing that fits.
    (line,) = said
    assert "not compared" in line
    assert line.endswith("and rank 1 with 64 threads of a CPU")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            "AAB",
            "now: rank 2 on c differs from the other 2 in k and 1 more of 3"
            " variables. The memory or GPU of c is suspect",
        ),
        (
            "BAAABAA",
            "now: rank 0 on a and rank 4 on e differ from the other 5 in k"
            " and 1 more of 3 variables. The memory or GPU of a or e is",
        ),
        (
            "AB",
            "now: rank 0 on a and rank 1 on b differ in k and 1 more of 3"
            " variables, and no majority tells who is right. The memory or GPU"
            " of a or b is suspect",
        ),
        ("AC", "now: rank 0 on a and rank 1 on b differ in b, and no majority"),
        (
            "A" * 11 + "B" * 10,
            "rank 18 on s and 2 more differ from the other 11 in k",
        ),
    ],
)
def test_who_differs_is_named(values, words):
    rows = {
        "A": np.array([1, 2, 3]),
        "B": np.array([1, 5, 6]),
        "C": np.array([1, 2, 7]),
    }
    said = replicas.difference(
        ["stem", "k", "b"],
        [chr(ord("a") + rank) for rank in range(len(values))],
        [rows[value] for value in values],
        "now",
    )
    assert words in said
    assert "the same command resumes from the last checkpoint" in said


# --- Real jobs. ---


def _flipped(ranks, rank, patterns, workdir, *flags):
    """A job in which one bit of `rank` flips after its fourth step."""
    finished = jobs.run(
        ranks,
        str(_FLIP_BIT),
        str(rank),
        "4",
        *jobs.TINY,
        f"--global_batch_size={32 * ranks}",
        "--batch_size_per_process=32",
        "--epochs=1",
        f"--data_dir={patterns}",
        f"--workdir={workdir}",
        *flags,
        check=False,
    )
    assert finished.returncode == 1
    assert "<stderr>:Traceback" not in finished.stderr
    return finished.stderr


@pytest.mark.horovod
def test_no_checkpoint_is_written_of_ranks_that_differ(patterns, tmp_path):
    said = _flipped(2, 0, patterns, tmp_path, "--checkpoint_steps=3")
    host = socket.gethostname()
    assert (
        f"error: The replicas differ after step 6: rank 0 on {host} and rank 1"
        f" on {host} differ in {_KERNEL}"
    ) in said
    assert "no majority tells who is right" in said
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [
        "step_00000003.npz"
    ]


@pytest.mark.slow
@pytest.mark.horovod
def test_of_three_ranks_the_one_is_named(patterns, tmp_path):
    said = _flipped(3, 1, patterns, tmp_path, "--check_replicas_steps=4")
    # Nothing but the bit differs yet.
    assert (
        "error: The replicas differ after step 4: rank 1 on"
        f" {socket.gethostname()} differs from the other 2 in {_KERNEL}. The"
    ) in said
    assert not (tmp_path / "checkpoints").exists()
