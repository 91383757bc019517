"""A DuckDB of our own: in memory, small, on one thread, and closed to the world.

Rules: it can open exactly the files and folders that it is told; it installs and loads no extension, reads
no Python variable, writes nothing under the home folder; and its settings are locked, so that a query
can't undo that. One thread is no loss (measured: two write a snapshot no faster, in 1.5 times the memory) and
makes the order of rows plain. Nor are there threads for input and output: DuckDB 2 starts eight, which for
files on a disk gain nothing (measured) and cost 3 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

MEMORY_LIMITS = ("256MB", "1GB", "4GB")
"""Tried in this order. The first does for rows of some KB, sorting a million of them included (it spills);
rows of 100 KB and more need the others, because DuckDB holds 2,048 of them at a time and a few copies."""


CONFIG: Mapping[str, str | bool | int] = {
    "threads": 1,
    "preserve_insertion_order": True,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "allow_persistent_secrets": False,
} | ({} if duckdb.__version__.startswith("1.") else {"async_threads": 0})
"""What is settled before a database is there; the rest is set, and locked, afterwards."""


def connect(
    *, files: Sequence[str], folder: Path | None = None, memory_limit: str = MEMORY_LIMITS[0]
) -> duckdb.DuckDBPyConnection:
    """A locked connection that may read `files`, and read and write below `folder` (scratch and spill)."""
    connection = duckdb.connect(":memory:", config={**CONFIG, "memory_limit": memory_limit})
    try:
        _lock(connection, files, folder)
    except BaseException:
        connection.close()
        raise
    return connection


def _lock(connection: duckdb.DuckDBPyConnection, files: Sequence[str], folder: Path | None) -> None:
    # A folder that does not exist: nothing can be found there, and with no spill folder nothing is written.
    nowhere = str(folder / "none") if folder is not None else "/nonexistent"
    settings = {
        "home_directory": text(nowhere),
        "extension_directory": text(nowhere),
        "secret_directory": text(nowhere),
        "temp_directory": text(str(folder / "spill") if folder is not None else ""),
        "GLOBAL TimeZone": text("UTC"),  # a cursor is a session of its own
        "parquet_metadata_cache": "true",
        "enable_external_file_cache": "false",
        "enable_progress_bar": "false",
        "allowed_paths": text_list(files),
        "allowed_directories": text_list([str(folder)] if folder is not None else []),
        "enable_external_access": "false",
        "lock_configuration": "true",
    }
    for name, value in settings.items():
        connection.execute(f"SET {name} = {value}")


def is_pattern(path: str) -> bool:
    """Whether DuckDB would take the path for a glob. It knows no way to escape one."""
    return any(sign in path for sign in "*?[")


def plain_paths(paths: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The paths as DuckDB can be given them: each itself, or a symbolic link to it in `folder`."""
    return tuple(_linked(path, folder / f"input-{index}") for index, path in enumerate(paths))


def _linked(path: str, link: Path) -> str:
    if not is_pattern(path):
        return path
    link = link.with_suffix(".gz" if path.lower().endswith(".gz") else ".data")
    link.symlink_to(path)
    return str(link)


def private_file(path: Path) -> Path:
    """An empty file at `path` that nobody else may open, for COPY to fill: one that DuckDB makes may be read
    by everybody."""
    path.touch(mode=0o600)
    return path


def text(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def text_list(values: Sequence[str]) -> str:
    """Texts as an SQL list literal."""
    return "[" + ", ".join(text(value) for value in values) + "]"


def name(value: str) -> str:
    """A column's name as an SQL identifier."""
    return '"' + value.replace('"', '""') + '"'
