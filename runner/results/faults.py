"""What can go wrong while a table is written, told in our words.

Three kinds: the machine (disk, permission, memory) is a PublishError; rows that don't agree with the
dataset are a fault of this program and a plain RunnerError; what the user wrote wrong is an InputError.
In every case the table that stood there before stands there still.
"""

from __future__ import annotations

import errno
import re

from runner.errors import RunnerError

MISMATCH = "a result does not belong to the row it stands beside"
"""Raised inside the engine where position or key of the two sides of the join differ."""

UNTOUCHED = "nothing was published; the earlier table, if any, is as it was"


class PublishError(RunnerError):
    """The results table can't be written: disk full, no permission, not enough memory."""


def program_fault(what: str) -> RunnerError:
    """Our own code handed over rows that can't be a true table (I18, I24)."""
    return RunnerError(
        f"a fault of this program: {what}; {UNTOUCHED}",
        next_step="please report it; the answers are safe in the ledger, and the next run writes them again",
    )


def of_system(error: OSError, target: str) -> PublishError:
    """An error of the operating system about `target`, in our words."""
    what, next_step = in_our_words(error)
    return PublishError(f"{target}: {what}; {UNTOUCHED}", next_step=next_step)


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
