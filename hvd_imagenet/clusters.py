"""What TensorFlow reads of XLA's clusters when it is imported.

XLA compiles clusters of operations, with Horovod's exchanges between them.
Left to itself TensorFlow takes all of a step's forward and backward pass for
one, so that no gradient is there before the last one is and nothing of their
exchange is hidden. In clusters of limited size gradients are ready all along
the backward pass, at the price of what could be fused across.
"""

from collections.abc import MutableMapping

# Operations, about as many as a block of ResNet-50 has backwards. Its gradients
# are ready in 10 parts then; in 5 with 50 operations, 3 with 100, else in one.
LARGEST = 25

_FLAGS = "TF_XLA_FLAGS"


def set_limits(environ: MutableMapping[str, str]) -> None:
    """Sets where clusters end and that CPUs may have any.

    There are none until `tf.config.optimizer.set_jit` asks for them.

    Args:
        environ: environment variables of this process, in which TensorFlow is
            not imported yet. What TF_XLA_FLAGS has there wins.
    """
    ours = f"--tf_xla_cpu_global_jit --tf_xla_max_cluster_size={LARGEST}"
    # Of a flag that is there twice the last one counts.
    environ[_FLAGS] = f"{ours} {environ.get(_FLAGS, '')}".rstrip()
