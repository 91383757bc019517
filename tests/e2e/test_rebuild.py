"""`run rebuild`: a ledger that was lost is made again, and nothing that was sent is paid for twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.commands.moments import Silent
from runner.commands.options import ManifestOptions
from runner.commands.rebuild import RebuildOptions, RebuildResult, rebuild
from tests.fault.run_factories import all_well, paid_once, project_of, rows_of, server_of, work_off
from tests.fault.run_hostile_server import (
    Batch,
    HostileServer,
    Look,
    gone_half_way,
    good,
)
from tests.fault.test_run_hostile_output import all_but_last
from tests.localserver_process import eventually
from tests.project_factory import Done, Project, kill

UNLIKE = ("_answered_at",)
"""Taken from the raw file's time after a rebuild."""


def ledger_of(project: Project) -> Path:
    return project.folder / ".runner" / "ledger.db"


def lose(project: Project) -> None:
    """Somebody deletes the database, with all that belongs to it."""
    for path in ledger_of(project).parent.glob("ledger.db*"):
        path.unlink()


def rebuilt(project: Project, *, is_offline: bool = False) -> RebuildResult:
    """In this process, which is faster; one test goes by the command line."""
    manifests = (ManifestOptions(path=str(project.manifest_path)),)
    options = RebuildOptions(manifests=manifests, is_offline=is_offline, environ=dict(os.environ))
    return rebuild(options, reporter=Silent())


def planned(project: Project) -> int:
    return runner.plan(str(project.manifest_path)).requests_to_send


def sent(done: Done, requests: int) -> None:
    assert done.code == 0, (done.stdout, done.stderr)
    assert done.event("finished")["requests_sent"] == requests


def table(project: Project) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in UNLIKE} for row in project.results()]


def journal_of(project: Project) -> Path:
    return project.folder / ".runner" / "ids.jsonl"


def refused(project: Project) -> None:
    """Without its ledger nobody goes on: not to send, not to look."""
    for command in ("run", "plan", "status", "resolve"):
        done = project.call(command, str(project.manifest_path))
        assert done.code == 1, (command, done.stdout, done.stderr)
        assert "run rebuild" in done.stderr
    assert not ledger_of(project).exists()


def test_a_ledger_deleted_after_the_run_comes_back_whole(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 6, shards=3)
    sent(project.run(), 6)
    before = table(project)
    lose(project)
    refused(project)
    found = rebuilt(project, is_offline=True)
    assert (found.shards, found.answers, found.on_their_way) == ({"done": 3}, 6, 0)
    assert found.lost == ()
    assert found.set_aside is None
    assert planned(project) == 0
    (project.folder / "results.jsonl").unlink()
    sent(project.run(), 0)
    assert table(project) == before
    assert len(project.witness.creates()) == 3


def test_with_ledger_and_journal_lost_nobody_goes_on_and_the_server_tells_what_was_bought(
    tmp_path: Path,
) -> None:
    project = project_of(tmp_path / "p", 6, shards=2)
    sent(project.run(), 6)
    lose(project)
    journal_of(project).unlink()
    refused(project)
    assert rebuilt(project).shards == {"submitted": 2}
    sent(project.run(), 0)
    all_well(project, rows_of(6))


def test_answers_of_earlier_prompts_and_repeats_come_back_too(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, repeats=2)
    sent(project.run(), 8)
    first = project.folder / "prompt.j2"
    text = first.read_text()
    project.write_template("{{ text }} in other words")
    sent(project.run(), 8)
    lose(project)
    assert rebuilt(project).answers == 16
    sent(project.run(), 0)
    project.write_template(text)
    sent(project.run(), 0)
    assert len(project.witness.executions()) == 16
    # Now that the ledger knows more than one run again, losing it once more is no worse.
    before = table(project)
    lose(project)
    rebuilt(project)
    sent(project.run(), 0)
    assert table(project) == before


def test_a_ledger_deleted_while_batches_run_is_made_again_and_collects_them(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 6, shards=3, token="[[local:slow 1]]")
    assert project.run("--detach").code == 75
    lose(project)
    refused(project)
    for is_offline in (True, False):
        found = rebuilt(project, is_offline=is_offline)
        assert (found.shards, found.on_their_way) == ({"submitted": 3}, 6)
        assert planned(project) == 0
    assert re.search(r"ledger\.db\.before-rebuild-", found.set_aside or "")
    assert Path(found.set_aside or "").exists()
    sent(project.run(), 0)
    all_well(project, rows_of(6, "[[local:slow 1]]"))
    assert len(project.witness.creates()) == 3


def test_a_kill_in_mid_run_and_a_lost_ledger_at_once_cost_nothing(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 8, shards=4, token="[[local:slow 0.5]]")
    process = project.start()

    def has_batches() -> bool:
        try:
            return len(project.witness.creates()) >= 2
        except sqlite3.OperationalError:
            return False

    eventually(has_batches, what="two batches")
    kill(process)
    lose(project)
    found = rebuilt(project)
    assert sum(found.shards.values()) == 4
    done = project.run()
    assert done.code == 0, done.stderr
    all_well(project, rows_of(8, "[[local:slow 0.5]]"))


def test_a_create_that_only_the_server_knows_is_found_by_its_tags(tmp_path: Path) -> None:
    """The reply was lost, the process died, the ledger is gone: the journal has an intent and no id."""
    project = project_of(tmp_path / "p", 4)
    with server_of(project) as server:
        server.arm("lost-reply", route="POST /v1/batches")
    process = project.start()
    eventually(
        lambda: journal_of(project).exists() and b"create unknown" in journal_of(project).read_bytes(),
        what="an unknown create",
    )
    kill(process)
    lose(project)
    found = rebuilt(project)
    (created,) = project.witness.creates()
    assert found.found_on_server == (created["batch_id"],)
    assert created["batch_id"].encode() in journal_of(project).read_bytes()
    sent(project.run(), 0)
    all_well(project, rows_of(4))


def test_an_intent_that_nobody_can_prove_is_not_sent_again_by_a_rebuild(tmp_path: Path) -> None:
    """Offline, the intent comes back as it stood; the next run settles it as after any crash."""
    project = project_of(tmp_path / "p", 4)
    with server_of(project) as server:
        server.arm("lost-reply", route="POST /v1/batches")
    process = project.start()
    eventually(
        lambda: journal_of(project).exists() and b"create unknown" in journal_of(project).read_bytes(),
        what="an unknown create",
    )
    kill(process)
    lose(project)
    found = rebuilt(project, is_offline=True)
    assert (found.shards, found.on_their_way) == ({"unknown": 1}, 4)
    assert planned(project) == 0
    sent(project.run(), 0)
    assert len(project.witness.creates()) == 1
    all_well(project, rows_of(4))


def test_a_torn_journal_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, shards=2, token="[[local:slow 1]]")
    assert project.run("--detach").code == 75
    journal = journal_of(project)
    whole = journal.read_bytes()
    # Everything from the middle of a line on is gone: the one that tells the second batch's id first.
    told = whole.rindex(b"batch created")
    journal.write_bytes(whole[: whole.index(b'"batch_id"', whole.rindex(b"\n", 0, told))])
    lose(project)
    found = rebuilt(project)
    assert len(found.found_on_server) == 1
    sent(project.run(), 0)
    all_well(project, rows_of(4, "[[local:slow 1]]"))
    assert len(project.witness.creates()) == 2


def test_a_journal_that_is_gone_as_well_is_made_up_for_by_the_listing(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, shards=2, token="[[local:slow 1]]")
    assert project.run("--detach").code == 75
    journal_of(project).unlink()
    lose(project)
    nothing = project.call("rebuild", str(project.manifest_path), "--offline")
    assert nothing.code == 1
    assert "nothing to make a ledger of" in nothing.stderr
    found = rebuilt(project)
    assert found.shards == {"submitted": 2}
    sent(project.run(), 0)
    all_well(project, rows_of(4, "[[local:slow 1]]"))
    assert len(project.witness.creates()) == 2


def test_answers_that_are_gone_are_fetched_again_where_the_server_has_them(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, shards=2)
    sent(project.run(), 4)
    before = table(project)
    one, two = sorted((project.folder / ".runner" / "raw").glob("*-output.jsonl"))
    one.unlink()
    two.write_bytes(two.read_bytes()[: two.stat().st_size // 2])
    lose(project)
    found = rebuilt(project)
    assert (found.shards, found.answers < 4) == ({"submitted": 2}, True)
    assert planned(project) == 0
    (project.folder / "results.jsonl").unlink()
    sent(project.run(), 0)
    assert table(project) == before
    paid_once(project)


def test_answers_that_nobody_has_any_more_are_said_and_planned(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, shards=2)
    sent(project.run(), 4)
    one, _ = sorted((project.folder / ".runner" / "raw").glob("*-output.jsonl"))
    one.unlink()
    shutil.rmtree(project.state)  # as after the server's thirty days
    lose(project)
    found = rebuilt(project)
    assert (found.shards, found.answers) == ({"done": 2}, 2)
    assert "2 requests are in none of its raw files" in found.lost[0]
    assert planned(project) == 2, "a plan shows it before anything is sent"
    sent(project.run(), 2)
    assert [row["_status"] for row in project.results()] == ["succeeded"] * 4


def test_a_batch_that_another_account_does_not_see_is_not_taken_for_gone(tmp_path: Path) -> None:
    is_seen = [True]

    def seen_by_one(batch: Batch, _look: int) -> Look:
        no_batch = (404, b'{"error":{"message":"no such batch"}}')
        return Look(output=good(batch)) if is_seen[0] else Look(reply=no_batch)

    with HostileServer(seen_by_one) as server:
        project = server.project(tmp_path / "p", 4)
        project.manifest["model"]["provider"]["api_key_env"] = "TEST_KEY"
        project.write_manifest()
        project.environ["TEST_KEY"] = "the-key-of-then"
        sent(project.run(), 4)
        shutil.rmtree(project.folder / ".runner" / "raw")
        lose(project)
        project.environ["TEST_KEY"], is_seen[0] = "of-another-account", False
        done = project.call("rebuild", str(project.manifest_path), "--json")
        assert json.loads(done.stdout)["shards"] == {"submitted": 1}
        project.environ["TEST_KEY"], is_seen[0] = "the-key-of-then", True
        sent(project.run(), 0)
        assert len(server.batches) == 1


class MadeTwice(HostileServer):
    """Carries its first create out twice; the second batch is `twin`, and the listing says how it stands."""

    def __init__(self, *, twin_status: str) -> None:
        super().__init__(lambda batch, _look: Look(output=good(batch)), listed=self._listed)
        self._twin_status = twin_status

    def _create(self, wish: dict[str, Any]) -> tuple[int, bytes]:
        reply = super()._create(wish)
        first = self.batches[0]
        self.batches.append(Batch("twin", 2, first.input_file_id, first.metadata, first.requests))
        return reply

    def _listed(self, found: list[dict[str, Any]], _query: str) -> dict[str, Any]:
        for one in found:
            one["status"] = self._twin_status if one["id"] == "twin" else "completed"
        return {"object": "list", "data": found, "has_more": False}


@pytest.mark.parametrize(
    ("twin_status", "said"), [("in_progress", "no run stops it"), ("completed", "has ended (completed)")]
)
def test_of_a_second_batch_of_a_done_shard_it_is_said_that_no_run_stops_it(
    tmp_path: Path, twin_status: str, said: str
) -> None:
    with MadeTwice(twin_status=twin_status) as server:
        project = server.project(tmp_path / "p", 2)
        sent(project.run(), 2)
        lose(project)
        (lost,) = rebuilt(project).lost
        assert "second batch of shard 0" in lost
        assert said in lost


def first_lacks_one(batch: Batch, _look: int) -> Look:
    """The first batch leaves its last row in neither file, and the next one answers it."""
    if batch.number > 1:
        return Look(output=good(batch))
    counts = {"total": 4, "completed": 3, "failed": 0}
    return Look(output=all_but_last(batch), fields={"request_counts": counts})


@pytest.mark.parametrize("is_offline", [False, True])
def test_a_rebuilt_ledger_buys_no_answered_request_again(tmp_path: Path, is_offline: bool) -> None:
    with HostileServer(first_lacks_one) as server:
        project = server.project(tmp_path / "p", 4)
        sent(project.run(), 5)
        before = table(project)
        lose(project)
        found = rebuilt(project, is_offline=is_offline)
        assert (found.shards, found.answers, found.on_their_way) == ({"done": 2}, 4, 0)
        assert found.lost == ()
        assert planned(project) == 0
        for _ in range(2):
            sent(project.run(), 0)
        assert table(project) == before
        assert len(server.batches) == 2


def test_a_rebuild_waits_for_what_no_batch_has_answered_and_for_nothing_else(tmp_path: Path) -> None:
    """The second batch's answer is gone from this machine; of what both lack only that is asked for."""

    with HostileServer(first_lacks_one) as server:
        project = server.project(tmp_path / "p", 4)
        sent(project.run(), 5)
        before = table(project)
        (project.folder / ".runner" / "raw" / "output-2-output.jsonl").unlink()
        lose(project)
        found = rebuilt(project)
        assert (found.shards, found.answers, found.on_their_way) == ({"submitted": 2}, 3, 1)
        (project.folder / "results.jsonl").unlink()
        for _ in range(2):
            sent(project.run(), 0)
        assert table(project) == before
        assert len(server.batches) == 2


def test_a_shard_that_the_journal_has_lost_is_no_later_than_it_was(tmp_path: Path) -> None:
    """Its batch, older than all that the journal knows, lacks what a known one has answered."""

    def listed(found: list[dict[str, Any]], _query: str) -> dict[str, Any]:
        told = {"created_at": 1_700_000_000, "status": "completed", "output_file_id": "output-1"}
        data = [{**one, **told} if one["id"] == "batch-1" else one for one in found]
        return {"object": "list", "data": data, "has_more": False}

    with HostileServer(first_lacks_one, listed=listed) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 1, "backoff": {"initial": 0}})
        assert project.run().code == 3
        assert project.call("retry", str(project.manifest_path)).code == 0
        before = table(project)
        told = journal_of(project).read_bytes().splitlines(keepends=True)
        first = json.loads(told[0])["run"]
        journal_of(project).write_bytes(b"".join(one for one in told if first.encode() not in one))
        lose(project)
        found = rebuilt(project)
        assert found.found_on_server == ("batch-1",)
        assert (found.answers, found.on_their_way) == (4, 0)
        for _ in range(2):
            sent(project.run(), 0)
        assert [row["_answer"] for row in table(project)] == [row["_answer"] for row in before]
        assert len(server.batches) == 2


def but_the_first(found: list[dict[str, Any]], _query: str) -> dict[str, Any]:
    return {"object": "list", "data": [one for one in found if one["id"] != "batch-1"], "has_more": False}


@pytest.mark.parametrize("is_offline", [False, True])
def test_answers_of_a_shard_that_was_sent_again_come_back_too(tmp_path: Path, is_offline: bool) -> None:
    with HostileServer(gone_half_way, listed=but_the_first) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run().code == 4
        decided = project.call("resolve", str(project.manifest_path), "--resubmit", "--yes")
        assert decided.code == 0, decided.stderr
        sent(project.run(), 2)
        before = table(project)
        project.call("gc", "--older-than", "0s")
        lose(project)
        found = rebuilt(project, is_offline=is_offline)
        assert (found.shards, found.answers, found.on_their_way) == ({"discarded": 1, "done": 1}, 4, 0)
        assert found.lost == ()
        assert planned(project) == 0
        sent(project.run(), 0)
        assert table(project) == before
        assert [len(batch.requests) for batch in server.batches] == [4, 2]


def test_answers_of_a_shard_that_was_sent_again_are_said_where_nobody_can_tell_whose_they_are(
    tmp_path: Path,
) -> None:
    with HostileServer(gone_half_way, listed=but_the_first) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run().code == 4
        assert project.call("resolve", str(project.manifest_path), "--resubmit", "--yes").code == 0
        for part in ("requests", "shards"):
            shutil.rmtree(project.folder / ".runner" / part)
        lose(project)
        found = rebuilt(project, is_offline=True)
        assert found.shards == {"discarded": 1}
        (said,) = found.lost
        assert "its answers stay in raw/" in said
        assert planned(project) == 4


def test_a_shard_whose_requests_nobody_can_tell_stops_every_run_until_a_person_decides(
    tmp_path: Path,
) -> None:
    project = project_of(tmp_path / "p", 4, token="[[local:slow 1]]")
    assert project.run("--detach").code == 75
    for path in (project.folder / ".runner" / "shards").iterdir():
        path.unlink()
    lose(project)
    found = rebuilt(project, is_offline=True)
    assert found.shards == {"held": 1}
    stopped = project.run()
    assert stopped.code == 4
    assert f"run resolve {project.manifest_path}" in stopped.stderr
    # The server still has the input file: asked, it tells.
    assert rebuilt(project).shards == {"submitted": 1}
    sent(project.run(), 0)
    all_well(project, rows_of(4, "[[local:slow 1]]"))


def test_what_failed_for_good_is_not_asked_again_after_a_rebuild(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 3)
    project.write_rows([*rows_of(2), {"id": "k2", "text": "row-2-end [[local:fail 422]]"}])
    assert project.run().code == 3
    before = table(project)
    lose(project)
    rebuilt(project)
    assert planned(project) == 0
    done = project.run()
    assert (done.code, done.event("finished")["requests_sent"]) == (3, 0)
    assert table(project) == before


def test_a_damaged_ledger_is_set_aside_and_kept(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4)
    sent(project.run(), 4)
    before = table(project)
    path = ledger_of(project)
    damaged = bytearray(path.read_bytes())
    damaged[4096 * 3 : 4096 * 5] = b"\xff" * 8192
    path.write_bytes(damaged)
    done = project.run()
    assert done.code == 1
    assert "run rebuild" in done.stderr
    by_command = project.call("rebuild", str(project.manifest_path))
    assert by_command.code == 0, by_command.stderr
    assert "answers   4 requests with an answer or a cause" in by_command.stderr
    (kept,) = path.parent.glob("ledger.db.before-rebuild-*Z")
    assert str(kept) in by_command.stderr
    assert kept.read_bytes() == bytes(damaged)
    sent(project.run(), 0)
    assert table(project) == before


def test_a_newer_ledger_is_refused_by_every_command(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 2)
    sent(project.run(), 2)
    with closing(sqlite3.connect(ledger_of(project))) as ledger, ledger:
        ledger.execute("UPDATE alembic_version SET version_num = '9999'")
    before = ledger_of(project).read_bytes()
    for command in ("run", "plan", "status", "resolve", "cancel"):
        done = project.call(command, str(project.manifest_path))
        assert (done.code, "newer version" in done.stderr) == (1, True), (command, done.stderr)
    assert ledger_of(project).read_bytes() == before
    assert len(project.witness.executions()) == 2


def test_a_healthy_ledger_rebuilt_is_the_same_to_a_run(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, shards=2)
    sent(project.run(), 4)
    before = table(project)
    rebuilt(project)
    rebuilt(project, is_offline=True)
    sent(project.run(), 0)
    assert table(project) == before
    with server_of(project) as server:
        work_off(server)
    paid_once(project)
    gone = project.call("gc", "--json", "--older-than", "0s")
    assert gone.code == 0, gone.stderr
    sent(project.run(), 0)
    assert table(project) == before


def test_the_advice_names_the_manifest_as_it_was_typed_and_bent(tmp_path: Path) -> None:
    project = project_of(tmp_path / "a project", 1, shards=1)
    project.run()
    ledger_of(project).unlink()

    def advice(*arguments: str) -> str:
        done = project.call(*arguments, cwd=tmp_path)
        return next(line for line in done.stderr.splitlines() if line.startswith("next:"))

    path = "a project/manifest.yaml"
    rest = "makes the ledger again and sends nothing"
    for command in (("run",), ("status",), ("history",), ("explain",)):
        more = ("k0",) if command == ("explain",) else ()
        assert advice(*command, path, *more) == f"next:  `run rebuild '{path}'` {rest}"
    bent = advice("plan", path, "--set", "description=a b")
    assert bent == f"next:  `run rebuild '{path}' --set 'description=a b'` {rest}"
    told = json.loads(project.call("plan", path, "--json", cwd=tmp_path).stdout)
    assert told["next_step"] == f"`run rebuild '{path}'` {rest}"


def test_a_tick_names_the_manifest_that_needs_its_ledger_again(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 1, shards=1, schedule={"cron": "0 2 * * *"})
    project.run()
    ledger_of(project).unlink()
    report = json.loads(project.call("schedule", "tick", "--json").stdout)
    (failed,) = report["failed"]
    assert failed["next_step"].startswith(f"`run rebuild {project.manifest_path}` makes")
