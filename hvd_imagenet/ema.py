"""A moving average of the weights, to evaluate with."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from hvd_imagenet import normalization

_SCOPE = "average"


def path_of_average(path: str) -> str:
    """The path of the average of the variable that has a path."""
    return f"{_SCOPE}/{_name_of_average(path)}"


def _name_of_average(path: str) -> str:
    return path.replace("/", "_")


class WeightAverage:
    """Exponential moving average of a model's weights over the steps.

        average = decay * average + (1 - decay) * value

    after every optimizer step, from the values at the beginning, for all
    trainable variables and for batch normalization's running statistics. So do
    timm and TensorFlow's Inception and EfficientNet. `use_ema` of Keras's
    optimizers leaves the statistics out: averaged weights would be evaluated
    with the statistics of others.

    The update is linear, so the mean over ranks of the averaged statistics is
    the average of what one rank would have found.

    Attributes:
        variables: the averages; none without a decay.
        statistics: those among them of running statistics.
    """

    def __init__(self, model: keras.Model, decay: float | None):
        """Begins with the model's values as they are.

        Args:
            model: built.
            decay: share that a step keeps, at least 0 and less than 1; None to
                average nothing.
        """
        if decay is not None and not 0.0 <= decay < 1.0:
            raise ValueError(f"decay={decay} must be in [0, 1).")
        self._decay = decay
        self._averaged = []
        if decay is not None:
            statistics = normalization.running_statistics(model)
            self._averaged = [*model.trainable_variables, *statistics]
        with keras.name_scope(_SCOPE):
            self.variables = [
                keras.Variable(
                    variable.numpy(),
                    trainable=False,
                    autocast=False,
                    name=_name_of_average(variable.path),
                )
                for variable in self._averaged
            ]
        self.statistics = [
            average
            for average, variable in self._pairs()
            if not variable.trainable
        ]

    def update(self) -> None:
        """Takes the values of a step in, inside a `tf.function`."""
        for average, variable in self._pairs():
            # In this form what does not change stays as it is, to the bit;
            # decay and 1 - decay in float32 do not add up to 1.
            change = variable.value - average.value
            average.assign_add((1.0 - self._decay) * change)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it the model has the averages, and they its values."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for average, variable in self._pairs():
            value = tf.identity(variable.value)
            variable.assign(average.value)
            average.assign(value)

    def _pairs(self) -> Iterator[tuple[keras.Variable, keras.Variable]]:
        return zip(self.variables, self._averaged, strict=True)
