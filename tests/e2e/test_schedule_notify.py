"""Who is told by ticks: a run's end once, trouble once for as long as it stays, by a broken manifest too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.commands.moments import Silent
from runner.schedule.reports import TickReport
from runner.schedule.ticking import tick
from tests.fault.provider_factories import ScriptedServer, always, reply
from tests.project_factory import Project, make_project

NIGHT = datetime(2026, 11, 26, 2, 0, tzinfo=UTC)
HOUR_S = 3600.0


@pytest.fixture
def hook() -> Iterator[ScriptedServer]:
    with ScriptedServer(always(reply(200, b"ok"))) as server:
        yield server


class Nights:
    """A project on an hourly schedule, and ticks at chosen moments."""

    def __init__(self, folder: Path, hook: ScriptedServer, **sections: Any) -> None:
        self.hook = hook
        self.project: Project = make_project(
            folder,
            schedule={"cron": "0 * * * *"},
            notify={"on": ["failed", "completed", "budget"], "url_env": "ALERT_URL"},
            **sections,
        )

    def tick(self, hours: float) -> TickReport:
        return tick(
            [self.project.folder],
            environ={**os.environ, "ALERT_URL": self.hook.base_url},
            reporter=Silent(),
            clock=lambda: NIGHT.timestamp() + hours * HOUR_S,
        )

    @property
    def told(self) -> list[tuple[str, str]]:
        """Occasion and error of each message."""
        messages = [json.loads(request.body) for request in self.hook.requests]
        return [(message["event"], message.get("error", "")) for message in messages]


def test_a_scheduled_run_that_did_something_is_told_once(tmp_path: Path, hook: ScriptedServer) -> None:
    nights = Nights(tmp_path, hook)
    for hours in (0.0, 0.1, 1.0, 1.1):
        assert nights.tick(hours).failed == ()
    assert nights.told == [("completed", "")]
    nights.project.write_rows([{"id": "new", "text": "one more"}])
    nights.tick(2.0)
    assert nights.told == [("completed", "")] * 2


def test_too_many_failed_rows_are_told_once(tmp_path: Path, hook: ScriptedServer) -> None:
    nights = Nights(tmp_path, hook, template="{{ text }}{% if id == 'k1' %}{{ 1 / 0 }}{% endif %}")
    assert [one.exit_code for one in nights.tick(0.0).failed] == [3]
    nights.tick(1.0)
    assert nights.told == [("failed", "")]


def test_what_keeps_due_times_from_starting_is_told_once(tmp_path: Path, hook: ScriptedServer) -> None:
    provider = {"base_url": "http://127.0.0.1:1/v1", "api_key_env": "CANARY_API_KEY"}
    nights = Nights(tmp_path, hook, model={"provider": provider, "name": "m"})
    for hours in (0.0, 0.1, 0.2, 1.0):
        assert [one.exit_code for one in nights.tick(hours).failed] == [4]
    what = "no API key: the environment variable CANARY_API_KEY is not set"
    assert nights.told == [("failed", what)]


def test_a_budget_that_is_too_small_is_told_as_such(tmp_path: Path, hook: ScriptedServer) -> None:
    prices = {"input_per_million": 1000, "output_per_million": 1000}
    provider = {"base_url": "http://127.0.0.1:1/v1"}
    model = {"provider": provider, "name": "m", "parameters": {"max_tokens": 100}, "prices": prices}
    nights = Nights(tmp_path, hook, model=model, budget={"max_cost": 0.001})
    nights.tick(0.0)
    nights.tick(0.1)
    ((event, what),) = nights.told
    assert (event, what.startswith("the estimate is ")) == ("budget", True)


def test_a_manifest_that_breaks_is_told_once_and_then_told_anew(tmp_path: Path, hook: ScriptedServer) -> None:
    nights = Nights(tmp_path, hook)
    nights.tick(0.0)
    text = nights.project.manifest_path.read_text()
    nights.project.manifest_path.write_text(text.replace("prompt.j2", "promt.j2"))
    nights.tick(1.0)
    nights.tick(2.0)
    (_, (event, what)) = nights.told
    assert event == "failed"
    assert "there is no file" in what
    nights.project.manifest_path.write_text("version: [")
    nights.tick(3.0)
    assert [event for event, _ in nights.told] == ["completed", "failed", "failed"]


def test_a_ledger_that_can_t_remember_does_not_tell_every_time(tmp_path: Path, hook: ScriptedServer) -> None:
    nights = Nights(tmp_path, hook)
    (tmp_path / ".runner").mkdir(mode=0o700)
    ledger = tmp_path / ".runner" / "ledger.db"
    ledger.write_bytes(b"no database at all" * 100)
    for hours in (0.0, 0.1, 0.2):
        assert [one.is_new for one in nights.tick(hours).failed] == [True]
    assert [event for event, _ in nights.told] == ["failed"]
    ledger.unlink()
    assert nights.tick(1.0).failed == ()
    assert [event for event, _ in nights.told] == ["failed", "completed"]


def test_a_manifest_that_is_gone_is_told_to_whom_it_last_named(tmp_path: Path, hook: ScriptedServer) -> None:
    nights = Nights(tmp_path, hook)
    nights.tick(0.0)
    nights.project.manifest_path.unlink()
    nights.tick(1.0)
    nights.tick(2.0)
    (_, (event, what)) = nights.told
    assert event == "failed"
    assert "the manifest is gone" in what
