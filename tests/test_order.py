"""The data order: every image once per epoch, the same at any world size."""

import numpy as np
import pytest

from hvd_imagenet.config import Config, OptimizationConfig, ScheduleConfig
from hvd_imagenet.order import epoch_permutation, images_at
from hvd_imagenet.plan import make_plan

_WORLDS = (1, 3, 8, 256)
_SEED = 7
# Not divisible by the batch of 1,536, nor by that of a rank.
_IMAGES = 5_003
_EPOCHS = 3


def _plan(world_size):
    optimization = OptimizationConfig(
        epochs=_EPOCHS,
        global_batch_size=1536,
        batch_size_per_process=2,
    )
    return make_plan(
        Config(
            optimization=optimization,
            schedule=ScheduleConfig(warmup_epochs=0),
        ),
        world_size=world_size,
        train_images=_IMAGES,
        validation_images=1,
    )


@pytest.mark.parametrize("length", [1, 2, 1000, 5_003])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (2**31 - 1, 89)])
def test_permutation_has_every_image_once(seed, epoch, length):
    permutation = epoch_permutation(seed, epoch, length)
    np.testing.assert_array_equal(np.sort(permutation), np.arange(length))
    assert permutation.dtype == np.int64


# As they were when this was written. Another order would be as good, but a
# run that is resumed after the change would see images twice or never.
@pytest.mark.parametrize(
    ("seed", "epoch", "expected"),
    [
        (0, 0, [998, 162, 670, 664, 185, 322, 431, 318]),
        (0, 1, [338, 261, 724, 958, 333, 497, 17, 614]),
        (1, 0, [404, 476, 90, 962, 378, 306, 737, 254]),
    ],
)
def test_golden_permutation(seed, epoch, expected):
    assert epoch_permutation(seed, epoch, 1000)[:8].tolist() == expected


def test_permutation_differs_per_epoch_and_seed():
    # (0, 1) and (1, 0) must differ too: the two are no sum.
    orders = {
        tuple(epoch_permutation(seed, epoch, 1000).tolist())
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_permutation_is_the_same_again():
    first = epoch_permutation(3, 4, 1000).copy()
    # Made anew, and after others: no generator is shared.
    epoch_permutation.cache_clear()
    epoch_permutation(3, 5, 1000)
    np.testing.assert_array_equal(epoch_permutation(3, 4, 1000), first)


def test_the_shared_permutation_cannot_be_changed():
    with pytest.raises(ValueError, match=r"read-only"):
        epoch_permutation(0, 0, 10)[0] = 1


def test_images_across_an_epoch_boundary():
    images, epochs = images_at(range(997, 1003), seed=0, length=1000)
    assert epochs.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.tolist() == [
        *epoch_permutation(0, 0, 1000)[-3:],
        *epoch_permutation(0, 1, 1000)[:3],
    ]


def test_images_of_positions_that_span_several_epochs():
    # A data set smaller than a micro-batch.
    images, epochs = images_at(range(2, 11), seed=5, length=4)
    assert epochs.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    expected = np.concatenate([epoch_permutation(5, e, 4) for e in range(3)])
    assert images.tolist() == expected[2:11].tolist()


@pytest.mark.parametrize("world_size", _WORLDS)
def test_every_image_exactly_once_per_epoch(world_size):
    plan = _plan(world_size)
    # One more epoch, which the last step reaches into.
    seen = np.zeros((_EPOCHS + 1, _IMAGES), np.int64)
    for rank in range(world_size):
        for step in range(plan.total_steps):
            for index in range(plan.phase(0).accumulation_steps):
                images, epochs = images_at(
                    plan.micro_batch(step, index, rank), _SEED, _IMAGES
                )
                np.add.at(seen, (epochs, images), 1)
    assert (seen[:_EPOCHS] == 1).all()
    assert seen[_EPOCHS].max() <= 1
    assert seen[_EPOCHS].sum() < plan.phase(0).global_batch_size


def _micro_batches(world_size):
    """Images by (step, number of the micro-batch within the step)."""
    plan = _plan(world_size)
    batches = {}
    for step in range(plan.total_steps):
        for index in range(plan.phase(0).accumulation_steps):
            for rank in range(world_size):
                positions = plan.micro_batch(step, index, rank)
                images, epochs = images_at(positions, _SEED, _IMAGES)
                batches[step, index * world_size + rank] = set(
                    zip(images.tolist(), epochs.tolist(), strict=True)
                )
    return batches


def test_every_world_sees_the_same_images_in_the_same_order():
    single = _micro_batches(1)
    assert len(single) == 10 * 768
    for world_size in _WORLDS[1:]:
        assert _micro_batches(world_size) == single


@pytest.mark.parametrize("step", [1, 4, 9])
@pytest.mark.parametrize("worlds", [(1, 256), (256, 3), (8, 1), (3, 8)])
def test_a_run_goes_on_at_any_step_in_another_world(worlds, step):
    before, after = map(_plan, worlds)
    # All ranks take the same steps, or they would wait for each other.
    total = before.total_steps
    assert after.total_steps == total
    positions = []
    for plan, steps in (before, range(step)), (after, range(step, total)):
        for number in steps:
            for index in range(plan.phase(0).accumulation_steps):
                for rank in range(plan.world_size):
                    positions.extend(plan.micro_batch(number, index, rank))
    # The stream of a world that was never left: nothing twice, nothing lost.
    assert positions == list(range(total * 1536))
    images, _ = images_at(range(len(positions)), _SEED, _IMAGES)
    for epoch in range(_EPOCHS):
        of_epoch = images[epoch * _IMAGES :][:_IMAGES]
        assert len(np.unique(of_epoch)) == _IMAGES
