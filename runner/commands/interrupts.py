"""Ctrl-C and SIGTERM as a flag: the current durable step ends, then the work stops in order.

A second signal is a KeyboardInterrupt on the spot; that is safe too (a crash is nothing special), only
less polite. Outside the main thread signals can't be caught, and the flag stays down.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopFlag:
    """Raised by a signal; looked at between steps."""

    def __init__(self) -> None:
        self.is_set = False

    def raise_(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


@contextmanager
def deferred_interrupts() -> Iterator[StopFlag]:
    """Within, the first SIGINT or SIGTERM only raises the flag. What the parent had ignored stays ignored."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    taken = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, flag.raise_) for number in taken}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
