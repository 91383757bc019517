"""Paths in a manifest: where they start, how they are shown, and files that must exist.

Its one rule: a relative path starts at the folder of the file in which it was written, never at the
current directory. Normalising is textual (`a/../b` is `b`); `~` is not expanded. It never opens a file.
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import os
import re
from pathlib import Path

from runner.manifest.findings import printable, shown

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_NEIGHBOURS = 1000
_MAX_PATH = 4096


def absolute(text: str, folder: str) -> str:
    """The path as an absolute, normalised string."""
    return os.path.normpath(os.path.join(folder, text))  # noqa: PTH118 - pathlib can't normalise textually


def relative(path: str, folder: str) -> str:
    """An absolute path as seen from a folder, with `/`."""
    return os.path.relpath(path, folder)


def shown_path(path: str) -> str:
    """As seen from the current directory where it lies below it, else as it is; printable."""
    try:
        here = str(Path.cwd())
    except OSError:
        return printable(path)
    whole = absolute(path, here)
    inside = here if here.endswith("/") else here + "/"
    return printable(whole.removeprefix(inside) if whole.startswith(inside) else path)


def path_trouble(text: str) -> tuple[str, str] | None:
    """What is wrong with a path as text, and a hint; None where it may name a local file."""
    if text.endswith("/"):
        return f"'{shown(text)}' is a folder; a file is wanted", ""
    if _URL.match(text):
        return (
            f"'{shown(text)}' is a URL; only local files can be used",
            "download it, or mount it as a folder",
        )
    if len(text) > _MAX_PATH:
        return "is too long for a path", f"at most {_MAX_PATH} characters"
    if text == "~" or text.startswith("~/"):
        return "'~' is not expanded", "write ${HOME}/... or a path from this file"
    return None


def file_trouble(path: str) -> tuple[str, str] | None:
    """Why an absolute path is not a file that can be read, and a hint; None where it is one."""
    file = Path(path)
    name = shown_path(path)
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
        return f"there is no folder {shown_path(str(file.parent))} either"
    close = difflib.get_close_matches(file.name, names, n=1)
    return f"did you mean '{shown(close[0])}'?" if close else ""


def matches_glob(path: str, pattern: str) -> bool:
    """Whether an absolute path is one that a glob (`*`, `?`, `[...]`, `**` for any folders) would find.

    Folder by folder, because one regular expression for the whole can take for ever on a hostile glob.
    """
    if not any(character in pattern for character in "*?["):
        return path == pattern
    names = path.split("/")
    reached = {0}  # how many names the parts so far can have used up
    for part in pattern.split("/"):
        if part == "**":
            reached = set(range(min(reached), len(names) + 1)) if reached else set()
        else:
            reached = {at + 1 for at in reached if at < len(names) and fnmatch.fnmatchcase(names[at], part)}
    return len(names) in reached
