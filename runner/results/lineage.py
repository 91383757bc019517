"""Lineage records, streamed to scratch files that the join reads: one line per row of the dataset.

The one rule: positions go 0, 1, 2, ... without a gap; a repeat follows the record it repeats and has its
key. Whatever else comes is a fault of this program, found here before a byte of a table is written.

A line holds the row's first record and, under `m`, its repeats. Fields have short names (their place
among the columns), so that no column name needs escaping. Lines go to segments of 8 MB, because a table
of long answers is joined segment by segment (see `joining`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from runner.core.wire import encode_json
from runner.results.columns import KEY, POSITION, ResultColumn
from runner.results.faults import of_system, program_fault

REPEATS = "m"
_SEGMENT_BYTES = 8 << 20
_PENDING_BYTES = 16 << 10
"""Small on purpose: joining lines in larger pieces costs page faults, 256 KB twice the time of it all."""
_WIDE_LINE_BYTES = 4 << 10
"""DuckDB works on 2,048 rows at a time, about five copies of them: above 4 KB a row that is too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What was written: `positions` rows of the dataset with `rows` records between them."""

    segments: tuple[Path, ...]
    positions: int
    rows: int
    size_bytes: int
    longest_line_bytes: int
    is_wide: bool

    @property
    def has_repeats(self) -> bool:
        return self.rows != self.positions


def write_lineage(
    records: Iterable[Mapping[str, Any]], columns: Sequence[ResultColumn], folder: Path
) -> Lineage:
    """Every record to `folder`. Memory: one row's records. Raises RunnerError for a wrong order."""
    positions = repeats = 0
    with closing(_Segments(folder)) as segments:
        for line in _lines(records, columns):
            positions += 1
            repeats += len(line.get(REPEATS, ()))
            try:
                encoded = encode_json(line)
            except TypeError as error:
                what = f"the result of key {line.get('k')!r} can't be written: {error}"
                raise program_fault(what) from error
            segments.write(encoded)
    return segments.summary(positions=positions, rows=positions + repeats)


def _lines(records: Iterable[Mapping[str, Any]], columns: Sequence[ResultColumn]) -> Iterator[dict[str, Any]]:
    """One dict per position, repeats gathered. The hot loop of publishing: about 2 microseconds a record."""
    fields = [column for column in columns if column.name != KEY]
    short = ["p", "k", *(str(index) for index in range(len(fields)))]
    wanted = [POSITION, KEY, *(column.name for column in fields)]
    times = [str(index) for index, column in enumerate(fields) if is_time(column)]
    at, line = -1, None
    for record in records:
        values: dict[str, Any] = dict(zip(short, map(record.get, wanted)))  # noqa: B905  # equal by construction
        for place in times:
            if values[place].__class__ is not str:
                values[place] = _iso(values[place])
        if values["p"] == at + 1:
            if line is not None:
                yield line
            at, line = at + 1, values
        elif line is not None and values["p"] == at and values["k"] == line["k"]:
            line.setdefault(REPEATS, []).append(values)
        else:
            raise program_fault(_disorder(values, at, line))
    if line is not None:
        yield line


def is_time(column: ResultColumn) -> bool:
    """Such columns come as ISO text, Unix seconds or datetimes, and are read as text first."""
    return column.sql_type.upper().startswith("TIMESTAMP")


def _disorder(values: Mapping[str, Any], at: int, line: Mapping[str, Any] | None) -> str:
    if line is not None and values["p"] == at:
        return f"two keys for the row at position {at}: {line['k']!r} and {values['k']!r}"
    expected = "0" if line is None else f"{at} or {at + 1}"
    return f"the result of position {values['p']!r} came where position {expected} was due"


def _iso(value: object) -> str | None:
    """A time as text; Unix seconds beyond the calendar are no time and become NULL."""
    match value:
        case None | str():
            return value
        case datetime():
            return value.replace(tzinfo=value.tzinfo or UTC).isoformat()
        case int() | float():
            return _iso_of_seconds(value)
        case _:
            return None


@lru_cache(maxsize=1024)
def _iso_of_seconds(value: float) -> str | None:
    """Remembered, because thousands of answers come in one second."""
    try:
        return datetime.fromtimestamp(value, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None


class _Segments:
    """Files of whole lines, about 8 MB each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []
        self._lines = self._bytes = self._all_bytes = 0
        self._longest = 0
        self._is_wide = False
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._file = self._open()

    def write(self, line: bytes) -> None:
        self._pending.append(line)
        self._pending_bytes += len(line) + 1
        if self._pending_bytes >= _PENDING_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._bytes >= _SEGMENT_BYTES:
            self._is_wide = self._is_wide or self._bytes > self._lines * _WIDE_LINE_BYTES
            self._file.close()
            self._file = self._open()
        self._lines += len(self._pending)
        self._bytes += self._pending_bytes
        self._longest = max(self._longest, max(map(len, self._pending)) + 1)
        self._pending.append(b"")  # for the last newline
        try:
            self._file.write(b"\n".join(self._pending))
        except OSError as error:
            raise of_system(error, str(self._folder)) from error
        self._pending.clear()
        self._pending_bytes = 0

    def _open(self) -> BinaryIO:
        self._all_bytes += self._bytes
        self._lines = self._bytes = 0
        self._paths.append(self._folder / f"lineage-{len(self._paths):06d}.jsonl")
        return self._paths[-1].open("wb", buffering=1 << 17)

    def close(self) -> None:
        """Flush the last segment and close it."""
        try:
            self._flush()
            self._file.close()
        except OSError as error:
            raise of_system(error, str(self._folder)) from error

    def summary(self, *, positions: int, rows: int) -> Lineage:
        return Lineage(
            segments=tuple(self._paths),
            positions=positions,
            rows=rows,
            size_bytes=self._all_bytes + self._bytes,
            longest_line_bytes=self._longest,
            is_wide=self._is_wide,
        )
