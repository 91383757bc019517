"""What may become of a shard: the submission protocol as a pure state machine.

Theory
------
The API has no idempotency key, so a create that is repeated is paid twice, and a create whose reply is
lost may have been paid already. Three facts make one payment certain all the same:

1. *Intent, one call, record.* Before a create is sent, the ledger holds a durable intent (CREATING)
   that names shard, attempt and input file. One intent leads to at most one call on the wire. The reply
   is recorded before anything else happens. So after a crash the ledger says of every create either
   "never sent", "answered so", or "unknown" - and unknown is never taken for either of the others.
2. *A fresh upload for every attempt.* The input file's id is used in one create-intent only. Whatever
   batch names that file, or carries our tags in its metadata, is this attempt and no other.
3. *Proof before repeating.* An unknown create is first given time to land (settle), then looked for in
   complete listings, several times (scan). Found: adopted. Not found: where the provider has a fence
   (deleting the input file makes a late create fail and cancels what a lost one made), the fence is
   drawn, and one looks again; only then is the shard sent anew, with a new upload. Where it has none, a
   person decides (HELD). A listing may come from a replica that is behind: it counts only where our own
   input file is seen, and after the fence only where a file is seen that was uploaded after it.

States and moves (see `_MOVES`; a move that is not in the table is a fault and raises `IllegalMoveError`)::

    READY -> UPLOADING -> UPLOADED -> CREATING -> SUBMITTED -> DONE
                |            |           |  `-.
                |            |           |   UNKNOWN -> SUBMITTED                (found: adopt)
                |            |           |      |----> FENCING -> FENCED -> READY (attempt + 1)
                |            |           |      |                   `----> SUBMITTED (found after all)
                |            |           |      `----> HELD               (no proof, no fence)
                |            |           `-> READY (attempt + 1: surely not created)
                `-> READY    `-> READY
    READY, UPLOADING, UPLOADED -> DISCARDED   (nothing was bought yet and nobody wants it any more)
    UPLOADING, CREATING -> REFUSED            (the server rejected it for good)
    REFUSED -> DISCARDED                      (too large: its requests go on in smaller shards)
    HELD -> SUBMITTED | UNKNOWN               (the next run looks once more, or a person names the batch)
    HELD -> DISCARDED                         (a person says that no batch exists: all is asked anew; or
                                               gives it up, and which requests it holds is not known)
    HELD -> DONE                              (a person gives it up: what is missing is accounted for so)

Why a crash between any two steps is safe: READY, UPLOADING and UPLOADED hold nothing that is paid for
(an orphaned upload is free litter). CREATING and UNKNOWN are resolved by settle, scan, fence. SUBMITTED
is resumed by polling a known id. DONE is written in the transaction that stores the last outcome.

The one window that stays open: on a provider without a fence, a create that lands later than the settle
time and three complete listings. There the default is HELD, so that a person, not a timer, takes the risk.
(With a fence it would take batch listings that are further behind than the settle time while files are not.)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import assert_never

from runner.core.model import Problem, ProblemKind, Provider
from runner.core.tags import Tags
from runner.core.wire import BatchObject

CREATE_SEND_WINDOW_S = 30.0
"""An intent older than this is not sent any more; the settle time counts from here."""
SHORTEST_SEND_WINDOW_S = 5.0
CLEAN_SCANS_NEEDED = 3
"""Several replicas may answer a listing: so many complete scans without a match are taken as proof."""
FAILED_SCANS_ALLOWED = 10
SCAN_PAUSE_S = 5.0
CLOCK_TOLERANCE_S = 5.0


class ShardState(StrEnum):
    """Where a shard stands. The words stand in the ledger as they are."""

    READY = "ready"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    CREATING = "creating"
    UNKNOWN = "unknown"
    FENCING = "fencing"
    FENCED = "fenced"
    SUBMITTED = "submitted"
    DONE = "done"
    HELD = "held"
    REFUSED = "refused"
    DISCARDED = "discarded"

    @property
    def is_final(self) -> bool:
        """Nothing more happens by itself."""
        return self in _FINAL

    @property
    def is_unpaid(self) -> bool:
        """Surely no batch exists for it, and none is on its way."""
        return self in _UNPAID


_FINAL = frozenset({ShardState.DONE, ShardState.HELD, ShardState.REFUSED, ShardState.DISCARDED})
_UNPAID = frozenset({ShardState.READY, ShardState.UPLOADING, ShardState.UPLOADED})

_S = ShardState
_MOVES: dict[ShardState, frozenset[ShardState]] = {
    _S.READY: frozenset({_S.UPLOADING, _S.DISCARDED}),
    _S.UPLOADING: frozenset({_S.UPLOADING, _S.UPLOADED, _S.READY, _S.REFUSED, _S.DISCARDED}),
    _S.UPLOADED: frozenset({_S.CREATING, _S.READY, _S.DISCARDED}),
    _S.CREATING: frozenset({_S.SUBMITTED, _S.UNKNOWN, _S.READY, _S.REFUSED}),
    _S.UNKNOWN: frozenset({_S.SUBMITTED, _S.FENCING, _S.HELD}),
    _S.FENCING: frozenset({_S.FENCED, _S.HELD, _S.SUBMITTED}),
    _S.FENCED: frozenset({_S.READY, _S.SUBMITTED, _S.HELD}),
    _S.SUBMITTED: frozenset({_S.DONE, _S.HELD}),
    _S.HELD: frozenset({_S.SUBMITTED, _S.UNKNOWN, _S.FENCED, _S.DISCARDED, _S.DONE}),
    _S.DONE: frozenset(),
    _S.REFUSED: frozenset({_S.DISCARDED}),
    _S.DISCARDED: frozenset(),
}


class IllegalMoveError(Exception):
    """A state was to follow another that it may not follow: a fault of this program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One shard and its current attempt, as the ledger knows it. All times are Unix seconds.

    `server` is where its file and batch are (see `Provider.server`): their ids mean nothing elsewhere.
    `saved_at_s` is when this was stored, by the clock of the machine that stored it.
    `clean_scans` and `failed_scans` live in memory only: after a crash the proof starts afresh.
    """

    shard_id: int
    run: str
    server: str
    slot: int
    sha: str
    path: str
    size_bytes: int
    requests: int
    endpoint: str
    completion_window: str
    state: ShardState = ShardState.READY
    attempt: int = 1
    input_file_id: str | None = None
    send_by_s: float | None = None
    batch_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    status: str = ""
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    submitted_at_s: float | None = None
    expires_at_s: float | None = None
    is_fenced: bool = False
    cancel_requested: bool = False
    not_before_s: float = 0.0
    saved_at_s: float | None = field(default=None, compare=False)
    problem: str | None = None
    clean_scans: int = 0
    failed_scans: int = 0

    @property
    def tags(self) -> Tags:
        """The marks of this attempt."""
        return Tags(run=self.run, slot=self.slot, attempt=self.attempt, sha=self.sha, requests=self.requests)


# ---------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Upload:
    """Record the intent, then upload the shard's file once."""


@dataclass(frozen=True, slots=True)
class Create:
    """Record the intent, then create the batch once."""


@dataclass(frozen=True, slots=True)
class ScanForBatch:
    """Walk the listing for a batch of this attempt."""


@dataclass(frozen=True, slots=True)
class DrawFence:
    """Delete the input file, so that no lost create can become paid work any more."""


@dataclass(frozen=True, slots=True)
class Poll:
    """Retrieve the batch; read its files as far as they go."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this moment (Unix seconds)."""

    until_s: float


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing more happens by itself."""


Action = Upload | Create | ScanForBatch | DrawFence | Poll | Wait | Rest


def decide(submission: Submission, provider: Provider, now_s: float) -> Action:
    """The next step for a shard that has no call under way. Pure; see the theory above."""
    state = submission.state
    if state.is_final:
        return Rest()
    if now_s < submission.not_before_s:
        return Wait(submission.not_before_s)
    match state:
        case ShardState.READY | ShardState.UPLOADING:
            return Upload()
        case ShardState.UPLOADED:
            return Create()
        case ShardState.CREATING | ShardState.UNKNOWN:
            settled_s = (submission.send_by_s or 0.0) + provider.settle_s
            return Wait(settled_s) if now_s < settled_s else ScanForBatch()
        case ShardState.FENCING:
            return DrawFence()
        case ShardState.FENCED:
            return ScanForBatch()
        case ShardState.SUBMITTED:
            return Poll()
        case ShardState.DONE | ShardState.HELD | ShardState.REFUSED | ShardState.DISCARDED:
            return Rest()
        case _:
            assert_never(state)


# ---------------------------------------------------------------- moves


def _move(submission: Submission, state: ShardState, **changes: object) -> Submission:
    if state is not submission.state and state not in _MOVES[submission.state]:
        raise IllegalMoveError(f"shard {submission.shard_id}: {submission.state} can't become {state}")
    return replace(submission, state=state, **changes)  # type: ignore[arg-type]


def after_the_clock_was_set_back(submission: Submission, wall_s: float) -> Submission:
    """What was stored in the future, by the wall clock, was stored before that was set back: move it along.

    Its waits keep their length, counted from now. Else an hour's pause could last for a day.
    """
    back_s = (submission.saved_at_s or wall_s) - wall_s
    if back_s <= CLOCK_TOLERANCE_S:
        return submission
    return replace(
        submission,
        not_before_s=max(submission.not_before_s - back_s, 0.0),
        send_by_s=None if submission.send_by_s is None else submission.send_by_s - back_s,
    )


def by_another_clock(submission: Submission, ahead_s: float) -> Submission:
    """The same waits by a clock that shows `ahead_s` more. Clocks that run together are left alone."""
    if abs(ahead_s) <= CLOCK_TOLERANCE_S:
        return submission
    return replace(
        submission,
        not_before_s=max(submission.not_before_s + ahead_s, 0.0) if submission.not_before_s else 0.0,
        send_by_s=None if submission.send_by_s is None else submission.send_by_s + ahead_s,
    )


def upload_intended(submission: Submission) -> Submission:
    """About to upload. After a lost reply or a crash the next upload is a new attempt with a new name."""
    again = submission.state is ShardState.UPLOADING
    return _move(submission, ShardState.UPLOADING, attempt=submission.attempt + again, problem=None)


def upload_accepted(submission: Submission, file_id: str) -> Submission:
    """The server gave the file an id."""
    return _move(submission, ShardState.UPLOADED, input_file_id=file_id)


def upload_failed(submission: Submission, problem: Problem, now_s: float) -> Submission:
    """Not uploaded, or unknown: an upload is free, so it is done again as a new attempt, or refused."""
    return _refused(submission, problem, now_s)


def _refused(submission: Submission, problem: Problem, now_s: float) -> Submission:
    """Surely not done: too large is given up for smaller shards, what waiting may cure starts over."""
    if problem.kind in (ProblemKind.INVALID_REQUEST, ProblemKind.TOO_LARGE):
        refused = _move(submission, ShardState.REFUSED, problem=problem.message)
        return discarded(refused) if problem.kind is ProblemKind.TOO_LARGE else refused
    return _again(submission, problem, now_s)


def create_intended(
    submission: Submission, now_s: float, window_s: float = CREATE_SEND_WINDOW_S
) -> Submission:
    """About to create; after `send_by_s` this intent is not sent any more."""
    return _move(submission, ShardState.CREATING, send_by_s=now_s + window_s, problem=None)


def send_window_s(provider: Provider) -> float:
    """How long an intent may be sent. A server that settles in seconds needs no half minute on top."""
    return min(CREATE_SEND_WINDOW_S, max(provider.settle_s, SHORTEST_SEND_WINDOW_S))


def create_accepted(submission: Submission, batch_id: str, now_s: float) -> Submission:
    """The server gave the batch an id: it is paid for."""
    return _move(submission, ShardState.SUBMITTED, batch_id=batch_id, submitted_at_s=now_s)


def create_refused(submission: Submission, problem: Problem, now_s: float) -> Submission:
    """Surely not created. What waiting may cure starts over with a new upload; the rest is refused."""
    return _refused(submission, problem, now_s)


def create_unknown(
    submission: Submission, problem: Problem, *, ended_at_s: float | None = None
) -> Submission:
    """Perhaps created. Never repeated before there is proof.

    `ended_at_s`: when the one call ended. Nothing is sent after that, so the settle time counts from it.
    """
    send_by_s = submission.send_by_s if ended_at_s is None else ended_at_s
    return _move(submission, ShardState.UNKNOWN, send_by_s=send_by_s, problem=problem.message)


def _again(submission: Submission, problem: Problem, now_s: float) -> Submission:
    pause_s = problem.retry_after_s if problem.retry_after_s is not None else _backoff_s(submission.attempt)
    return _move(
        submission,
        ShardState.READY,
        attempt=submission.attempt + 1,
        input_file_id=None,
        send_by_s=None,
        is_fenced=False,
        not_before_s=now_s + pause_s,
        problem=problem.message,
        clean_scans=0,
        failed_scans=0,
    )


def _backoff_s(attempt: int) -> float:
    return float(min(2 ** min(attempt, 9), 300))


def scanned(
    submission: Submission,
    matches: tuple[BatchObject, ...],
    *,
    is_complete: bool,
    provider: Provider,
    now_s: float,
) -> Submission:
    """What a listing showed. A match is adopted; absence needs several complete listings to count."""
    if matches:
        return adopted(submission, best_match(matches), now_s)
    pause_s = scan_pause_s(provider)
    if not is_complete:
        failed = submission.failed_scans + 1
        if failed >= FAILED_SCANS_ALLOWED:
            why = "the listing of batches could not be read to its end, or is behind our own uploads"
            return _held(submission, why)
        return replace(submission, failed_scans=failed, clean_scans=0, not_before_s=now_s + pause_s)
    clean = submission.clean_scans + 1
    if clean < CLEAN_SCANS_NEEDED:
        return replace(submission, clean_scans=clean, not_before_s=now_s + pause_s)
    if submission.state is ShardState.FENCED:
        proof = Problem(
            kind=ProblemKind.SERVER_TROUBLE, message="the create never arrived", retry_after_s=0.0
        )
        return _again(submission, proof, now_s)
    if provider.has_fence and provider.echoes_metadata and submission.input_file_id is not None:
        unknown = _as_unknown(submission)
        return _move(unknown, ShardState.FENCING, clean_scans=0, failed_scans=0)
    return _held(_as_unknown(submission), "a create was sent, its outcome is unknown, and no batch is listed")


def scan_pause_s(provider: Provider) -> float:
    """Between two looks at listings. A server that settles in seconds needs no more than a part of them."""
    return min(SCAN_PAUSE_S, max(provider.settle_s / 10, 0.05))


def _as_unknown(submission: Submission) -> Submission:
    """A create-intent found after a crash is an unknown create."""
    if submission.state is ShardState.CREATING:
        return _move(submission, ShardState.UNKNOWN)
    return submission


def _held(submission: Submission, why: str) -> Submission:
    return _move(_as_unknown(submission), ShardState.HELD, problem=why)


def held(submission: Submission, why: str) -> Submission:
    """Only a person can decide what to do with this shard."""
    return _held(submission, why)


def reexamined(submission: Submission) -> Submission:
    """A held shard is looked at once more: its batch is polled, or looked for in the listings; behind its
    fence, where one is drawn."""
    if submission.batch_id is not None:
        state = ShardState.SUBMITTED
    else:
        state = ShardState.FENCED if submission.is_fenced else ShardState.UNKNOWN
    return _move(submission, state, clean_scans=0, failed_scans=0, not_before_s=0.0)


def disowned(submission: Submission, why: str) -> Submission:
    """A person says that no batch exists for a held shard, or gives one up of unknown requests: they are
    free, and asked anew."""
    _require_held(submission)
    return _move(submission, ShardState.DISCARDED, problem=why)


def abandoned(submission: Submission, why: str) -> Submission:
    """A person gives a held shard up: whether its batch was ever bought stays unknown."""
    _require_held(submission)
    return _move(submission, ShardState.DONE, problem=why)


def _require_held(submission: Submission) -> None:
    if submission.state is not ShardState.HELD:
        raise IllegalMoveError(
            f"shard {submission.shard_id} is {submission.state}: nobody needs to decide about it"
        )


def restored(state: ShardState, *, has_batch: bool, is_doubtful: bool) -> ShardState:
    """Where a shard stands that is put back from the journal, before its answers are read again.

    Nothing was bought for what never came to a create-intent, so that is planned anew. In a journal that
    lost lines the intent may have been one of them (`is_doubtful`): then an uploaded file is looked for in
    the listings, as after any create of unknown outcome.
    """
    if has_batch and not state.is_final:
        return ShardState.SUBMITTED
    if state is ShardState.UPLOADED and is_doubtful:
        return ShardState.UNKNOWN
    if state.is_unpaid:
        return ShardState.DISCARDED
    return state


def adopted(submission: Submission, batch: BatchObject, now_s: float) -> Submission:
    """A batch found on the server is this attempt: take it over."""
    fenced = submission.is_fenced or submission.state in (ShardState.FENCING, ShardState.FENCED)
    moved = _move(
        _as_unknown(submission),
        ShardState.SUBMITTED,
        batch_id=batch.batch_id,
        submitted_at_s=now_s,
        is_fenced=fenced,
        problem=None,
        not_before_s=0.0,
    )
    return seen(moved, batch)


def best_match(matches: tuple[BatchObject, ...]) -> BatchObject:
    """Of several batches of one attempt the most complete. One that failed or expired only where none is live
    or completed, a cancelled one only if there is no other."""
    return max(matches, key=lambda batch: (_prospects(batch), batch.completed or 0, batch.batch_id))


def _prospects(batch: BatchObject) -> int:
    if batch.status in _CANCEL_WORDS:
        return 0
    return 1 if terminal_word(batch.status) in ("failed", "expired") else 2


def fence_held(submission: Submission) -> Submission:
    """The server said that the input file is deleted. That stays so, also where the shard is held later."""
    return _move(
        submission, ShardState.FENCED, is_fenced=True, clean_scans=0, failed_scans=0, not_before_s=0.0
    )


def discarded(submission: Submission) -> Submission:
    """Nothing was bought, and nobody wants it any more."""
    return _move(submission, ShardState.DISCARDED)


def reconciled(submission: Submission) -> Submission:
    """Every request of the shard has an outcome. The only way to DONE."""
    return _move(submission, ShardState.DONE)


# ---------------------------------------------------------------- the server's words

_CANCEL_WORDS = frozenset({"cancelling", "cancelled", "canceled", "canceling"})
_TERMINAL_WORDS = {
    "completed": "completed",
    "succeeded": "completed",
    "success": "completed",
    "done": "completed",
    "finished": "completed",
    "ended": "completed",
    "failed": "failed",
    "error": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
    "canceled": "cancelled",
}


def is_cancelling(status: str) -> bool:
    """Whether a batch is told to stop, or has."""
    return status in _CANCEL_WORDS


def terminal_word(status: str) -> str | None:
    """completed, failed, expired or cancelled; None for a live or an unknown word (never final)."""
    return _TERMINAL_WORDS.get(status)


def last_word(submission: Submission) -> str | None:
    """How the batch ended, as `terminal_word` says it; None while it may go on.

    A batch whose input file was deleted can stay `cancelling` for ever (the Doubleword server has no line
    left to finish it by), so for it that word is the last one.
    """
    if submission.is_fenced and submission.status in _CANCEL_WORDS:
        return "cancelled"
    return terminal_word(submission.status)


def is_to_be_stopped(submission: Submission) -> bool:
    """Whether somebody wants its batch stopped, and the server does not show that it has heard of that."""
    is_wished = submission.state is ShardState.SUBMITTED and submission.cancel_requested
    return is_wished and not is_cancelling(submission.status) and last_word(submission) is None


def seen(submission: Submission, batch: BatchObject) -> Submission:
    """Store what the server says of the batch. Hints only: nothing here ends a shard."""
    return replace(
        submission,
        status=batch.status or submission.status,
        total=batch.total if batch.total is not None else submission.total,
        completed=batch.completed,
        failed=batch.failed,
        output_file_id=batch.output_file_id or submission.output_file_id,
        error_file_id=batch.error_file_id or submission.error_file_id,
        expires_at_s=batch.expires_at_s or submission.expires_at_s,
    )


def looks_finished(submission: Submission) -> bool:
    """A terminal word, or counts that add up: time to read both files to their end."""
    if last_word(submission) is not None:
        return True
    answered = (submission.completed or 0) + (submission.failed or 0)
    return submission.total is not None and submission.total > 0 and answered >= submission.total
