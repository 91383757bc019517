"""A real PostgreSQL of a test's own, where its programs are installed: in a folder, on a Unix socket in it.

with running_postgresql() as server:
    url = server.create("one")            # a new database; what RUNNER_LEDGER is set to
    server.asked("one", "SELECT ...")     # what an outsider's connection reads

It refuses to run as root, so then it runs as `nobody`. The server is ended with the block, by its process.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.localserver_process import eventually

PASSWORD = "hush-4711/canary+psql"
"""Never asked for, and not to be seen anywhere."""
_IN_URL = "hush-4711%2Fcanary%2Bpsql"
_SETTINGS = (
    *("listen_addresses=", "fsync=off", "synchronous_commit=off", "full_page_writes=off"),
    *("shared_buffers=16MB", "autovacuum=off", "max_connections=30"),
)


class NoServerError(Exception):
    """This machine's PostgreSQL does not start; that is none of this program's doing."""


def why_not() -> str:
    """Why there can be no server here; empty where there can."""
    if _programs() is None:
        return "no PostgreSQL: initdb and postgres are neither on the path nor below /usr/lib/postgresql"
    if os.geteuid() == 0 and _nobody() is None:
        return "PostgreSQL does not run as root, and there is no user `nobody`"
    return ""


def _programs() -> Path | None:
    """The folder of its programs."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def _nobody() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        return None


@dataclass(frozen=True)
class PostgresServer:
    """A server that runs, and listens in its folder."""

    folder: Path

    def url(self, database: str) -> str:
        """As a user writes it, with a password."""
        return f"postgresql://me:{_IN_URL}@/{database}?host={self.folder}"

    def create(self, database: str, *, encoding: str = "UTF8") -> str:
        """A new database; gives its URL."""
        with self._connected("postgres") as connection:
            make = f"CREATE DATABASE {database} ENCODING '{encoding}' TEMPLATE template0"
            connection.execute(make.encode())
        return self.url(database)

    def asked(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """What an outsider's connection reads, or changes; nothing for a statement without rows."""
        with self._connected(database) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def _connected(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(f"host={self.folder} user=me dbname={database}", autocommit=True)

    def is_ready(self) -> bool:
        """Whether it takes connections by now."""
        try:
            self._connected("postgres").close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running_postgresql() -> Iterator[PostgresServer]:
    """A new server, gone at the end of the block. `why_not` must have been asked.

    Raises NoServerError where it does not start: no user of its own, no shared memory."""
    programs = _programs()
    assert programs is not None
    user = _nobody() if os.geteuid() == 0 else None
    environ = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
    as_user: dict[str, Any] = {"env": environ, "stdin": subprocess.DEVNULL}
    if user is not None:
        as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    # Not below pytest's folders: they are closed to others, and too deep for the name of a socket.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        data = folder / "data"
        options = ("-U", "me", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        make = [str(programs / "initdb"), "-D", str(data), *options]
        try:
            subprocess.run(make, check=True, cwd=folder, capture_output=True, **as_user)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or b""
            raise NoServerError(f"initdb: {error} {said.decode(errors='replace')[-300:]}") from error
        settings = [word for one in _SETTINGS for word in ("-c", one)]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(
                [str(programs / "postgres"), "-D", str(data), "-k", name, *settings],
                cwd=folder,
                stdout=log,
                stderr=log,
                **as_user,
            ) as process,
        ):
            server = PostgresServer(folder)
            try:
                eventually(
                    lambda: server.is_ready() or process.poll() is not None, what=f"PostgreSQL in {folder}"
                )
                if process.poll() is not None:
                    raise NoServerError((folder / "log").read_text(errors="replace")[-300:])
                yield server
            finally:
                process.send_signal(signal.SIGQUIT)  # at once; nothing of it is kept
                process.wait(30)
