"""What lies in `.runner/` and nothing refers to any more: found, never removed, here.

Theory. A file is left over where the ledger says so (its shard is final, its run is long past, no row
wants an answer in it) or where the ledger does not know it at all. The second kind could belong to a
process that works right now and has not told the ledger yet; so the folders are listed first, the
manifests' locks are taken next (by the caller), and files nobody knows count as left over only where all
locks were free: whoever made a listed file held its manifest's lock before, and is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from runner.core.states import ShardState
from runner.core.wire import JsonError, decode_json
from runner.ledger import Ledger, LedgerPlace, RunRecord, kept_path

RUNS_KEPT = 10
"""So many tables of the last runs stay whatever their age, for `run diff`."""
_ALL_RUNS = 1_000_000


class Kind(StrEnum):
    """What is left over; the words that `run gc` prints."""

    SCRATCH = "scratch"
    SHARD = "shard"
    SNAPSHOT = "snapshot"
    HISTORY = "history"
    ANSWERS = "answers"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One thing to remove. `name` is relative to the `.runner` folder, or a file id on the server.

    `size_bytes` is what removing it frees: 0 where another name keeps the bytes.
    `run_ids`: runs whose record names this history; `raw_id`: the ledger's id of this raw file.
    """

    kind: Kind
    name: str
    size_bytes: int
    run_ids: tuple[int, ...] = ()
    raw_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of `.runner/`, with size, mtime and inode, as they were before any lock was taken."""

    files: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def under(self, folder: str) -> list[str]:
        """Names in one subfolder."""
        return [name for name in self.files if name.startswith(f"{folder}/")]

    def freed(self, name: str) -> int:
        """Bytes that go with this name; 0 where there is no such file."""
        return self.files[name][0] if name in self.files else 0


def list_files(folder: Path) -> Listing:
    """Everything that may be left over."""
    files = {}
    for part in ("scratch", "shards", "requests", "snapshots", "history", "raw"):
        for path in sorted((folder / part).glob("*")):
            files[path.relative_to(folder).as_posix()] = stamp(path)
    return Listing(files=files)


def stamp(path: Path) -> tuple[int, int, int]:
    """Bytes that removing it would free, mtime, inode; zeros where it is gone."""
    try:
        found = path.lstat()
    except OSError:
        return 0, 0, 0
    size = found.st_size if found.st_nlink == 1 else 0
    if path.is_dir() and not path.is_symlink():
        size = sum(stamp(inner)[0] for inner in path.glob("*"))
    return size, found.st_mtime_ns, found.st_ino


class Search:
    """Finds the leftovers of one project. `free` are the ids of manifests that nobody works on."""

    def __init__(
        self,
        place: LedgerPlace,
        ledger: Ledger,
        listing: Listing,
        *,
        free: set[int],
        includes_unknown: bool,
        cutoff_at: datetime,
    ) -> None:
        self._place = place
        self._ledger = ledger
        self._listing = listing
        self._free = free
        self._includes_unknown = includes_unknown
        self._cutoff_at = cutoff_at
        self._manifests = ledger.manifests()
        self._runs = {one.id: ledger.runs(one.id, _ALL_RUNS) for one in self._manifests}

    def all(self) -> list[Leftover]:
        """Everything on this machine; answers only where nobody works in the project."""
        found = [*self._scratch(), *self._shards(), *self._requests(), *self._snapshots(), *self._histories()]
        return found + list(self._answers() if self._includes_unknown else ())

    def without_rows(self) -> list[str]:
        """Manifests that asked something, and whose rows are not known: the ledger was rebuilt, and they have
        not run since. Anybody's answers may be theirs."""
        return [
            one.path
            for one in self._manifests
            if (self._place.project / one.path).exists()
            and self._ledger.current_run(one.id) is None
            and self._ledger.shards(one.id)
        ]

    def _leftover(self, kind: Kind, name: str) -> Leftover:
        return Leftover(kind=kind, name=name, size_bytes=self._listing.freed(name))

    def _scratch(self) -> Iterator[Leftover]:
        if self._includes_unknown:
            for name in self._listing.under("scratch"):
                yield self._leftover(Kind.SCRATCH, name)

    def _shards(self) -> Iterator[Leftover]:
        """Input files of shards that are over. A held one may be sent yet."""
        over = {ShardState.DONE, ShardState.REFUSED, ShardState.DISCARDED}
        known: dict[str, bool] = {}
        for manifest in self._manifests:
            for shard in self._ledger.shards(manifest.id):
                is_over = shard.state in over and manifest.id in self._free
                known[shard.path] = known.get(shard.path, True) and is_over
        yield from self._left(Kind.SHARD, "shards", known)

    def _requests(self) -> Iterator[Leftover]:
        """Lists of requests that stand for shards of which no raw file is left."""
        with_answers = {one.shard_id for one in self._ledger.raw_files()}
        known: dict[str, bool] = {}
        for manifest in self._manifests:
            for shard in self._ledger.shards(manifest.id):
                name = kept_path(Path(), shard.sha).as_posix()
                is_left = shard.shard_id not in with_answers and shard.state.is_final
                known[name] = known.get(name, True) and is_left and manifest.id in self._free
        yield from self._left(Kind.SHARD, "requests", known)

    def _snapshots(self) -> Iterator[Leftover]:
        """The dataset as the current rows were asked stays; earlier ones join nothing any more."""
        known: dict[str, bool] = {}
        for manifest in self._manifests:
            for run in self._runs[manifest.id]:
                known[run.snapshot] = manifest.id in self._free
        for manifest in self._manifests:
            current = self._ledger.current_run(manifest.id)
            if current is not None:
                known[current.snapshot] = False
        yield from self._left(Kind.SNAPSHOT, "snapshots", known)

    def _left(self, kind: Kind, folder: str, known: Mapping[str, bool]) -> Iterator[Leftover]:
        for name in self._listing.under(folder):
            if known.get(name, self._includes_unknown):
                yield self._leftover(kind, name)

    def _histories(self) -> Iterator[Leftover]:
        """Tables of runs that are old, but for those of the last ten."""
        known: dict[str, bool] = {}
        for manifest in self._manifests:
            tables: dict[str, list[RunRecord]] = {}
            for run in self._runs[manifest.id]:
                if run.history is not None:
                    tables.setdefault(run.history, []).append(run)
            known |= dict.fromkeys(tables, False)
            if manifest.id in self._free:
                yield from self._old(tables)
        yield from self._left(Kind.HISTORY, "history", known)

    def _old(self, tables: Mapping[str, Sequence[RunRecord]]) -> Iterator[Leftover]:
        for name, runs in list(tables.items())[RUNS_KEPT:]:
            if runs[0].started_at < self._cutoff_at:
                yield replace(self._leftover(Kind.HISTORY, name), run_ids=tuple(run.id for run in runs))

    def _answers(self) -> Iterator[Leftover]:
        """Raw files of shards of which no row wants an answer now, nor did in any table since the cutoff.

        A shard's raw files go together: an empty error file is no news beside a full output file.
        """
        stored = self._ledger.raw_files()
        yield from self._left(Kind.ANSWERS, "raw", dict.fromkeys((one.path for one in stored), False))
        wanted = self._wanted_since_cutoff()
        if wanted is None or self.without_rows():
            return
        staying = {
            one.shard_id
            for one in stored
            if one.is_needed or one.path in wanted or one.collected_at >= self._cutoff_at
        }
        for one in stored:
            if one.shard_id not in staying:
                yield replace(self._leftover(Kind.ANSWERS, one.path), raw_id=one.file_id)

    def _wanted_since_cutoff(self) -> set[str] | None:
        """Raw files in the tables of runs since the cutoff, and of the last run before; None: not known."""
        wanted: set[str] = set()
        for runs in self._runs.values():
            for run in runs:
                if run.published is None:
                    continue
                try:
                    wanted.update(decode_json(run.published)["raw"])
                except (JsonError, KeyError, TypeError):
                    return None
                if run.started_at < self._cutoff_at:
                    break
        return wanted


def cutoff(now_at: datetime, older_than_s: float) -> datetime:
    """What is older than this is old."""
    return now_at - timedelta(seconds=older_than_s)
