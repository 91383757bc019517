"""Whether the file that stands at a target can be replaced, as far as that can be known without doing it.

A table is renamed over the one before. The folder decides about that, not the file's own mode; but a file
may be one that nobody removes, and a draft takes over the mode of a read-only one before it is written.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path

_GET_FLAGS = 0x80086601
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
"""As `chattr` sets them, on Linux."""
_FIXED = stat.UF_IMMUTABLE | stat.SF_IMMUTABLE | stat.UF_APPEND | stat.SF_APPEND
"""As `chflags` sets them, on macOS."""
_UNMARK = "`chattr -ia`" if sys.platform == "linux" else "`chflags nouchg,nouappnd`"
_OTHER_NAME = "choose another `output.path`"


def what_keeps(target: Path) -> tuple[str, str]:
    """What keeps the file at this real path from being replaced, and what to do; two empty texts where
    nothing is known to, or no file is there."""
    try:
        file, folder = target.lstat(), target.parent.stat()
    except OSError:
        return "", ""
    if _is_fixed(target):
        return (
            "the file is marked so that nobody can replace it",
            f"{_UNMARK} takes the mark off; or {_OTHER_NAME}",
        )
    if _is_fixed(target.parent):
        return "the folder is marked so that no file in it can be replaced", _OTHER_NAME
    if _is_mounted(target):
        return "something is mounted on this very file, so it can't be replaced", "mount its folder instead"
    is_like_ours = file.st_uid == os.geteuid() or not file.st_mode & stat.S_IWUSR
    if is_like_ours and not os.access(target, os.W_OK):  # another user's own file may be no matter to us
        return "the file is read-only", f"make it writable, or {_OTHER_NAME}"
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, file.st_uid, folder.st_uid):
        return "the file is another user's, in a folder where only its owner may replace it", _OTHER_NAME
    return "", ""


def _is_fixed(path: Path) -> bool:
    """Whether a file may not be renamed nor removed, or nothing in a folder: immutable, or for appending."""
    with suppress(OSError):
        if sys.platform != "linux":
            return bool(getattr(path.stat(), "st_flags", 0) & _FIXED)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            flags = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))
        finally:
            os.close(descriptor)
        return bool(int.from_bytes(flags[:4], sys.byteorder) & (_IMMUTABLE | _APPEND_ONLY))
    return False


def _is_mounted(path: Path) -> bool:
    """Also where the same file system is mounted, which only the list of mounts tells."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return path.is_mount()
    return str(path) in (_unescaped(line.split(" ")[4]) for line in lines if line.count(" ") > 4)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
