"""The loop around the tick: when it looks, at what, what it says, and how it ends. The tick is scripted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.commands.moments import Reporter, Silent
from runner.commands.options import AS_WRITTEN, ManifestOptions
from runner.errors import InputError, InterruptedRunError, LedgerError, Mistake
from runner.schedule.reports import FailedManifest, MissedDue, TickReport
from runner.schedule.serving import ServeOptions, Server, Wakeups, owners_of_batch
from runner.schedule.webhooks import BatchEvent
from tests.localserver_process import eventually
from tests.project_factory import make_project

AT = datetime(2026, 11, 26, 2, 17, tzinfo=UTC)
LONG_S = 600.0


class Ticks:
    """A tick that notes what it was asked and does as the script says; the last outcome stays."""

    def __init__(self, *outcomes: TickReport | BaseException | Callable[[], TickReport]) -> None:
        self._outcomes = outcomes
        self.targets: list[list[Path]] = []
        self.bent: list[ManifestOptions] = []

    def __call__(
        self,
        targets: Sequence[Path],
        *,
        environ: Mapping[str, str],
        reporter: Reporter,
        bent: ManifestOptions = AS_WRITTEN,
        clock: Callable[[], float] = time.time,
    ) -> TickReport:
        self.bent.append(bent)
        self.targets.append(list(targets))
        outcome = self._outcomes[min(len(self.targets), len(self._outcomes)) - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome if isinstance(outcome, TickReport) else outcome()


class Loop:
    """A loop in a thread, with what it logged."""

    def __init__(
        self,
        ticks: Ticks,
        *targets: Path,
        every_s: float = LONG_S,
        bent: ManifestOptions = AS_WRITTEN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ticks = ticks
        self.wakeups = Wakeups()
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.server = Server(
            ServeOptions(targets=targets or (Path("m.yaml"),), environ={}, every_s=every_s, bent=bent),
            reporter=Silent(),
            log=lambda event, fields: self.lines.append((event, dict(fields))),
            wakeups=self.wakeups,
            tick=ticks,
            clock=clock,
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]

    def fields(self, event: str) -> dict[str, Any]:
        return next(fields for name, fields in self.lines if name == event)

    def until_ticks(self, number: int) -> None:
        eventually(lambda: len(self.ticks.targets) >= number, what=f"{number} ticks")


@contextmanager
def looping(
    ticks: Ticks,
    *targets: Path,
    every_s: float = LONG_S,
    bent: ManifestOptions = AS_WRITTEN,
    clock: Callable[[], float] = time.time,
) -> Iterator[Loop]:
    loop = Loop(ticks, *targets, every_s=every_s, bent=bent, clock=clock)
    loop.thread.start()
    try:
        yield loop
    finally:
        loop.wakeups.stop()
        loop.thread.join(10)
        assert not loop.thread.is_alive()


def test_it_looks_again_and_again() -> None:
    with looping(Ticks(TickReport(at=AT)), every_s=0.01) as loop:
        loop.until_ticks(3)
    assert loop.ticks.targets[0] == [Path("m.yaml")]
    assert loop.events()[-1] == "stopped"


def test_every_look_bends_the_manifests_alike() -> None:
    bent = ManifestOptions(path="", profile="prod")
    with looping(Ticks(TickReport(at=AT)), every_s=0.01, bent=bent) as loop:
        loop.until_ticks(2)
    assert loop.ticks.bent[:2] == [bent, bent]


def test_the_next_due_time_ends_a_wait() -> None:
    def soon() -> TickReport:
        return TickReport(at=AT, next_start_at=datetime.fromtimestamp(time.time() + 0.6, UTC))

    with looping(Ticks(soon, TickReport(at=AT))) as loop:
        loop.until_ticks(2)
        assert len(loop.ticks.targets) == 2  # and then the long wait


def test_a_due_time_that_came_while_the_machine_slept_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.schedule.serving._LONGEST_NAP_S", 0.02)
    now_s = [AT.timestamp() - 3600]
    with looping(
        Ticks(TickReport(at=AT, next_start_at=AT), TickReport(at=AT)), clock=lambda: now_s[0]
    ) as loop:
        loop.until_ticks(1)
        assert len(loop.ticks.targets) == 1, "the due time is an hour ahead"
        now_s[0] += 8 * 3600  # and no time has passed for the program
        loop.until_ticks(2)
    assert loop.events().count("tick") == 2


def test_a_wait_without_end_is_none_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    def nap(self: Wakeups, timeout_s: float) -> list[BatchEvent]:
        naps.append(timeout_s)
        if len(naps) == 3:
            self.stop()
        return []

    monkeypatch.setattr(Wakeups, "wait", nap)
    Loop(Ticks(TickReport(at=AT)), every_s=1e15).server.run()
    assert max(naps) <= 60


def test_a_stop_ends_a_wait() -> None:
    with looping(Ticks(TickReport(at=AT))) as loop:
        loop.until_ticks(1)
    assert loop.events() == ["tick", "stopped"]


@pytest.mark.parametrize("stop", [InterruptedRunError("interrupted"), KeyboardInterrupt()])
def test_a_signal_that_a_run_took_ends_the_loop(stop: BaseException) -> None:
    loop = Loop(Ticks(stop))
    loop.server.run()
    assert loop.events() == ["stopped"]


def test_a_tick_that_fails_is_told_and_tried_again() -> None:
    error = LedgerError("the ledger is damaged", next_step="run rebuild")
    with looping(Ticks(error, ValueError("odd"), TickReport(at=AT)), every_s=0.01) as loop:
        eventually(lambda: len(loop.lines) >= 2, what="two lines")
        loop.until_ticks(4)
    assert loop.events()[:3] == ["tick_failed", "tick_failed", "tick"]
    assert loop.lines[0][1]["what"] == "the ledger is damaged"
    assert loop.lines[0][1]["next_step"] == "run rebuild"
    assert loop.lines[1][1]["what"] == "internal error: ValueError: odd"
    assert loop.server.health.is_well


def test_a_target_that_is_not_there_is_told_at_once_and_later_waited_for() -> None:
    error = InputError([Mistake(where="no.yaml", what="no such file or folder")])
    with pytest.raises(InputError):
        Loop(Ticks(error)).server.run()
    with looping(Ticks(TickReport(at=AT), error, TickReport(at=AT)), every_s=0.01) as loop:
        loop.until_ticks(4)
    assert loop.events()[:3] == ["tick", "tick_failed", "tick"]


def test_a_loop_whose_last_tick_failed_is_not_well() -> None:
    with looping(Ticks(TickReport(at=AT), LedgerError("gone")), every_s=0.01) as loop:
        eventually(lambda: not loop.server.health.is_well, what="trouble")
    assert loop.events()[:2] == ["tick", "tick_failed"]


def test_what_a_tick_did_is_logged_and_old_trouble_is_not() -> None:
    about: dict[str, Any] = {"manifest": "/p/m.yaml", "name": "m"}
    trouble: dict[str, Any] = {**about, "due_at": None, "run": None, "exit_code": 2, "finished": None}
    report = TickReport(
        at=AT,
        missed=(MissedDue(**about, due_at=AT, message="nobody looked"),),
        failed=(
            FailedManifest(**trouble, message="new", next_step="mend it"),
            FailedManifest(**trouble, message="old", next_step="mend it", is_new=False),
        ),
        open_runs=1,
        next_due_at=AT.replace(year=2090),
    )
    with looping(Ticks(report)) as loop:
        loop.until_ticks(1)
    assert loop.events() == ["due_missed", "manifest_failed", "tick", "stopped"]
    assert loop.fields("due_missed") == {**about, "due_at": AT.isoformat(), "message": "nobody looked"}
    assert loop.fields("manifest_failed")["message"] == "new"
    summary = loop.fields("tick")
    del summary["took_s"]
    assert summary == {
        "started": 0,
        "advanced": 0,
        "skipped": 0,
        "missed": 1,
        "failed": 2,
        "open_runs": 1,
        "next_due_at": "2090-11-26T02:17:00+00:00",
    }


# ---------------------------------------------------------------- webhooks


def an_event(*batch_ids: str) -> BatchEvent:
    return BatchEvent(event_id="msg_1", type="batch.completed", batch_ids=batch_ids)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a manifest that has run once, and another one; and the batch of the first."""
    project = make_project(tmp_path_factory.mktemp("asked"))
    assert project.run().code == 0
    (project.folder / "other.yaml").write_text(project.manifest_path.read_text())
    ((batch_id,),) = project.ledger("SELECT batch_id FROM batch")
    return project.folder, batch_id


def test_a_batch_s_manifest_is_found_by_any_of_its_ids(asked: tuple[Path, str]) -> None:
    folder, batch_id = asked
    manifest = folder / "manifest.yaml"
    assert owners_of_batch((batch_id,), [folder], {}) == [manifest]
    assert owners_of_batch(("unknown", batch_id), [manifest, folder / "other.yaml"], {}) == [manifest]
    assert owners_of_batch((batch_id,), [folder / "other.yaml"], {}) == []
    assert owners_of_batch(("unknown",), [folder], {}) == []
    assert owners_of_batch((batch_id,), [folder.parent], {}) == []


def test_a_webhook_has_its_manifest_looked_at_at_once(asked: tuple[Path, str]) -> None:
    folder, batch_id = asked
    with looping(Ticks(TickReport(at=AT)), folder) as loop:
        loop.until_ticks(1)
        loop.wakeups.tell(an_event(batch_id, f"batch_{batch_id}"))
        loop.until_ticks(2)
    assert loop.ticks.targets[:2] == [[folder], [folder / "manifest.yaml"]]
    assert loop.fields("webhook") == {
        "type": "batch.completed",
        "batch_id": batch_id,
        "manifests": [str(folder / "manifest.yaml")],
    }


def test_a_webhook_about_nobody_s_batch_is_logged_and_wakes_nothing(asked: tuple[Path, str]) -> None:
    folder, _ = asked
    with looping(Ticks(TickReport(at=AT)), folder) as loop:
        loop.until_ticks(1)
        loop.wakeups.tell(an_event("unknown"))
        eventually(lambda: "webhook" in loop.events(), what="the webhook's line")
    assert loop.ticks.targets == [[folder]]
    assert loop.fields("webhook")["manifests"] == []


def test_webhooks_never_put_off_the_tick_of_all(asked: tuple[Path, str]) -> None:
    folder, batch_id = asked
    with looping(Ticks(TickReport(at=AT)), folder, every_s=0.5) as loop:

        def told_and_looked_at_all() -> bool:
            loop.wakeups.tell(an_event(batch_id))
            return loop.ticks.targets.count([folder]) >= 3

        eventually(told_and_looked_at_all, what="looks at everything between the webhooks")
    assert loop.ticks.targets.count([folder]) >= 3
    assert [folder / "manifest.yaml"] in loop.ticks.targets


def test_webhooks_whose_look_fails_put_it_off_no_more(asked: tuple[Path, str]) -> None:
    folder, batch_id = asked

    def look() -> TickReport:
        if ticks.targets[-1] != [folder]:
            raise LedgerError("busy")
        return TickReport(at=AT)

    ticks = Ticks(look)
    with looping(ticks, folder, every_s=0.5) as loop:

        def told_and_looked_at_all() -> bool:
            loop.wakeups.tell(an_event(batch_id))
            return ticks.targets.count([folder]) >= 3

        eventually(told_and_looked_at_all, what="looks at everything between the failing ones")
    assert ticks.targets.count([folder]) >= 3
    assert "tick_failed" in loop.events()


def test_webhooks_that_come_together_are_one_look(asked: tuple[Path, str]) -> None:
    folder, batch_id = asked
    release = threading.Event()

    def slow() -> TickReport:
        release.wait(20)
        return TickReport(at=AT)

    with looping(Ticks(slow, TickReport(at=AT)), folder) as loop:
        loop.until_ticks(1)
        for _ in range(20):
            loop.wakeups.tell(an_event(batch_id))
        release.set()
        loop.until_ticks(2)
        eventually(lambda: loop.events().count("tick") == 2, what="the second tick's end")
    assert len(loop.ticks.targets) == 2
