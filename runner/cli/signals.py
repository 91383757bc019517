"""Ctrl-C and SIGTERM: the first asks for an orderly stop, the second leaves at once.

An orderly stop is a KeyboardInterrupt in the main thread: the command closes what it opened and says how
to go on. Leaving at once is safe too, because the ledger is written before every step; it only spares
the waiting.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

from runner.errors import EXIT_INTERRUPTED

STOPPING = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR, _HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Interrupts:
    """What was asked so far. The live display looks here and says that the program is stopping.

    A run takes signals itself while it works, to end a durable step first. So signals are counted where
    Python notes them for everybody: at the wakeup descriptor, whoever handles them.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._count = 0

    def listen(self) -> None:
        """Take SIGINT and SIGTERM, but for those that the parent told us to ignore (`nohup`, `cmd &`)."""
        self._noted, written = os.pipe()
        for end in (self._noted, written):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take)

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked."""
        return self.count() > 0

    def count(self) -> int:
        """How often somebody asked. Any thread may look."""
        if self._noted is not None:
            with suppress(BlockingIOError):
                self._count += sum(number in STOPPING for number in os.read(self._noted, 512))
        return self._count

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within, the first signal is only counted, for a program that looks (`wait`); the second leaves."""
        before = {number: signal.getsignal(number) for number in STOPPING}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self) -> None:
        """Until somebody asked. For a thread of its own."""
        while not self.is_stopping:
            select.select(
                [] if self._noted is None else [self._noted], [], [], 0.2
            )  # a handler may take the byte

    def wait_for_input(self, stream: TextIO) -> None:
        """Until `stream` has a line or its end, or a signal came (noted before any of its handlers run)."""
        watched = [stream.fileno()] + ([] if self._noted is None else [self._noted])
        select.select(watched, [], [])

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.count() > 1:
            leave_at_once()

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if self.count() > 1:
            leave_at_once()
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGINT and SIGTERM are a KeyboardInterrupt on the spot, whoever else had taken them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def cursor_hidden_on(terminal: int) -> Iterator[None]:
    """Within, somebody hides the cursor of this terminal (a descriptor). The shell has it while Ctrl-Z stops
    the process, and at the end, in whatever an interrupt came. Written past the console, whose locks the main
    thread may hold when the signal comes."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not os.isatty(terminal) or signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        os.write(terminal, _SHOW_CURSOR.encode())
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # the process stands still here until it is continued
        signal.signal(number, stop)
        os.write(terminal, _HIDE_CURSOR.encode())

    signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # no terminal any more; another thread takes it off the screen
            os.write(terminal, _SHOW_CURSOR.encode())
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def leave_at_once() -> None:
    """End this process without another line of Python; what renders for it ends with it. Never returns."""
    with suppress(OSError, ValueError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR.encode())
        os.write(2, b"left at once; the same command goes on from here\n")
    os._exit(EXIT_INTERRUPTED)
