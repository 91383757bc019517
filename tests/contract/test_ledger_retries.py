"""What the ledger remembers of attempts: those that do not count, when they failed, what they cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runner.commands.request_tokens import Tokens, request_tokens
from runner.core.model import Cause, Outcome, Status
from runner.core.planning import Held
from runner.core.states import (
    ShardState,
    Submission,
    abandoned,
    discarded,
    held,
    reconciled,
    reexamined,
    upload_intended,
)
from runner.ledger import PlanMovedError, Repeatable
from tests.contract.ledger_factories import (
    START_S,
    Clock,
    Project,
    failed,
    fingerprint,
    shard_file,
    succeeded,
    to_send,
)

BLOCKED = failed(message="402 Account balance too low")._replace(blocked=True)
TOO_LARGE = Outcome(status=Status.FAILED, cause=Cause(error_class="body_too_large", message="413"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def project(tmp_path: Path, clock: Clock) -> Project:
    return Project.open(tmp_path, clock=clock)


def held_of(project: Project, name: object) -> Held:
    return project.ledger.held([fingerprint(name)])[fingerprint(name)]


def repeatable(project: Project, most: int = 3) -> list[Repeatable]:
    return [one for chunk in project.ledger.repeatable(project.manifest_id, most) for one in chunk]


def done(project: Project, shard: Submission, *outcomes: Outcome) -> None:
    """Collected to its end by the newest run."""
    project.answer(shard, list(enumerate(outcomes)))
    project.ledger.finish_shard(reconciled(shard), [], run_id=project.run_ids[-1])


def test_an_attempt_that_the_account_wasted_does_not_count_however_often_it_is_stored(
    project: Project,
) -> None:
    row = [to_send(0, "a", line=0)]
    first = project.send(project.commit(row)[0])
    project.answer(first, [(0, BLOCKED)])
    project.answer(first, [(0, BLOCKED)])
    done(project, first)
    found = held_of(project, "a")
    assert (found.attempts, found.excused, found.retryable) == (1, 1, True)
    again = project.send(project.commit(row)[0])
    done(project, again, failed())
    found = held_of(project, "a")
    assert (found.attempts, found.excused) == (2, 1)
    assert [one.attempts for one in repeatable(project, 2)] == [2], "the pause grows with each that was sent"
    assert repeatable(project, 1) == []


def test_a_failure_says_when_it_was(project: Project, clock: Clock) -> None:
    first = project.send(project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1)])[0])
    clock.now_s = START_S + 60
    done(project, first, failed(), failed(status=Status.EXPIRED))
    assert repeatable(project) == [
        Repeatable(held_of(project, key).request_id, first.shard_id, line, 1, int(START_S) + 60)
        for line, key in enumerate("ab")
    ]
    assert held_of(project, "a").answered_at_s == int(START_S) + 60


def test_a_pause_is_kept_with_its_shard_and_remembered_when_that_is_taken_back(project: Project) -> None:
    first = project.send(project.commit([to_send(0, "a", line=0)])[0])
    done(project, first, failed())
    assert project.ledger.pause(project.manifest_id) == 0.0
    (again,) = project.ledger.commit_shards(
        run_id=project.run_ids[-1],
        manifest_id=project.manifest_id,
        shards=[replace(shard_file(1), not_before_s=START_S + 600)],
        placements=[(1, 0, held_of(project, "a").request_id)],
        max_attempts=3,
    )
    assert project.ledger.submission(again.shard_id).not_before_s == START_S + 600
    assert project.ledger.pause(project.manifest_id) == 0.0
    project.ledger.release(discarded(again))
    assert project.ledger.pause(project.manifest_id) == START_S + 600


def test_what_a_run_collected_is_paid_whatever_became_of_it_and_by_one_run_only(project: Project) -> None:
    row = [to_send(0, "a", line=0), to_send(1, "b", line=1)]
    first = project.send(project.commit(row)[0])
    done(project, first, succeeded(), failed()._replace(input_tokens=5, output_tokens=1))
    (again,) = project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1)])
    assert project.ledger.paid(project.run_ids[0]) == (35, 11)
    assert project.ledger.paid(project.run_ids[1]) == (0, 0), "nothing is collected yet"
    done(project, project.send(again), succeeded(), succeeded(input_tokens=None, output_tokens=2))
    assert project.ledger.paid(project.run_ids[1]) == (30, 12)
    assert project.ledger.paid(project.run_ids[0]) == (35, 11), "superseded, and paid all the same"
    shown = Tokens()
    shown.count(request_tokens(project.ledger.stored_rows(project.manifest_id, 0, 9)))
    assert (shown.input, shown.output) == (30, 12), "what the rows show"

    project.ledger.end_run(project.run_ids[1], state="finished", exit_code=0)
    project.start_run()
    paid = project.asked("SELECT state, paid_input_tokens, paid_output_tokens FROM run ORDER BY id")
    assert paid == [("interrupted", 35, 11), ("finished", 30, 12), ("running", None, None)]


def test_an_answer_is_paid_by_the_run_that_collected_it_whatever_becomes_of_its_shard(
    project: Project,
) -> None:
    first = project.send(project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1)])[0])
    earlier = project.run_ids[0]
    project.answer(first, [(0, succeeded())])
    project.ledger.save(held(first, "the batch is gone"), what="held", run_id=earlier)
    assert project.ledger.paid(earlier) == (30, 10)
    project.ledger.end_run(earlier, state="failed", exit_code=None)

    later = project.start_run()
    again = reexamined(held(first, "the batch is gone"))
    project.ledger.save(again, what="looked at again", run_id=later)
    assert project.ledger.paid(later) == (0, 0), "what one run has counted no other counts again"
    project.answer(first, [(1, succeeded())])
    assert project.ledger.paid(later) == (30, 10)
    project.ledger.finish_shard(reconciled(again), [], run_id=later)
    project.ledger.end_run(later, state="finished", exit_code=0)
    project.ledger.resume_run(later)
    project.ledger.end_run(later, state="finished", exit_code=0)
    paid = project.asked("SELECT state, paid_input_tokens, paid_output_tokens FROM run ORDER BY id")
    assert paid == [("failed", 30, 10), ("finished", 30, 10)]


def test_what_was_answered_of_a_shard_that_a_person_gave_up_stays_paid(project: Project) -> None:
    shard = held(project.send(project.commit([to_send(0, "a", line=0)])[0]), "the batch is gone")
    project.answer(shard, [(0, succeeded())])
    project.ledger.save(shard, what="held", run_id=project.run_ids[0])
    project.ledger.finish_shard(abandoned(shard, "given up"), [], what="abandoned by a person")
    project.start_run()
    paid = project.asked("SELECT state, paid_input_tokens, paid_output_tokens FROM run ORDER BY id")
    assert paid == [("interrupted", 30, 10), ("running", None, None)]


def test_what_a_killed_run_collected_of_a_shard_is_its_own(project: Project) -> None:
    shard = project.send(project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1)])[0])
    killed = project.run_ids[0]
    project.ledger.save(shard, what="batch seen", run_id=killed)
    project.answer(shard, [(0, succeeded())])
    project.start_run()
    project.answer(shard, [(1, succeeded())])
    done(project, shard)
    project.ledger.end_run(project.run_ids[1], state="finished", exit_code=0)
    paid = project.asked("SELECT state, paid_input_tokens, paid_output_tokens FROM run ORDER BY id")
    assert paid == [("interrupted", 30, 10), ("finished", 30, 10)]


def test_a_line_is_without_count_where_it_may_be_billed_and_nobody_has_said_how_much(
    project: Project,
) -> None:
    outcomes = (
        succeeded(),
        succeeded(input_tokens=None, output_tokens=None),
        failed(),
        failed(status=Status.EXPIRED),
        failed(status=Status.UNACCOUNTED),
    )
    rows = [to_send(number, f"k{number}", line=number) for number in range(len(outcomes) + 1)]
    shard = project.send(project.commit(rows)[0])
    project.answer(shard, list(enumerate(outcomes)))
    assert project.ledger.lines_without_count(shard.shard_id) == [1, 4, 5]


def test_a_shard_that_is_too_large_is_replaced_in_one_step(project: Project) -> None:
    rows = [to_send(number, f"k{number}", line=number) for number in range(3)]
    (shard,) = project.commit(rows)
    project.ledger.save(upload_intended(shard), what="uploading")
    given_up = discarded(upload_intended(shard))
    ids = [held_of(project, f"k{number}").request_id for number in range(3)]
    kept = {
        "run_id": project.run_ids[0],
        "manifest_id": project.manifest_id,
        "shards": [shard_file(1), shard_file(2)],
        "failed": [],
        "detail": "413",
    }
    with pytest.raises(PlanMovedError):
        project.ledger.replace_shard(given_up, placements=[(1, 0, ids[0]), (2, 0, ids[0])], **kept)  # type: ignore[arg-type]
    assert project.ledger.submission(shard.shard_id).state is ShardState.UPLOADING, "nothing or all"

    placements = [(1, 0, ids[0]), (1, 1, ids[1]), (2, 0, ids[2])]
    new = project.ledger.replace_shard(given_up, placements=placements, **kept)  # type: ignore[arg-type]
    assert [one.state for one in new] == [ShardState.READY] * 2
    assert project.ledger.open_submissions(project.manifest_id) == new
    assert project.asked("SELECT shard_id, line, request_id, number FROM attempt ORDER BY 1, 2") == [
        (new[0].shard_id, 0, ids[0], 1),
        (new[0].shard_id, 1, ids[1], 1),
        (new[1].shard_id, 0, ids[2], 1),
    ]
    assert held_of(project, "k0").attempts == 1


def test_a_request_that_is_too_large_alone_fails_with_that_cause(project: Project) -> None:
    (shard,) = project.commit([to_send(0, "a", line=0)])
    project.ledger.save(upload_intended(shard), what="uploading")
    request_id = held_of(project, "a").request_id
    new = project.ledger.replace_shard(
        discarded(upload_intended(shard)),
        run_id=project.run_ids[0],
        manifest_id=project.manifest_id,
        shards=[],
        placements=[],
        failed=[(0, request_id, TOO_LARGE)],
        detail="413",
    )
    assert new == []
    (row,) = project.ledger.rows(project.manifest_id, 0, 10)
    assert (row.status, row.error_class, row.attempts, row.raw_path) == (
        Status.FAILED,
        "body_too_large",
        1,
        None,
    )
    assert repeatable(project) == []
