"""Which TensorFlow, Python and build of Horovod work together, as tried.

The README's table says the same; a test holds the two together.
"""

import dataclasses

TESTED = "tested"
LOADS = "compiles and loads"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """A version of TensorFlow, with Horovod 0.28.1 and Keras 3.

    Attributes:
        pythons: minor versions of Python 3 that tools/setup takes for it.
        gloo: how far a build with Gloo alone is tried.
        mpi: the same with MPI.
        nccl: the same with NCCL.
        has_xla: whether Horovod's operations work in functions that XLA
            compiles, by HOROVOD_ENABLE_XLA_OPS=1. From TensorFlow 2.19 on its
            wheels lack the headers that those are compiled with.
    """

    pythons: tuple[int, ...]
    gloo: str
    mpi: str
    nccl: str
    has_xla: bool


# By TensorFlow's version; what tools/setup offers.
STACKS = {
    "2.18.1": Stack(
        pythons=(10, 11, 12), gloo=TESTED, mpi=TESTED, nccl=LOADS, has_xla=True
    ),
    "2.21.0": Stack(
        pythons=(10, 11, 12, 13),
        gloo=TESTED,
        mpi=TESTED,
        nccl=LOADS,
        has_xla=False,
    ),
}
