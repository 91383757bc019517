"""Databases of DuckDB that are made before a fork, for processes that a zygote forks (`tests.warm_zygote`).

Theory. What a new in-memory database does for 16 ms of processor time is to list the built-in functions,
which are always the same; a small run opens three. One that has done nothing else, with one thread and none
for input and output, is the same database in a fork. It is given out once, with the settings that it was
asked for; they can all be set later than at the start, but for those it was made with. Whoever wants more,
or something else, gets a database of its own.

A connection that was given out is really closed; its database is not, but ends with the process. To forget
all those functions one by one touches every page on which they stand, and each must be copied for that:
a third of all pages that a small run had copied (measured). So what only the end of a database would show is
not seen in forks, but in tests that open it in their own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from runner.dataset.engine import CONFIG

_MADE_WITH = {name: CONFIG[name] for name in ("threads", "async_threads") if name in CONFIG}
_COUNT = 3
_connect = duckdb.connect
_ready: list[duckdb.DuckDBPyConnection] = []
_kept: list[duckdb.DuckDBPyConnection] = []
"""First connections to databases, of which others were given out; these keep them."""


def make_ahead() -> None:
    """Before the forks."""
    _ready.extend(_connect(":memory:", config=dict(_MADE_WITH)) for _ in range(_COUNT))


def hand_out() -> None:
    """In a fork: the program's next databases are those."""
    setattr(duckdb, "connect", _given)  # noqa: B010 - mypy knows better


def _given(database: str = ":memory:", *, config: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
    if database != ":memory:" or not _ready:
        return _connect(database, config=dict(config))
    _kept.append(_ready.pop())
    given = _kept[-1].cursor()
    for name, value in config.items():
        if _MADE_WITH.get(name) != value:
            given.execute(f"SET {name} = {_literal(value)}")
    return given


def _literal(value: str | bool | int) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()
