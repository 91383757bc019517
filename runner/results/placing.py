"""Files that appear whole or not at all, and folders that don't outlive their run.

The one rule: a table is written to `.<name>.<uuid>.tmp` beside its target, made durable, and only then
renamed over it (I23). Several targets are all written before the first is renamed. A draft is held by an
flock for as long as its writer lives, so what a killed run left can be told from what another is writing,
and is removed. Between its making and its lock another process may take a draft for left over: who makes one
looks whether it still stands there when the lock is held, and else makes another; who removes one holds the
lock meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runner.failpoints import failpoint

_SCRATCH = "publish-"
_MOST_TRIES = 100
"""So often what was just made may be taken for left over; once is rare."""


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
    mode = 0o666 if target.parent.stat().st_mode & 0o077 else 0o600

    def make() -> tuple[Path, int]:
        path = target.with_name(draft_name(target))
        return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    path, descriptor = _locked(make)
    try:
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
        if pattern.fullmatch(path.name) and path.is_file():
            _remove_if_left(path)


@contextmanager
def scratch_folder(scratch: Path) -> Iterator[Path]:
    """A folder of one's own below `scratch`, removed at the end; those of killed runs go too."""
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    for leftover in scratch.glob(f"{_SCRATCH}*"):
        if leftover.is_dir():
            _remove_if_left(leftover)

    def make() -> tuple[Path, int]:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=scratch))
        return folder, os.open(folder, os.O_RDONLY | os.O_CLOEXEC)

    folder, descriptor = _locked(make)
    try:
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _locked(make: Callable[[], tuple[Path, int]]) -> tuple[Path, int]:
    """What `make` makes and opens, as soon as it is locked and still stands where it was made."""
    for _ in range(_MOST_TRIES):
        with suppress(FileNotFoundError):  # a folder that was gone before it was open
            path, descriptor = make()
            try:
                is_ours = _is_taken(path, descriptor)
            except BaseException:
                os.close(descriptor)
                _remove(path)
                raise
            if is_ours:
                return path, descriptor
            os.close(descriptor)
    raise BlockingIOError(errno.EAGAIN, "other processes keep removing what is made there")


def _is_taken(path: Path, descriptor: int) -> bool:
    """Lock what is open: whether nobody else has, and it still has this name. Raises OSError where its file
    system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_if_left(path: Path) -> None:
    """Remove it unless a living process holds the lock on it; ours is held until it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        is_left = False
        with suppress(OSError):
            is_left = _is_taken(path, descriptor)
        if is_left:
            _remove(path)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
