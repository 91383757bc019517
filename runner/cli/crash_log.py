"""The log file of an unexpected error: the traceback, the versions, and nothing secret.

It lies in the project's `.runner/logs/` where there is a project, else in a temporary folder, mode 0600.
Values of environment variables that look like secrets are blotted out, should one have got into a message.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from runner import __version__

_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
_SHORTEST_SECRET = 6


def write_crash_log(error: BaseException, manifests: Sequence[str], *, cwd: str) -> str | None:
    """The file's path, or None where no place could be written."""
    text = blotted(_text(error), os.environ)
    name = f"internal-error-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
    for folder in _folders(manifests, cwd):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
                log.write(text)
        except OSError:
            continue
        return str(folder / name)
    return None


def blotted(text: str, environ: Mapping[str, str]) -> str:
    """The text without the values of environment variables that are named like secrets."""
    for name, value in environ.items():
        if len(value) >= _SHORTEST_SECRET and any(word in name.upper() for word in _SECRET_WORDS):
            text = text.replace(value, f"<{name}>")
    return text


def _text(error: BaseException) -> str:
    head = f"runner {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    options = [word.partition("=")[0] for word in sys.argv[1:] if word.startswith("-")]
    return head + f"options: {' '.join(options)}\n\n" + "".join(traceback.format_exception(error))


def _folders(manifests: Sequence[str], cwd: str) -> list[Path]:
    """Where to try: the `.runner/` at or above a manifest or the current folder, then a temporary one."""
    starts = [Path(cwd, manifest).parent for manifest in manifests] + [Path(cwd)]
    found = [
        folder / ".runner" / "logs"
        for start in starts
        for folder in (start, *start.parents)
        if (folder / ".runner").is_dir()
    ]
    return [*found[:1], Path(tempfile.gettempdir())]
