"""The dataset's files: which they are, what format, whether they are text, and whether they changed.

Globs are expanded and sorted, so the same files always come in the same order. Text formats are UTF-8;
the first byte that is not is named with its line. Nothing here parses rows or knows DuckDB.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, cast

from runner.core.model import Manifest
from runner.errors import InputError, Mistake

UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a file, compressed or not, can raise."""
_BLOCK_BYTES = 1 << 20
MAX_UNPACKED_RATIO = 250
UNPACKED_ALLOWANCE_BYTES = 64 << 20
"""A compressed file may always unpack to so much, and beyond that to so many times its size: tables of text
reach 20 times, a file that was made to fill a disk 1,000."""


class Format(StrEnum):
    """How a file is read; decided by its suffix."""

    CSV = "CSV"
    TSV = "TSV"
    JSONL = "JSONL"
    JSON = "JSON"
    PARQUET = "Parquet"


_SUFFIXES = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSON,
    ".parquet": Format.PARQUET,
}
_ALLOWED = "allowed: .csv .tsv .jsonl .ndjson .json (each also with .gz) and .parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One input file as it stood: absolute path, size in bytes, mtime in ns, inode, ctime in ns.

    Whoever sets a file's mtime back moves its ctime.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int
    ctime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InputsState:
    """All input files in dataset order, as they were seen at a moment. Equal states: nothing was touched
    since, but within a tick of the file system's clock.
    """

    files: tuple[InputFile, ...]
    seen_at_ns: int = field(compare=False, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The files of one dataset in order, all of one format.

    `plain_paths` lead to the same files and hold no signs of a glob; empty until somebody made them.
    """

    format: Format
    paths: tuple[str, ...]
    plain_paths: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether the files hold UTF-8 text."""
        return self.format is not Format.PARQUET


def fingerprint_of_inputs(manifest: Manifest) -> InputsState:
    """What the file system says about the input files; reads none of them.

    Errors: InputError, where a glob matches nothing, a file is missing or formats are mixed.
    """
    return state_of(find_inputs(manifest))


def state_of(inputs: Inputs) -> InputsState:
    """Size, times and inode of every file. Raises InputError where one has gone."""
    files = []
    seen_at_ns = time.time_ns()
    for path in inputs.paths:
        try:
            found = Path(path).stat()
        except OSError as error:
            raise InputError([Mistake(where=path, what=_why(error), path="dataset.path")]) from error
        files.append(
            InputFile(
                path=path,
                size_bytes=found.st_size,
                mtime_ns=found.st_mtime_ns,
                inode=found.st_ino,
                ctime_ns=found.st_ctime_ns,
            )
        )
    return InputsState(files=tuple(files), seen_at_ns=seen_at_ns)


def contents_of_inputs(manifest: Manifest) -> str:
    """The digest of the input files' bytes, as `Snapshot.contents`. Reads them all. Raises InputError."""
    return digest_of_inputs(find_inputs(manifest)).hex()


def find_inputs(manifest: Manifest) -> Inputs:
    """Expand `dataset.path` to files of one format. Raises InputError with every mistake.

    Order: as the entries are listed, each glob's matches sorted; a file named twice counts once.
    """
    mistakes: list[Mistake] = []
    formats: dict[str, Format] = {}
    for index, pattern in enumerate(manifest.dataset.paths):
        at = f"dataset.path.{index}" if len(manifest.dataset.paths) > 1 else "dataset.path"
        where = manifest.where(at)
        matches = _expand(pattern)
        if not matches:
            mistakes.append(Mistake(where=where, path=at, what=_nothing(pattern), hint=_neighbours(pattern)))
        for path in matches:
            kind = format_of(path)
            trouble = _unreadable(path)
            if kind is None:
                suffix = "".join(Path(path).suffixes[-2:]) or "none"
                what = f"{path}: unknown suffix ({suffix})"
                mistakes.append(Mistake(where=where, path=at, what=what, hint=_ALLOWED))
            elif trouble:
                mistakes.append(Mistake(where=where, path=at, what=f"{path}: {trouble}"))
            else:
                formats.setdefault(path, kind)
    if len(set(formats.values())) > 1:
        mistakes.append(_mixed(manifest, formats))
    if mistakes:
        raise InputError(mistakes)
    return Inputs(format=next(iter(formats.values())), paths=tuple(formats))


def format_of(path: str) -> Format | None:
    """The format that a path's suffix names; None for an unknown suffix."""
    name = path.lower()
    kind = _SUFFIXES.get(Path(name.removesuffix(".gz")).suffix)
    return None if kind is Format.PARQUET and name.endswith(".gz") else kind


def _expand(pattern: str) -> list[str]:
    """A literal file comes before its reading as a glob, so `data[1].csv` can be named."""
    if Path(pattern).exists():
        return [str(Path(pattern).absolute())]
    if not glob.has_magic(pattern):
        return []
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
    return sorted(str(Path(path).absolute()) for path in found if not Path(path).is_dir())


def _nothing(pattern: str) -> str:
    return f"no file matches {pattern}" if glob.has_magic(pattern) else f"no such file: {pattern}"


def _neighbours(pattern: str) -> str:
    """What the folder does hold, or how far the path exists."""
    folder = Path(pattern).parent
    if glob.has_magic(str(folder)):
        return ""
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    try:
        names = sorted(entry.name for entry in folder.iterdir() if format_of(entry.name))
    except OSError:
        return ""
    if not names:
        return f"{folder} holds no dataset files"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{folder} holds {', '.join(names[:5])}{more}"


def _unreadable(path: str) -> str:
    if Path(path).is_dir():
        return "is a folder; name files, or a glob such as *.csv"
    if not Path(path).is_file():
        return "is not a regular file"
    return "" if os.access(path, os.R_OK) else "permission denied"


def _mixed(manifest: Manifest, formats: dict[str, Format]) -> Mistake:
    firsts: dict[Format, str] = {}
    for path, kind in formats.items():
        firsts.setdefault(kind, path)
    listed = ", ".join(f"{Path(path).name} ({kind})" for kind, path in firsts.items())
    return Mistake(
        where=manifest.where("dataset.path"),
        path="dataset.path",
        what=f"files of different formats: {listed}",
        hint="all files of a dataset have one format",
    )


def short(name: str) -> str:
    """A column's name in a message: a damaged file can have one of any length."""
    return name if len(name) <= 80 else f"{name[:77]}..."


def _why(error: OSError) -> str:
    return error.strerror or str(error)


# ---------------------------------------------------------------- contents


def open_bytes(path: str) -> BinaryIO:
    """The file's bytes, decompressed where the name ends in .gz."""
    if path.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    return Path(path).open("rb")


def digest_of_inputs(inputs: Inputs) -> bytes:
    """sha256 over the files' (decompressed) bytes in order. Raises InputError.

    Text is checked to be UTF-8 on the way; every file that is not is reported.
    """
    whole = sha256(inputs.format.encode())
    mistakes: list[Mistake] = []
    for path in inputs.paths:
        digest = sha256()
        checker = _Utf8Checker(path) if inputs.is_text else None
        try:
            for block in _blocks(path):
                digest.update(block)
                if checker is not None:
                    checker.feed(block)
            if checker is not None:
                checker.finish()
        except InputError as error:
            mistakes += error.mistakes
        except UNREADABLE as error:
            mistakes.append(unreadable(path, error))
        whole.update(digest.digest())
    if mistakes:
        raise InputError(mistakes)
    return whole.digest()


def unreadable(path: str, error: BaseException) -> Mistake:
    """The mistake for one of `UNREADABLE`."""
    why = _why(error) if isinstance(error, OSError) else str(error)
    return Mistake(where=path, what=f"can't be read: {why}")


def _blocks(path: str) -> Iterator[bytes]:
    """The (decompressed) bytes. Raises InputError where little becomes far too much."""
    most_bytes = UNPACKED_ALLOWANCE_BYTES + MAX_UNPACKED_RATIO * Path(path).stat().st_size
    size_bytes = 0
    with open_bytes(path) as file:
        while block := file.read(_BLOCK_BYTES):
            size_bytes += len(block)
            if size_bytes > most_bytes:
                what = f"unpacks to more than {MAX_UNPACKED_RATIO} times its size"
                raise InputError([Mistake(where=path, what=what, hint="unpack it, if it is to be trusted")])
            yield block


class _Utf8Checker:
    """Strict UTF-8, block by block; counts lines so that the error can name one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._offset = 0
        self._line = 1

    def feed(self, block: bytes) -> None:
        self._decode(block, final=False)

    def finish(self) -> None:
        self._decode(b"", final=True)

    def _decode(self, block: bytes, *, final: bool) -> None:
        pending = self._decoder.getstate()[0]
        try:
            self._decoder.decode(block, final)
        except UnicodeDecodeError as error:
            data = pending + block
            line = self._line + data.count(b"\n", 0, error.start)
            byte = f"byte 0x{data[error.start]:02x} at offset {self._offset - len(pending) + error.start}"
            raise InputError(
                [
                    Mistake(
                        where=f"{self._path}:{line}",
                        what=f"not UTF-8: {byte}",
                        hint=_encoding_hint(data if self._offset == len(pending) else b""),
                    )
                ]
            ) from error
        self._offset += len(block)
        self._line += block.count(b"\n")


def _encoding_hint(start: bytes) -> str:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the file is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
    return "save it as UTF-8 (for example: iconv -f WINDOWS-1252 -t UTF-8)"
