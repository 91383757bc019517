"""Lineage records, streamed to scratch files that the join reads: one line per row of the dataset.

The one rule: positions go 0, 1, 2, ... without a gap; a repeat follows the record it repeats and has its
key. Whatever else comes is a fault of this program, found here before a byte of a table is written.

A line holds the row's first record and, under `m`, its repeats. Fields have short names (their place
among the columns), so that no column name needs escaping. Lines go to segments of 8 MB, because a table
of long answers is joined segment by segment (see `joining`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from runner.core.wire import encode_json
from runner.results.columns import KEY, POSITION, ResultColumn
from runner.results.faults import of_system, program_fault

_SEGMENT_BYTES = 8 << 20
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
    fields = tuple(column for column in columns if column.name != KEY)
    short = tuple(str(index) for index in range(len(fields)))
    wanted = tuple(column.name for column in fields)
    times = tuple(key for key, column in zip(short, fields, strict=True) if is_time(column))
    rows, at = 0, -1
    key: object = None
    line: dict[str, Any] = {}
    repeats: list[dict[str, Any]] = []
    with closing(_Segments(folder)) as segments:
        for record in records:
            position = record.get(POSITION)
            values = dict(zip(short, map(record.get, wanted), strict=True))
            for place in times:
                values[place] = _iso(values[place])
            if position == at + 1:
                if at >= 0:
                    segments.write(line)
                at, key, line = position, record.get(KEY), values
                line["p"], line["k"], repeats = position, key, []
            elif position == at and rows and record.get(KEY) == key:
                repeats.append(values)
                line["m"] = repeats
            else:
                raise program_fault(_disorder(record, at, key))
            rows += 1
        if rows:
            segments.write(line)
    return segments.summary(positions=at + 1, rows=rows)


def is_time(column: ResultColumn) -> bool:
    """Such columns come as ISO text, Unix seconds or datetimes, and are read as text first."""
    return column.sql_type.upper().startswith("TIMESTAMP")


def _disorder(record: Mapping[str, Any], at: int, key: object) -> str:
    position = record.get(POSITION)
    if position == at:
        return f"two keys for the row at position {at}: {key!r} and {record.get(KEY)!r}"
    expected = "0" if at < 0 else f"{at} or {at + 1}"
    return f"the result of position {position!r} came where position {expected} was due"


def _iso(value: object) -> str | None:
    """A time as text; Unix seconds beyond the calendar are no time and become NULL."""
    match value:
        case None | str():
            return value
        case datetime():
            return value.replace(tzinfo=value.tzinfo or UTC).isoformat()
        case int() | float():
            try:
                return datetime.fromtimestamp(value, UTC).isoformat()
            except (OverflowError, ValueError, OSError):
                return None
        case _:
            return None


class _Segments:
    """Files of whole lines, about 8 MB each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []
        self._lines = self._bytes = self._all_bytes = self._longest = 0
        self._is_wide = False
        self._file = self._open()

    def write(self, line: Mapping[str, Any]) -> None:
        try:
            encoded = encode_json(line)
        except TypeError as error:
            raise program_fault(f"the result of key {line.get('k')!r} can't be written: {error}") from error
        try:
            if self._bytes >= _SEGMENT_BYTES:
                self._is_wide = self._is_wide or self._bytes > self._lines * _WIDE_LINE_BYTES
                self._file.close()
                self._file = self._open()
            self._file.write(encoded)
            self._file.write(b"\n")
        except OSError as error:
            raise of_system(error, str(self._folder)) from error
        size = len(encoded) + 1
        self._lines += 1
        self._bytes += size
        self._longest = max(self._longest, size)

    def _open(self) -> BinaryIO:
        self._all_bytes += self._bytes
        self._lines = self._bytes = 0
        self._paths.append(self._folder / f"lineage-{len(self._paths):06d}.jsonl")
        return self._paths[-1].open("wb", buffering=1 << 20)

    def close(self) -> None:
        """Flush the last segment and close it."""
        try:
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
