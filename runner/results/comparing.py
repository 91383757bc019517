"""Two published tables of one manifest against each other: which answers came, went, or are others now.

Rows are the same where key and repeat are. An answer is its status, its text and its embedding: the
schema's fields follow from the text. The join is over 64-bit hashes of answers, so that memory stays flat
however long they are; texts are read again for the examples that are shown. Like every read of a table,
this one runs in an engine that can open these two files and nothing else.
"""

# ruff: noqa: S608  # names and texts enter statements through engine.name and engine.text only

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from runner.errors import InputError, Mistake, RunnerError
from runner.results.columns import LINEAGE_TYPES
from runner.results.engine import MEMORY_LIMIT, name, open_engine, text, text_list
from runner.results.faults import first_line


class UnreadableTableError(InputError):
    """A table at `path` that is damaged, or was never one of ours."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__([Mistake(where=str(path), what=why)])
        self.path = path
        self.why = why


MOST_VALUES = 20
"""A column with more values than this in the two tables together is not counted value by value."""
_MEMORY_LIMITS = (MEMORY_LIMIT, "1GB", "4GB")
"""Tried in this order: the first does for answers of some KB, the others for long lists of numbers, of which
the engine holds 2,048 rows at a time and a few copies."""
_PARQUET = "table.parquet"
_SHOWN = ("_status", "_answer")
_NEEDED = {"_key", "_repeat", "_finish_reason", *_SHOWN}
_NESTED = ("STRUCT", "MAP", "JSON", "UNION")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueChange:
    """What one column of one row held before and holds now, as text. None: nothing, or no such column."""

    column: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedAnswer:
    """A row in both tables whose answer is another one. `values` are the columns that differ."""

    key: str
    repeat: int
    values: tuple[ValueChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneAnswer:
    """A row that is in one of the tables only."""

    key: str
    repeat: int
    status: str
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueCount:
    """How many rows hold `value` in `column`; None is NULL."""

    column: str
    value: str | None
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableComparison:
    """All counts are of rows; `changes`, `additions` and `removals` are the first ones of each kind."""

    rows_before: int
    rows_after: int
    equal: int
    changed: int
    added: int
    removed: int
    changes: tuple[ChangedAnswer, ...]
    additions: tuple[LoneAnswer, ...]
    removals: tuple[LoneAnswer, ...]
    counts: tuple[ValueCount, ...]


def compare_tables(before: Path, after: Path, *, limit: int, scratch: Path | None = None) -> TableComparison:
    """Compare two Parquet results tables; at most `limit` examples of each kind.

    `scratch` takes what spills (None: the system's place). Raises UnreadableTableError for a file that is
    missing, damaged, or no results table.
    """
    for path in (before, after):
        if not path.is_file():
            raise UnreadableTableError(path, "there is no such table")
    for memory_limit in _MEMORY_LIMITS:
        try:
            return _compared(before, after, limit, scratch, memory_limit)
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            if memory_limit == _MEMORY_LIMITS[-1] or isinstance(error, duckdb.IOException):
                what = f"the tables can't be compared: {first_line(error)}"
                raise RunnerError(what, next_step="free memory and disk space, then ask again") from error
        except duckdb.Error as error:
            raise UnreadableTableError(_damaged(before, after), "the file is damaged") from error
    raise AssertionError("unreachable")


def _compared(
    before: Path, after: Path, limit: int, scratch: Path | None, memory_limit: str
) -> TableComparison:
    with (
        tempfile.TemporaryDirectory(prefix="run-diff-", dir=scratch) as folder,
        open_engine(Path(folder)) as engine,
    ):
        engine.execute(f"SET memory_limit = {text(memory_limit)}")
        sides = _locked(engine, {"before": before, "after": after}, Path(folder))
        return _Comparison(engine, sides, limit).made()


def _locked(
    engine: duckdb.DuckDBPyConnection, paths: Mapping[str, Path], folder: Path
) -> dict[str, dict[str, str]]:
    """The files as views `before` and `after`, and the types of their columns; then nothing else opens.

    They are linked under plain names, because DuckDB takes some signs in a path for a pattern.
    """
    links = {side: folder / f"{side}-{_PARQUET}" for side in paths}
    for side, link in links.items():
        link.symlink_to(paths[side].resolve())
    engine.execute(f"SET allowed_paths = {text_list([str(link) for link in links.values()])}")
    engine.execute("SET enable_external_access = false")
    engine.execute("SET lock_configuration = true")
    for side, link in links.items():
        _check_footer(engine, link, paths[side])
        engine.execute(f"CREATE VIEW {side} AS SELECT * FROM read_parquet({text(str(link))})")
    return {side: _types(engine, side, paths[side]) for side in links}


def _check_footer(engine: duckdb.DuckDBPyConnection, link: Path, path: Path) -> None:
    try:
        engine.execute(f"SELECT 1 FROM parquet_file_metadata({text(str(link))})").fetchall()
    except duckdb.Error as error:
        raise UnreadableTableError(path, "the file is damaged") from error


def _damaged(before: Path, after: Path) -> Path:
    """Which of two tables can't be read to its end."""
    with tempfile.TemporaryDirectory(prefix="run-diff-") as folder, open_engine(Path(folder)) as engine:
        link = Path(folder) / _PARQUET
        link.symlink_to(before.resolve())
        try:
            engine.execute(f"SELECT max(hash(t)) FROM read_parquet({text(str(link))}) t").fetchall()
        except duckdb.Error:
            return before
    return after


def _types(engine: duckdb.DuckDBPyConnection, side: str, path: Path) -> dict[str, str]:
    types = {str(row[0]): str(row[1]) for row in engine.execute(f"DESCRIBE {side}").fetchall()}
    if not types.keys() >= _NEEDED:
        raise UnreadableTableError(path, "not a results table of ours")
    return types


class _Comparison:
    """The statements, one after another, over the views `before` and `after`."""

    def __init__(
        self, engine: duckdb.DuckDBPyConnection, sides: Mapping[str, Mapping[str, str]], limit: int
    ) -> None:
        self._engine = engine
        self._sides = sides
        self._limit = limit
        self._fields = list(
            dict.fromkeys(field for types in sides.values() for field in _fields(list(types)))
        )

    def made(self) -> TableComparison:
        self._join()
        rows_before, rows_after, both, equal = self._row(
            "SELECT count(was), count(now), count(was + now), count(*) FILTER (same) FROM pair"
        )
        return TableComparison(
            rows_before=rows_before,
            rows_after=rows_after,
            equal=equal,
            changed=both - equal,
            added=rows_after - both,
            removed=rows_before - both,
            changes=self._changes(),
            additions=self._lone("after", "was IS NULL", "now"),
            removals=self._lone("before", "now IS NULL", "was"),
            counts=tuple(count for column in self._counted() for count in self._counts(column)),
        )

    def _row(self, statement: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self._engine.execute(statement).fetchone() or ())

    # ------------------------------------------------------------ rows

    def _join(self) -> None:
        """The table `pair`: every row of either side, its places, and whether its answers are the same."""
        self._engine.execute(
            "CREATE TEMP TABLE pair AS SELECT coalesce(o._key, n._key) AS key, "
            "coalesce(o._repeat, n._repeat) AS repeat, o.place AS was, n.place AS now, "
            "coalesce(o.digest = n.digest, false) AS same "
            f"FROM ({self._hashed('before')}) o FULL JOIN ({self._hashed('after')}) n "
            "ON o._key = n._key AND o._repeat = n._repeat"
        )

    def _hashed(self, side: str) -> str:
        parts = [*_SHOWN, *(["_embedding"] if "_embedding" in self._sides[side] else [])]
        digest = f"hash({', '.join(parts)})"
        return f"SELECT _key, _repeat, row_number() OVER () AS place, {digest} AS digest FROM {side}"

    def _changes(self) -> tuple[ChangedAnswer, ...]:
        columns = [*_SHOWN, *self._fields, "_error_class", "_embedding"]
        cells = ", ".join(
            f"{self._cell(side, column)} AS {name(f'{number} {side}')}"
            for number, column in enumerate(columns)
            for side in self._sides
        )
        found = self._engine.execute(
            f"WITH wanted AS MATERIALIZED ({self._wanted('was IS NOT NULL AND NOT same', 'now')}) "
            f"SELECT w.key, w.repeat, {cells} FROM wanted w "
            f"JOIN {self._picked('before')} ON before._key = w.key AND before._repeat = w.repeat "
            f"JOIN {self._picked('after')} ON after._key = w.key AND after._repeat = w.repeat ORDER BY w.now"
        ).fetchall()
        return tuple(
            ChangedAnswer(key=key, repeat=repeat, values=_differing(columns, values))
            for key, repeat, *values in found
        )

    def _lone(self, side: str, condition: str, place: str) -> tuple[LoneAnswer, ...]:
        found = self._engine.execute(
            f"WITH wanted AS MATERIALIZED ({self._wanted(condition, place)}) "
            f"SELECT w.key, w.repeat, {side}._status, {side}._answer FROM wanted w JOIN {self._picked(side)} "
            f"ON {side}._key = w.key AND {side}._repeat = w.repeat ORDER BY w.{place}"
        ).fetchall()
        return tuple(
            LoneAnswer(key=key, repeat=repeat, status=status, answer=answer)
            for key, repeat, status, answer in found
        )

    def _wanted(self, condition: str, place: str) -> str:
        chosen = f"{condition} AND {place} IS NOT NULL ORDER BY {place} LIMIT {self._limit}"
        return f"SELECT * FROM pair WHERE {chosen}"

    def _picked(self, side: str) -> str:
        """The rows of a side that are wanted, so that no join ever holds the others' texts."""
        return f"(SELECT * FROM {side} WHERE _key IN (SELECT key FROM wanted)) {side}"

    def _cell(self, side: str, column: str) -> str:
        """A value as text; NULL where this side has no such column."""
        if column not in self._sides[side]:
            return "NULL"
        value = f"{side}.{name(column)}"
        if column == "_embedding":
            return f"CAST({value}[1:3] AS VARCHAR) || ' ... (' || len({value}) || ' numbers)'"
        return f"CAST({value} AS VARCHAR)"

    # ------------------------------------------------------------ values

    def _counted(self) -> Iterator[str]:
        """Columns that are worth a count: the answers' own where no schema takes them apart."""
        yield "_status"
        yield from self._fields or ("_answer",)
        yield from ("_finish_reason", "_model")

    def _counts(self, column: str) -> tuple[ValueCount, ...]:
        """Rows per value, the most frequent first; nothing for a column with many values."""
        holders = [side for side, types in self._sides.items() if _is_countable(types.get(column))]
        few = f"approx_count_distinct({name(column)}) <= {4 * MOST_VALUES}"
        if not holders or not all(self._row(f"SELECT {few} FROM {side}")[0] for side in holders):
            return ()
        parts = [
            f"SELECT CAST({name(column)} AS VARCHAR) AS value, {int(side == 'before')} AS was, "
            f"{int(side == 'after')} AS now FROM {side}"
            for side in holders
        ]
        found = self._engine.execute(
            f"SELECT value, sum(was), sum(now) FROM ({' UNION ALL '.join(parts)}) GROUP BY value "
            f"ORDER BY sum(was) + sum(now) DESC, value NULLS LAST LIMIT {MOST_VALUES + 1}"
        ).fetchall()
        if len(found) > MOST_VALUES or all(value is None for value, _, _ in found):
            return ()
        rows = max(sum(int(values[side]) for values in found) for side in (1, 2))
        if column == "_answer" and 2 * len(found) > rows:
            return ()  # texts of their own, in a small table
        return tuple(
            ValueCount(column=column, value=value, before=int(was), after=int(now))
            for value, was, now in found
        )


def _fields(columns: Sequence[str]) -> list[str]:
    """The schema's fields: they stand between `_answer` and the next column of ours."""
    start = columns.index("_answer") + 1
    stop = next(place for place in range(start, len(columns)) if columns[place] == "_finish_reason")
    return [column for column in columns[start:stop] if column not in LINEAGE_TYPES]


def _is_countable(kind: str | None) -> bool:
    return kind is not None and "[" not in kind and not kind.startswith(_NESTED)


def _differing(columns: Sequence[str], values: Sequence[str | None]) -> tuple[ValueChange, ...]:
    """Cells come in pairs. Embeddings may differ beyond the numbers that are shown of them."""
    pairs = zip(columns, values[::2], values[1::2], strict=True)
    return tuple(
        ValueChange(column=column, before=before, after=after)
        for column, before, after in pairs
        if before != after
    )
