"""`run local-server`: the built-in batch server for any client, until Ctrl-C."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.errors import InputError, Mistake, RunnerError
from runner.localserver.database import Database
from runner.localserver.faults import FaultError, FaultPlan, read_faults
from runner.localserver.serve import serve as serve_forever
from runner.localserver.settings import ServerSettings, SettingsError
from runner.localserver.sockets import AddressError
from runner.localserver.upstream import UpstreamUrlError


def default_state(environ: Mapping[str, str]) -> Path:
    """The user's state folder. Not below the current folder, where it would look like a project's ledger."""
    base = environ.get("XDG_STATE_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return home / "runner" / "local-server"


def serve(
    *,
    host: str,
    port: int,
    state: Path,
    upstream: str | None,
    settings: Path | None,
    faults: Path | None,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM; `announce` gets the base URL once it listens.

    `faults`: what is armed at the start, in place of all that an earlier server left armed there.
    Raises InputError for wrong settings or faults and an address that can't be had, RunnerError where the
    folder can't be used.
    """
    chosen = _settings(settings, upstream)
    wanted = _faults(faults)
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if wanted is not None:
            arm_instead(state, wanted)
        serve_forever(chosen, state, host, port, announce)
    except FaultError as error:
        raise InputError([Mistake(where=str(settings), path="faults", what=str(error))]) from error
    except UpstreamUrlError as error:
        where = "--upstream" if upstream is not None else f"{settings}: upstream"
        hint = "such as http://127.0.0.1:11434/v1"
        raise InputError([Mistake(where=where, what=str(error), hint=hint)]) from error
    except AddressError as error:
        raise address_mistake(host, port, error) from error
    except (OSError, sqlite3.Error) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise RunnerError(
            f"can't serve from {state}: {what}", next_step="choose another folder (`--state`)"
        ) from error


def address_mistake(host: str, port: int, error: AddressError) -> InputError:
    """Whoever chose the address chooses another."""
    if error.errno == errno.EADDRINUSE:
        mistake = Mistake(where="--port", what=f"another program listens on {host}:{port} already")
        next_step = "end that program, or choose another port (`--port 0` takes a free one)"
    else:
        what = f"can't listen on {host}:{port}: {error.strerror}"
        mistake = Mistake(where="--host, --port", what=what)
        next_step = "choose another address (`--port 0` takes a free port)"
    return InputError([mistake], next_step=next_step)


def _settings(path: Path | None, upstream: str | None) -> ServerSettings:
    try:
        settings = ServerSettings.from_file(path) if path is not None else ServerSettings()
    except SettingsError as error:
        lines = str(error).split("\n")
        raise InputError([Mistake(where="--settings", what=line) for line in lines]) from error
    return settings if upstream is None else replace(settings, upstream=upstream)


def _faults(path: Path | None) -> Sequence[Mapping[str, Any]] | None:
    """The faults of a file, checked before anything starts."""
    if path is None:
        return None
    try:
        return read_faults(path)
    except FaultError as error:
        mistakes = [Mistake(where="--faults", what=line) for line in str(error).split("\n")]
        raise InputError(mistakes, next_step="`GET /faults` of a running server lists the kinds") from error


def arm_instead(state: Path, faults: Sequence[Mapping[str, Any]]) -> None:
    """Arm faults in a state folder in place of those that are armed there."""
    database = Database(state)
    try:
        FaultPlan(database).arm_instead(faults)
    finally:
        database.close()


def armed(state: Path) -> int:
    """How many faults are armed in a state folder and not spent."""
    database = Database(state)
    try:
        faults = FaultPlan(database).armed()
    finally:
        database.close()
    return sum(fault.times == 0 or fault.fired < fault.times for fault in faults)
