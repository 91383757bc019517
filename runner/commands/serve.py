"""`run local-server`: the built-in batch server for any client, until Ctrl-C."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from runner.errors import InputError, Mistake, RunnerError
from runner.localserver.faults import FaultError
from runner.localserver.serve import serve as serve_forever
from runner.localserver.settings import ServerSettings, SettingsError


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
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM; `announce` gets the base URL once it listens.

    Raises InputError for wrong settings, RunnerError where the address or the folder can't be used.
    """
    chosen = _settings(settings, upstream)
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        serve_forever(chosen, state, host, port, announce)
    except FaultError as error:
        raise InputError([Mistake(where=str(settings), path="faults", what=str(error))]) from error
    except (OSError, OverflowError, sqlite3.Error) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise RunnerError(
            f"can't serve {host}:{port} from {state}: {what}",
            next_step="choose another address (`--port 0` takes a free one) or another folder (`--state`)",
        ) from error


def _settings(path: Path | None, upstream: str | None) -> ServerSettings:
    try:
        settings = ServerSettings.from_file(path) if path is not None else ServerSettings()
    except SettingsError as error:
        lines = str(error).split("\n")
        raise InputError([Mistake(where="--settings", what=line) for line in lines]) from error
    return settings if upstream is None else replace(settings, upstream=upstream)
