"""Where a manifest's ledger is, found from the manifest's place and never from the current directory.

The nearest folder at or above the manifest with a `.runner/` in it, else the nearest with
`pyproject.toml` or `.git`, else the manifest's own. `RUNNER_LEDGER` overrides the database, not the
folder. Everything in `.runner/` is 0700 and 0600: it holds the user's data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runner.errors import LedgerError

FOLDER_NAME = ".runner"
DATABASE_NAME = "ledger.db"
URL_VARIABLE = "RUNNER_LEDGER"
NETWORK_DISK_VARIABLE = "RUNNER_ALLOW_NETWORK_DISK"
_SUBFOLDERS = ("shards", "requests", "raw", "snapshots", "scratch", "locks")
_PROJECT_SIGNS = ("pyproject.toml", ".git")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPlace:
    """The project's folder, its `.runner` folder, and the database's URL (which may hold a password)."""

    project: Path
    folder: Path
    url: str = field(repr=False)
    allows_network_disk: bool = False

    @property
    def journal(self) -> Path:
        """The side journal of ids."""
        return self.folder / "ids.jsonl"

    @property
    def name(self) -> str:
        """Which of the databases that share this folder it is; empty for the usual one."""
        if self.url == f"sqlite:///{self.folder / DATABASE_NAME}":
            return ""
        # A heavy library for a question that is asked of few ledgers.
        from runner.ledger.urls import url_digest

        return url_digest(self.url)

    @property
    def project_name(self) -> Path:
        """A file with the name by which a server's database knows this folder."""
        return self.folder / "project"

    def relative(self, path: str | Path) -> str:
        """A path as the ledger stores a manifest's: relative to the project folder, with `/`."""
        wanted = Path(path)
        if not wanted.is_absolute():
            return wanted.as_posix()
        whole = wanted.parent.resolve() / wanted.name
        return Path(os.path.relpath(whole, self.project)).as_posix()

    def manifest_lock(self, path: str | Path) -> Path:
        """The lock file of one manifest."""
        digest = hashlib.sha256(self.relative(path).encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / "locks" / f"manifest-{digest[:16]}.lock"

    def schedule_lock(self, path: str | Path) -> Path:
        """The lock file of one manifest's schedule."""
        manifest = self.manifest_lock(path)
        return manifest.with_name(manifest.name.replace("manifest-", "schedule-", 1))

    def shard_lock(self, shard_id: int) -> Path:
        """The lock file of one shard."""
        return self.folder / "locks" / f"shard-{shard_id}.lock"

    def prepare(self) -> None:
        """Make the folder tree, 0700, with a `.gitignore`. Errors: LedgerError. Safe to repeat."""
        try:
            for folder in (self.folder, *(self.folder / name for name in _SUBFOLDERS)):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignore = self.folder / ".gitignore"
            if not ignore.exists():
                descriptor = os.open(ignore, os.O_WRONLY | os.O_CREAT, 0o600)
                with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                    stream.write("*\n")
        except OSError as error:
            if isinstance(error, PermissionError) and os.path.lexists(self.folder):
                raise refused_to_us(self.folder, error) from error
            raise LedgerError(
                f"{self.folder}: can't be made: {error.strerror}",
                next_step="make the project's folder writable, or move the manifest to one that is",
            ) from error


def refused_to_us(path: Path, error: PermissionError) -> LedgerError:
    """For something of a project that another user's run has made: its folder is private."""
    return LedgerError(
        f"{path}: {error.strerror}",
        next_step="run this as the user to whom the project's .runner folder belongs, or give it to this one",
    )


def locate(manifest_path: str, environ: Mapping[str, str]) -> LedgerPlace:
    """The ledger's place for a manifest, which need not exist. Touches nothing. Never raises."""
    home = Path(os.path.abspath(manifest_path)).parent.resolve()  # noqa: PTH100 - keeps a symlinked file's own folder
    project = _project_of(home)
    folder = project / FOLDER_NAME
    return LedgerPlace(
        project=project,
        folder=folder,
        url=environ.get(URL_VARIABLE) or f"sqlite:///{folder / DATABASE_NAME}",
        allows_network_disk=environ.get(NETWORK_DISK_VARIABLE, "") not in ("", "0"),
    )


def _project_of(home: Path) -> Path:
    folders = (home, *home.parents)
    for folder in folders:
        if (folder / FOLDER_NAME).is_dir():
            return folder
    for folder in folders:
        if any((folder / sign).exists() for sign in _PROJECT_SIGNS):
            return folder
    return home
