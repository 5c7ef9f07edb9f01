"""The most memory that this process has used so far."""

import re

import tensorflow as tf


def peaks() -> dict[str, int | None]:
    """Peak of the host's memory and of the GPU's.

    Returns:
        "host_bytes" that were resident at once; "gpu_bytes" that TensorFlow
        had given out at once, None without a GPU.
    """
    # getrusage() would begin with that of the program that started this one.
    with open("/proc/self/status", encoding="utf-8") as file:
        kibibytes = re.search(r"^VmHWM:\s+(\d+) kB$", file.read(), re.MULTILINE)
    gpu_bytes = None
    if tf.config.get_visible_devices("GPU"):
        # Every process sees its own GPU only.
        gpu_bytes = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return {"host_bytes": 1024 * int(kibibytes[1]), "gpu_bytes": gpu_bytes}
