"""Statements for many rows, and statements that are run often: compiled once per database dialect, run by
the driver itself.

The rule: what touches a row per request goes through here, and so does what every step of a shard asks or
writes. SQLAlchemy's own executemany with dictionaries is five to ten times slower (measured), because it
processes every row in Python, and a statement that is built anew at each step costs ten times what the
database takes for it; these statements hand plain tuples of int, str, bytes and None to the driver. Values
that a statement holds itself (a state) stay where they are; a list of them must be literals. Nothing here
knows a table.
"""

from __future__ import annotations

import gc
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    ColumnElement,
    Connection,
    Insert,
    Integer,
    Select,
    Table,
    bindparam,
    insert,
    literal_column,
)
from sqlalchemy.engine.interfaces import Dialect

from runner.ledger.postgresql import from_columns

Values = tuple[Any, ...]
_ROWS_TOGETHER = 250
"""So many rows are added by one statement, where the driver counts its parameters: a third less time than
row after row (measured). SQLite takes 32,766 of them."""

_ROWS_AS_LISTS = 5_000
_FEW_ROWS = 10
"""Where the driver names its parameters: so many rows, and not fewer, are added as lists."""


@contextmanager
def without_collector() -> Iterator[None]:
    """Python's cycle collector rests inside the block: a third of the time of a million-row commit went
    to walks through its tuples (measured), and there are no cycles among them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def fixed(name: str) -> ColumnElement[int]:
    """A whole number that is the same for all rows of one run of a `Bulk`, part of the text: a value that is
    bound costs a tenth of an update, for every row (measured)."""
    return literal_column(_hole(name), Integer)


def _hole(name: str) -> str:
    return f"<{name}>"


class _Compiled:
    """One statement's text for one dialect, and how a tuple in our order becomes its parameters."""

    def __init__(self, statement: ClauseElement, names: Sequence[str], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        wanted: list[str] | None = getattr(compiled, "positiontup", None)
        own = {name: value for name, value in compiled.params.items() if name not in names}
        self.arrange: Callable[[Values], Any] | None
        if wanted is None:
            self.arrange = lambda values: own | dict(zip(names, values, strict=True))
        elif list(wanted) == list(names):
            self.arrange = None
        else:
            # Our values, then the statement's own: an index for every question mark.
            places = [list(names).index(name) if name in names else -1 for name in wanted]
            constants = tuple(own[name] for name in wanted if name not in names)
            firsts = iter(range(len(names), len(names) + len(constants)))
            pick = itemgetter(*(next(firsts) if place < 0 else place for place in places))
            self.arrange = _arranging(pick, constants, len(places))
        is_plain = isinstance(statement, Insert) and not own
        self.together = _many_rows(self.text) if is_plain and wanted else None
        is_columnwise = is_plain and dialect.name == "postgresql" and " VALUES " in self.text
        binds: Mapping[str, BindParameter[Any]] = getattr(compiled, "binds", {})
        self.by_column = from_columns(self.text, names, binds) if is_columnwise else None

    def parameters(self, rows: Sequence[Values]) -> list[Any]:
        return list(rows) if self.arrange is None else [self.arrange(row) for row in rows]


def _arranging(pick: Callable[[Values], Any], constants: Values, count: int) -> Callable[[Values], Any]:
    if count == 1:
        return lambda values: (pick(values + constants),)
    return pick if not constants else lambda values: pick(values + constants)


def _many_rows(text: str) -> str | None:
    """The same INSERT for _ROWS_TOGETHER rows; None where something follows the values."""
    head, values, row = text.partition(" VALUES ")
    is_plain = row.startswith("(") and row.find(")") == len(row) - 1
    return f"{head}{values}{', '.join([row] * _ROWS_TOGETHER)}" if is_plain else None


class Bulk:
    """An INSERT, UPDATE or DELETE for many rows. `names` are its bind parameters in the tuples' order,
    `fixed` what is given once for all of them (not for an INSERT)."""

    def __init__(self, statement: ClauseElement, *names: str, fixed: Sequence[str] = ()) -> None:
        self.statement = statement
        self.names = names
        self.fixed = fixed
        self._compiled: dict[str, _Compiled] = {}

    def run(self, connection: Connection, rows: Iterable[Values], **given: int) -> int:
        """Run it for every tuple; gives the number of rows changed. No tuples: nothing happens."""
        compiled = self.compiled(connection.dialect)
        if compiled.by_column is not None:
            return _run_by_column(connection, compiled, *compiled.by_column, iter(rows))
        walk = iter(rows) if compiled.arrange is None else map(compiled.arrange, rows)
        if compiled.together is None:
            return _run_each(connection, self.text(connection.dialect, **given), list(walk))
        width = len(self.names)
        changed = 0
        # One flat tuple after the other: `zip` makes no new tuple for a row that nobody keeps.
        while len(flat := tuple(chain.from_iterable(islice(walk, _ROWS_TOGETHER)))) == _ROWS_TOGETHER * width:
            changed += _executed(connection, compiled.together, flat).rowcount
        rest = [flat[start : start + width] for start in range(0, len(flat), width)]
        return changed + _run_each(connection, compiled.text, rest)

    def text(self, dialect: Dialect, **given: int) -> str:
        """The statement's text with what is given once."""
        text = self.compiled(dialect).text
        for name in self.fixed:
            text = text.replace(_hole(name), str(int(given[name])))
        return text

    def compiled(self, dialect: Dialect) -> _Compiled:
        """The statement for this dialect, compiled once."""
        if dialect.name not in self._compiled:
            self._compiled[dialect.name] = _Compiled(self.statement, self.names, dialect)
        return self._compiled[dialect.name]


def _run_each(connection: Connection, text: str, rows: list[Any]) -> int:
    return int(_executed(connection, text, rows).rowcount) if rows else 0


def _executed(connection: Connection, text: str, parameters: Any) -> Any:
    """Run a statement, for each of them where the parameters are a list; what comes has `rowcount`,
    `lastrowid` and `close`.

    SQLite's own driver does it, in SQLAlchemy's transaction: what SQLAlchemy does around a statement takes
    longer than SQLite does for most of ours (measured).
    """
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        return connection.exec_driver_sql(text, parameters)
    if not connection.in_transaction():
        connection.begin()  # as SQLAlchemy would: nothing is written outside of one
    run = driver.executemany if isinstance(parameters, list) else driver.execute
    return run(text, parameters)


def _run_by_column(
    connection: Connection, compiled: _Compiled, text: str, order: Sequence[int], walk: Iterator[Values]
) -> int:
    """Many rows as lists, one for each column; few of them one by one, which takes less then."""
    changed = 0
    while chunk := list(islice(walk, _ROWS_AS_LISTS)):
        if len(chunk) < _FEW_ROWS:
            return changed + _run_each(connection, compiled.text, compiled.parameters(chunk))
        columns = [list(values) for values in zip(*chunk, strict=True)]
        found = connection.exec_driver_sql(text, tuple(columns[place] for place in order))
        changed += found.rowcount
    return changed


class Query:
    """A SELECT whose rows come as the driver's own tuples. `names` are its bind parameters."""

    def __init__(self, statement: ClauseElement, *names: str) -> None:
        self._bulk = Bulk(statement, *names)

    def rows(self, connection: Connection, *values: Any) -> list[Values]:
        """The rows found, in the statement's order."""
        compiled = self.compiled(connection.dialect)
        return _fetched(connection, compiled.text, compiled.parameters([values])[0])

    def first(self, connection: Connection, *values: Any) -> Any:
        """The first column of the first row; None without one."""
        found = self.rows(connection, *values)
        return found[0][0] if found else None

    def compiled(self, dialect: Dialect) -> _Compiled:
        """The statement for this dialect, compiled once."""
        return self._bulk.compiled(dialect)


def _maker(columns: Sequence[str]) -> Callable[[Values], Any]:
    """Named tuples of these columns."""
    record: Any = namedtuple("Record", columns)  # type: ignore[misc]
    make: Callable[[Values], Any] = record._make
    return make


class RecordQuery(Query):
    """A SELECT of few rows and many columns: they come under the columns' names."""

    def __init__(self, statement: Select[Any], *names: str) -> None:
        super().__init__(statement, *names)
        self._named: Callable[[Values], Any] = _maker(statement.selected_columns.keys())

    def records(self, connection: Connection, *values: Any) -> list[Any]:
        """The rows found, each a named tuple."""
        return [self._named(found) for found in self.rows(connection, *values)]

    def record(self, connection: Connection, *values: Any) -> Any:
        """The only row; None without one."""
        found = self.rows(connection, *values)
        return self._named(found[0]) if found else None


class KeyedInsert:
    """An INSERT of one row into a table whose key `id` the database gives."""

    def __init__(self, table: Table, *names: str) -> None:
        statement = insert(table).values({name: bindparam(name) for name in names})
        self._bulk = Bulk(statement, *names)
        self._query = Query(statement.returning(table.c.id), *names)

    def key(self, connection: Connection, *values: Any) -> int:
        """Add the row; gives its key. An SQLite that is too old for RETURNING tells it otherwise."""
        if connection.dialect.insert_returning:
            return int(self._query.first(connection, *values))
        compiled = self._bulk.compiled(connection.dialect)
        return int(_executed(connection, compiled.text, compiled.parameters([values])[0]).lastrowid)


def _fetched(connection: Connection, text: str, parameters: Any) -> list[Values]:
    """Without SQLAlchemy's row objects, which cost more than the query where there are a million."""
    done = _executed(connection, text, parameters)
    cursor = done if isinstance(done, sqlite3.Cursor) else done.cursor
    found: list[Values] = list(cursor.fetchall())
    done.close()
    return found


class Lookup:
    """A SELECT with `column IN (so many values)`, asked in chunks of one fixed size. `names` are its other
    bind parameters.

    A short chunk is filled up with its last value, so there is one text to compile and to prepare. The
    statement is built when it is first asked: so many parameters are felt at every start otherwise.
    """

    def __init__(
        self, build: Callable[[list[BindParameter[Any]]], ClauseElement], *names: str, size: int = 500
    ) -> None:
        self.size = size
        self._build = build
        self._names = names

    @cached_property
    def _bulk(self) -> Bulk:
        values = [f"value_{number}" for number in range(self.size)]
        return Bulk(self._build([bindparam(name) for name in values]), *self._names, *values)

    def rows(self, connection: Connection, values: Sequence[Any], *given: Any) -> list[Values]:
        """The rows found for these values, chunk by chunk, each in the statement's order. `given`: the values
        of `names`."""
        compiled = self.compiled(connection.dialect)
        found: list[Values] = []
        for start in range(0, len(values), self.size):
            chunk = tuple(values[start : start + self.size])
            chunk += chunk[-1:] * (self.size - len(chunk))
            parameters = compiled.parameters([(*given, *chunk)])[0]
            found += _fetched(connection, compiled.text, parameters)
        return found

    def compiled(self, dialect: Dialect) -> _Compiled:
        """The statement for this dialect, compiled once."""
        return self._bulk.compiled(dialect)
