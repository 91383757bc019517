"""Request lines to shard files on disk, as a stream: durable, and named by their content and their manifest.

Each file is written under a scratch name, hashed on the way, fsync'd, and only then renamed to
`shards/<sha>-<manifest>.jsonl`; so a file with a real name is whole. One process at a time plans a manifest;
two manifests that want the same requests have a file each, and neither removes the other's when it needs its
own no more. `CountingShards` is the same without files, for a plan that must leave nothing behind.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from runner.core.model import Limits
from runner.core.splitting import Place, Run, Splitter
from runner.failpoints import failpoint

_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedShard:
    """A finished input file. `path` is empty where only the size was wanted.

    `not_before_s`: the latest moment (Unix seconds) that one of its requests must wait for; 0: none.
    """

    slot: int
    sha: str
    path: str
    size_bytes: int
    requests: int
    not_before_s: float = 0.0


class Shards(Protocol):
    """Takes request lines one by one; gives each its place."""

    def place(self, line: bytes, due_s: float = 0.0) -> Place:
        """Append a line that is known to fit into a file. `due_s`: it is sent again, and not before."""

    def place_run(self, lines: bytes, sizes: Sequence[int]) -> Sequence[Run]:
        """Append many lines that are sent for the first time, written one after another; `sizes` in bytes."""

    def seal(self) -> Sequence[SealedShard]:
        """No more lines: the finished files, by slot."""


def _lane(due_s: float) -> int:
    """Requests that are sent again go into files of their own, whenever they are due: what may be sent at
    once does not wait for them, and the files of a plan don't depend on when it is made."""
    return 1 if due_s > 0 else 0


@dataclass(slots=True)
class _Part:
    """One file while it grows; `file` is None where it is only counted."""

    slot: int
    file: BinaryIO | None = None
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    size_bytes: int = 0
    lines: int = 0
    not_before_s: float = 0.0

    def add(self, written: bytes | memoryview, due_s: float = 0.0, lines: int = 1) -> None:
        if self.file is not None:
            self.file.write(written)
            failpoint("shard.line")
        self.digest.update(written)
        self.size_bytes += len(written)
        self.lines += lines
        self.not_before_s = max(self.not_before_s, due_s)

    def sealed(self, path: str = "") -> SealedShard:
        return SealedShard(
            slot=self.slot,
            sha=self.digest.hexdigest(),
            path=path,
            size_bytes=self.size_bytes,
            requests=self.lines,
            not_before_s=self.not_before_s,
        )


class CountingShards:
    """Counts and hashes what files there would be."""

    def __init__(self, limits: Limits) -> None:
        self._splitter = Splitter(limits)
        self._parts: list[_Part] = []

    def place(self, line: bytes, due_s: float = 0.0) -> Place:
        place = _placed(self._splitter, line, _lane(due_s))
        if place.shard == len(self._parts):
            self._parts.append(_Part(place.shard))
        self._parts[place.shard].add(line, due_s)
        return place

    def place_run(self, lines: bytes, sizes: Sequence[int]) -> Sequence[Run]:
        runs = self._splitter.place_run(sizes, _lane(0.0))
        for run, written in zip(runs, _cut(lines, runs), strict=True):
            if run.shard == len(self._parts):
                self._parts.append(_Part(run.shard))
            self._parts[run.shard].add(written, lines=run.lines)
        return runs

    def seal(self) -> Sequence[SealedShard]:
        return [part.sealed() for part in self._parts]


class ShardFiles:
    """Writes the files. `discard` removes what is not wanted after all.

    `owner` stands for the manifest in the files' names. `first_slot`: a run's shards are numbered through,
    those of its later attempts included.
    """

    def __init__(
        self, limits: Limits, *, folder: Path, scratch: Path, owner: str, first_slot: int = 0
    ) -> None:
        self._splitter = Splitter(limits, first_slot)
        self._folder = folder
        self._scratch = scratch
        self._owner = owner
        self._sealed: list[SealedShard] = []
        self._written: list[Path] = []
        self._open: dict[int, _Part] = {}

    def place(self, line: bytes, due_s: float = 0.0) -> Place:
        lane = _lane(due_s)
        place = _placed(self._splitter, line, lane)
        if place.line == 0:
            self._finish(self._open.pop(lane, None))
            self._open[lane] = self._begin(place.shard)
        self._open[lane].add(line, due_s)
        return place

    def place_run(self, lines: bytes, sizes: Sequence[int]) -> Sequence[Run]:
        lane = _lane(0.0)
        runs = self._splitter.place_run(sizes, lane)
        for run, written in zip(runs, _cut(lines, runs), strict=True):
            if run.line == 0:
                self._finish(self._open.pop(lane, None))
                self._open[lane] = self._begin(run.shard)
            self._open[lane].add(written, lines=run.lines)
        return runs

    def seal(self) -> Sequence[SealedShard]:
        for part in self._open.values():
            self._finish(part)
        self._open = {}
        if self._sealed:
            sync_folder(self._folder)
            failpoint("shard.sealed")
        return tuple(sorted(self._sealed, key=lambda shard: shard.slot))

    def discard(self) -> None:
        """Remove every file of this writer: the plan was not carried out."""
        for part in self._open.values():
            if part.file is not None:
                part.file.close()
        self._open = {}
        for path in (*self._scratch.glob("shard-*.part"), *self._written):
            path.unlink(missing_ok=True)
        self._sealed, self._written = [], []

    def _begin(self, slot: int) -> _Part:
        path = self._scratch / f"shard-{slot:04d}.part"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        os.close(descriptor)
        return _Part(slot, path.open("wb", buffering=_BUFFER_BYTES))

    def _finish(self, part: _Part | None) -> None:
        if part is None or part.file is None:
            return
        written = Path(str(part.file.name))
        part.file.flush()
        failpoint("shard.written")
        os.fsync(part.file.fileno())
        failpoint("shard.synced")
        part.file.close()
        path = self._folder / f"{part.digest.hexdigest()}-{self._owner}.jsonl"
        if not path.exists():
            self._written.append(path)  # a file of equal content may belong to a shard under way
        written.replace(path)
        failpoint("shard.renamed")
        self._sealed.append(part.sealed(str(path)))


def _cut(lines: bytes, runs: Sequence[Run]) -> Iterator[memoryview]:
    """The bytes of each run."""
    whole = memoryview(lines)
    start = 0
    for run in runs:
        yield whole[start : start + run.size_bytes]
        start += run.size_bytes


def _placed(splitter: Splitter, line: bytes, lane: int) -> Place:
    place = splitter.place(len(line), lane)
    if place is None:
        raise AssertionError("a line larger than a file may be must be found unsendable before")
    return place


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
