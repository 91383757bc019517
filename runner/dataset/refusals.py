"""DuckDB's errors translated once into mistakes that a user can mend.

What DuckDB says about a file is looked up again by our own slow readers, which know the line; what it says
about the query keeps its words, without the internals, and gets its place in the query.
"""

from __future__ import annotations

import re

import duckdb

from runner.core.model import Manifest
from runner.dataset import csv_files, json_files
from runner.dataset.inputs import UNREADABLE, Format, Inputs
from runner.errors import InputError, Mistake, RunnerError

_FILE_TROUBLE = re.compile(
    r"CSV|JSON in file|JSON transform|GZIP|Malformed JSON|Expected top-level JSON|[Pp]arquet|magic bytes"
    r"|maximum_object_size"
)
_QUERY_ERRORS = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ParserException,
    duckdb.PermissionException,
)
_PREFIX = re.compile(r"^(?:[A-Z][A-Za-z-]* )+Error: ")
_PLACE = re.compile(r"^LINE (\d+): (.*)\n( *)\^", re.MULTILINE)
_PATH = re.compile(r"(?:file|File) [\"']([^\"']+)[\"']|file = (.+)")
_ADVICE = re.compile(r"\n\s*(?:LINE \d+:|Possible [Ff]ix|Possible [Ss]olution|Try |file = )")
_WRAPPER_LINES = 1
"""Lines that we put before the query when it is wrapped."""


def translated(manifest: Manifest, inputs: Inputs, error: duckdb.Error) -> RunnerError:
    """The error to raise from `error`, for anything that DuckDB raised while the dataset was read."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return _too_large(error)
    said = str(error)
    for plain_path, path in zip(inputs.plain_paths, inputs.paths, strict=True):
        said = said.replace(plain_path, path) if plain_path != path else said
    is_about_query = isinstance(error, _QUERY_ERRORS) or not _FILE_TROUBLE.search(plain(said))
    if manifest.dataset.query is None or not is_about_query:
        return InputError(_found_by_hand(inputs) or [_file_mistake(manifest, inputs, said)])
    return InputError([query_mistake(manifest, error, wrapper_lines=_WRAPPER_LINES)])


def _found_by_hand(inputs: Inputs) -> list[Mistake]:
    try:
        match inputs.format:
            case Format.CSV | Format.TSV:
                return csv_files.find_mistakes(inputs)
            case Format.JSON | Format.JSONL:
                return json_files.find_mistakes(inputs)
            case Format.PARQUET:
                return []
    except UNREADABLE:
        return []


def _file_mistake(manifest: Manifest, inputs: Inputs, said: str) -> Mistake:
    found = _PATH.search(said)
    path = next((group for group in found.groups() if group), None) if found else None
    if path is None and len(inputs.paths) == 1:
        path = inputs.paths[0]
    if "state machine reached an invalid state" in said:
        what = "mixed line endings or quotes against RFC 4180"
        return Mistake(where=path or "", what=what, hint="end all lines alike (LF or CRLF)")
    if "magic bytes" in said or "too small to be a Parquet" in said:
        return Mistake(where=path or "", what="not a Parquet file (no Parquet footer), or cut short")
    return Mistake(where=path or manifest.where("dataset.path"), what=plain(said))


def query_mistake(manifest: Manifest, error: duckdb.Error, *, wrapper_lines: int = 0) -> Mistake:
    """A mistake in `dataset.query`, with its line and column in the query where DuckDB tells them."""
    said = str(error)
    place = _PLACE.search(said)
    at = ""
    if place is not None:
        line = int(place[1]) - wrapper_lines
        column = len(place[3]) - len(f"LINE {place[1]}: ") + 1
        at = f" (query line {line}, column {column})"
        if line < 1:  # it points at what we put around the query: a value of it that can't be stored
            at = ""
        elif place[2].startswith("..."):
            at = f" (query line {line})"
    what = plain(said)
    hint = ""
    if "file system operations are disabled" in said:
        hint = "a query may only read `dataset`; name its files in dataset.path"
        what = what.partition(" - ")[0]
    path = "dataset.query"
    return Mistake(where=manifest.where(path), path=path, what=what + at, hint=hint)


def plain(said: str) -> str:
    """DuckDB's message on one line, without its error class, its advice on its options, the excerpt."""
    said = _PREFIX.sub("", said)
    said = _ADVICE.split(said, maxsplit=1)[0]
    return " ".join(said.split())[:500]


def _too_large(error: duckdb.Error) -> RunnerError:
    said = str(error)
    if "No space left" in said or "max_temp_directory_size" in said:
        return RunnerError(
            f"the disk is full: {plain(said)}", next_step="free space where .runner/ lies and run again"
        )
    return RunnerError(
        f"the dataset does not fit into memory: {plain(said)}",
        next_step="let dataset.query sort and group less at once, or make rows smaller",
    )
