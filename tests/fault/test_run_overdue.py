"""Batches that are not done when their window is over: watched on, and a person knows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runner.commands.watching import OVERDUE_AFTER_S
from tests.fault.run_factories import complete, rows_of
from tests.fault.run_hostile_server import Batch, HostileServer, Look, answer, good, lines


def late(batch: Batch, *, by_s: float) -> Look:
    """Half answered, and its window over for so long."""
    counts = {"total": 4, "completed": 2, "failed": 0}
    fields = {"status": "in_progress", "request_counts": counts, "expires_at": int(time.time() - by_s)}
    return Look(output=lines(*map(answer, batch.requests[:2])), fields=fields)


def test_a_batch_that_outlives_its_window_is_told_once_and_watched_on(tmp_path: Path) -> None:
    def script(batch: Batch, look: int) -> Look:
        return late(batch, by_s=OVERDUE_AFTER_S + 60) if look < 4 else Look(output=good(batch))

    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", 4)
        done = project.run()
        assert done.code == 0, done.stderr
        assert len(server.batches) == 1
        complete(project, rows_of(4))
    told = [line for line in (done.stdout + done.stderr).splitlines() if "window ended at" in line]
    assert len(told) == 1
    assert "still says 'in_progress'" in told[0]
    assert "`run cancel` gives it up" in told[0]


@pytest.mark.parametrize("by_s", [-3600, OVERDUE_AFTER_S - 60], ids=["not over", "just over"])
def test_a_batch_in_its_window_or_just_after_is_no_news(tmp_path: Path, by_s: float) -> None:
    def script(batch: Batch, look: int) -> Look:
        return late(batch, by_s=by_s) if look < 4 else Look(output=good(batch))

    with HostileServer(script) as server:
        done = server.project(tmp_path / "p", 4).run()
    assert done.code == 0, done.stderr
    assert "window ended" not in done.stdout + done.stderr
