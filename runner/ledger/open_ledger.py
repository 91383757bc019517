"""A ledger that is open: its two engines, and the edge of every transaction.

The rule: errors of the database are translated here, at the transaction's edge, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine

from runner.failpoints import failpoint
from runner.ledger.bulk import without_collector
from runner.ledger.engine import checkpoint, database_file, is_sqlite
from runner.ledger.faults import translated
from runner.ledger.handles import alone, note_closed, note_opened
from runner.ledger.journal import Journal
from runner.ledger.opening import open_engines, open_reading_engine, shown
from runner.ledger.place import LedgerPlace
from runner.ledger.seal import seal_closed


class OpenLedger:
    """What `Ledger` stands on: open, read, write, close."""

    def __init__(
        self,
        place: LedgerPlace,
        *,
        reader: Engine,
        writer: Engine | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.place = place
        self._reader = reader
        self._writer = writer
        self._clock = clock
        self._journal = Journal(place.journal, ledger=place.name)
        self._where = shown(place)
        self._file = database_file(place.url)
        self._is_open = True
        note_opened(self._file)

    @classmethod
    def open(cls, place: LedgerPlace, *, clock: Callable[[], float] = time.time) -> Self:
        """Open for writing; made if there is none, brought up to date if it is older.

        Errors: LedgerError for a newer version, a damaged file, a network disk, a foreign file.
        """
        with alone():
            writer, reader = open_engines(place)
            return cls(place, reader=reader, writer=writer, clock=clock)

    @classmethod
    def open_reading(cls, place: LedgerPlace) -> Self | None:
        """Open to look only; None if there is no ledger yet. Makes nothing, waits for nobody."""
        with alone():
            reader = open_reading_engine(place)
            return None if reader is None else cls(place, reader=reader, writer=None)

    @property
    def is_file(self) -> bool:
        """Whether another process can be told where it is: a file, and no server with a password."""
        return self._file is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Fold the log into the file, let go of it and seal it. Safe to repeat."""
        failpoint("ledger.closing")
        with alone():
            try:
                self._let_go()
            finally:
                if self._is_open:
                    self._is_open = False
                    note_closed(self._file)
            if self._writer is not None:
                seal_closed(self.place)

    def _let_go(self) -> None:
        self._reader.dispose()
        if self._writer is not None:
            with translated(self._where):
                if is_sqlite(self._writer):
                    checkpoint(self._writer)
            failpoint("ledger.folded")
            self._writer.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self._where), without_collector(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if self._writer is None:
            raise RuntimeError("this ledger was opened to read")
        with translated(self._where), without_collector(), self._writer.begin() as connection:
            yield connection
