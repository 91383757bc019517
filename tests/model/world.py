"""One slot, its server, the processes that move it, and every next state. The theory: `tests.model`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import NamedTuple

from runner.core.model import Limits, Problem, ProblemKind, Provider
from runner.core.states import (
    FAILED_SCANS_ALLOWED,
    SCAN_PAUSE_S,
    Create,
    DrawFence,
    Poll,
    ScanForBatch,
    ShardState,
    Submission,
    Upload,
)
from runner.core.wire import BatchObject
from tests.model.protocol import Protocol

NOW_S = 10_000.0
"""What the clock says, always: ticks move deadlines, not the clock."""
TICK_S = SCAN_PAUSE_S
MAX_ATTEMPTS = 3
LATE_TICKS = 2
LAG_TICKS = 2


class Batch(NamedTuple):
    """A create that reached the server. `left`: ticks until it commits (`pending`), else until every
    listing shows it. `number` tells batches of one attempt apart."""

    attempt: int
    number: int
    state: str
    left: int

    @property
    def batch_id(self) -> str:
        return f"batch-{self.attempt}-{self.number}"


class Process(NamedTuple):
    """What one process holds in memory, and the call it is about to make."""

    memory: Submission
    call: str | None = None


class World(NamedTuple):
    """Everything. `owner` moves the shard; `other` is a process that was taken over, or that should not be
    there. `deleted`: attempts whose input file is gone."""

    ledger: Submission
    owner: Process
    other: Process | None
    batches: tuple[Batch, ...]
    deleted: frozenset[int]

    @property
    def paid(self) -> int:
        """How many batches of the slot are billed, or will be if nothing stops them."""
        return sum(batch.state in ("live", "ran") for batch in self.batches)

    @property
    def is_over(self) -> bool:
        """Nothing more happens by itself, or the model follows it no further."""
        return self.ledger.state.is_final or self.ledger.attempt > MAX_ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Dangers:
    """What the adversary can do beyond the server's own tricks.

    `takeover`: another process takes over from a frozen one. `pause`: a process can also stand still
    between its last look at the clock and its call. `crowd`: a second process works beside the first.
    """

    takeover: bool = False
    pause: bool = False
    crowd: bool = False


Move = tuple[str, World]

LOST = Problem(kind=ProblemKind.SERVER_TROUBLE, message="no reply", retry_after_s=0.0)
NO_FILE = Problem(kind=ProblemKind.NOT_FOUND, message="no such input file", retry_after_s=0.0)
BUSY = Problem(kind=ProblemKind.CAPACITY, message="no capacity", retry_after_s=0.0)
TOO_OLD = Problem(kind=ProblemKind.UNREACHABLE, message="not sent", retry_after_s=0.0)


def make_provider(*, settle_ticks: int, has_fence: bool, echoes_metadata: bool = True) -> Provider:
    """A profile whose settle time is so many ticks."""
    return Provider(
        name="model",
        identity="model",
        base_url="http://127.0.0.1:1/v1",
        api_key_env=None,
        limits=Limits(max_file_bytes=1, max_requests_per_file=1, max_body_bytes=1),
        endpoints=("/v1/chat/completions",),
        settle_s=settle_ticks * TICK_S,
        has_fence=has_fence,
        echoes_metadata=echoes_metadata,
    )


def beginning() -> World:
    """A planned shard, one process, an empty server."""
    shard = Submission(
        shard_id=1,
        run="ab" * 16,
        server="http://127.0.0.1:1/v1",
        slot=1,
        sha="cd" * 32,
        path="shards/1.jsonl",
        size_bytes=1,
        requests=1,
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    return World(ledger=shard, owner=Process(shard), other=None, batches=(), deleted=frozenset())


def moves(world: World, protocol: Protocol, dangers: Dangers) -> Iterator[Move]:
    """Every next state, each with what happened."""
    if world.ledger.attempt <= MAX_ATTEMPTS:
        yield from _steps(world, protocol, "owner")
    yield from _steps(world, protocol, "other")
    yield from _deaths(world, protocol, dangers)
    yield from _server(world, protocol)
    if dangers.pause or not _is_sending(world):
        passed = _tick(world, protocol)
        if passed != world:
            yield "a tick passes", passed


def _is_sending(world: World) -> bool:
    return "send" in (world.owner.call, None if world.other is None else world.other.call)


# ---------------------------------------------------------------- processes


def _deaths(world: World, protocol: Protocol, dangers: Dangers) -> Iterator[Move]:
    fresh = _fresh(world, protocol)
    if world.owner != fresh or world.other is not None:
        yield "kill -9 of all; started again", world._replace(owner=fresh, other=None)
    if dangers.crowd and world.other is None:
        yield "a second process starts beside the first", world._replace(other=fresh)
    if dangers.takeover and world.other is None and (dangers.pause or not _is_sending(world)):
        stays = world.owner.call in ("check", "send", "fence") or protocol.late_writes
        other = world.owner if stays else None
        yield "the process freezes, another takes over", world._replace(owner=fresh, other=other)


def _fresh(world: World, protocol: Protocol) -> Process:
    return Process(_durable(world.ledger, protocol.provider.settle_s))


def _steps(world: World, protocol: Protocol, who: str) -> Iterator[Move]:
    process: Process | None = getattr(world, who)
    if process is None:
        return
    memory = process.memory
    match process.call:
        case None:
            steps = _decided(world, protocol, who, memory)
        case "upload":
            steps = _upload(world, protocol, who, memory)
        case "check":
            steps = _check(world, protocol, who, memory)
        case "send":
            steps = _send(world, protocol, who, memory)
        case _:
            steps = _fence(world, protocol, who, memory)
    for what, after in steps:
        yield f"{who}: {what}", after


def _decided(world: World, protocol: Protocol, who: str, memory: Submission) -> Iterator[Move]:
    action = protocol.decide(memory, NOW_S)
    match action:
        case Upload():
            moved = protocol.upload_intended(memory)
            yield "intends an upload", _saved(world, protocol, who, moved, "upload")
        case Create():
            moved = protocol.create_intended(memory, NOW_S)
            if protocol.records_intent:
                yield "records its intent to create", _saved(world, protocol, who, moved, "check")
            else:
                yield "is about to create", _in_memory(world, protocol, who, moved, "check")
        case ScanForBatch():
            yield from _scan(world, protocol, who, memory)
        case DrawFence():
            yield "is about to delete the input file", _in_memory(world, protocol, who, memory, "fence")
        case Poll():
            batch = next((one for one in world.batches if one.batch_id == memory.batch_id), None)
            if batch is not None and batch.state != "live":
                moved = protocol.reconciled(memory)
                yield f"reads {batch.batch_id} to its end", _saved(world, protocol, who, moved)


def _upload(world: World, protocol: Protocol, who: str, memory: Submission) -> Iterator[Move]:
    accepted = protocol.upload_accepted(memory, _file_id(memory.attempt))
    yield "uploads", _saved(world, protocol, who, accepted)
    yield "uploads; no reply", _saved(world, protocol, who, protocol.upload_failed(memory, LOST, NOW_S))


def _check(world: World, protocol: Protocol, who: str, memory: Submission) -> Iterator[Move]:
    if protocol.may_send(memory, NOW_S):
        yield "looks at the clock: may send", _in_memory(world, protocol, who, memory, "send")
    else:
        moved = protocol.create_refused(memory, TOO_OLD, NOW_S)
        yield "finds its intent too old", _saved(world, protocol, who, moved)


def _send(world: World, protocol: Protocol, who: str, memory: Submission) -> Iterator[Move]:
    """One create on the wire and all that may come of it, recorded or not before the process dies."""
    for what, after in _sent(world, protocol, who, memory):
        yield what, after
        if who == "owner":
            dead = after._replace(ledger=world.ledger, owner=_fresh(world, protocol))
            yield f"{what}; killed before it is recorded", dead


def _sent(world: World, protocol: Protocol, who: str, memory: Submission) -> Iterator[Move]:
    attempt = int((memory.input_file_id or "file-0").removeprefix("file-"))
    refused = _saved(world, protocol, who, protocol.create_refused(memory, BUSY, NOW_S))
    yield "creates; refused for lack of capacity", refused
    unknown = _saved(world, protocol, who, protocol.create_unknown(memory, LOST, NOW_S))
    yield "creates; the request is lost on the way", unknown
    if attempt in world.deleted:
        gone = _saved(world, protocol, who, protocol.create_refused(memory, NO_FILE, NOW_S))
        yield "creates; 404, the input file is deleted", gone
        return
    number = 1 + sum(batch.attempt == attempt for batch in world.batches)
    live = Batch(attempt, number, "live", LAG_TICKS)
    accepted = protocol.create_accepted(memory, live.batch_id, NOW_S)
    yield f"creates {live.batch_id}", _with(_saved(world, protocol, who, accepted), live)
    yield f"creates {live.batch_id}; no reply", _with(unknown, live)
    late = Batch(attempt, number, "pending", LATE_TICKS)
    yield f"creates; no reply, and the server has not committed {late.batch_id} yet", _with(unknown, late)


def _scan(world: World, protocol: Protocol, who: str, memory: Submission) -> Iterator[Move]:
    """A listing: batches that not every replica has may be in it or not."""
    committed = [batch for batch in world.batches if batch.state != "pending"]
    echoes = protocol.provider.echoes_metadata
    choices = [(True,) if batch.left == 0 else (True, False) for batch in committed]
    for shown in product(*choices):
        listed = [batch for batch, is_shown in zip(committed, shown, strict=True) if is_shown]
        objects = (
            _object(batch, is_deleted=batch.attempt in world.deleted, echoes_metadata=echoes)
            for batch in listed
        )
        matches = tuple(found for found in objects if memory.tags.match(found, memory.input_file_id))
        moved = protocol.scanned(memory, matches, is_complete=True, now_s=NOW_S)
        names = ", ".join(found.batch_id for found in matches) or "none"
        yield f"lists the batches, finds {names}", _saved(world, protocol, who, moved)
    broken = protocol.scanned(memory, (), is_complete=False, now_s=NOW_S)
    yield "lists the batches; the listing breaks off", _saved(world, protocol, who, broken)
    for _ in range(FAILED_SCANS_ALLOWED):
        if broken.state is memory.state:
            broken = protocol.scanned(broken, (), is_complete=False, now_s=NOW_S)
    yield "lists the batches; no listing ever ends", _saved(world, protocol, who, broken)


def _fence(world: World, protocol: Protocol, who: str, memory: Submission) -> Iterator[Move]:
    """Deleting the input file: what is committed and did not run yet is cancelled, what comes later dies."""
    attempt = memory.attempt
    batches = tuple(
        batch._replace(state="dead") if batch.attempt == attempt and batch.state == "live" else batch
        for batch in world.batches
    )
    after = world._replace(batches=batches, deleted=world.deleted | {attempt})
    is_gone = attempt in world.deleted
    if not is_gone:
        yield "deletes the input file", _judged(after, protocol, who, memory, "deleted", is_gone=True)
    yield "deletes the input file; no reply", _in_memory(after, protocol, who, memory)
    yield "deletes the input file in vain", _judged(world, protocol, who, memory, "unclear", is_gone=is_gone)
    yield (
        "hears that there is no such file",
        _judged(world, protocol, who, memory, "missing", is_gone=is_gone),
    )
    given_up = protocol.held(memory, "the input file could not be deleted")
    yield "can't delete the input file, ever", _saved(world, protocol, who, given_up)


def _judged(
    world: World, protocol: Protocol, who: str, memory: Submission, reply: str, *, is_gone: bool
) -> World:
    """A 404 that lasts is believed; that a false one does not last so long is assumed, so only a true one
    can be taken for the fence here."""
    if protocol.fence_holds(reply, is_gone=is_gone):
        return _saved(world, protocol, who, protocol.fence_held(memory))
    return _in_memory(world, protocol, who, memory)


# ---------------------------------------------------------------- memory and ledger


def _saved(world: World, protocol: Protocol, who: str, moved: Submission, call: str | None = None) -> World:
    """Record a move, then go on; a process that was taken over writes nothing more and ends."""
    if who == "other" and not protocol.late_writes:
        return world._replace(other=None)
    settle_s = protocol.provider.settle_s
    known = _canonical(moved, settle_s)
    after = world._replace(ledger=_durable(moved, settle_s))
    return _put(after, who, Process(known, call))


def _in_memory(
    world: World, protocol: Protocol, who: str, memory: Submission, call: str | None = None
) -> World:
    """Go on without writing. Who was taken over has nothing more to do once its call is made."""
    if who == "other" and call is None and not protocol.late_writes:
        return world._replace(other=None)
    return _put(world, who, Process(_canonical(memory, protocol.provider.settle_s), call))


def _put(world: World, who: str, process: Process) -> World:
    return world._replace(owner=process) if who == "owner" else world._replace(other=process)


@cache
def _durable(submission: Submission, settle_s: float) -> Submission:
    return replace(_canonical(submission, settle_s), clean_scans=0)


@cache
def _canonical(submission: Submission, settle_s: float) -> Submission:
    """Without what decides nothing: words, moments long past, how many listings broke off."""
    send_by_s = submission.send_by_s
    if submission.state not in (ShardState.CREATING, ShardState.UNKNOWN) or send_by_s is None:
        send_by_s = None
    else:
        send_by_s = max(_whole_ticks(send_by_s), NOW_S - settle_s - TICK_S)
    return replace(
        submission,
        send_by_s=send_by_s,
        not_before_s=max(_whole_ticks(submission.not_before_s), NOW_S),
        submitted_at_s=None,
        problem=None,
        status="",
        total=None,
        completed=None,
        failed=None,
        failed_scans=0,
    )


def _whole_ticks(moment_s: float) -> float:
    return NOW_S + TICK_S * math.ceil((moment_s - NOW_S) / TICK_S)


# ---------------------------------------------------------------- server and clock


def _server(world: World, protocol: Protocol) -> Iterator[Move]:
    for place, batch in enumerate(world.batches):
        if batch.state == "pending":
            yield f"the server commits {batch.batch_id}", _exchanged(world, place, _committed(batch, world))
        elif batch.state == "live":
            ran = batch._replace(state="ran")
            yield f"{batch.batch_id} runs to its end", _exchanged(world, place, ran)


def _committed(batch: Batch, world: World) -> Batch:
    return batch._replace(state="dead" if batch.attempt in world.deleted else "live", left=LAG_TICKS)


def _exchanged(world: World, place: int, batch: Batch) -> World:
    return world._replace(batches=(*world.batches[:place], batch, *world.batches[place + 1 :]))


def _with(world: World, batch: Batch) -> World:
    return world._replace(batches=(*world.batches, batch))


def _tick(world: World, protocol: Protocol) -> World:
    settle_s = protocol.provider.settle_s
    older = [
        None if process is None else process._replace(memory=_older(process.memory, settle_s))
        for process in (world.owner, world.other)
    ]
    batches = tuple(
        _committed(batch, world)
        if batch.state == "pending" and batch.left == 1
        else batch._replace(left=max(batch.left - 1, 0))
        for batch in world.batches
    )
    owner = older[0] or world.owner
    return World(_older(world.ledger, settle_s), owner, older[1], batches, world.deleted)


@cache
def _older(submission: Submission, settle_s: float) -> Submission:
    send_by_s = None if submission.send_by_s is None else submission.send_by_s - TICK_S
    not_before_s = submission.not_before_s - TICK_S
    return _canonical(replace(submission, send_by_s=send_by_s, not_before_s=not_before_s), settle_s)


def _file_id(attempt: int) -> str:
    return f"file-{attempt}"


@cache
def _object(batch: Batch, *, is_deleted: bool, echoes_metadata: bool) -> BatchObject:
    """The batch as a listing describes it: once its input file is deleted it names none."""
    tags = replace(beginning().ledger, attempt=batch.attempt).tags
    return BatchObject(
        batch_id=batch.batch_id,
        status={"live": "in_progress", "ran": "completed", "dead": "cancelled"}[batch.state],
        input_file_id=None if is_deleted else _file_id(batch.attempt),
        output_file_id=None,
        error_file_id=None,
        total=None,
        completed=None,
        failed=None,
        created_at_s=None,
        expires_at_s=None,
        metadata=tags.metadata() if echoes_metadata else {},
        errors=None,
    )
