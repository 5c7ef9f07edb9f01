"""Memory for the images of a batch, used again for those of another one."""

import weakref

import numpy as np

# TensorFlow takes a part of a tensor without copying it where it is aligned so.
_ALIGNMENT = 64


class Buffers:
    """Memory that is used again once TensorFlow has let go of it.

    The first use of fresh memory takes several times as long as to copy an
    image into it.
    """

    def __init__(self):
        self._free: list[np.ndarray] = []
        self._length = 0

    def take(self, length: int) -> np.ndarray:
        """[length] uint8 or more, not set, at an aligned address."""
        # What was enough for one batch is likely to be so for others.
        self._length = max(self._length, length)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) < length + _ALIGNMENT:
            memory = np.empty(self._length + _ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % _ALIGNMENT
        # Not a plain slice: parts of that would keep `memory`, not the slice.
        array = np.frombuffer(
            memory.data, np.uint8, len(memory) - _ALIGNMENT, first
        )
        weakref.finalize(array, self._free.append, memory)
        return array


class Filling:
    """A buffer that images are put into, one after the other.

    Attributes:
        array: [bytes] uint8: what is there so far, and room.
    """

    def __init__(self, buffers: Buffers, images: int):
        """Begins with nothing.

        Args:
            buffers: where the memory is from.
            images: that are to come.
        """
        self.array = np.empty(0, np.uint8)
        self._buffers = buffers
        self._images = images
        self._end = 0

    def put(self, data: bytes | np.ndarray, first: int, length: int) -> int:
        """Adds a part of `data`; its first byte in the array."""
        start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        self._end = start + length
        if self._end > len(self.array):
            # Enough where the others are as large.
            room = self._images * (length + _ALIGNMENT)
            wanted = max(start + room, 2 * len(self.array))
            larger = self._buffers.take(wanted)
            larger[:start] = self.array[:start]
            self.array = larger
        self.array[start : self._end] = np.frombuffer(
            data, np.uint8, length, first
        )
        self._images -= 1
        return start
