"""`python -m runner.localserver`: the local server as a process of its own.

Exit codes: 0 after SIGINT, SIGTERM or the end of standard input (with --exit-with-stdin); 2 for wrong
options or settings; 1 when the address or the folder can't be used. One line on stderr, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from runner.core.wire import encode_json
from runner.localserver.faults import FaultError
from runner.localserver.serve import StopHandle, serve
from runner.localserver.settings import ServerSettings, SettingsError
from runner.localserver.upstream import UpstreamUrlError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the options, serve until told to stop; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = ServerSettings.from_file(options.settings) if options.settings else ServerSettings()
    except SettingsError as error:
        return _complain(str(error), 2)
    if options.upstream is not None:
        settings = replace(settings, upstream=options.upstream)
    stop = StopHandle()
    if options.exit_with_stdin:
        threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    try:
        serve(settings, options.state, options.host, options.port, _announcer(options.announce), stop=stop)
    except (FaultError, UpstreamUrlError) as error:
        return _complain(str(error), 2)
    except (OSError, OverflowError, sqlite3.Error) as error:
        return _complain(f"{options.host}:{options.port}, {options.state}: {error}", 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runner.localserver", description=__doc__)
    parser.add_argument(
        "--state", type=Path, required=True, metavar="DIR", help="folder that keeps everything"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free port")
    parser.add_argument("--announce", type=Path, metavar="FILE", help="write base_url and pid here as JSON")
    parser.add_argument("--exit-with-stdin", action="store_true", help="stop when standard input ends")
    parser.add_argument("--upstream", metavar="URL", help="OpenAI-compatible server that answers instead")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="JSON file; keys of ServerSettings")
    return parser


def _announcer(path: Path | None) -> Callable[[str], None]:
    def announce(base_url: str) -> None:
        if path is None:
            sys.stdout.write(f"{base_url}\n")
            sys.stdout.flush()
            return
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
            file.write(encode_json({"base_url": base_url, "pid": os.getpid()}))
        beside.replace(path)

    return announce


def _stop_at_end_of_input(stop: StopHandle) -> None:
    while os.read(0, 4096):
        pass
    stop.stop()


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
