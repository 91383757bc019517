"""A DuckDB connection that keeps to its bounds: memory, threads, its own scratch folder, no downloads.

The one rule: nothing outside memory and `scratch` is touched but the files a statement names. Time zone
is UTC and insertion order is kept, so that equal inputs give equal bytes whatever the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

MEMORY_LIMIT = "256MB"
THREADS = 2
_NO_IO_THREADS = {} if duckdb.__version__.startswith("1.") else {"async_threads": 0}
"""DuckDB 2 starts eight threads for input and output, which gain nothing for files on a disk (measured)."""


@contextmanager
def open_engine(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database that spills to `scratch`; closed at the end of the block."""
    engine = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": MEMORY_LIMIT,
            "threads": THREADS,
            "temp_directory": str(scratch),
            "extension_directory": str(scratch),
            "secret_directory": str(scratch),
            "home_directory": str(scratch),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "preserve_insertion_order": True,
            **_NO_IO_THREADS,
        },
    )
    try:
        engine.execute("SET TimeZone = 'UTC'")
        engine.execute("SET enable_progress_bar = false")
        yield engine
    finally:
        engine.close()


def name(identifier: str) -> str:
    """A quoted identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """A quoted text literal."""
    return "'" + value.replace("'", "''") + "'"


def text_list(values: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """A list literal of texts."""
    return "[" + ", ".join(text(value) for value in values) + "]"
