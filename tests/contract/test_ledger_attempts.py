"""Every attempt of a request is found again, and every row whose request changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.core.model import Status
from runner.ledger import AttemptRecord, ChangedRow, Staging
from tests.contract.ledger_factories import (
    Project,
    failed,
    fingerprint,
    shard_file,
    succeeded,
    to_send,
    waiting,
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.open(tmp_path)


def send_again(project: Project, name: str, slot: int = 0) -> None:
    """One more shard for a request that is known, answered with a failure."""
    held = project.ledger.held([fingerprint(name)])[fingerprint(name)]
    (submission,) = project.ledger.commit_shards(
        run_id=project.start_run(),
        manifest_id=project.manifest_id,
        shards=[shard_file(slot)],
        placements=[(slot, 0, held.request_id)],
        max_attempts=3,
    )
    project.answer(project.send(submission), [(0, failed())], f"again-{slot}")
    project.finish(project.ledger.submission(submission.shard_id))


def attempts(project: Project, name: str) -> list[AttemptRecord]:
    return project.ledger.attempts(fingerprint(name))


def test_an_attempt_has_its_file_batch_and_outcome(project: Project) -> None:
    (submission,) = project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1)])
    sent = project.send(submission)
    (before,) = attempts(project, "b")
    assert (before.status, before.batch_id, before.response_id) == (Status.PENDING, sent.batch_id, None)
    project.answer(sent, [(1, succeeded()), (0, failed())])
    (one,) = attempts(project, "b")
    assert (one.number, one.line, one.slot, one.status) == (1, 1, 0, Status.SUCCEEDED)
    assert (one.input_file_id, one.batch_id) == (f"file-{sent.shard_id}", f"batch-{sent.shard_id}")
    assert (one.input_tokens, one.output_tokens, one.finish_reason, one.model) == (30, 10, "stop", "qwen")
    assert (one.offset, one.length, one.cause) == (0, 99, None)
    (other,) = attempts(project, "a")
    assert other.cause is not None
    assert (other.cause.error_class, other.response_id) == ("server_error", one.response_id)


def test_earlier_attempts_are_found_in_the_order_of_their_numbers(project: Project) -> None:
    (submission,) = project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1)])
    project.answer(project.send(submission), [(0, failed()), (1, succeeded())])
    project.finish(project.ledger.submission(submission.shard_id))
    send_again(project, "a")
    send_again(project, "a")
    found = attempts(project, "a")
    assert [one.number for one in found] == [1, 2, 3]
    assert len({one.shard_id for one in found}) == len({one.run for one in found}) == 3
    assert [one.status for one in found] == [Status.FAILED] * 3
    assert [one.number for one in attempts(project, "b")] == [1]


def test_a_request_nobody_sent_has_no_attempts(project: Project) -> None:
    project.commit([waiting(0, "a")])
    assert attempts(project, "a") == []
    assert attempts(project, "never wanted") == []


def test_changed_rows_are_paired_by_key(tmp_path: Path) -> None:
    before = [("a", fingerprint(1)), ("b", fingerprint(2)), ("c", fingerprint(3)), ("d", None)]
    after = [("a", 1), ("b", 20), ("d", 4), ("new", 5), ("c", 30)]
    with Staging.create(tmp_path) as staging:
        staging.load_previous([before[:2], before[2:]])
        staging.add_rows([waiting(place, key, request=name) for place, (key, name) in enumerate(after)])
        every = [
            ChangedRow(key="b", position=1, position_before=1),
            ChangedRow(key="d", position=2, position_before=3),
            ChangedRow(key="c", position=4, position_before=2),
        ]
        assert staging.changed(10) == every
        assert staging.changed(2) == every[:2]
        assert staging.compare().changed == 3
