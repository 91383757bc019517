"""The values that go into the ledger and come out of it, beside those of `runner.core`.

Frozen; rows become these in one place each. What exists a million times is a NamedTuple, because a frozen
dataclass costs four times as much to make. Paths are relative to the `.runner` folder; times are aware
UTC datetimes in `_at`, Unix seconds in `_s`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, repeat
from operator import itemgetter
from typing import Literal, NamedTuple

from runner.core.model import Cause, Fingerprint, Status
from runner.core.planning import Standing
from runner.core.states import ShardState
from runner.core.wire import decode_json

ResultKind = Literal["output", "error"]
RunState = Literal["running", "finished", "interrupted", "failed", "detached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRecord:
    """One manifest the ledger knows; `path` is relative to the project folder."""

    id: int
    path: str
    name: str
    current_run_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart:
    """What is known of a run when it begins. `uid` is 32 hex digits, `snapshot` the dataset's copy.

    `document`, `inputs` and `template_texts` are JSON: the resolved manifest, the input files' state, the
    texts behind `template_digest`.
    """

    uid: str
    manifest_id: int
    manifest_digest: str
    template_digest: str
    dataset_digest: str
    version: str
    git_commit: str | None
    snapshot: str
    model: str
    rows: int
    document: str | None = None
    inputs: str | None = None
    template_texts: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run as it is remembered. The figures are None while it has not ended.

    `document` is the whole manifest as canonical JSON, `inputs` the state of the input files (JSON),
    `published` what was written where (JSON), `history` a file with the run's rows and answers.
    `input_tokens`, `output_tokens` and `cost` are those of the answers in its table; `paid_*` those of every
    attempt that it collected, failed and superseded ones too.
    """

    id: int
    uid: str
    manifest_id: int
    started_at: datetime
    finished_at: datetime | None
    state: str
    exit_code: int | None
    manifest_digest: str
    template_digest: str
    dataset_digest: str
    version: str
    git_commit: str | None
    snapshot: str
    model: str
    rows: int
    requests_sent: int | None
    succeeded: int | None
    failed: int | None
    unsendable: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None
    paid_input_tokens: int | None
    paid_output_tokens: int | None
    paid_cost: float | None
    document: str | None
    inputs: str | None
    published: str | None
    history: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What became of a manifest's current rows. Tokens are those of the answers (and failures) held.

    Equal rows share a request: `by_status` counts rows, the tokens count each row's request once for
    every row. `cost` and `paid_cost` are the caller's to fill in.
    """

    rows: int
    by_status: Mapping[Status, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    paid_cost: float | None = None

    def count(self, *statuses: Status) -> int:
        """Rows in any of these statuses."""
        return sum(self.by_status.get(status, 0) for status in statuses)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """An input file that was written and synced, before the ledger knows of it."""

    slot: int
    sha: str
    path: str
    size_bytes: int
    requests: int
    endpoint: str
    completion_window: str
    model: str
    server: str
    not_before_s: float = 0.0


class Repeatable(NamedTuple):
    """A wanted request that failed for a cause that may pass: where its line stands, how many attempts its
    pause grows with (all; where it keeps an answer, those that count), and when (Unix seconds) the last one
    failed."""

    request_id: int
    shard_id: int
    line: int
    attempts: int
    failed_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """A shard for people: where it stands, and the batch of its current attempt if it has one."""

    shard_id: int
    run_id: int
    slot: int
    sha: str
    path: str
    size_bytes: int
    requests: int
    endpoint: str
    completion_window: str
    model: str
    state: ShardState
    attempt: int
    problem: str | None
    is_fenced: bool
    cancel_requested: bool
    input_file_id: str | None
    batch_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    status: str | None
    total: int | None
    completed: int | None
    failed: int | None
    created_at: datetime
    updated_at: datetime
    submitted_at: datetime | None
    expires_at: datetime | None
    finished_at: datetime | None


class LastRow(NamedTuple):
    """One of a manifest's current rows. `is_settled`: its request has succeeded and was not asked since."""

    position: int
    key: str
    fingerprint: bytes | None
    request_id: int | None
    is_settled: bool | int | None


class LastColumns(NamedTuple):
    """Some of a manifest's current rows, at least one, in order: the fields of `LastRow` side by side. A
    million of them are compared, most without a need for rows."""

    positions: Sequence[int]
    keys: Sequence[str]
    fingerprints: Sequence[bytes | None]
    request_ids: Sequence[int | None]
    settled: Sequence[bool | int | None]

    def rows(self, places: Iterable[int]) -> list[LastRow]:
        """Some of them, by their places here."""
        return [LastRow._make([column[place] for column in self]) for place in places]


class StagedRow(NamedTuple):
    """One row of a plan. `slot` and `line` place the request that is sent for it, if one is.

    `standing` is a word of `core.planning.Standing`. `name` is the readable half of the custom_id that
    was written into the shard; given, `commit_plan` refuses a plan whose shard says another one than the
    ledger. None means `key_part(key)` for a request the ledger does not know yet.
    `attempts` and `status` are how the placed request stood when that was decided: how often it had been
    sent, and its last word. Where either is another one by now, `commit_plan` refuses the plan.
    """

    position: int
    key: str
    fingerprint: bytes | None
    standing: str
    slot: int | None
    line: int | None
    cause: Cause | None
    name: str | None = None
    attempts: int = 0
    status: str | None = None

    @property
    def is_to_send(self) -> bool:
        """Whether a request is placed for this row."""
        return self.standing in (Standing.TO_SEND, Standing.UNASKED) and self.slot is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedBlock:
    """Rows of a plan whose requests nobody asked before, all of them placed: as many `StagedRow`s, by column.

    Positions ascend. `fingerprints` are 16 bytes each, `names` is `keys` where it is the same, `places` are
    runs of lines: the slot, the line of the first, their number.
    """

    positions: Sequence[int]
    keys: Sequence[str]
    fingerprints: bytes
    names: Sequence[str]
    places: Sequence[tuple[int, int, int]]

    def __len__(self) -> int:
        return len(self.positions)

    def marks(self) -> list[bytes]:
        """The fingerprints one by one."""
        whole = self.fingerprints
        return [whole[start : start + 16] for start in range(0, len(whole), 16)]

    def slots(self) -> Iterator[int]:
        """The slot of each."""
        return chain.from_iterable(repeat(slot, number) for slot, _, number in self.places)

    def lines(self) -> Iterator[int]:
        """The line of each."""
        return chain.from_iterable(range(line, line + number) for _, line, number in self.places)

    def __iter__(self) -> Iterator[StagedRow]:
        standing = Standing.UNASKED.value
        columns = zip(
            self.positions, self.keys, self.marks(), self.slots(), self.lines(), self.names, strict=True
        )
        for position, key, fingerprint, slot, line, name in columns:
            yield StagedRow(position, key, fingerprint, standing, slot, line, None, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBlock:
    """A `StagedBlock` as it lies in staging: `positions` are 8 bytes each, `keys` and `names` JSON lists
    (None: the names are the keys). `inside` are rows that stand among its own and are none of them."""

    positions: bytes
    keys: bytes
    fingerprints: bytes
    names: bytes | None
    places: Sequence[tuple[int, int, int]]
    inside: Sequence[StagedRow] = ()

    def __len__(self) -> int:
        return len(self.positions) // 8

    @property
    def ends(self) -> tuple[int, int]:
        """The first position and the last one."""
        first, last = array("Q", self.positions[:8]), array("Q", self.positions[-8:])
        return first[0], last[0]

    def unpacked(self) -> StagedBlock:
        """The rows, by column."""
        keys = decode_json(self.keys)
        return StagedBlock(
            positions=array("Q", self.positions),
            keys=keys,
            fingerprints=self.fingerprints,
            names=keys if self.names is None else decode_json(self.names),
            places=self.places,
        )

    def __iter__(self) -> Iterator[StagedRow]:
        """All rows in the order of their positions, those inside too."""
        rows: Iterable[StagedRow] = self.unpacked()
        return iter(sorted([*rows, *self.inside], key=itemgetter(0)) if self.inside else rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A manifest's rows against those of its last run, by key. `new` are also the `unasked` ones: the same
    request as then, but nobody has asked it.
    """

    unchanged: int
    new: int
    changed: int
    removed: int
    unasked: int = 0


class Expected(NamedTuple):
    """One line of a shard: its request, and what is stored of it so far."""

    line: int
    request_id: int
    status: Status | None
    file_id: int | None
    offset: int | None
    length: int | None


class Awaited(NamedTuple):
    """The lines of a shard by their custom_ids. `open`: line and request of those without an outcome; `held`:
    what is stored of the others. `model` is the one that was asked.
    """

    open: dict[str, tuple[int, int]]
    held: dict[str, Expected]
    model: str


AnswerValues = tuple[int, int, str | None, bytes | None, str | None, int, int, int, int]
"""A usual answer as it is stored: input and output tokens, model and response id (see `packing`), offset and
length of its line in the raw file; line and request in the shard."""


class Verdict(NamedTuple):
    """What a closer look at an answer came to, and why: at the one that this shard brought, and no other."""

    shard_id: int
    status: Status
    cause: Cause | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """A downloaded result file: its row in the ledger and its path."""

    id: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRaw:
    """A raw file. `is_needed`: a current row's answer stands in it, or that of a request which is on its
    way again, or its shard is not done. `collected_at` is when the shard last moved."""

    file_id: int
    shard_id: int
    path: str
    is_needed: bool
    collected_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteInput:
    """An uploaded input file of a shard that is done, with a line for every request. `raw_paths` is where
    these lines are."""

    shard_id: int
    attempt: int
    file_id: str
    size_bytes: int
    raw_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusedUpload:
    """An upload that was begun, of which surely no batch was made nor will be. `file_id` is None where the
    server's reply never came: then only its name tells it, if it is there at all."""

    shard_id: int
    attempt: int
    file_id: str | None
    filename: str
    size_bytes: int
    server: str
    begun_at: datetime


class LedgerRow(NamedTuple):
    """One row of a manifest with all that is known of its answer. The text is in the raw file."""

    position: int
    key: str
    status: Status
    error_class: str | None
    error_code: str | None
    error_message: str | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    model: str | None
    custom_id: str | None
    batch_id: str | None
    response_id: str | None
    attempts: int
    answered_at_s: int | None
    fingerprint: Fingerprint | None
    raw_path: str | None
    offset: int | None
    length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """Every id the server gave for one attempt of one shard."""

    shard_id: int
    attempt: int
    input_file_id: str | None
    batch_id: str | None
    output_file_id: str | None
    error_file_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One sending of one request, with its shard's file and batch. `path` is the input file's.

    `status` is `pending` until the attempt has ended; `raw_path`, `offset` and `length` place its result
    line, and are None where it was in no result file.
    """

    number: int
    run: str
    shard_id: int
    slot: int
    line: int
    path: str
    shard_state: str
    problem: str | None
    input_file_id: str | None
    batch_id: str | None
    batch_status: str | None
    output_file_id: str | None
    error_file_id: str | None
    uploaded_at: datetime | None
    submitted_at: datetime | None
    finished_at: datetime | None
    answered_at_s: int | None
    status: Status
    cause: Cause | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    model: str | None
    response_id: str | None
    raw_path: str | None
    offset: int | None
    length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedRow:
    """A row that another request belongs to than in the manifest's last run, with both its positions."""

    key: str
    position: int
    position_before: int
