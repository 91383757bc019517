"""When a run may leave a shard that is not final: never, once it is bought, or as soon as it must wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runner.commands.options import ManifestOptions, Pace, RunOptions
from runner.commands.tracks import LONG_WAIT_S, LOOKS_TO_STOP, Track
from runner.core.states import ShardState, Submission

NOW = 1_000_000.0
SHARD = Submission(
    shard_id=1,
    run="ab" * 16,
    server="https://llm.example.com/v1",
    slot=0,
    sha="0" * 64,
    path="shards/0.jsonl",
    size_bytes=1,
    requests=2,
    endpoint="/v1/chat/completions",
    completion_window="24h",
)
BOUGHT = replace(SHARD, state=ShardState.SUBMITTED, batch_id="batch-1", status="in_progress")
ENDED = replace(BOUGHT, status="completed")
LATER = NOW + 5


def left(submission: Submission, pace: Pace = Pace.STEP, **facts: Any) -> bool:
    """Whether a shard in the hands of this run can be left."""
    return Track(submission=submission, **{"is_taken": True, **facts}).can_be_left(NOW, pace)


def test_a_run_to_the_end_leaves_nothing() -> None:
    assert not left(BOUGHT, Pace.DONE, looks=3, next_at_s=LATER)
    assert not left(SHARD, Pace.DONE, is_taken=False, next_at_s=LATER)


def test_a_run_that_submits_leaves_what_is_bought() -> None:
    assert left(BOUGHT, Pace.SUBMITTED)
    assert not left(SHARD, Pace.SUBMITTED)
    assert left(replace(SHARD, not_before_s=LATER), Pace.SUBMITTED)


def test_a_run_that_submits_stays_until_a_wish_to_stop_was_heard() -> None:
    unwished = replace(BOUGHT, cancel_requested=True)
    assert not left(unwished, Pace.SUBMITTED)
    assert not left(unwished, Pace.SUBMITTED, looks=LOOKS_TO_STOP, is_busy=True)
    assert left(unwished, Pace.SUBMITTED, is_stop_told=True)
    assert left(replace(unwished, status="cancelling"), Pace.SUBMITTED)
    assert left(unwished, Pace.SUBMITTED, looks=LOOKS_TO_STOP), "a later run tells it again"
    assert left(unwished, Pace.SUBMITTED, is_taken=False, next_at_s=LATER), "another process moves it"


def test_a_step_looks_at_a_batch_once() -> None:
    assert not left(BOUGHT)
    assert not left(BOUGHT, looks=1, next_at_s=NOW - 1)
    assert not left(BOUGHT, looks=1, next_at_s=LATER, is_busy=True)
    assert left(BOUGHT, looks=1, next_at_s=LATER)


def test_a_step_stays_until_an_ended_batch_is_accounted_for() -> None:
    assert not left(ENDED, looks=1, next_at_s=LATER)


def test_a_step_leaves_an_ended_batch_that_is_read_again_a_long_while_later() -> None:
    assert left(ENDED, looks=1, next_at_s=NOW + LONG_WAIT_S + 1)


def test_a_step_waits_for_no_server_that_is_in_trouble() -> None:
    assert left(ENDED, looks=1, next_at_s=LATER, is_troubled=True)


def test_a_step_does_not_wait_for_the_grace_after_a_cancel() -> None:
    assert left(replace(BOUGHT, status="cancelled"), looks=1, next_at_s=LATER, is_in_grace=True)


def test_a_step_leaves_what_another_process_moves() -> None:
    assert left(SHARD, is_taken=False, next_at_s=LATER)
    assert not left(SHARD, is_taken=False)


@pytest.mark.parametrize(("wait_s", "is_left"), [(LONG_WAIT_S - 1, False), (LONG_WAIT_S + 1, True)])
def test_a_step_leaves_what_must_wait_long_before_it_is_sent(wait_s: float, is_left: bool) -> None:
    assert left(replace(SHARD, not_before_s=NOW + wait_s)) is is_left
    assert left(replace(SHARD, state=ShardState.UNKNOWN), next_at_s=NOW + wait_s) is is_left


def test_the_built_in_server_is_waited_for_because_it_works_only_meanwhile() -> None:
    options = RunOptions(manifest=ManifestOptions(path="m.yaml"), is_step=True)
    assert (options.pace(is_local=False), options.pace(is_local=True)) == (Pace.STEP, Pace.DONE)
    detached = replace(options, is_step=False, detach=True)
    assert (detached.pace(is_local=False), detached.pace(is_local=True)) == (Pace.SUBMITTED, Pace.SUBMITTED)
