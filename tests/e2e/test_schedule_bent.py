"""Schedules of manifests that are bent (`--profile`, `--set`, `--isolated`): ticks, lists, files to emit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runner.commands.moments import Silent
from runner.commands.options import AS_WRITTEN, ManifestOptions
from runner.schedule.reports import TickReport
from runner.schedule.ticking import tick
from tests.e2e.scheduled import Stage, seconds
from tests.fault.provider_factories import ScriptedServer, always, reply

pytestmark = pytest.mark.usefixtures("lent_duckdb")

BEFORE, FIRST, SECOND = "2026-01-01T01:00", "2026-01-01T02:00", "2026-01-02T02:00"
PROD = replace(AS_WRITTEN, profile="prod")
SCHEDULE = {"cron": "0 2 * * *"}


def bent_tick(stage: Stage, at: str, bent: ManifestOptions, **environ: str) -> TickReport:
    return tick(
        [stage.folder],
        environ=stage.environ | environ,
        reporter=Silent(),
        bent=bent,
        clock=lambda: seconds(at),
    )


def test_a_profile_may_hold_the_schedule_and_what_is_asked(stage: Stage) -> None:
    prompt = {"template": "nightly.j2", "params": {"word": "prod"}}
    stage.manifest(cron=None, profiles={"prod": {"schedule": SCHEDULE, "prompt": prompt}})
    (stage.folder / "nightly.j2").write_text("{{ text }} {{ params.word }}")
    bent_tick(stage, BEFORE, PROD)
    stage.hold()
    assert len(bent_tick(stage, FIRST, PROD).started) == 1
    stage.release()
    (advanced,) = bent_tick(stage, "2026-01-01T02:05", PROD).advanced
    assert advanced.finished is not None
    assert (advanced.finished.succeeded, stage.dues()) == (3, [("01-01 02:00", "finished")])
    code, stdout, _ = stage.program("explain", "nightly.yaml", "k0", "--profile", "prod")
    assert (code, "nightly 0 prod" in stdout) == (0, True)


def test_a_manifest_without_the_profile_is_reported_and_the_others_go_on(stage: Stage) -> None:
    stage.manifest("with", profiles={"prod": {"description": "here"}})
    stage.manifest("without")
    bent_tick(stage, BEFORE, PROD)
    report = bent_tick(stage, FIRST, PROD)
    assert [one.name for one in report.started] == ["with"]
    assert [(one.name, one.exit_code) for one in report.failed] == [("without", 2)]
    assert "prod" in report.failed[0].message


def test_trouble_is_told_to_whom_the_profile_names(stage: Stage) -> None:
    notify = {"on": ["failed"], "url_env": "ALERT_URL"}
    stage.manifest(profiles={"prod": {"notify": notify}}, dataset={"path": "none.jsonl", "key": "id"})
    with ScriptedServer(always(reply(200, b"ok"))) as hook:
        bent_tick(stage, BEFORE, PROD, ALERT_URL=hook.base_url)
        report = bent_tick(stage, FIRST, PROD, ALERT_URL=hook.base_url)
        assert [one.exit_code for one in report.failed] == [2]
        (message,) = [json.loads(request.body) for request in hook.requests]
    assert message["event"] == "failed"


def test_the_command_line_bends_every_manifest_that_is_looked_at(stage: Stage) -> None:
    stage.manifest(cron=None, profiles={"prod": {"schedule": SCHEDULE}})
    bent = ("--profile", "prod", "--set", "schedule.timezone=Asia/Tokyo")
    code, stdout, _ = stage.program("schedule", "list", "--json", *bent, at=BEFORE)
    (listed,) = json.loads(stdout)["schedules"]
    assert (code, listed["timezone"], listed["next"][0]) == (0, "Asia/Tokyo", "2026-01-02T02:00:00+09:00")
    stage.program("schedule", "tick", *bent, at=BEFORE)
    code, stdout, _ = stage.program("schedule", "tick", "--json", *bent, at="2026-01-01T17:00")
    (started,) = json.loads(stdout)["started"]
    assert (code, started["due_at"][:16]) == (0, "2026-01-01T17:00")
    assert stage.program("schedule", "list", at=BEFORE)[1:] == ("", "no manifest here has a schedule\n")


def test_a_strangers_manifest_reads_nothing_of_the_environment_under_a_schedule_too(stage: Stage) -> None:
    stage.manifest(description="${SCHEDULED_KEY}")
    assert stage.program("schedule", "list", at=BEFORE)[0] == 0
    for command in (("list", "."), ("tick", "."), ("emit", "--target", "cron", "nightly.yaml")):
        code, stdout, stderr = stage.program("schedule", *command, "--isolated", at=FIRST)
        assert (code, "SCHEDULED_KEY" in stdout + stderr) == (2, True)
    assert stage.batches() == []


def test_files_for_other_schedulers_bend_the_manifest_alike(stage: Stage) -> None:
    stage.manifest(
        cron=None, profiles={"prod": {"schedule": SCHEDULE, "description": "${FOR_PROD:-x}"}, "dev": {}}
    )
    emit = ("schedule", "emit", "--target", "cron", "nightly.yaml", "--set", "params.tone=very formal")
    code, stdout, stderr = stage.program(*emit, "--profile", "prod")
    assert code == 0
    path = stage.folder / "nightly.yaml"
    assert f"schedule tick --quiet --set 'params.tone=very formal' --profile prod {path}" in stdout
    assert "FOR_PROD" in stderr
    assert "no `schedule`" in stage.program(*emit, "--profile", "dev")[2]
