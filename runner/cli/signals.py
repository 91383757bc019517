"""Ctrl-C and SIGTERM: the first asks for an orderly stop, the second leaves at once.

An orderly stop is a KeyboardInterrupt in the main thread: the command closes what it opened and says how
to go on. Leaving at once is safe too, because the ledger is written before every step; it only spares
the waiting.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from runner.errors import EXIT_INTERRUPTED

_SHOW_CURSOR = "\x1b[?25h"


class Interrupts:
    """Whether somebody asked to stop. The live display reads it and says so."""

    def __init__(self) -> None:
        self.is_stopping = False
        self.on_first: Callable[[], None] | None = None

    def listen(self) -> None:
        """Take SIGINT and SIGTERM, but for those that the parent told us to ignore (`nohup`, `cmd &`)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_stopping:
            _leave_at_once()
        self.is_stopping = True
        if self.on_first is not None:
            self.on_first()
        raise KeyboardInterrupt


def _leave_at_once() -> None:
    """End this process and its workers without another line of Python. Never returns."""
    processes = sys.modules.get("multiprocessing")
    if processes is not None:
        for worker in processes.active_children():
            worker.kill()
    with suppress(OSError, ValueError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR.encode())
        os.write(2, b"left at once; the same command goes on from here\n")
    os._exit(EXIT_INTERRUPTED)
