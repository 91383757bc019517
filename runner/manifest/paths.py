"""Paths in a manifest: where they start, how they are shown, and files that must exist.

Its one rule: a relative path starts at the folder of the file in which it was written, never at the
current directory. Normalising is textual (`a/../b` is `b`); `~` is not expanded. It never opens a file.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from pathlib import Path

from runner.manifest.findings import shown

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_NEIGHBOURS = 1000


def absolute(text: str, folder: str) -> str:
    """The path as an absolute, normalised string."""
    return os.path.normpath(os.path.join(folder, text))  # noqa: PTH118 - pathlib can't normalise textually


def relative(path: str, folder: str) -> str:
    """An absolute path as seen from a folder, with `/`."""
    return os.path.relpath(path, folder)


def shown_path(path: str) -> str:
    """As seen from the current directory where it lies below it, else as it is."""
    try:
        here = str(Path.cwd())
    except OSError:
        return path
    whole = absolute(path, here)
    inside = here if here.endswith("/") else here + "/"
    return whole.removeprefix(inside) if whole.startswith(inside) else path


def path_trouble(text: str) -> tuple[str, str] | None:
    """What is wrong with a path as text, and a hint; None where it may name a local file."""
    if _URL.match(text):
        return (
            f"'{shown(text)}' is a URL; only local files can be used",
            "download it, or mount it as a folder",
        )
    if text == "~" or text.startswith("~/"):
        return "'~' is not expanded", "write ${HOME}/... or a path from this file"
    return None


def file_trouble(path: str) -> tuple[str, str] | None:
    """Why an absolute path is not a file that can be read, and a hint; None where it is one."""
    file = Path(path)
    name = shown(shown_path(path))
    try:
        if not file.exists():
            return f"there is no file {name}", _nearest(file)
        if not file.is_file():
            return f"{name} is not a file", ""
    except OSError as error:
        return f"{name} can't be read: {error.strerror}", ""
    if not os.access(path, os.R_OK):
        return f"{name} can't be read: permission denied", ""
    return None


def _nearest(file: Path) -> str:
    """A file of nearly the same name in the same folder, as a hint."""
    try:
        names = [entry.name for entry in itertools.islice(file.parent.iterdir(), _MAX_NEIGHBOURS)]
    except OSError:
        return f"there is no folder {shown(shown_path(str(file.parent)))} either"
    close = difflib.get_close_matches(file.name, names, n=1)
    return f"did you mean '{shown(close[0])}'?" if close else ""


def matches_glob(path: str, pattern: str) -> bool:
    """Whether an absolute path is one that a glob (`*`, `?`, `**`) would find."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(words.get(part) or re.escape(part) for part in parts), path) is not None
