"""Which manifests a tick looks at: the files that are named, and in a folder those that have a schedule.

A folder holds other YAML files too, and manifests that others extend. A file counts where it can be read and
has a schedule, or has run and may have something under way; where it can't be read, if it had a schedule when
somebody looked last, or says that it has one, be it with a slip (`shedule`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.commands.options import ManifestOptions
from runner.commands.workplace import load_manifest
from runner.core.model import Manifest
from runner.errors import InputError, LedgerError, Mistake, RunnerError
from runner.ledger import Ledger, LedgerPlace, ManifestRecord, locate

SUFFIXES = (".yaml", ".yml")
_SAYS_SCHEDULE = re.compile(rb"^(?:schedule[ \t]*:|\{)", re.MULTILINE)
_MAX_BYTES = 1 << 20
_MISSING = "required key is missing"
_UNKNOWN, _MEANT = "unknown key", "did you mean 'schedule'?"


class Books:
    """The ledgers that are looked into; `writes` for a tick. A context manager.

    At most one is open at any time, and none while a run works: a process that opens a database's file a
    second time, and closes it, loses the locks that SQLite holds for it (POSIX), and with them the database.
    """

    def __init__(self, *, writes: bool = True) -> None:
        self._writes = writes
        self._place: LedgerPlace | None = None
        self._open: Ledger | None = None
        self._errors: dict[str, LedgerError] = {}

    def __enter__(self) -> Books:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what is open; it is opened again when somebody asks."""
        opened, self._open, self._place = self._open, None, None
        if opened is not None:
            opened.close()

    def ledger(self, place: LedgerPlace) -> Ledger:
        """The ledger, made if there is none. Raises LedgerError, the same one each time."""
        if self._open is not None and self._place == place:
            return self._open
        if place.url in self._errors:
            raise self._errors[place.url]
        self.close()
        try:
            self._open, self._place = Ledger.open(place), place
        except LedgerError as error:
            self._errors[place.url] = error
            raise
        return self._open

    def known(self, place: LedgerPlace) -> Ledger | None:
        """The ledger, or None where there is none yet. For a tick also where it can't be used, which it says
        of each manifest; else that raises LedgerError."""
        if self._open is not None and self._place == place:
            return self._open
        self.close()
        try:
            looked = Ledger.open_reading(place)
            if looked is None or not self._writes:
                self._open, self._place = looked, place
                return looked
            looked.close()
            return self.ledger(place)
        except LedgerError:
            if not self._writes:
                raise
            return None

    def scheduled(self, place: LedgerPlace) -> list[ManifestRecord]:
        """The manifests that had a schedule when somebody looked last."""
        ledger = self.known(place)
        if ledger is None:
            return []
        ids = {one.manifest_id for one in ledger.schedules().all()}
        return [record for record in ledger.manifests() if record.id in ids]

    def had_schedule(self, place: LedgerPlace, path: Path) -> bool:
        """Whether this manifest is one of them."""
        wanted = place.relative(path)
        return any(record.path == wanted for record in self.scheduled(place))

    def has_run(self, place: LedgerPlace, path: Path) -> bool:
        """Whether it ever ran: then something of it may be under way."""
        ledger = self.known(place)
        return ledger is not None and ledger.find_manifest(place.relative(path)) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A manifest to look at: read, or what is wrong with it. `path` is absolute."""

    path: Path
    place: LedgerPlace
    manifest: Manifest | None
    error: RunnerError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A manifest that had a schedule, and is no longer where it was."""

    path: Path
    place: LedgerPlace
    record: ManifestRecord


def check_targets(targets: Sequence[Path], books: Books, environ: Mapping[str, str]) -> None:
    """Raises InputError for a path at which nothing is, nor ever was a manifest with a schedule."""
    mistakes = [
        Mistake(where=str(target), what="no such file or folder")
        for target in targets
        if not os.path.lexists(target)
        and not books.had_schedule(locate(str(target), environ), _absolute(target))
    ]
    if mistakes:
        raise InputError(mistakes)


def find(
    targets: Sequence[Path], books: Books, environ: Mapping[str, str], bent: ManifestOptions
) -> list[Found]:
    """Every manifest once, in the order of the targets and of the names in a folder, each `bent` alike.
    Raises InputError for a folder that can't be listed."""
    found: dict[Path, Found] = {}

    def look(path: Path, is_named: bool) -> Found | None:
        return _look(replace(bent, path=str(path)), books, environ, is_named=is_named)

    for target in targets:
        for path, is_named in _files(_absolute(target)):
            if path not in found and (one := look(path, is_named)) is not None:
                found[path] = one
    return list(found.values())


def find_gone(targets: Sequence[Path], books: Books, environ: Mapping[str, str]) -> list[Gone]:
    """Manifests with a schedule whose file is not there any more, as far as the targets are about them."""
    found: dict[Path, Gone] = {}
    for target in map(_absolute, targets):
        is_folder = target.is_dir()
        place = locate(str(target / "manifest.yaml" if is_folder else target), environ)
        for record in books.scheduled(place):
            path = Path(os.path.normpath(place.project / record.path))
            is_meant = path.parent == target.resolve() if is_folder else place.relative(target) == record.path
            if is_meant and not os.path.lexists(path):
                found[path] = Gone(path=path, place=place, record=record)
    return list(found.values())


def _absolute(target: Path) -> Path:
    return Path(os.path.abspath(target))  # noqa: PTH100 - keeps a symlinked file's own folder


def _files(target: Path) -> Iterator[tuple[Path, bool]]:
    """The files of a target, and whether they were named."""
    if not target.is_dir():
        if os.path.lexists(target):
            yield target, True
        return
    try:
        paths = sorted(path for path in target.iterdir() if path.suffix in SUFFIXES and path.is_file())
    except OSError as error:
        raise InputError([Mistake(where=str(target), what=f"can't be listed: {error.strerror}")]) from error
    for path in paths:
        yield path, False


def _look(
    options: ManifestOptions, books: Books, environ: Mapping[str, str], *, is_named: bool
) -> Found | None:
    path, place = Path(options.path), locate(options.path, environ)
    try:
        manifest = load_manifest(options, environ)
    except RunnerError as error:
        says_so = _misspells(error) or (_says_so(path) and not _is_parent(error))
        is_meant = is_named or books.had_schedule(place, path) or says_so
        return Found(path=path, place=place, manifest=None, error=error) if is_meant else None
    if is_named or manifest.schedule is not None or books.has_run(place, path):
        return Found(path=path, place=place, manifest=manifest)
    return None


def _is_parent(error: RunnerError) -> bool:
    """Nothing is wrong but that parts are missing: a file for others to extend."""
    return isinstance(error, InputError) and all(one.what == _MISSING for one in error.mistakes)


def _misspells(error: RunnerError) -> bool:
    """Whether a manifest, which has all that one must have, has a key at its top that is unknown and like the
    one that makes a schedule."""
    mistakes = error.mistakes if isinstance(error, InputError) else ()
    slips = [one for one in mistakes if (one.what, one.hint) == (_UNKNOWN, _MEANT) and "." not in one.path]
    return bool(slips) and not any(one.what == _MISSING for one in mistakes)


def _says_so(path: Path) -> bool:
    """Whether a text has a schedule at its top level, as far as one can tell where it is wrong."""
    try:
        with path.open("rb") as file:
            return _SAYS_SCHEDULE.search(file.read(_MAX_BYTES)) is not None
    except OSError:
        return False
