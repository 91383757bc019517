"""Files that appear whole or not at all, and folders that don't outlive their run.

The one rule: a table is written to `.<name>.<uuid>.tmp` beside its target, made durable, and only then
renamed over it (I23). Several targets are all written before the first is renamed. A draft is held by an
flock for as long as its writer lives, so what a killed run left can be told from what another is writing,
and is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runner.failpoints import failpoint

_SCRATCH = "publish-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One target and the file that will become it; `descriptor` keeps it open and locked."""

    target: Path
    path: Path
    descriptor: int

    def seal(self) -> str:
        """Make the draft durable. Its SHA-256 as hex."""
        os.fsync(self.descriptor)
        failpoint("publish.synced")
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def place(self) -> None:
        """The draft becomes the target, in one step."""
        self.path.replace(self.target)
        failpoint("publish.renamed")
        sync_folder(self.target.parent)


@contextmanager
def drafting(target: Path) -> Iterator[Draft]:
    """An empty draft; if it was not placed, it is gone at the end of the block. In a folder that is nobody
    else's it is private from its first moment: after a kill it may lie there for long."""
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    path = target.with_name(draft_name(target))
    mode = 0o666 if target.parent.stat().st_mode & 0o077 else 0o600
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not target.parent.stat().st_mode & 0o077:
            os.fchmod(descriptor, 0o600)  # in a private folder tables are private too, whatever the umask
        with suppress(FileNotFoundError):
            os.fchmod(descriptor, target.stat().st_mode & 0o777)
        yield Draft(target=target, path=path, descriptor=descriptor)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def draft_name(target: Path) -> str:
    """A name for a draft of this target, never used before."""
    return f".{target.name}.{uuid.uuid4().hex}.tmp"


def _sweep(target: Path) -> None:
    """Remove what killed runs left of this target: drafts that nobody holds."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.tmp")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name) and path.is_file() and not _is_held(path):
            path.unlink(missing_ok=True)


@contextmanager
def scratch_folder(scratch: Path) -> Iterator[Path]:
    """A folder of one's own below `scratch`, removed at the end; those of killed runs go too."""
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    for leftover in scratch.glob(f"{_SCRATCH}*"):
        if leftover.is_dir() and not _is_held(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=scratch))
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _is_held(path: Path) -> bool:
    """Whether a living process holds the lock on this file or folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
