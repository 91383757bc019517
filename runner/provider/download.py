"""A result file from the connection to the disk: flat memory, whole lines, honest about its end.

Its one rule: what lies on disk afterwards ends with a whole line. A transfer that broke keeps the lines
that had come, because a file of some gigabytes need not be read again from zero; the caller resumes with
`skip`, or rereads. Lines end at 0x0A and nowhere else. A body without Content-Length and without chunks
may be cut without anyone noticing, so it never counts as whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from runner.core.model import Download
from runner.core.wire import JsonError, decode_json
from runner.errors import LedgerError
from runner.failpoints import failpoint
from runner.provider.exchange import Stream, Timeouts

_MAX_LAST_LINE_BYTES: Final = 64 * 1024 * 1024
"""An unended line beyond this is not looked at any more: it counts as torn."""


@dataclass(slots=True)
class _Arrived:
    """Running counts of one transfer."""

    size_bytes: int = 0
    lines: int = 0
    line_start: int = 0
    stuck: bool = False


def receive(
    stream: Stream,
    target: Path,
    *,
    skip: int,
    timeouts: Timeouts,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Download, str | None]:
    """Write a reply's body to `target` (created or emptied, mode 0600) and sync it.

    Returns the download and why it broke off, None if it did not. `on_progress` gets the bytes so far.
    Raises LedgerError if the disk refuses.
    """
    stream.extend(timeouts.download_s)
    failpoint("download.begins")
    try:
        with os.fdopen(_create(target), "w+b") as file:
            arrived = _copy(stream, file, timeouts, on_progress)
            _settle_last_line(file, arrived)
            file.flush()
            failpoint("download.received")
            os.fsync(file.fileno())
        failpoint("download.synced")
    except FileNotFoundError as error:
        raise LedgerError(
            f"{target.parent} is gone, and with it perhaps the memory of what was paid",
            next_step="put the folder `.runner` back; without it, `run rebuild MANIFEST` before all else",
        ) from error
    except OSError as error:
        raise LedgerError(
            f"{target}: the download can't be written: {error.strerror or error}",
            next_step="free disk space or mend the permissions, then run the same command again",
        ) from error
    why = "slower than the least rate" if arrived.stuck else stream.cut_why
    download = Download(
        path=str(target),
        size_bytes=arrived.size_bytes,
        lines=arrived.lines,
        skip=skip,
        is_whole=why is None and stream.has_length,
        incomplete=_flag(stream.headers.get("x-incomplete")),
        last_line=_number(stream.headers.get("x-last-line")),
    )
    return download, why


def _create(target: Path) -> int:
    # Never through a link: whoever can plant one must not choose the file that is emptied.
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    return os.open(target, flags, 0o600)


def _copy(
    stream: Stream, file: BinaryIO, timeouts: Timeouts, on_progress: Callable[[int], None] | None
) -> _Arrived:
    arrived = _Arrived()
    started = time.monotonic()
    for chunk in stream.chunks():
        file.write(chunk)
        failpoint("download.piece")
        newlines = chunk.count(b"\n")
        if newlines:
            arrived.lines += newlines
            arrived.line_start = arrived.size_bytes + chunk.rindex(b"\n") + 1
        arrived.size_bytes += len(chunk)
        if on_progress is not None:
            on_progress(arrived.size_bytes)
        elapsed_s = time.monotonic() - started
        if elapsed_s > timeouts.grace_s and arrived.size_bytes < timeouts.download_floor * elapsed_s:
            arrived.stuck = True
            break
    return arrived


def _settle_last_line(file: BinaryIO, arrived: _Arrived) -> None:
    """Count a last line that only lacks its newline; cut off one that is torn."""
    length = arrived.size_bytes - arrived.line_start
    if not length:
        return
    if length <= _MAX_LAST_LINE_BYTES:
        file.flush()
        file.seek(arrived.line_start)
        if _is_object(file.read(length)):
            arrived.lines += 1
            return
    file.flush()
    file.truncate(arrived.line_start)
    arrived.size_bytes = arrived.line_start


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(decode_json(line), dict)
    except JsonError:
        return False


def _flag(text: str | None) -> bool | None:
    return {"true": True, "false": False}.get((text or "").strip().lower())


def _number(text: str | None) -> int | None:
    stripped = (text or "").strip()
    return int(stripped) if stripped.isascii() and stripped.isdigit() and len(stripped) < 16 else None
