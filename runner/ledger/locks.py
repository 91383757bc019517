"""Locks between processes: flock, held by the kernel for exactly as long as the holder lives.

A stopped process keeps its lock and a dead one never does, so there is no timeout to guess and no stale
pid file to judge. The text in a lock file tells people who has it; it is never used for exclusion.
Lock files are never deleted: a deleted one could be locked twice, under two inodes of one name.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from runner.errors import LedgerError, StillRunningError


class HeldElsewhereError(StillRunningError):
    """Another process holds the lock."""


LOOK_AGAIN_S = 0.2


def _leave(_holder: str) -> bool:
    return False


@contextmanager
def hold(path: Path, *, waits: Callable[[str], bool] = _leave) -> Iterator[None]:
    """Hold the lock at `path` for the length of the block.

    While somebody else holds it, `waits` is asked five times a second, with a text that says who, whether
    to wait on; by default nobody waits.
    Errors: HeldElsewhereError if another process (or another open of this one) has it; LedgerError if
    the file can't be made.
    """
    descriptor = _open(path)
    try:
        while not _take(descriptor):
            holder = _holder(descriptor)
            if not waits(holder):
                raise HeldElsewhereError(
                    f"already running: {holder}",
                    next_step="wait until it is done (`--wait 30m` does), or stop it; the same command "
                    "then goes on",
                )
            time.sleep(LOOK_AGAIN_S)
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LedgerError(
            f"{path}: the lock file can't be opened: {error.strerror}",
            next_step="check the permissions of the .runner folder",
        ) from error


def _sign(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} since {since}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
