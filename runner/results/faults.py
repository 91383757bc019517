"""What can go wrong while a table is written, told in our words; the only translator of duckdb's errors.

Three kinds: the machine (disk, permission, memory) is a PublishError; rows that don't agree with the
dataset are a fault of this program and a plain RunnerError; what the user wrote wrong is an InputError.
In every case the table that stood there before stands there still.
"""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from runner.errors import RunnerError

MISMATCH = "a result does not belong to the row it stands beside"
"""Raised inside the engine where position or key of the two sides of the join differ."""

_UNTOUCHED = "nothing was published; the earlier table, if any, is as it was"


class PublishError(RunnerError):
    """The results table can't be written: disk full, no permission, not enough memory."""


def program_fault(what: str) -> RunnerError:
    """Our own code handed over rows that can't be a true table (I18, I24)."""
    return RunnerError(
        f"a fault of this program: {what}; {_UNTOUCHED}",
        next_step="please report it; the answers are safe in the ledger, and the next run writes them again",
    )


@contextmanager
def told_plainly(target: str) -> Iterator[None]:
    """Foreign errors out of the block become ours, naming `target`, the file or folder being written."""
    try:
        yield
    except duckdb.Error as error:
        raise _of_engine(error, target) from error
    except sqlite3.Error as error:
        raise PublishError(
            f"{target}: can't be written: {error}; {_UNTOUCHED}", next_step="free disk space, then run again"
        ) from error
    except OSError as error:
        raise of_system(error, target) from error


def _of_engine(error: duckdb.Error, target: str) -> RunnerError:
    text = first_line(error)
    if MISMATCH in text:
        return program_fault(MISMATCH)
    if isinstance(error, duckdb.OutOfMemoryException):
        return PublishError(
            f"{target}: not enough memory to join the rows: {text}; {_UNTOUCHED}",
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


def of_system(error: OSError, target: str) -> PublishError:
    """An error of the operating system about `target`, in our words."""
    what, next_step = in_our_words(error)
    return PublishError(f"{target}: {what}; {_UNTOUCHED}", next_step=next_step)


def in_our_words(error: OSError) -> tuple[str, str]:
    """What an error of the operating system says about a place to write to, and the next step."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full", "free disk space, then run again: nothing is sent twice"
        case errno.EACCES | errno.EPERM:
            return "no permission to write here", "change the permissions or `output.path`"
        case errno.EROFS:
            return "the file system is read-only", "choose another `output.path`"
        case errno.ENOTDIR | errno.EEXIST:
            return "a part of the path is a file, not a folder", "choose another `output.path`"
        case _:
            return f"can't be written: {error.strerror or error}", "check the disk, then run again"


def first_line(error: BaseException) -> str:
    """The first line of a foreign error, without the engine's name for its kind and its advice."""
    line = str(error).strip().partition("\n")[0].strip()
    return re.sub(r"^[A-Z][A-Za-z ]* Error: ", "", line)
