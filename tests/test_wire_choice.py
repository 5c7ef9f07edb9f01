"""The format of gradients is chosen by what an exchange takes."""

import time

import pytest
import tensorflow as tf

from hvd_imagenet import wire_choice
from hvd_imagenet.config import Config, ModelConfig, OptimizationConfig
from hvd_imagenet.processes import Processes
from hvd_imagenet.world import World


class _Timed(Processes):
    """Rank 0 of two; an exchange takes what it takes by its format."""

    def __init__(self, seconds, compression="none", other=None):
        super().__init__(World(size=2))
        self._seconds = seconds
        self._compression = compression
        self._other = other or {}

    def with_compression(self, compression):
        return _Timed(self._seconds, compression, self._other)

    def average_gradients(self, gradients):
        def wait(value):
            time.sleep(self._seconds[self._compression])
            return value

        waited = tf.numpy_function(wait, [gradients[0]], tf.float32)
        return [tf.ensure_shape(waited, gradients[0].shape), *gradients[1:]]

    def gather_object(self, value):
        # The other rank has seen what is said of it.
        if isinstance(value, dict):
            return [value, value | self._other]
        return [value, value]


def _config(compression):
    return Config(
        model=ModelConfig(model="resnet10", num_classes=10),
        optimization=OptimizationConfig(compression=compression),
    )


@pytest.mark.parametrize(
    ("exact", "compressed", "chosen"),
    [(0.02, 0.05, "none"), (0.05, 0.02, "fp16"), (0.05, 0.05, "none")],
)
def test_the_faster_format_is_chosen(exact, compressed, chosen):
    given = _Timed({"none": exact, "fp16": compressed})
    processes, choice = wire_choice.settle(_config("auto"), given)
    assert choice.compression == chosen
    assert processes._compression == chosen
    assert choice.seconds["none"] >= exact
    assert choice.seconds["fp16"] >= compressed
    assert choice.line.startswith(f"compression: {chosen} is chosen, as")


def test_the_slowest_rank_decides():
    given = _Timed({"none": 0.02, "fp16": 0.05}, other={"none": 1.0})
    _, choice = wire_choice.settle(_config("auto"), given)
    assert choice.compression == "fp16"
    assert choice.seconds["none"] == 1.0


@pytest.mark.parametrize("compression", ["none", "fp16", "bf16"])
def test_what_was_asked_for_is_not_measured(compression):
    given = _Timed({})
    assert wire_choice.settle(_config(compression), given) == (given, None)


def test_one_process_has_nothing_to_choose():
    alone = Processes()
    assert wire_choice.settle(_config("auto"), alone) == (alone, None)
