"""Answers where they stand: result lines in the raw files, read by the place that the ledger knows.

The rule: nothing is taken for an answer but a line that says itself whose it is. Lines of a file come in no
order, so one by one they cost a call each; a file of which many are wanted is read whole, once, as long as it
is small enough. Memory: a bounded number of bytes and of open files.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from runner.core.wire import ResultLine, read_result_line
from runner.ledger import LedgerRow

_OPEN_FILES = 64
WHOLE_BYTES = 48 << 20
"""So much of the files is kept in memory, all of them together."""
_READ_SHARE = 32
"""A file is read whole once this part of it was read in pieces: it costs as much as some thousand calls."""


class RawAnswers:
    """Reads result lines of the files in `folder`. `paths` are those that were there. Of their bytes no more
    than `whole_bytes` are kept."""

    def __init__(self, folder: Path, whole_bytes: int = WHOLE_BYTES) -> None:
        self._folder = folder
        self._whole_bytes = whole_bytes
        self._files: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._read_bytes: dict[str, int] = {}
        self._whole: dict[str, bytes] = {}
        self._closing = ExitStack()
        self.paths: set[str] = set()

    def __enter__(self) -> RawAnswers:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def read(self, row: LedgerRow) -> ResultLine | None:
        """The line that holds the row's answer, or None where there is none (or its file is gone)."""
        if row.raw_path is None or row.offset is None or row.length is None:
            return None
        data = self.data(row.raw_path, row.offset, row.length)
        line = None if data is None else read_result_line(data)
        return line if isinstance(line, ResultLine) and line.custom_id == row.custom_id else None

    def data(self, path: str, offset: int, length: int) -> bytes | None:
        """The bytes at a place, less where the file ends before; None where the file is gone."""
        whole = self._whole.get(path)
        if whole is not None and offset + length <= len(whole):
            return whole[offset : offset + length]
        descriptor = self._files.get(path)
        if descriptor is None:
            descriptor = self._open(path)
            if descriptor is None:
                return None
        self._read_bytes[path] += length
        if whole is None and self._read_bytes[path] * _READ_SHARE > self._sizes[path] <= self._whole_bytes:
            self._take_whole(path, descriptor)
        return os.pread(descriptor, length, offset)  # also of what was appended after it was read whole

    def forget(self) -> None:
        """Let go of the bytes; what is read later is read again."""
        self._whole.clear()
        self._read_bytes = dict.fromkeys(self._read_bytes, 0)

    def _open(self, path: str) -> int | None:
        if len(self._files) >= _OPEN_FILES:
            self._closing.close()
            self._files.clear()
        try:
            descriptor = os.open(self._folder / path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        self._closing.callback(os.close, descriptor)
        self._files[path] = descriptor
        self._sizes[path] = os.fstat(descriptor).st_size
        self._read_bytes[path] = 0
        self.paths.add(path)
        return descriptor

    def _take_whole(self, path: str, descriptor: int) -> None:
        while self._whole and sum(map(len, self._whole.values())) + self._sizes[path] > self._whole_bytes:
            oldest = next(iter(self._whole))
            del self._whole[oldest]
            self._read_bytes[oldest] = 0
        with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
            file.seek(0)
            self._whole[path] = file.readall()
