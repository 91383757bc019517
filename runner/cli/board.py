"""What the live display knows of a run: moments folded into a few numbers and one entry per batch.

No drawing here and no clock: `live_view` draws it. Told from the command's thread, read by the display's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import singledispatchmethod

from runner.commands.moments import (
    AnswersStored,
    BatchCreated,
    BatchDone,
    BatchSeen,
    Cut,
    Moment,
    Planned,
    Publishing,
    Raising,
    Retrying,
    RowsRead,
    RowsRendered,
    Started,
    Uploaded,
    UploadProgress,
)
from runner.core.planning import Plan


@dataclass(slots=True)
class BatchEntry:
    """One batch as it was last heard of. `stored` counts answers that are safe on this machine."""

    slot: int
    batch_id: str
    requests: int
    status: str = ""
    completed: int = 0
    failed: int = 0
    stored: int = 0
    expires_at_s: float | None = None
    is_done: bool = False

    @property
    def ended(self) -> int:
        """Requests that came to an end, as far as is known: counts are hints, answers are facts."""
        if self.is_done:
            return self.requests
        return min(max(self.completed + self.failed, self.stored), self.requests)


@dataclass(slots=True)
class Upload:
    """Bytes of one file that are sent."""

    sent_bytes: int
    size_bytes: int
    is_done: bool = False


@dataclass(slots=True)
class Board:
    """One run of one manifest, so far."""

    started: Started | None = None
    rows: int = 0
    rendered: int = 0
    plan: Plan | None = None
    uploads: dict[int, Upload] = field(default_factory=dict)
    batches: dict[int, BatchEntry] = field(default_factory=dict)
    published: int = 0
    is_publishing: bool = False
    more_shards: int = 0

    @singledispatchmethod
    def take(self, moment: Moment) -> None:
        """Take note. Moments that change nothing on the screen are passed over."""

    @take.register
    def _(self, moment: Started) -> None:
        self.started = moment

    @take.register
    def _(self, moment: RowsRead) -> None:
        self.rows = moment.rows

    @take.register
    def _(self, moment: RowsRendered) -> None:
        self.rendered, self.rows = moment.rows, moment.total

    @take.register
    def _(self, moment: Planned) -> None:
        self.plan, self.rows = moment.plan, moment.plan.rows

    @take.register
    def _(self, moment: UploadProgress) -> None:
        self.uploads[moment.slot] = Upload(sent_bytes=moment.sent_bytes, size_bytes=moment.size_bytes)

    @take.register
    def _(self, moment: Uploaded) -> None:
        self.uploads[moment.slot] = Upload(moment.size_bytes, moment.size_bytes, is_done=True)

    @take.register
    def _(self, moment: BatchCreated) -> None:
        self.batches[moment.slot] = BatchEntry(
            moment.slot, moment.batch_id, moment.requests, status="created"
        )

    @take.register
    def _(self, moment: BatchSeen) -> None:
        entry = self._entry(moment.slot, moment.batch_id, moment.requests)
        entry.batch_id, entry.requests = moment.batch_id or entry.batch_id, moment.requests
        entry.status = moment.status or entry.status
        entry.completed = moment.completed if moment.completed is not None else entry.completed
        entry.failed = moment.failed if moment.failed is not None else entry.failed
        entry.expires_at_s = moment.expires_at_s

    @take.register
    def _(self, moment: AnswersStored) -> None:
        entry = self._entry(moment.slot, moment.batch_id, moment.stored + moment.outstanding)
        entry.stored = max(entry.requests - moment.outstanding, 0)

    @take.register
    def _(self, moment: BatchDone) -> None:
        entry = self._entry(moment.slot, moment.batch_id, 0)
        entry.status, entry.is_done = moment.status or entry.status, True

    @take.register
    def _(self, moment: Retrying | Raising) -> None:
        self.more_shards += moment.shards

    @take.register
    def _(self, moment: Cut) -> None:
        self.uploads.pop(moment.slot, None)  # it is not sent, its parts are
        self.more_shards += moment.shards - 1

    @take.register
    def _(self, moment: Publishing) -> None:
        self.is_publishing, self.published = True, moment.rows

    def _entry(self, slot: int, batch_id: str, requests: int) -> BatchEntry:
        return self.batches.setdefault(slot, BatchEntry(slot, batch_id, requests))

    # ------------------------------------------------------------ sums

    @property
    def shards(self) -> int:
        """Files that this run sends, retries included."""
        planned = self.plan.shards if self.plan is not None else 0
        return max(planned + self.more_shards, len(self.uploads))

    @property
    def uploaded(self) -> int:
        """Files that are on the server."""
        return sum(upload.is_done for upload in self.uploads.values())

    @property
    def sent_bytes(self) -> int:
        """Bytes sent, of files begun."""
        return sum(upload.sent_bytes for upload in self.uploads.values())

    @property
    def upload_bytes(self) -> int:
        """Bytes to send: the plan's, or more where retries added files."""
        planned = self.plan.size_bytes if self.plan is not None else 0
        return max(planned, sum(upload.size_bytes for upload in self.uploads.values()))

    def shown(self, most: int) -> tuple[list[BatchEntry], list[BatchEntry]]:
        """The batches that deserve a line (open ones first, then the latest), and the rest."""
        entries = sorted(self.batches.values(), key=lambda entry: (entry.is_done, entry.slot))
        if len(entries) <= most:
            return sorted(entries, key=lambda entry: entry.slot), []
        chosen = entries[: max(most - 1, 0)]
        return sorted(chosen, key=lambda entry: entry.slot), entries[len(chosen) :]


def requests_of(entries: Iterable[BatchEntry]) -> tuple[int, int, int]:
    """Sums over batches: ended, failed, all."""
    ended = failed = requests = 0
    for entry in entries:
        ended, failed, requests = ended + entry.ended, failed + entry.failed, requests + entry.requests
    return ended, failed, requests
