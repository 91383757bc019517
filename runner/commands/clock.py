"""What time it is, for work that waits: clocks are set and sleep, and no bill may depend on that.

Theory. Times that outlive a process (`send_by_s`, `not_before_s`) are Unix seconds. Within a process they
are read from `SteadyClock`: the wall clock once, then one that only goes forward and counts sleep; so a
clock that is set a day back stops no poll, and one that is set ahead ends no settle time early. What is
stored is by the wall clock of that moment (`tracks.Surroundings.save`), so that the next process reads the
same waits; what was stored before that was set back is moved along with it when it is read
(`states.after_the_clock_was_set_back`). What lasts over the looks of several processes is measured so that
no clock that is set makes it shorter (`core.lasting`). How far back a listing is read is bounded by the
server's own times only (`calls.scan`), so it does not matter whether the server's clock agrees with ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def _elapsed_s() -> float:
    """Seconds that never jump. On Linux they count a sleeping machine's time too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SteadyClock:
    """Unix seconds by the wall clock at its making, and forward from there."""

    def __init__(
        self, *, wall: Callable[[], float] = time.time, elapsed_s: Callable[[], float] = _elapsed_s
    ) -> None:
        self._elapsed_s = elapsed_s
        self._origin_s = wall() - elapsed_s()

    def __call__(self) -> float:
        """Now."""
        return self._origin_s + self._elapsed_s()
