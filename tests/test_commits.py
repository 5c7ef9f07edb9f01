"""Commits: what a copy holds, whose is taken, and what a membership refuses."""

import keras
import numpy as np
import pytest

from hvd_imagenet import commits
from hvd_imagenet.membership import Membership
from hvd_imagenet.phases import Begun, Phase, Phases
from hvd_imagenet.processes import Processes

_PHASES = Phases(
    (
        Phase(
            epoch=0.0,
            image_size=8,
            crop_area_min=0.1,
            global_batch_size=8,
            batch_size_per_process=4,
            accumulation_steps=1,
        ),
    ),
    100,
)


def _begun(step):
    return Begun(step=step, phases=_PHASES)


def _variables():
    return [
        keras.Variable(np.ones([2, 3], np.float32), name="kernel"),
        keras.Variable(5, dtype="int64", trainable=False, name="iterations"),
    ]


def test_a_copy_holds_what_was_and_gives_it_back():
    commit, variables = commits.Commit(), _variables()
    assert commit.begun is None
    for step in (3, 7):  # The second into the memory of the first.
        variables[0].assign(np.full([2, 3], step))
        variables[1].assign(step)
        commit.take(_begun(step), variables)
        variables[0].assign_add(np.ones([2, 3]))
        variables[1].assign_add(1)
        commit.put(variables)
        assert commit.begun.step == step
        np.testing.assert_array_equal(variables[0].numpy(), step)
        assert int(variables[1]) == step


class _Ranks(Processes):
    """This rank among others, whose commits are given."""

    def __init__(self, begun_by_rank):
        super().__init__()
        self._begun = begun_by_rank

    def gather_object(self, value):
        return [begun and begun.step for begun in self._begun]

    def broadcast_object(self, value, root=0):
        return self._begun[root]


@pytest.mark.parametrize(
    ("steps", "root"),
    [
        ([4, 4], 0),
        ([None, 4, 4], 1),  # Rank 0 has just begun.
        ([0, None], 0),  # Nothing is done, which is a commit too.
        ([4, 6, None, 6], 1),  # Rank 0 failed when it was to take the last.
    ],
)
def test_the_newest_commit_is_taken_wherever_it_is(steps, root):
    begun = [None if step is None else _begun(step) for step in steps]
    found = commits.find_newest(_Ranks(begun), commits.Commit())
    assert found == (root, begun[root])


def test_without_a_commit_there_is_none_to_take():
    assert commits.find_newest(_Ranks([None, None]), commits.Commit()) is None


def test_a_membership_needs_an_elastic_launcher():
    with pytest.raises(ValueError, match="horovodrun --min-np"):
        Membership("none", {"HOROVOD_SIZE": "2"})


def test_a_cycle_time_is_refused():
    environ = {"HOROVOD_ELASTIC": "1", "HOROVOD_CYCLE_TIME": "5"}
    with pytest.raises(ValueError, match="HOROVOD_CYCLE_TIME=5 cannot be"):
        Membership("none", environ)
