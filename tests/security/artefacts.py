"""What a run leaves behind, searched for what must not be there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PIECE_LENGTH = 12
"""So many signs of a key in a row are of use to a thief, or prove that it was there."""


def pieces(secret: str) -> list[bytes]:
    """Every part of a secret that counts."""
    return [secret[start : start + PIECE_LENGTH].encode() for start in range(len(secret) - PIECE_LENGTH + 1)]


def files_with(secret: str, *folders: Path) -> list[str]:
    """Files below the folders, by content or by name."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            if any(piece in content or piece in path.name.encode() for piece in pieces(secret)):
                found.append(str(path))
    return found


def command_lines_with(secret: str) -> list[str]:
    """Processes of this machine that show a part of the secret to everyone who asks for their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if any(piece in line for piece in pieces(secret)):
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def watch_command_lines(process: subprocess.Popen[str], secret: str) -> list[str]:
    """The same again and again until a process has ended; its standard output is read meanwhile."""
    assert process.stdout is not None
    found: list[str] = []
    for _ in process.stdout:
        found += command_lines_with(secret)
    return found


def open_to_others(folder: Path) -> dict[str, str]:
    """Files that are not 0600 and folders that are not 0700, with their modes."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode & 0o777
        if mode != (0o700 if path.is_dir() else 0o600):
            found[os.path.relpath(path, folder)] = oct(mode)
    return found
