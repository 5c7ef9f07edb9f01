"""How fast a run is, and how long it will still take."""

import itertools
import time
from typing import NamedTuple

from hvd_imagenet.plan import Plan


class Lap(NamedTuple):
    """Some steps, one after the other.

    Attributes:
        images: of all ranks.
        seconds: what they took.
    """

    images: int
    seconds: float


class Pace:
    """Takes the time of steps, and apart from them of what is between epochs.

    The steps ahead are estimated by their images and pixels, so that phases of
    larger images count for what they are; networks take time by the pixel.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self._since = time.perf_counter()
        self._first_step = 0
        self._images = 0
        self._pixels = 0
        self._seconds = 0.0
        self._pauses = 0
        self._pause_seconds = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Of all laps and ranks together; None without any."""
        return self._images / self._seconds if self._images else None

    @property
    def seconds(self) -> float:
        """Of all laps."""
        return self._seconds

    @property
    def pause_seconds(self) -> float:
        """Of all pauses."""
        return self._pause_seconds

    def begin(self, step: int) -> None:
        """Begins a lap after `step` steps; what was before does not count."""
        self._since = time.perf_counter()
        self._first_step = step

    def lap(self, step: int) -> Lap:
        """Ends a lap after `step` steps, and begins the next."""
        images = self._images_between(self._first_step, step)
        lap = Lap(images, time.perf_counter() - self._since)
        if images:
            self._images += images
            self._pixels += self._pixels_before(step) - self._pixels_before(
                self._first_step
            )
            self._seconds += lap.seconds
        self.begin(step)
        return lap

    def pause(self, step: int) -> None:
        """Ends what is done at the end of an epoch, and begins a lap."""
        self._pauses += 1
        self._pause_seconds += time.perf_counter() - self._since
        self.begin(step)

    def seconds_left(self, step: int) -> float | None:
        """Estimated time from the end of `step` steps to that of the run.

        None as long as no step was measured.
        """
        if not self._pixels:
            return None
        plan = self._plan
        pixels = self._pixels_before(plan.total_steps)
        pixels -= self._pixels_before(step)
        left = pixels / self._pixels * self._seconds
        if self._pauses:
            epochs = plan.epochs - plan.epoch_of_step(step)
            left += epochs * self._pause_seconds / self._pauses
        return left

    def _images_between(self, first: int, step: int) -> int:
        return self._plan.images_before(step) - self._plan.images_before(first)

    def _pixels_before(self, step: int) -> int:
        """Pixels of the images that the steps before `step` take."""
        phases = self._plan.phases.phases
        ends = [phase.first_step for phase in phases[1:]]
        return sum(
            phase.image_size**2
            * self._images_between(phase.first_step, min(end, step))
            for phase, end in zip(phases, [*ends, step], strict=True)
            if phase.first_step < step
        )


def duration(seconds: float) -> str:
    """A time for people, as "2 d 03 h", "1 h 05 min", "3 min 19 s", "12 s"."""
    seconds = round(seconds)
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    for (unit, size), (part, part_size) in itertools.pairwise(units):
        if seconds >= size:
            rest = seconds % size // part_size
            return f"{seconds // size} {unit} {rest:02} {part}"
    return f"{seconds} s"
