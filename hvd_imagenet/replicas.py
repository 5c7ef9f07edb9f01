"""Whether all ranks still hold the same weights and optimizer state.

All ranks begin with the same values and apply the same averaged gradients to
them, so they stay equal to the bit without ever being sent again. Where a bit
flips in the memory of one rank that ends, and nothing in the loss tells: the
rank goes on with weights of its own, and its gradients spoil those of all.
"""

import hashlib
import itertools
import socket
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet import normalization, runlog
from hvd_imagenet.config import RunConfig
from hvd_imagenet.plan import Plan
from hvd_imagenet.processes import Processes
from hvd_imagenet.trainer import Trainer

_INTEGERS = {1: tf.uint8, 2: tf.uint16, 4: tf.int32, 8: tf.int64}
_NAMED = 8  # Ranks in a message at most.


class ReplicaError(RuntimeError):
    """Ranks hold different values; says which, where and what to do."""


class Checksums:
    """One number per variable that any change of its bits changes.

    With bits(i) the bit pattern of element i as an integer,

        checksum = sum over i of (2 i + 1) bits(i)    modulo 2^64

    A factor is odd, so no change of one element is lost; two differ by less
    than 2^32, so neither is an exchange of two elements of up to 32 bits.
    """

    def __init__(self, variables: Sequence[keras.Variable]):
        """Takes the variables, each of a dtype of up to 64 bits."""
        self._variables = variables
        longest = max(int(np.prod(v.shape)) for v in variables)
        self._factors = tf.range(1, 2 * longest, 2, dtype=tf.int64)
        self._checksums = tf.function(self._checksums)

    def __call__(self) -> np.ndarray:
        """[variables] int64, of the values as they are now."""
        return self._checksums().numpy()

    def _checksums(self):
        found = []
        for variable in self._variables:
            # One after the other: each takes 16 bytes per element meanwhile.
            with tf.control_dependencies(found[-1:]):
                # TensorFlow reshapes 32-bit integers in the host's memory, so
                # this comes first.
                flat = tf.reshape(variable.value, [-1])
                bits = tf.bitcast(flat, _INTEGERS[flat.dtype.size])
                factors = self._factors[: flat.shape[0]]
                found.append(tf.reduce_sum(tf.cast(bits, tf.int64) * factors))
        return tf.stack(found)


class CheckReplicas(keras.callbacks.Callback):
    """Ends the training on all ranks once they differ.

    Compares all that `trainer.state` has but the running statistics, which are
    every rank's own: when training begins, every so many steps, and before
    checkpoints, so that none is written of ranks that differ. Comes before
    what writes them.

    Ranks that compute in different ways do drift, by rounding: LARS, LAMB and
    clipping sum in another order with another number of threads. They are not
    compared.
    """

    def __init__(
        self,
        trainer: Trainer,
        processes: Processes,
        plan: Plan,
        asked: RunConfig,
        say: Callable[[str], None],
    ):
        """Says what to compare, and when.

        Args:
            trainer: holds the variables.
            processes: the ranks.
            plan: its epochs end with a checkpoint.
            asked: every how many steps to compare, and to write checkpoints.
            say: is told if ranks are not compared, and why.
        """
        super().__init__()
        self._processes = processes
        self._plan = plan
        self._say = say
        self._periods = (asked.check_replicas_steps, asked.checkpoint_steps)
        self._is_on = bool(asked.check_replicas_steps) and (
            processes.world.size > 1
        )
        if not self._is_on:
            return
        own = {
            id(variable)
            for variable in (
                *normalization.running_statistics(trainer.model),
                *trainer.average.statistics,
            )
        }
        variables = [v for v in trainer.state if id(v) not in own]
        self._names = [variable.path for variable in variables]
        self._checksums = Checksums(variables)

    def on_train_begin(self, logs=None):
        if not self._is_on:
            return
        computers = self._processes.gather_object(_computer())
        for rank, computer in enumerate(computers):
            if computer != computers[0]:
                self._is_on = False
                self._say(
                    "replicas are not compared: they round differently, rank 0"
                    f" with {computers[0]} and rank {rank} with {computer}"
                )
                return
        self.check("when training began")

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        if any(self._plan.is_due(done, period) for period in self._periods):
            self.check(f"after step {done}")

    def on_train_end(self, logs=None):
        if self.model.stop_training:  # Then a checkpoint follows, too.
            self.check("where the training stopped")

    def check(self, when: str) -> None:
        """Compares the ranks now. A collective operation.

        Args:
            when: for the error.

        Raises:
            ReplicaError: they differ; on all ranks.
        """
        if not self._is_on:
            return
        mine = self._checksums()
        digest = hashlib.blake2b(mine.tobytes(), digest_size=16).digest()
        # The numbers themselves, of hundreds of ranks, only if they matter.
        if len(set(self._processes.gather_object(digest))) == 1:
            return
        gathered = self._processes.gather_object((socket.gethostname(), mine))
        hosts, checksums = zip(*gathered, strict=True)
        raise ReplicaError(difference(self._names, hosts, checksums, when))


def difference(
    names: Sequence[str],
    hosts: Sequence[str],
    checksums: Sequence[np.ndarray],
    when: str,
) -> str:
    """What is wrong with ranks that differ, and the remedy.

    Args:
        names: [variables], in the order of the model.
        hosts: [ranks].
        checksums: [ranks] of [variables], not all the same.
        when: for people.
    """
    groups: dict[bytes, list[int]] = {}
    for rank, row in enumerate(checksums):
        groups.setdefault(row.tobytes(), []).append(rank)
    by_size = sorted(groups.values(), key=len, reverse=True)
    most = by_size[0]
    have_majority = 2 * len(most) > len(hosts)
    suspects = sorted(itertools.chain(*by_size[have_majority:]))
    other = np.any(np.stack(checksums) != checksums[most[0]], axis=0)
    (places,) = np.nonzero(other)
    what = names[places[0]]
    if len(places) > 1:
        what += f" and {len(places) - 1} more of {len(names)} variables"
    who = _listed(suspects, hosts)
    if have_majority:
        found = f"{who} differ from the other {len(most)} in {what}"
        if len(suspects) == 1:
            found = found.replace(" differ ", " differs ")
    else:
        found = f"{who} differ in {what}, and no majority tells who is right"
    machines = sorted({hosts[rank] for rank in suspects})
    return (
        f"The replicas differ {when}: {found}. The memory or GPU of"
        f" {' or '.join(machines[:_NAMED])} is suspect: test it, or leave that"
        " host out; the same command resumes from the last checkpoint, written"
        " while all ranks agreed."
    )


def _listed(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    words = [f"rank {rank} on {hosts[rank]}" for rank in ranks[:_NAMED]]
    if len(ranks) > _NAMED:
        words.append(f"{len(ranks) - _NAMED} more")
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _computer() -> str:
    """What the rounding of this process depends on."""
    machine = runlog.describe_machine()
    if tf.config.get_visible_devices("GPU"):
        return " and ".join(sorted(set(machine["gpus"])))
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return f"{threads} threads of {machine['processor']}"
