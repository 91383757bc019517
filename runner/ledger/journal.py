"""The side journal: every id the server ever gave, one JSON object a line, synced before anything else.

The rule: a line is on the disk before the ledger commits the same fact, so a lost or damaged database can
be rebuilt from here. Append only; readers skip what is not JSON (a torn last line after a power cut).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.core.wire import JsonError, decode_json, encode_json
from runner.errors import LedgerError
from runner.failpoints import failpoint

_TAIL_BYTES = 64_000


class Journal:
    """`ids.jsonl` of one ledger. `ledger` marks its lines where several databases share the folder."""

    def __init__(self, path: Path, *, ledger: str = "") -> None:
        self._path = path
        self._mark = {"ledger": ledger} if ledger else {}

    def append(self, fact: Mapping[str, Any]) -> None:
        """Write one line and sync it. A torn line before it is closed first. Errors: LedgerError."""
        try:
            is_new = not self._path.exists()
            descriptor = os.open(
                self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                start = b"" if _ends_whole(descriptor) else b"\n"
                _write_all(descriptor, start + encode_json({**fact, **self._mark}) + b"\n")
                failpoint("save.journal_written")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                sync_folder(self._path.parent)
            failpoint("save.journal_synced")
        except OSError as error:
            raise LedgerError(
                f"{self._path}: can't be written: {error.strerror}",
                next_step="free some disk space or fix the permissions, then run the same command again",
            ) from error

    def facts(self, *, from_byte: int = 0) -> Iterator[dict[str, Any]]:
        """Every whole line of this ledger, oldest first."""
        try:
            stream = self._path.open("rb")
        except OSError:
            return
        with stream:
            stream.seek(from_byte)
            for line in stream:
                fact = _read(line)
                if fact is not None and fact.get("ledger", "") == self._mark.get("ledger", ""):
                    yield fact

    def latest(self) -> Iterator[dict[str, Any]]:
        """Whole lines of this ledger, newest first: of the journal's end, or of all of it if need be."""
        size = self._path.stat().st_size if self._path.is_file() else 0
        found = list(self.facts(from_byte=max(size - _TAIL_BYTES, 0)))
        yield from reversed(found)
        if size > _TAIL_BYTES:
            yield from reversed(list(self.facts()))

    def damaged_lines(self) -> int:
        """Lines that were whole once and can't be read now; one torn by a crash is none of them."""
        try:
            stream = self._path.open("rb")
        except OSError:
            return 0
        with stream:
            return sum(_read(line) is None and line.rstrip().endswith(b"}") for line in stream)


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        fact = decode_json(line)
    except JsonError:
        return None
    return fact if isinstance(fact, dict) else None


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ends_whole(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
