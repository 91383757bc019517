"""`provider: local`: the built-in batch server as a child process that lives as long as we do.

Its state is in `.runner/local-server/`, durable, so batches go on when the next run starts it again. It
watches its standard input and leaves when this process dies, however it dies.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.model import Provider
from runner.core.wire import decode_json
from runner.errors import RunnerError
from runner.provider import ApiKey

if TYPE_CHECKING:
    from runner.provider import Client

START_TIMEOUT_S = 30.0
LEAVE_S = 1.5
"""Then it is killed: everything it promised is on its disk, and a whole program is to leave within 5 s."""
LOCAL_KEY = "local"


@contextmanager
def connected(
    provider: Provider, folder: Path, environ: Mapping[str, str]
) -> Iterator[tuple[Client, Provider]]:
    """A client for the provider; for `local` with the server running.

    Raises AuthenticationError where the key's variable is not set, RunnerError where the server fails.
    """
    from runner.provider import Client  # httpx comes with it, and most commands never get here

    if not provider.is_local:
        key = ApiKey.from_environment(provider.api_key_env, environ) if provider.api_key_env else None
        with Client(provider, api_key=key) as client:
            yield client, provider
        return
    with local_server(folder / "local-server", upstream=provider.upstream, environ=environ) as base_url:
        here = replace(provider, base_url=base_url)
        with Client(here, api_key=ApiKey(LOCAL_KEY)) as client:
            yield client, here


@contextmanager
def local_server(state: Path, *, upstream: str | None, environ: Mapping[str, str]) -> Iterator[str]:
    """Start the server on a free loopback port; yields its base URL; ends it on leaving."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    announce = state / f"announce-{os.getpid()}.json"
    announce.unlink(missing_ok=True)
    log_path = state / "server.log"
    command = [sys.executable, "-m", "runner.localserver", "--state", str(state), "--exit-with-stdin"]
    command += ["--announce", str(announce)]
    command += ["--upstream", upstream] if upstream else []
    # Private, and never through a link: a folder from elsewhere must not choose the file that is written.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(log_path, flags, 0o600)
    except OSError as error:
        raise RunnerError(
            f"{log_path}: can't be written: {error.strerror}", next_step="remove it, then run again"
        ) from error
    with os.fdopen(descriptor, "ab") as log:
        # Its own session: Ctrl-C in the terminal must not end the server before we have recorded replies.
        child = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**environ, "PYTHONPATH": _python_path(environ)},
        )
    try:
        yield _wait_for_address(child, announce, log_path)
    finally:
        if child.stdin is not None:
            child.stdin.close()
        try:
            child.wait(timeout=LEAVE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        announce.unlink(missing_ok=True)


def _python_path(environ: Mapping[str, str]) -> str:
    """The child finds this very package, also when it is run from a checkout."""
    home = str(Path(__file__).resolve().parents[2])
    inherited = environ.get("PYTHONPATH", "")
    return f"{home}{os.pathsep}{inherited}" if inherited else home


def _wait_for_address(child: subprocess.Popen[bytes], announce: Path, log_path: Path) -> str:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        if announce.exists():
            return str(decode_json(announce.read_bytes())["base_url"])
        if child.poll() is not None:
            break
        time.sleep(0.01)
    raise RunnerError(
        f"the local server did not start (exit code {child.poll()})", next_step=f"see {log_path}"
    )
