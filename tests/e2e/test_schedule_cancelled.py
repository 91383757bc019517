"""`run cancel` between ticks: what was cancelled is asked again by the next due time, and by no look."""

from __future__ import annotations

import pytest

from tests.e2e.scheduled import Stage

pytestmark = pytest.mark.usefixtures("lent_duckdb")

FIRST, SECOND = "2026-01-01T02:00", "2026-01-02T02:00"


def cancel(stage: Stage, name: str = "nightly") -> str:
    code, stdout, stderr = stage.program("cancel", f"{name}.yaml", "--yes")
    assert code == 0, stderr
    return stdout + stderr


def states(stage: Stage) -> list[str]:
    return [state for (state,) in stage.ledger("SELECT state FROM shard ORDER BY id")]


def test_a_failure_that_waited_to_be_sent_again_is_left_to_the_next_due_time(stage: Stage) -> None:
    stage.manifest(retry={"attempts": 2, "backoff": {"initial": "1h", "max": "1h"}})
    stage.model.statuses[:] = [500]
    stage.tick(FIRST)
    stage.settle()
    stage.tick("2026-01-01T02:01")
    assert states(stage) == ["done", "ready"]
    assert "discarded   1 file" in cancel(stage)
    for minute in (2, 3):
        stage.tick(f"2026-01-01T02:0{minute}")
    assert states(stage) == ["done", "discarded"]
    assert stage.dues() == [("01-01 02:00", "finished")]
    stage.tick(SECOND)
    assert states(stage) == ["done", "discarded", "ready"], "asked again, when its pause is over"


def test_a_run_is_replaced_without_a_batch_of_another_manifest(stage: Stage) -> None:
    """Its row waits for a request that the other one has sent, and that one paid for the others in it."""
    stage.manifest("big", cron=None)
    stage.manifest("small", schedule__overlap="replace")
    stage.write_rows("small", [{"id": "k0", "text": "big 0"}])
    stage.hold()
    assert stage.program("run", "big.yaml", "--detach")[0] == 75
    stage.tick(FIRST)
    assert [one.due_at.day for one in stage.tick(SECOND).started] == [2]
    assert stage.cancelled() == []
    stage.release()
    stage.tick("2026-01-02T02:01")
    assert stage.dues("small") == [("01-01 02:00", "replaced"), ("01-02 02:00", "finished")]
    assert (stage.statuses("small"), len(stage.batches())) == ({"succeeded": 1}, 1)
