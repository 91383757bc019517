"""A held shard while runs come by that leave early: it stays a person's to decide, and is collected when its
batch is back."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.commands.moments import Silent
from runner.core.states import held
from runner.ledger import Ledger, locate
from runner.schedule.reports import TickReport
from runner.schedule.ticking import tick
from tests.fault.run_factories import complete, rows_of
from tests.fault.run_hostile_server import HostileServer, Look, Reply, well
from tests.project_factory import Project

NO_SUCH_BATCH = Look(reply=(404, b'{"error":{"message":"no such batch"}}'))


def tick_at(project: Project, day: int) -> TickReport:
    """A tick at two in the night."""
    at_s = datetime(2026, 1, day, 2, tzinfo=UTC).timestamp()
    environ = dict(os.environ)
    return tick((project.manifest_path,), environ=environ, reporter=Silent(), clock=lambda: at_s)


def hold(project: Project) -> None:
    """What a run does that has missed its batch for long enough."""
    with Ledger.open(locate(str(project.manifest_path), {})) as ledger:
        ledger.save(held(ledger.submission(1), "the server no longer knows it"), what="held")


def states(project: Project) -> list[tuple[Any, ...]]:
    return project.ledger("SELECT state FROM shard")


def test_a_tick_leaves_a_held_shard_to_the_person_who_is_to_decide(tmp_path: Path) -> None:
    with HostileServer(lambda *_: NO_SUCH_BATCH) as server:
        project = server.project(tmp_path / "p", 4, schedule={"cron": "0 2 * * *"})
        assert [one.exit_code for one in tick_at(project, 1).started] == [75]
        hold(project)
        (failed,) = tick_at(project, 1).failed
        assert (failed.exit_code, "held" in failed.message, states(project)) == (4, True, [("held",)])
        assert "run resolve" in failed.next_step
        shown = project.call("resolve", str(project.manifest_path))
        assert "no longer knows" in shown.stdout, shown
        report = tick_at(project, 2)
        assert (len(report.skipped), states(project)) == (0, [("held",)]), "the next due time is not skipped"
        assert project.call("resolve", str(project.manifest_path), "--abandon", "--yes").code == 0
        assert len(server.batches) == 1


def test_a_tick_collects_a_held_shard_whose_batch_is_back(tmp_path: Path) -> None:
    with HostileServer(lambda *_: NO_SUCH_BATCH) as server:
        project = server.project(tmp_path / "p", 4, schedule={"cron": "0 2 * * *"})
        tick_at(project, 1)
        hold(project)
        server.script = well
        (advanced,) = tick_at(project, 1).advanced
        assert (advanced.exit_code, len(server.batches)) == (0, 1)
        complete(project, rows_of(4))


@pytest.mark.parametrize("options", [("--detach",), ("--wait", "1s")])
def test_a_run_that_may_leave_early_leaves_a_held_shard_as_it_is(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with HostileServer(lambda *_: NO_SUCH_BATCH) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == 75
        hold(project)
        done = project.run(*options)
        assert (done.code, states(project)) == (4, [("held",)]), done.stderr
        assert "run resolve" in done.stderr
        server.script = well
        project.run(*options)
        assert project.run().code == 0
        complete(project, rows_of(4))
    assert len(server.batches) == 1


class SilentServer(HostileServer):
    """Loses the replies to creates, and does not show what it made; from then on its listing fails."""

    is_down = False

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        if self.is_down and (method, target.partition("?")[0]) == ("GET", "/v1/batches"):
            return 503, b"busy"
        return super().answer(method, target, body)


def test_a_run_that_may_leave_early_leaves_a_held_create_to_be_decided(tmp_path: Path) -> None:
    nothing = {"data": [], "has_more": False}
    with SilentServer(created=lambda _: (502, b"<html>"), listed=lambda *_: nothing) as server:
        project = server.project(tmp_path / "p", 4)
        assert (project.run().code, states(project)) == (4, [("held",)])
        server.is_down = True
        done = project.run("--wait", "1s")
        assert (done.code, states(project), len(server.batches)) == (4, [("held",)], 1), done.stderr
