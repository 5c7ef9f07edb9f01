"""Evaluation by mirror images; what an optimizer step may not repeat."""

import numpy as np
import pytest
import tensorflow as tf

from hvd_imagenet import (
    dataset,
    distributed,
    preprocessing,
    resnet,
    update_rule,
)
from hvd_imagenet.config import Config, DataConfig, ModelConfig
from hvd_imagenet.plan import make_plan
from hvd_imagenet.sources import SyntheticSource

pytestmark = pytest.mark.core

_IMAGES = 40
_CLASSES = 7


@pytest.mark.parametrize("flip", [False, True])
def test_a_mirror_image_counts_half_of_the_evaluation(flip):
    config = Config(
        model=ModelConfig(
            model="resnet10", image_size=32, num_classes=_CLASSES
        ),
        data=DataConfig(data_format="synthetic", evaluation_flip=flip),
    )
    source = SyntheticSource(
        _IMAGES, num_classes=_CLASSES, image_size=37, seed=0
    )
    plan = make_plan(
        config, world_size=1, train_images=1, validation_images=_IMAGES
    )
    processes = distributed.Processes()
    model = resnet.build_model(config.model)
    # Else all logits are small and alike.
    head = model.get_layer("logits").kernel
    head.assign(20.0 * head)
    trainer = update_rule.make_trainer(config, model, processes)

    def batches():
        return dataset.evaluation_batches(
            config, plan, source, processes.world, threads=1
        )

    evaluation = trainer.evaluate(
        batches(), steps=plan.evaluation_steps, examples=_IMAGES
    )
    totals, answers = evaluation.totals, evaluation.answers
    losses, predicted, in_top5 = 0.0, [], []
    for batch in batches():
        images = preprocessing.normalise(batch.images)
        logits = model(images, training=False).numpy()
        if flip:
            logits = (logits + model(images[:, :, ::-1]).numpy()) / 2
        count = int(np.sum(batch.weights))
        logits, labels = logits[:count], batch.labels[:count].numpy()
        spread = tf.reduce_logsumexp(logits, axis=1).numpy()
        losses += np.sum(spread - logits[np.arange(count), labels])
        order = np.argsort(-logits, axis=1)
        predicted.extend(order[:, 0])
        in_top5.extend(np.any(order[:, :5] == labels[:, np.newaxis], axis=1))
    assert totals.loss == pytest.approx(losses, rel=1e-5)
    labels = [source.read(image)[1] for image in range(_IMAGES)]
    assert totals.top1 == np.sum(np.equal(predicted, labels))
    assert totals.top5 == np.sum(in_top5)
    assert list(answers.images) == list(range(_IMAGES))
    assert list(answers.labels) == labels
    assert list(answers.predicted) == predicted
    assert list(answers.in_top5) == in_top5
