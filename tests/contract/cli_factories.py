"""Moments for the reporters: one of each kind, and the same filled with hostile text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from runner.commands.moments import (
    AnswersStored,
    BatchCreated,
    BatchDone,
    BatchSeen,
    Cut,
    Finished,
    Moment,
    Planned,
    Publishing,
    Raising,
    Retrying,
    RowsRead,
    RowsRendered,
    Started,
    Submitted,
    Trouble,
    Uploaded,
    UploadProgress,
)
from runner.core.planning import Estimate, Plan

HOSTILE = "\x1b[2J\x1b[31mevil\x07 [bold red]markup[/] :smile: \u202edesrever\u202c\r\nnext line \x9b5m\udcff"


def make_plan(**changes: Any) -> Plan:
    """300 rows, 298 of them to send, in one file."""
    plan = Plan(
        manifest="manifests/triage.yaml",
        rows=300,
        unchanged=0,
        new=298,
        changed=0,
        removed=0,
        failed_before=0,
        in_flight=0,
        unsendable=2,
        duplicates=0,
        requests_to_send=298,
        shards=1,
        size_bytes=142_000,
        estimate=Estimate(
            input_tokens=35_500,
            output_tokens=59_600,
            cost=0.25,
            currency="USD",
            basis="input: body bytes / 4",
        ),
        causes={"missing_variable": 2},
    )
    return replace(plan, **changes)


def make_finished(**changes: Any) -> Finished:
    """300 rows: 297 succeeded, 1 failed, 2 unsendable."""
    finished = Finished(
        rows=300,
        succeeded=297,
        failed=1,
        truncated=0,
        refused=0,
        invalid=0,
        expired=0,
        cancelled=0,
        unaccounted=0,
        unsendable=2,
        pending=0,
        requests_sent=298,
        batches=1,
        results=("/project/results/triage.parquet", "/elsewhere/triage.csv"),
        input_tokens=30_123,
        output_tokens=4_567,
        cost=0.1234,
        paid_input_tokens=30_123,
        paid_output_tokens=4_567,
        paid_cost=0.1234,
        currency="USD",
        exit_code=3,
        run="0123456789abcdef",
        manifest="triage",
        duration_s=250.4,
    )
    return replace(finished, **changes)


def make_seen(**changes: Any) -> BatchSeen:
    """Batch 1, in progress."""
    seen = BatchSeen(
        slot=1,
        batch_id="batch_aaa",
        status="in_progress",
        requests=298,
        completed=0,
        failed=0,
        expires_at_s=1_800_000_000.0,
    )
    return replace(seen, **changes)


def a_run() -> list[Moment]:
    """One moment of every kind, in the order of a run."""
    return [
        Started(manifest="triage", run="0123456789abcdef", provider="local", model="m-1", is_resumed=False),
        RowsRead(rows=300),
        RowsRendered(rows=300, total=300),
        Planned(plan=make_plan(), causes=("row 7, key 'a': `body` is undefined",)),
        UploadProgress(slot=1, sent_bytes=70_000, size_bytes=142_000),
        Uploaded(slot=1, file_id="file_aaa", size_bytes=142_000, requests=298),
        BatchCreated(slot=1, batch_id="batch_aaa", requests=298),
        make_seen(),
        AnswersStored(slot=1, batch_id="batch_aaa", stored=297, outstanding=1),
        make_seen(status="completed", completed=297, failed=1),
        BatchDone(slot=1, batch_id="batch_aaa", status="completed"),
        Trouble(what="the server said 503; again in 30 s", slot=1),
        Retrying(requests=1, shards=1, pause_s=30.0),
        Raising(requests=2, shards=1),
        Cut(slot=1, shards=2, failed=0, why="413 Request Entity Too Large"),
        Cut(slot=3, shards=0, failed=1, why="413 Request Entity Too Large"),
        Publishing(rows=300, total=300),
        make_finished(),
        Submitted(batches=1),
    ]


def every_kind() -> set[str]:
    """The events of all kinds of moments that exist (a slotted dataclass is there twice)."""
    return {kind.event for kind in Moment.__subclasses__()}


def hostile(moment: Moment) -> Moment:
    """The moment with every text replaced by what no terminal should interpret."""
    changes: dict[str, Any] = {}
    for item in fields(moment):
        value = getattr(moment, item.name)
        if isinstance(value, str):
            changes[item.name] = HOSTILE
        elif isinstance(value, tuple):
            changes[item.name] = tuple(HOSTILE for _ in value)
        elif isinstance(value, Plan):
            estimate = replace(value.estimate, basis=HOSTILE, currency=HOSTILE)
            changes[item.name] = replace(value, manifest=HOSTILE, estimate=estimate, causes={HOSTILE: 2})
    return replace(moment, **changes)


def strange_moments() -> Iterator[Moment]:
    """Moments out of order, without counts, with zeros and numbers that don't add up."""
    yield make_seen(slot=9, completed=None, failed=None, expires_at_s=None, batch_id="", status="")
    yield BatchDone(slot=77, batch_id="", status="")
    yield AnswersStored(slot=78, batch_id="b", stored=0, outstanding=0)
    yield UploadProgress(slot=5, sent_bytes=0, size_bytes=0)
    yield RowsRendered(rows=0, total=0)
    yield Publishing(rows=0, total=0)
    yield make_seen(requests=0, completed=5_000_000, failed=7, expires_at_s=0.0)
    yield Planned(
        plan=make_plan(rows=0, new=0, unsendable=0, requests_to_send=0, shards=0, size_bytes=0, causes={})
    )
    yield make_finished(rows=0, succeeded=0, failed=0, unsendable=0, results=(), cost=None, duration_s=0.0)
