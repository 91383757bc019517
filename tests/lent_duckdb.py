"""A few DuckDBs for many small tables, in the place of `runner.dataset.engine.connect` and of
`runner.results.engine.open_engine`.

DuckDB takes longer to open than to read a small file. A lent connection is one that these have made, with all
its locks; only, it may read and write wherever its lender's folder is. Whoever is given one has it alone, and
what was made in it is dropped when it is given back. What opening and locking do by themselves is tested in
tests/contract.

A connection remembers the ends of Parquet files that it read: no two may have the same path.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb

from runner.dataset import engine
from runner.results.engine import open_engine

USES_PER_CONNECTION = 100
_Opened = AbstractContextManager[duckdb.DuckDBPyConnection]
_MADE = "; ".join(
    [f"DROP VIEW IF EXISTS {view}" for view in ("dataset", "unmarked", "written", "cells")]
    + ["DROP TABLE IF EXISTS suffixes"]
)


class Lender:
    """Lends connections of some kinds (a limit of memory, or what it is for), and each only so often."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connect = engine.connect
        self._open_engine = open_engine
        self._changing = threading.Lock()
        self._free: defaultdict[str, list[_Kept]] = defaultdict(list)
        self._is_over = False

    def connect(self, *, memory_limit: str = engine.MEMORY_LIMITS[0], **_: Any) -> Any:
        """As `engine.connect`."""

        @contextmanager
        def opened() -> Iterator[duckdb.DuckDBPyConnection]:
            with closing(self._connect(files=[], folder=self._folder, memory_limit=memory_limit)) as made:
                yield made

        return self._lent(memory_limit, opened)

    @contextmanager
    def open_engine(self, _scratch: Path) -> Iterator[Any]:
        """As `open_engine`."""
        with self._lent("results", lambda: self._open_engine(self._folder)) as lent:
            yield lent

    def _lent(self, kind: str, opened: Callable[[], _Opened]) -> _Lent:
        with self._changing:
            kept = self._free[kind].pop() if self._free[kind] else None
        kept = kept or _Kept.of(opened())
        return _Lent(kept.connection, lambda: self._take_back(kind, kept))

    def _take_back(self, kind: str, kept: _Kept) -> None:
        kept.connection.execute(_MADE)
        kept.uses += 1
        with self._changing:
            is_kept = kept.uses < USES_PER_CONNECTION and not self._is_over
            if is_kept:
                self._free[kind].append(kept)
        if not is_kept:
            kept.end.close()

    def close(self) -> None:
        """Close what is not lent now; the rest is closed when it is given back."""
        with self._changing:
            self._is_over = True
            free = [kept for kind in self._free.values() for kept in kind]
            self._free.clear()
        for kept in free:
            kept.end.close()


@dataclass(slots=True)
class _Kept:
    """A connection, what closes it, and how often it was lent."""

    connection: duckdb.DuckDBPyConnection
    end: ExitStack
    uses: int = 0

    @classmethod
    def of(cls, opened: _Opened) -> _Kept:
        end = ExitStack()
        return cls(connection=end.enter_context(opened), end=end)


class _Lent:
    """A connection that is given back when it is closed, or forgotten."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, give_back: Callable[[], None]) -> None:
        self._connection = connection
        self._end = weakref.finalize(self, give_back)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __enter__(self) -> _Lent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it back."""
        self._end()


@contextmanager
def lent_connections(folder: Path) -> Iterator[None]:
    """In this block datasets below `folder`, where temporary folders are made too, share connections, and so
    do tables that are written."""
    lender = Lender(folder)
    with (
        mock.patch.object(engine, "connect", lender.connect),
        mock.patch("runner.results.publishing.open_engine", lender.open_engine),
        mock.patch.object(tempfile, "tempdir", str(folder)),
    ):
        yield
    lender.close()
