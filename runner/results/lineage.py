"""Lineage records as lines of scratch files that the join reads: one line per row of the dataset.

The one rule: positions go 0, 1, 2, ... without a gap; a repeat follows the record it repeats and has its
key. Whatever else comes is a fault of this program, found here before a byte of a table is written.

A line holds the row's first record and, under `m`, its repeats. Fields have short names (their place
among the columns), so that no column name needs escaping; those of our own columns are left out where they
are NULL. Lines are made in groups (`Lines`), by `LineForm` for any record or spliced together from constant
parts (`LineForm.template`), and go to segments of 8 MB, because a table of long answers is joined segment by
segment (see `joining`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from runner.core.wire import encode_json
from runner.results.columns import KEY, LINEAGE_TYPES, POSITION, ResultColumn
from runner.results.faults import of_system, program_fault

REPEATS = "m"
_SEGMENT_BYTES = 8 << 20
_MAX_LINES_BYTES = 256 << 10
_WIDE_LINE_BYTES = 4 << 10
"""DuckDB works on 2,048 rows at a time, about five copies of them: above 4 KB a row that is too much."""


class Lines(NamedTuple):
    """The lines of so many consecutive positions from `start` on, each with its newline, as one text;
    `repeats` is how many records they hold beside the first of each."""

    start: int
    positions: int
    text: bytes
    longest_bytes: int
    repeats: int = 0

    @classmethod
    def of(cls, start: int, lines: Sequence[bytes], repeats: int = 0) -> Self:
        """These lines."""
        return cls(start, len(lines), b"".join(lines), max(map(len, lines)), repeats)


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


def write_lineage(groups: Iterable[Lines], folder: Path) -> Lineage:
    """Every line to `folder`. Memory: one group. Raises RunnerError for a wrong order."""
    positions = repeats = 0
    with closing(_Segments(folder)) as segments:
        for group in groups:
            if group.start != positions:
                raise program_fault(_misplaced(group.start, positions - 1))
            segments.write(group)
            positions += group.positions
            repeats += group.repeats
    return segments.summary(positions=positions, rows=positions + repeats)


class LineForm:
    """How the records of these columns are written as lines: the same bytes whichever way."""

    def __init__(self, columns: Sequence[ResultColumn]) -> None:
        fields = [column for column in columns if column.name != KEY]
        self._short = ["p", "k", *(str(index) for index in range(len(fields)))]
        self._names = [POSITION, KEY, *(column.name for column in fields)]
        self._times = frozenset(column.name for column in fields if is_time(column))
        # NULL in a field of JSON is a value of its own, so only ours may be left out.
        self._kept = frozenset(
            short
            for short, name in zip(self._short, self._names, strict=True)
            if name not in LINEAGE_TYPES or name == KEY
        )

    def groups(self, records: Iterable[Mapping[str, Any]], start: int = 0) -> Iterator[Lines]:
        """Records in position order from `start` on, as lines. Memory: one group, or one row's records.

        Raises RunnerError for a wrong order, and for a record that can't be written.
        """
        lines: list[bytes] = []
        size = repeats = 0
        for line in self._rows(records, start - 1):
            repeats += len(line.get(REPEATS, ()))
            lines.append(self._encoded(line))
            size += len(lines[-1])
            if size >= _MAX_LINES_BYTES:
                yield Lines.of(start, lines, repeats)
                start += len(lines)
                lines, size, repeats = [], 0, 0
        if lines:
            yield Lines.of(start, lines, repeats)

    def line(self, record: Mapping[str, Any]) -> bytes:
        """The line of a record without repeats."""
        return self._encoded(self._values(record))

    def template(self, constants: Mapping[str, Any], holes: Mapping[str, bytes]) -> bytes:
        """The line of all records that have these values, to be filled in by `%`: %d for the position, %b for
        the key, and the `holes`, which stand in the order of the columns. What is filled in makes JSON that
        is not null."""
        shown = {POSITION: b"%d", KEY: b"%b", **holes}
        values = self._values({**constants, **dict.fromkeys(shown, 0)})
        if [name for name in self._names if name in shown] != list(shown):
            raise ValueError(f"these are not in the order of the columns: {list(holes)}")
        parts = [
            b"%b:%b"
            % (encode_json(short), shown.get(name) or encode_json(values[short]).replace(b"%", b"%%"))
            for short, name in zip(self._short, self._names, strict=True)
            if short in values
        ]
        return b"{" + b",".join(parts) + b"}\n"

    def _rows(self, records: Iterable[Mapping[str, Any]], at: int) -> Iterator[dict[str, Any]]:
        """One dict per position, repeats gathered."""
        line: dict[str, Any] | None = None
        for record in records:
            values = self._values(record)
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

    def _values(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if self._times:
            record = {**record, **{name: _iso(record.get(name)) for name in self._times}}
        kept = self._kept
        return {
            short: value
            for short, value in zip(self._short, map(record.get, self._names), strict=True)
            if value is not None or short in kept
        }

    def _encoded(self, line: Mapping[str, Any]) -> bytes:
        try:
            return encode_json(line) + b"\n"
        except TypeError as error:
            what = f"the result of key {line.get('k')!r} can't be written: {error}"
            raise program_fault(what) from error


def is_time(column: ResultColumn) -> bool:
    """Such columns come as ISO text, Unix seconds or datetimes, and are read as text first."""
    return column.sql_type.upper().startswith("TIMESTAMP")


def _disorder(values: Mapping[str, Any], at: int, line: Mapping[str, Any] | None) -> str:
    if line is not None and values["p"] == at:
        return f"two keys for the row at position {at}: {line['k']!r} and {values['k']!r}"
    return _misplaced(values["p"], at)


def _misplaced(position: object, at: int) -> str:
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
        self._file = self._open()

    def write(self, group: Lines) -> None:
        try:
            if self._bytes >= _SEGMENT_BYTES:
                self._is_wide = self._is_wide or self._bytes > self._lines * _WIDE_LINE_BYTES
                self._file.close()
                self._file = self._open()
            self._file.write(group.text)
        except OSError as error:
            raise of_system(error, str(self._folder)) from error
        self._lines += group.positions
        self._bytes += len(group.text)
        self._longest = max(self._longest, group.longest_bytes)

    def _open(self) -> BinaryIO:
        self._all_bytes += self._bytes
        self._lines = self._bytes = 0
        self._paths.append(self._folder / f"lineage-{len(self._paths):06d}.jsonl")
        return self._paths[-1].open("wb", buffering=1 << 17)

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
