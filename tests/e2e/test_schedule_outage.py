"""A server that does not work while ticks look: told of once it lasts, and nothing is lost by it."""

from __future__ import annotations

from typing import Any

import pytest

from runner.core import states
from runner.ledger import hold, locate
from runner.schedule.reports import TickReport
from tests.e2e.scheduled import Stage

pytestmark = pytest.mark.usefixtures("lent_duckdb")

FIRST, SECOND = "2026-01-01T02:00", "2026-01-02T02:00"
SINCE = "has worked since 2026-01-01 02:0"


def under_way(stage: Stage, **keys: Any) -> None:
    """The first due time is started; then every call to the server ends in a gateway's error page."""
    stage.manifest(**keys)
    stage.hold()
    assert len(stage.tick(FIRST).started) == 1
    stage.server.arm("gateway-502", route="* /v1/*", times=0)


def told(report: TickReport) -> list[tuple[int, bool]]:
    """Exit code of each failure, and whether it is news."""
    assert all(SINCE in one.message for one in report.failed), report.failed
    return [(one.exit_code, one.is_new) for one in report.failed]


def test_a_server_that_fails_every_look_is_told_after_ten_minutes_and_once(stage: Stage) -> None:
    under_way(stage)
    for minute in (1, 6, 10):
        assert stage.tick(f"2026-01-01T02:{minute:02}").failed == (), "may pass by itself"
    assert told(stage.tick("2026-01-01T02:11")) == [(4, True)]
    report = stage.tick("2026-01-01T02:12")
    assert (told(report), report.open_runs) == ([(4, False)], 1)
    assert len(stage.tick(SECOND).skipped) == 1
    assert told(stage.tick("2026-01-02T03:00")) == [(4, False)]


def test_what_was_under_way_is_collected_when_the_server_is_back(stage: Stage) -> None:
    under_way(stage)
    stage.tick("2026-01-01T02:01")
    assert told(stage.tick("2026-01-01T03:00")) == [(4, True)]
    stage.server.call("DELETE", "//faults")
    report = stage.tick("2026-01-01T03:05")
    assert (report.failed, len(report.advanced)) == ((), 1)
    assert stage.ledger("SELECT state, message, exit_code FROM due") == [("started", "", None)]
    stage.release()
    stage.tick("2026-01-01T03:06")
    assert (stage.dues(), stage.statuses()) == ([("01-01 02:00", "finished")], {"succeeded": 3})
    assert set(stage.executed().values()) == {1}


def test_an_outage_begins_with_the_first_look_that_fails_after_one_that_worked(stage: Stage) -> None:
    under_way(stage)
    stage.tick("2026-01-01T02:01")
    stage.server.call("DELETE", "//faults")
    stage.tick("2026-01-01T02:08")
    stage.server.arm("gateway-502", route="* /v1/*", times=0)
    for minute in (9, 12, 18):
        assert stage.tick(f"2026-01-01T02:{minute:02}").failed == ()
    assert told(stage.tick("2026-01-01T02:19")) == [(4, True)]


def test_what_a_run_by_hand_brought_to_its_end_is_no_outage_a_week_later(stage: Stage) -> None:
    under_way(stage)
    stage.tick("2026-01-01T02:01")
    stage.server.call("DELETE", "//faults")
    stage.release()
    assert stage.program("run", "nightly.yaml")[0] == 0
    stage.tick("2026-01-01T02:20")
    stage.rows("nightly", 4)
    stage.hold()
    stage.tick(SECOND)
    stage.server.arm("gateway-502", route="* /v1/*", times=0)
    assert stage.tick("2026-01-02T02:01").failed == ()


def test_a_run_by_hand_that_keeps_a_tick_from_looking_makes_no_news_of_an_outage(stage: Stage) -> None:
    under_way(stage)
    stage.tick("2026-01-01T02:01")
    assert told(stage.tick("2026-01-01T02:11")) == [(4, True)]
    place = locate(str(stage.folder / "nightly.yaml"), stage.environ)
    with hold(place.manifest_lock("nightly.yaml")):
        stage.tick("2026-01-01T02:12")
    assert told(stage.tick("2026-01-01T02:13")) == [(4, False)]


def test_results_that_can_t_be_read_are_looks_that_fail(stage: Stage) -> None:
    stage.manifest()
    stage.hold()
    stage.tick(FIRST)
    stage.release()
    stage.server.arm("gateway-502", route="GET /v1/files/*", times=0)
    for minute in (1, 8):
        assert stage.tick(f"2026-01-01T02:{minute:02}").failed == ()
    assert told(stage.tick("2026-01-01T02:11")) == [(4, True)]
    stage.server.call("DELETE", "//faults")
    (advanced,) = stage.tick("2026-01-01T02:12").advanced
    assert advanced.finished is not None


def test_a_due_time_that_can_t_be_sent_is_told_of_over_all_due_times_that_follow(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens there; each due time replaces the one before, which never got anywhere."""
    monkeypatch.setattr(states, "_backoff_s", lambda _: 0.01)
    provider = {"base_url": "http://127.0.0.1:1/v1", "poll_interval_s": 0.05}
    keys = {"schedule__overlap": "replace", "cron": "*/5 * * * *"}
    stage.manifest(model={"provider": provider, "name": "m"}, **keys)
    news = []
    for minute in (0, 4, 5, 10, 14, 15):
        news += told(stage.tick(f"2026-01-01T02:{minute:02}"))
    assert news == [(4, True), (4, False), (4, False)]
    assert [state for _, state in stage.dues()] == ["replaced", "replaced", "replaced", "started"]


def test_the_list_names_the_outage_and_the_exit_code_says_it(stage: Stage) -> None:
    under_way(stage)
    stage.tick("2026-01-01T02:01")
    code, _, stderr = stage.program("schedule", "tick", "--quiet", at="2026-01-01T02:20")
    assert code == 4
    assert "error: nightly 2026-01-01 02:00 UTC: no look at http://127.0.0.1:" in stderr
    _, stdout, _ = stage.program("schedule", "list", at="2026-01-01T02:21")
    assert "2026-01-01 02:00 UTC  started: no look at http://127.0.0.1:" in stdout
