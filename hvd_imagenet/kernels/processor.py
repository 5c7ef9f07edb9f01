"""What the processor of this machine can do."""

import pathlib

_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def has(flag: str) -> bool:
    """Whether Linux names `flag`, as "avx2" or "amx_bf16"; no where unknown."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    flags = (line.split() for line in lines if line.startswith("flags"))
    return flag in next(flags, [])
