"""The train step and the evaluation of a small network, in one process."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import jobs
from hvd_imagenet import dataset, update_rule
from hvd_imagenet.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizationConfig,
    ScheduleConfig,
)
from hvd_imagenet.layer_norms import LogLayerNorms
from hvd_imagenet.normalization import FusedBatchNormalization
from hvd_imagenet.pipeline import Batch
from hvd_imagenet.plan import make_plan
from hvd_imagenet.preprocessing import normalise
from hvd_imagenet.processes import Processes
from hvd_imagenet.runlog import NullRunLog
from hvd_imagenet.sources import SyntheticSource
from hvd_imagenet.world import World

pytestmark = pytest.mark.core

_SIZE = 16
_CLASSES = 4
_TRAIN_IMAGES = 32
_VALIDATION_IMAGES = 7
_BATCH = 16


class CountedProcesses(Processes):
    """One process; counts the gradients that are averaged, as they are."""

    def __init__(self):
        super().__init__()
        self.gradients = tf.Variable(0)

    def average_gradients(self, gradients):
        count = self.gradients.assign_add(len(gradients))
        with tf.control_dependencies([count]):
            return [tf.identity(gradient) for gradient in gradients]


class Run:
    """A trainer of a small network, and its batches.

    Attributes:
        trainer: as configured.
        plan: steps and epochs.
        accumulation_steps: micro-batches of a step.
    """

    def __init__(self, micro_batch_size, processes=None, **optimization):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input([_SIZE, _SIZE, 3]),
                keras.layers.Conv2D(4, 3, strides=2, name="conv"),
                FusedBatchNormalization(name="bn"),
                keras.layers.ReLU(),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(_CLASSES, name="logits"),
            ],
            name="net",
        )
        precision = optimization.pop("precision", "float32")
        self._config = Config(
            model=ModelConfig(
                image_size=_SIZE, num_classes=_CLASSES, precision=precision
            ),
            data=DataConfig(data_format="synthetic"),
            optimization=OptimizationConfig(
                epochs=4,
                global_batch_size=_BATCH,
                batch_size_per_process=micro_batch_size,
                **optimization,
            ),
            schedule=ScheduleConfig(warmup="none", warmup_epochs=0.0),
        )
        self.plan = make_plan(
            self._config,
            world_size=1,
            train_images=_TRAIN_IMAGES,
            validation_images=_VALIDATION_IMAGES,
        )
        self.accumulation_steps = self.plan.phase(0).accumulation_steps
        self.trainer = update_rule.make_trainer(
            self._config, model, processes or Processes()
        )
        self._batches = dataset.training_batches(
            self._config, self.plan, *self._place(_TRAIN_IMAGES), threads=1
        )

    def step(self):
        self.trainer.train_step(self._batches, self.accumulation_steps)

    def evaluate(self):
        batches = dataset.evaluation_batches(
            self._config,
            self.plan,
            *self._place(_VALIDATION_IMAGES),
            threads=1,
        )
        return self.trainer.evaluate(
            batches,
            steps=self.plan.evaluation_steps,
            examples=_VALIDATION_IMAGES,
        ).totals

    def _place(self, images):
        source = SyntheticSource(
            images, num_classes=_CLASSES, image_size=20, seed=0
        )
        return source, World()


def _values(variables):
    return {variable.path: variable.numpy() for variable in variables}


@pytest.mark.parametrize("micro_batch_size", [16, 8, 2])
def test_a_gradient_is_exchanged_once_per_step(micro_batch_size):
    processes = CountedProcesses()
    run = Run(micro_batch_size, processes)
    assert run.accumulation_steps == 16 // micro_batch_size
    for step in range(1, 4):
        run.step()
        gradients = len(run.trainer.model.trainable_variables)
        assert processes.gradients.numpy() == step * gradients


def test_memory_does_not_grow_with_the_micro_batches_of_a_step():
    program = pathlib.Path(__file__).parent / "programs/accumulation_memory.py"
    finished = jobs.run(0, str(program))
    (text,) = re.findall(r"RESULT (.*)", finished.stdout)
    result = json.loads(text)
    few, many = result["peaks"]
    # One sum per variable; a gradient per micro-batch would take 14 times the
    # weights.
    assert many - few < result["weights"]


def test_the_average_is_of_weights_and_statistics_after_every_step():
    run = Run(4, ema_decay=0.75)
    model = run.trainer.model
    expected = _values(model.variables)
    for _ in range(4):
        run.step()
        for path, value in _values(model.variables).items():
            expected[path] = 0.75 * expected[path] + 0.25 * value
    averages = _values(run.trainer.average.variables)
    assert len(averages) == len(expected) == 8
    for path, value in expected.items():
        np.testing.assert_allclose(
            averages[f"average/{path.replace('/', '_')}"],
            value,
            rtol=1e-5,
            atol=1e-6,
        )


def test_the_evaluation_takes_the_average_and_leaves_all_as_it_was():
    run = Run(4, ema_decay=0.75)
    for _ in range(3):
        run.step()
    before = _values(run.trainer.state)
    result = run.evaluate()
    assert result.examples == _VALIDATION_IMAGES
    after = _values(run.trainer.state)
    assert before.keys() == after.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value, path)
    # What a trainer finds that has the averages for weights.
    plain = Run(4)
    for variable in plain.trainer.model.variables:
        path = f"average/{variable.path.replace('/', '_')}"
        variable.assign(before[path])
    expected = plain.evaluate()
    assert (result.loss, result.top1) == (expected.loss, expected.top1)
    # And not what the weights give.
    for variable in plain.trainer.model.variables:
        variable.assign(before[variable.path])
    assert plain.evaluate().loss != pytest.approx(expected.loss, rel=1e-3)


def test_mixed_images_have_the_loss_of_their_mixed_targets():
    run = Run(4, loss="bce")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, _SIZE, _SIZE, 3), np.uint8)
    labels = np.array([0, 1, 2, 3], np.int32)
    batch = Batch(
        tf.constant(images),
        tf.constant(labels),
        tf.ones(4),
        tf.range(4, dtype=tf.int64),
        # A box of a quarter of the image.
        tf.constant([1.0, 0.0, 0.5, 0.5, 1.0]),
    )
    mixed = normalise(images).numpy()
    mixed[:, :8, 8:] = mixed[::-1, :8, 8:].copy()
    model = run.trainer.model
    logits = model(mixed, training=True).numpy()
    targets = 0.75 * np.eye(4) + 0.25 * np.eye(4)[::-1]
    losses = np.logaddexp(0, logits) - targets * logits
    run.trainer.train_step(iter([batch]))
    totals = run.trainer.take_train_totals()
    assert totals.loss == pytest.approx(np.sum(np.mean(losses, 1)), rel=1e-5)
    # Accuracy is of the images' own labels.
    assert totals.top1 == np.sum(np.argmax(logits, axis=1) == labels)
    assert totals.examples == 4


def test_an_overflow_in_one_step_does_not_reach_the_next():
    run = Run(4, precision="float16")
    variables = run.trainer.model.trainable_variables
    scale = run.trainer.optimizer.dynamic_scale
    run.step()
    before = _values(variables)
    scale.assign(np.inf)
    run.step()
    for path, value in _values(variables).items():
        np.testing.assert_array_equal(value, before[path])
    scale.assign(1024.0)
    run.step()
    # Else it was halved, and the step skipped.
    assert float(scale) == 1024.0
    for path, value in _values(variables).items():
        assert np.any(value != before[path]), path
        assert np.all(np.isfinite(value)), path


class _Curves(NullRunLog):
    """Keeps the curves."""

    def __init__(self):
        self.curves_at = {}

    def curves(self, kind, step, values):
        assert kind == "train"
        self.curves_at[step] = values


@pytest.mark.parametrize(
    ("micro_batch_size", "options"),
    [
        (16, {}),
        (4, {}),
        (8, {"precision": "float16"}),
        (8, {"optimizer": "lars", "lars_coefficient": 0.01}),
        (8, {"optimizer": "lars", "clip_global_norm": 0.01}),
    ],
)
def test_the_norms_are_those_of_what_is_applied(micro_batch_size, options):
    run = Run(micro_batch_size, weight_decay=0.0, **options)
    log = _Curves()
    norms = LogLayerNorms(run.trainer, run.plan, log, every_steps=3)
    variables = run.trainer.model.trainable_variables
    for step in range(3):
        before = [v.numpy() for v in variables]
        # As without momentum, so that the step is the rate times the gradient.
        for variable in run.trainer.optimizer.variables:
            if "momentum" in variable.path:
                variable.assign(tf.zeros_like(variable))
        norms.on_train_batch_begin(step)
        run.step()
        norms.on_train_batch_end(step)
    # Step 2 ends an epoch.
    assert list(log.curves_at) == [2, 3]
    curves = log.curves_at[3]
    rate = float(run.trainer.optimizer.learning_rate)
    clipped = 1.0
    if "clip_global_norm" in options:
        clipped = options["clip_global_norm"] / curves["gradient_norm"]
        assert clipped < 1
    for variable, value in zip(variables, before, strict=True):
        path = variable.path
        assert curves[f"weights/{path}"] == pytest.approx(
            np.linalg.norm(value), rel=1e-5
        )
        applied = rate * clipped * curves[f"gradients/{path}"]
        applied *= curves.get(f"trust_ratios/{path}", 1.0)
        change = np.linalg.norm(variable.numpy() - value)
        assert change == pytest.approx(applied, rel=1e-3, abs=1e-7)
    is_lars = "optimizer" in options
    assert ("trust_ratios/net/conv/kernel" in curves) == is_lars
    for whole, parts in (
        ("weight_norm", "weights"),
        ("gradient_norm", "gradients"),
    ):
        squares = [v**2 for n, v in curves.items() if n.startswith(f"{parts}/")]
        assert curves[whole] == pytest.approx(np.sqrt(sum(squares)), rel=1e-5)


def test_measuring_norms_changes_nothing():
    weights = []
    for measures in (False, True):
        run = Run(8)
        run.trainer.measures_norms = measures
        run.step()
        weights.append(_values(run.trainer.state))
        assert bool(np.any(run.trainer.gradient_norms)) == measures
    for path, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][path], value)
