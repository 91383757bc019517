"""Errors of the libraries that write tables, in our words. Nobody else translates those of duckdb."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from runner.errors import RunnerError
from runner.results.faults import MISMATCH, UNTOUCHED, PublishError, first_line, of_system, program_fault

_OF_DISK = ("SQLITE_FULL", "SQLITE_IOERR")
"""What SQLite says where a disk is full or broken."""


@contextmanager
def told_plainly(target: str) -> Iterator[None]:
    """Foreign errors out of the block become ours, naming `target`, the file or folder being written."""
    try:
        yield
    except duckdb.Error as error:
        raise _of_engine(error, target) from error
    except sqlite3.Error as error:
        raise PublishError(
            f"{target}: can't be written: {error}; {UNTOUCHED}", next_step=_way_out(error)
        ) from error
    except OSError as error:
        raise of_system(error, target) from error


def _way_out(error: sqlite3.Error) -> str:
    if getattr(error, "sqlite_errorname", "").startswith(_OF_DISK):
        return "free disk space, then run again"
    return "choose another kind of table in `output.path`, then run again"


def _of_engine(error: duckdb.Error, target: str) -> RunnerError:
    text = first_line(error)
    if MISMATCH in text:
        return program_fault(MISMATCH)
    if isinstance(error, duckdb.OutOfMemoryException):
        return PublishError(
            f"{target}: not enough memory to join the rows: {text}; {UNTOUCHED}",
            next_step="free memory or disk space (sorting spills to disk), then run again",
        )
    if isinstance(error, duckdb.IOException):
        number = re.search(r'errno"?\s*:\s*"?(\d+)', str(error))
        known = int(number[1]) if number else _errno_in(text)
        return of_system(OSError(known, text), target)
    return program_fault(f"the join was refused: {text}")


def _errno_in(text: str) -> int:
    for words, number in (
        ("No space left", errno.ENOSPC),
        ("Disk quota", errno.EDQUOT),
        ("Permission denied", errno.EACCES),
        ("Read-only file system", errno.EROFS),
    ):
        if words in text:
            return number
    return 0
