"""The order of the data, as arithmetic on (seed, epoch).

Goyal 2017, section 3, Remark 4: one global random permutation of the training
images per epoch, cut into parts for the workers. `plan.py` says which
positions a step of a rank takes; this module says which images those are.
"""

import functools

import numpy as np


@functools.lru_cache(maxsize=2)
def epoch_permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The permutation of one epoch.

    Made from the raw output of a Philox generator, which NumPy keeps stable
    between its versions (unlike `Generator.permutation`), so that a run can be
    resumed after an upgrade. Two epochs are kept, as a step can span both.

    Returns:
        [length] int64, every number from 0 to length - 1 once; read-only.
    """
    keys = np.random.Philox(key=[seed, epoch]).random_raw(length)
    permutation = np.argsort(keys, kind="stable")
    permutation.flags.writeable = False
    return permutation


def images_at(
    positions: range, seed: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images at `positions` of the stream of epochs.

    Args:
        positions: consecutive positions; p is place p % length of epoch
            p // length.
        seed: seed of the run.
        length: images in the split.

    Returns:
        (images, epochs), both [len(positions)] int64.
    """
    stream = np.arange(positions.start, positions.stop, dtype=np.int64)
    epochs, places = np.divmod(stream, length)
    images = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        permutation = epoch_permutation(seed, int(epoch), length)
        images[chosen] = permutation[places[chosen]]
    return images, epochs
