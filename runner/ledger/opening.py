"""Opening a ledger: everything that is looked at before the first statement.

make the file 0600 -> refuse a network disk -> refuse a foreign, damaged or newer file -> migrate. The
rule: what can't be trusted is refused before anything is written, with a next step; a ledger is never
repaired or replaced by itself, because it knows what was paid for.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine

from runner.errors import LedgerError
from runner.failpoints import failpoint
from runner.ledger import postgresql
from runner.ledger.disks import refuse_network_disk
from runner.ledger.engine import (
    database_file,
    first_fault,
    is_foreign,
    is_sqlite,
    reading_engine,
    writing_engine,
)
from runner.ledger.faults import REBUILD, translated
from runner.ledger.handles import is_open_here
from runner.ledger.journal import sync_folder
from runner.ledger.place import LedgerPlace, refused_to_us
from runner.ledger.schema import VERSIONS, make, migrate, refuse_newer, version_of
from runner.ledger.seal import Verdict, examine, has_log, seal_path
from runner.ledger.sentinel import refuse_forgetful, refuse_missing
from runner.ledger.urls import shown_url

_CHECKED_BYTES = 64_000_000
"""Up to here the whole file is checked where its seal says nothing; beyond, only after a crash."""


def shown(place: LedgerPlace) -> str:
    """The ledger's name for messages: its file, or its URL without the password."""
    path = database_file(place.url)
    return shown_url(place.url) if path is None else path


def open_engines(place: LedgerPlace) -> tuple[Engine, Engine]:
    """The writing and the reading engine of a ledger that is there, sound and up to date, and that knows
    what its journal knows."""
    place.prepare()
    where = shown(place)
    writing_engine(place.url).dispose()  # a URL that can't be used makes no file
    path = database_file(place.url)
    if path is not None:
        refuse_network_disk(Path(path), is_allowed=place.allows_network_disk)
        if is_missing(path):
            refuse_missing(place, where)
        _make_private(Path(path))
    failpoint("ledger.made")
    with translated(where), _only_one(place):
        _bring_up_to_date(place, where, path)
    return writing_engine(place.url), reading_engine(place.url)


def open_reading_engine(place: LedgerPlace) -> Engine | None:
    """The reading engine, or None where there is no ledger yet."""
    path = database_file(place.url)
    where = shown(place)
    if path is not None and is_missing(path):
        refuse_missing(place, where)
        return None
    if path is not None:
        _refuse_damaged(Path(path), where)
    engine = reading_engine(place.url)
    try:
        with translated(where):
            version = version_of(engine)
            refuse_newer(version, where)
            if version == VERSIONS[-1]:
                refuse_forgetful(engine, place, where)
    except BaseException:
        engine.dispose()
        raise
    if version is None:
        engine.dispose()
        return None
    if version != VERSIONS[-1]:
        for opened in open_engines(place):
            opened.dispose()
    return engine


def is_missing(path: str) -> bool:
    """Whether there is no database in this file, or not yet. Errors: LedgerError where another user's run
    has made its folder."""
    file = Path(path)
    try:
        return file.stat().st_size == 0
    except FileNotFoundError:
        return True
    except PermissionError as error:
        raise refused_to_us(file, error) from error


def _bring_up_to_date(place: LedgerPlace, where: str, path: str | None) -> None:
    engine = writing_engine(place.url, foreign_keys=False)
    try:
        if path is not None and is_sqlite(engine):
            _refuse_unsound(engine, where, Path(path))
        elif not is_sqlite(engine):
            _refuse_unfit(engine, where)
        version = version_of(engine)
        refuse_newer(version, where)
        if version != VERSIONS[-1]:
            if version is None and is_sqlite(engine):
                make(engine)
            else:
                migrate(engine)
            failpoint("ledger.migrated")
        if not is_sqlite(engine):
            _refuse_another_projects(engine, place, where)
        refuse_forgetful(engine, place, where)
    finally:
        engine.dispose()


def _refuse_unfit(engine: Engine, where: str) -> None:
    """Errors: LedgerError for a server's database that can't hold a ledger, or holds something else."""
    with engine.connect() as connection:
        fault = postgresql.unfitness(connection)
        if fault is None and postgresql.is_foreign(connection):
            fault = "this is some other program's database"
    if fault is not None:
        raise LedgerError(
            f"{where}: {fault}",
            next_step="point RUNNER_LEDGER to an empty database of its own "
            "(createdb -E UTF8 -T template0 NAME)",
        )


def _refuse_another_projects(engine: Engine, place: LedgerPlace, where: str) -> None:
    """Errors: LedgerError where the server's database is the ledger of another `.runner` folder, whose locks
    and raw files are not here. One that is nobody's becomes this one's."""
    name = _project_name(place)
    with engine.begin() as connection:
        known = postgresql.project_mark(connection)
        if known is None:
            postgresql.mark_project(connection, name)
    if known not in (None, name):
        raise LedgerError(
            f"{where}: this is the ledger of another project: its locks and raw answers are not in "
            f"{place.folder}",
            next_step="give each project a database or a schema of its own; to move a project, take the "
            "whole .runner folder",
        )


def _project_name(place: LedgerPlace) -> str:
    """By what this `.runner` folder is known to a server's database; made once, at random."""
    path = place.project_name
    try:
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            part.unlink(missing_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(uuid4().hex)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
            sync_folder(path.parent)
        name = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise LedgerError(
            f"{path}: can't be written: {error.strerror}",
            next_step="free some disk space or fix the permissions of the .runner folder",
        ) from error
    if not name.isalnum():
        raise LedgerError(
            f"{path}: this is not the name of a project as it was written there",
            next_step="bring the .runner folder back from a copy of it",
        )
    return name


def _refuse_unsound(engine: Engine, where: str, path: Path) -> None:
    was_killed = has_log(path)
    is_whole = _refuse_damaged(path, where)
    with engine.connect() as connection:
        if is_foreign(connection):
            raise LedgerError(
                f"{where}: this is some other program's database",
                next_step="point RUNNER_LEDGER to another file, or move this one away; if it was this "
                f"project's ledger: {REBUILD}",
            )
        is_small = path.stat().st_size <= _CHECKED_BYTES
        fault = None if is_whole else first_fault(connection, is_small=is_small, was_killed=was_killed)
    if fault is not None:
        raise LedgerError(
            f"{where}: the file is damaged: {fault}",
            next_step=REBUILD,
        )


def _refuse_damaged(path: Path, where: str) -> bool:
    """Whether the file is just as this program left it. Errors: LedgerError if single bytes of it differ."""
    if is_open_here(path):
        return True  # looked at when this process opened it first; now nobody may look at its bytes
    verdict = examine(path)
    if verdict is Verdict.DAMAGED:
        raise LedgerError(
            f"{where}: the file is damaged: {verdict.value} (somebody who has edited it by hand removes "
            f"{seal_path(path).name})",
            next_step=REBUILD,
        )
    return verdict is Verdict.WHOLE


def _make_private(path: Path) -> None:
    """Make the file with mode 0600 before SQLite does: its -wal and -shm take over the mode."""
    if is_open_here(path):
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        is_new = os.fstat(descriptor).st_size == 0
        os.close(descriptor)
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise LedgerError(
            f"{path}: can't be opened: {error.strerror}",
            next_step="make the file and its folder readable and writable for this user",
        ) from error


@contextmanager
def _only_one(place: LedgerPlace) -> Iterator[None]:
    """One process at a time makes or migrates a ledger; the others wait the moment it takes."""
    path = place.folder / "locks" / "opening.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LedgerError(
            f"{path}: can't be opened: {error.strerror}", next_step="remove it; it is only a lock file"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
