"""Moments: what a command tells while it works.

A flat list of small frozen values, told to one `Reporter` from the command's own thread. Screens, plain
lines and JSON live in the command line; the test double is a list. A moment never decides anything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from runner.core.planning import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One thing that happened. `event` is its name in the JSON stream."""

    event: ClassVar[str] = "moment"

    def as_json(self) -> dict[str, Any]:
        """`{"event": ..., fields}` for `--json`."""
        return {"event": self.event, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Moment):
    """A run began (or goes on: `is_resumed` says that earlier work of this manifest is under way)."""

    event: ClassVar[str] = "started"
    manifest: str
    run: str
    provider: str
    model: str
    is_resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRead(Moment):
    """The dataset's snapshot is taken: so many rows."""

    event: ClassVar[str] = "rows_read"
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRendered(Moment):
    """Rendering got this far."""

    event: ClassVar[str] = "rows_rendered"
    rows: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Moment):
    """The plan stands; nothing was spent yet. `causes` are examples of rows that can't be sent."""

    event: ClassVar[str] = "planned"
    plan: Plan
    causes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"event": self.event, **self.plan.as_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadProgress(Moment):
    """Bytes of one shard's file sent so far. Told often: a plain log leaves it out."""

    event: ClassVar[str] = "upload_progress"
    slot: int
    sent_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded(Moment):
    """A shard's file is on the server."""

    event: ClassVar[str] = "uploaded"
    slot: int
    file_id: str
    size_bytes: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCreated(Moment):
    """A batch exists: it is paid for from here on. `is_adopted`: found on the server after a lost reply."""

    event: ClassVar[str] = "batch_created"
    slot: int
    batch_id: str
    requests: int
    is_adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSeen(Moment):
    """What the server says of a batch. Counts are hints and may be None."""

    event: ClassVar[str] = "batch_seen"
    slot: int
    batch_id: str
    status: str
    requests: int
    completed: int | None
    failed: int | None
    expires_at_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersStored(Moment):
    """Result lines were read and stored. `stored` counts since the last such moment of this batch."""

    event: ClassVar[str] = "answers_stored"
    slot: int
    batch_id: str
    stored: int
    outstanding: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDone(Moment):
    """Every request of a shard is accounted for."""

    event: ClassVar[str] = "batch_done"
    slot: int
    batch_id: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble(Moment):
    """Something went wrong that the run lives with: `what` happened and what the run does about it."""

    event: ClassVar[str] = "trouble"
    what: str
    slot: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Trouble):
    """Something is perhaps not meant, and is told before anything is sent."""

    event: ClassVar[str] = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(Moment):
    """Requests whose failure may pass are sent again, after a pause."""

    event: ClassVar[str] = "retrying"
    requests: int
    shards: int
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Raising(Moment):
    """Requests whose answers were cut at the token limit are asked again with a larger limit."""

    event: ClassVar[str] = "raising"
    requests: int
    shards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(Moment):
    """A shard was too large for the server: it goes on as so many smaller ones. `failed`: requests that
    are too large on their own."""

    event: ClassVar[str] = "cut"
    slot: int
    shards: int
    failed: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted(Moment):
    """`--detach`: all is submitted; a later run collects."""

    event: ClassVar[str] = "submitted"
    batches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing(Moment):
    """The results table is being written: so many rows joined."""

    event: ClassVar[str] = "publishing"
    rows: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Moment):
    """The end of a run of one manifest; the last event of the JSON stream.

    `input_tokens`, `output_tokens` and `cost` are those of the answers in the table, whenever they were
    given; `paid_*` those of every attempt that this run collected, failed and superseded ones too.
    `refresh_failed` counts rows that were asked again, which failed, and whose earlier answer stays.
    """

    event: ClassVar[str] = "finished"
    rows: int
    succeeded: int
    failed: int
    truncated: int
    refused: int
    invalid: int
    expired: int
    cancelled: int
    unaccounted: int
    unsendable: int
    pending: int
    requests_sent: int
    batches: int
    results: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    cost: float | None
    paid_input_tokens: int
    paid_output_tokens: int
    paid_cost: float | None
    currency: str | None
    exit_code: int
    run: str
    manifest: str
    duration_s: float
    refresh_failed: int = 0


class Reporter(Protocol):
    """Who listens. `confirm` asks a person; where nobody can be asked it answers by policy."""

    def tell(self, moment: Moment) -> None:
        """Take note of a moment. Must not raise."""

    def confirm(self, question: str) -> bool:
        """True to go on. Off a terminal and with `--yes`: True."""


class Silent:
    """The reporter of the Python interface: hears nothing and goes on."""

    def tell(self, moment: Moment) -> None:
        """Nothing."""

    def confirm(self, question: str) -> bool:
        """Go on: who calls from code has decided."""
        return True
