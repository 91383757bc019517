"""Which databases this process has open, so that nobody takes their locks from SQLite.

POSIX locks belong to a process and a file: whoever opens the database's file a second time, to look at its
bytes, and closes it, gives up every lock that SQLite holds there. Another process then takes itself for the
only one, and throws the write-ahead log away under our feet. So bytes are looked at only while this process
has no connection to that file, and one thread at a time opens or closes a ledger.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_lock = threading.RLock()
_open: Counter[str] = Counter()


@contextmanager
def alone() -> Iterator[None]:
    """While a ledger is opened or closed: no other thread does either."""
    with _lock:
        yield


def is_open_here(path: str | Path | None) -> bool:
    """Whether this process has a connection to the file. Ask while `alone`."""
    return path is not None and _open[_name(path)] > 0


def note_opened(path: str | Path | None) -> None:
    """One more ledger of this process is open on the file."""
    if path is not None:
        _open[_name(path)] += 1


def note_closed(path: str | Path | None) -> None:
    """One less."""
    if path is not None:
        _open[_name(path)] -= 1


def _name(path: str | Path) -> str:
    return os.path.realpath(path)
