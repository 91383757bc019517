"""Request lines to shard files on disk, as a stream: durable, and named by their content.

Each file is written under a scratch name, hashed on the way, fsync'd, and only then renamed to
`shards/<sha>.jsonl`; so a file with a real name is whole. `CountingShards` is the same without files,
for a plan that must leave nothing behind.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from runner.core.model import Limits
from runner.core.splitting import Place, Splitter
from runner.failpoints import failpoint

_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedShard:
    """A finished input file. `path` is empty where only the size was wanted."""

    slot: int
    sha: str
    path: str
    size_bytes: int
    requests: int


class Shards(Protocol):
    """Takes request lines one by one; gives each its place."""

    def place(self, line: bytes) -> Place:
        """Append a line that is known to fit into a file."""

    def seal(self) -> Sequence[SealedShard]:
        """No more lines: the finished files, by slot."""


class CountingShards:
    """Counts and hashes what files there would be."""

    def __init__(self, limits: Limits) -> None:
        self._splitter = Splitter(limits)
        self._sizes: list[int] = []
        self._lines: list[int] = []
        self._digests: list[hashlib._Hash] = []

    def place(self, line: bytes) -> Place:
        place = _placed(self._splitter, line)
        if place.shard == len(self._sizes):
            self._sizes.append(0)
            self._lines.append(0)
            self._digests.append(hashlib.sha256())
        self._digests[place.shard].update(line)
        self._sizes[place.shard] += len(line)
        self._lines[place.shard] += 1
        return place

    def seal(self) -> Sequence[SealedShard]:
        return [
            SealedShard(slot=slot, sha=digest.hexdigest(), path="", size_bytes=size, requests=lines)
            for slot, (size, lines, digest) in enumerate(
                zip(self._sizes, self._lines, self._digests, strict=True)
            )
        ]


class ShardFiles:
    """Writes the files. `discard` removes what is not wanted after all.

    `first_slot`: a run's shards are numbered through, those of its later attempts included.
    """

    def __init__(self, limits: Limits, *, folder: Path, scratch: Path, first_slot: int = 0) -> None:
        self._splitter = Splitter(limits, first_slot)
        self._slot = first_slot
        self._folder = folder
        self._scratch = scratch
        self._sealed: list[SealedShard] = []
        self._written: list[Path] = []
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._lines = 0

    def place(self, line: bytes) -> Place:
        place = _placed(self._splitter, line)
        if self._file is None or place.line == 0:
            self._finish()
            self._file = self._begin(place.shard)
        self._file.write(line)
        failpoint("shard.line")
        self._digest.update(line)
        self._bytes += len(line)
        self._lines += 1
        return place

    def seal(self) -> Sequence[SealedShard]:
        self._finish()
        if self._sealed:
            sync_folder(self._folder)
            failpoint("shard.sealed")
        return tuple(self._sealed)

    def discard(self) -> None:
        """Remove every file of this writer: the plan was not carried out."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for path in (*self._scratch.glob("shard-*.part"), *self._written):
            path.unlink(missing_ok=True)
        self._sealed, self._written = [], []

    def _begin(self, slot: int) -> BinaryIO:
        self._slot = slot
        path = self._scratch / f"shard-{slot:04d}.part"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._lines = 0
        os.close(descriptor)
        return path.open("wb", buffering=_BUFFER_BYTES)

    def _finish(self) -> None:
        if self._file is None:
            return
        slot, part = self._slot, Path(str(self._file.name))
        self._file.flush()
        failpoint("shard.written")
        os.fsync(self._file.fileno())
        failpoint("shard.synced")
        self._file.close()
        self._file = None
        sha = self._digest.hexdigest()
        path = self._folder / f"{sha}.jsonl"
        if not path.exists():
            self._written.append(path)  # a file of equal content may belong to a shard under way
        part.replace(path)
        failpoint("shard.renamed")
        self._sealed.append(
            SealedShard(slot=slot, sha=sha, path=str(path), size_bytes=self._bytes, requests=self._lines)
        )


def _placed(splitter: Splitter, line: bytes) -> Place:
    place = splitter.place(len(line))
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
