"""One DuckDB for many small datasets, in the place of `runner.dataset.engine.connect`.

DuckDB takes longer to open than to read a small file. A lent connection is one of `engine.connect`, with all
its locks; only, it may read and write wherever its lender's folder is. What an example made in it is dropped
when that one closes it. What opening and locking do by themselves is tested in tests/contract.

A connection remembers the ends of Parquet files that it read: no two may have the same path.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb

from runner.dataset import engine

USES_PER_CONNECTION = 100
_MADE = "; ".join(
    [f"DROP VIEW IF EXISTS {view}" for view in ("dataset", "unmarked", "written", "cells")]
    + ["DROP TABLE IF EXISTS suffixes"]
)


class Lender:
    """Lends one connection for each limit of memory, and a new one after so many uses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connect = engine.connect
        self._lending: dict[str, tuple[duckdb.DuckDBPyConnection, int]] = {}

    def connect(self, *, memory_limit: str = engine.MEMORY_LIMITS[0], **_: Any) -> Any:
        """As `engine.connect`."""
        connection, uses = self._lending.get(memory_limit, (None, 0))
        if connection is None or uses == USES_PER_CONNECTION:
            if connection is not None:
                connection.close()
            connection = self._connect(files=[], folder=self._folder, memory_limit=memory_limit)
            uses = 0
        self._lending[memory_limit] = (connection, uses + 1)
        return _Lent(connection)

    def close(self) -> None:
        """Close what is lent."""
        for connection, _ in self._lending.values():
            connection.close()
        self._lending.clear()


class _Lent:
    """A connection whose end is the end of what was made in it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __enter__(self) -> _Lent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was made."""
        self._connection.execute(_MADE)


@contextmanager
def lent_connections(folder: Path) -> Iterator[None]:
    """In this block datasets below `folder`, where temporary folders are made too, share connections."""
    lender = Lender(folder)
    with (
        mock.patch.object(engine, "connect", lender.connect),
        mock.patch.object(tempfile, "tempdir", str(folder)),
    ):
        yield
    lender.close()
