"""Standard output and standard error: data to the one, words to the other.

Data is UTF-8 whatever the locale says, because other programs read it. A reader of stdout who leaves
(`| head`) ends a listing quietly; a stderr that is gone never stops a run.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress

import click

from runner.errors import RunnerError


class ReaderLeftError(Exception):
    """Nobody reads standard output any more. Not a fault."""


def write_out(text: str) -> None:
    """Data for stdout, flushed. Raises ReaderLeftError, or RunnerError where stdout can't take it."""
    data = text.encode("utf-8", "backslashreplace")
    if sys.stdout is None:
        raise RunnerError("standard output is closed", next_step="give it a place that can be written")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        leave_stdout()
        raise ReaderLeftError from error
    except OSError as error:
        leave_stdout()
        message = f"can't write to standard output: {error.strerror}"
        raise RunnerError(message, next_step="give it a place that can be written") from error


def leave_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush has nothing to complain about."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def say(text: str) -> None:
    """A line for people, on stderr. Never raises for a stderr that is closed or full."""
    with suppress(OSError, ValueError):
        click.echo(text, err=True, color=is_coloured())


def is_coloured() -> bool | None:
    """False where the user said NO_COLOR; None leaves it to the terminal."""
    return False if os.environ.get("NO_COLOR") else None


def stdout_width() -> int | None:
    """The columns of the terminal that stdout is, or None: then nothing needs to be cut."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def is_stdout_coloured() -> bool:
    """Whether stdout is a terminal of somebody who did not say NO_COLOR."""
    return stdout_width() is not None and is_coloured() is None


def is_live_terminal() -> bool:
    """Whether stderr is a terminal that can repaint lines."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def can_ask() -> bool:
    """Whether a person sits at both ends: stdin and stderr are terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
