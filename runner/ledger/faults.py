"""The database's errors, translated once: what happened, and what the user does about it.

Foreign errors meet this table and nobody else. The cause is kept (`raise ... from`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError

from runner.errors import EXIT_STILL_RUNNING, LedgerError

REBUILD = "`run rebuild MANIFEST` makes the ledger again and sends nothing"
"""Whoever knows the manifest fills it in."""
RESTORE = "restore the newest backup of the database; a ledger on a server can't be made again from here"
_FAULTS: tuple[tuple[str, str, str], ...] = (
    ("SQLITE_FULL", "the disk is full", "free some disk space, then run the same command again"),
    (
        "SQLITE_BUSY",
        "another process has kept it locked for 30 seconds",
        "see what has it open (a sqlite3 shell with an open transaction?), then run the same command again",
    ),
    ("SQLITE_READONLY", "it is read-only", "make the file and its folder writable for this user"),
    ("SQLITE_PERM", "it may not be opened", "make the file and its folder readable and writable"),
    ("SQLITE_CANTOPEN", "it can't be opened", "check that the folder exists and is writable for this user"),
    ("SQLITE_CORRUPT", "the file is damaged", REBUILD),
    ("SQLITE_NOTADB", "the file is no database", REBUILD),
    ("SQLITE_IOERR", "the disk reports an error", "check the disk, then run the same command again"),
    ("SQLITE_TOOBIG", "a value is too large for the database", "send smaller rows"),
)
_SERVER_FAULTS: tuple[tuple[str, str, str], ...] = (
    (
        "55P03",
        "another process has kept it locked for two minutes",
        "see what holds it (the view pg_locks says), then run the same command again",
    ),
    ("53100", "the server's disk is full", "free some disk space there, then run the same command again"),
    ("53300", "the server has no connection left", "run the same command again when it has"),
    ("42501", "this user may not do that", "let it own the database or the schema"),
    ("25006", "it is read-only", "point RUNNER_LEDGER to the server that takes changes"),
    ("57P", "the server has ended the connection", "run the same command again when it is back"),
    ("40", "another transaction came in between", "nothing was changed; run the same command again"),
)
"""By SQLSTATE. What has none, as a connection that can't be made, is told in the driver's own words."""
_NUL = "cannot contain NUL"


class LedgerBusyError(LedgerError):
    """Another process is in the middle of a change and does not come to its end: stopped, or very slow."""

    exit_code = EXIT_STILL_RUNNING


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn database errors inside the block into LedgerError. `where` names the ledger, without secrets."""
    try:
        yield
    except (IntegrityError, sqlite3.IntegrityError) as error:
        said = _first_line(getattr(error, "orig", error))
        raise LedgerError(
            f"{where}: a change would break a rule of the ledger: {said}",
            next_step="nothing was changed; run the same command again, and report it if it comes back",
        ) from error
    except DBAPIError as error:
        raise fault_of(where, error.orig) from error
    except sqlite3.Error as error:
        raise fault_of(where, error) from error
    except UnicodeDecodeError as error:  # SQLite names what is damaged by the bytes that stand there
        raise LedgerError(
            f"{where}: the file is damaged: its text can't be read", next_step=REBUILD
        ) from error


def fault_of(where: str, error: BaseException | None) -> LedgerError:
    """The LedgerError for a driver's error."""
    name = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or ""
    for prefix, what, next_step in (*_FAULTS, *_SERVER_FAULTS):
        if name.startswith(prefix):
            kind = LedgerBusyError if prefix in ("SQLITE_BUSY", "55P03") else LedgerError
            return kind(f"{where}: {what} ({name})", next_step=next_step)
    if _NUL in str(error):
        return LedgerError(
            f"{where}: PostgreSQL can't store a text with a NUL character in it",
            next_step="take it out of the rows' keys; a SQLite file (unset RUNNER_LEDGER) can store it",
        )
    return LedgerError(
        f"{where}: {_first_line(error)}",
        next_step="nothing was changed; run the same command again when the database can be reached",
    )


def _first_line(error: BaseException | None) -> str:
    return str(error).partition("\n")[0]
