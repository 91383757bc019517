"""Shards on their way: what is saved comes back, ids are in the journal first, rules are constraints."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from runner.core.model import Problem, ProblemKind
from runner.core.states import (
    ShardState,
    Submission,
    create_accepted,
    create_intended,
    create_unknown,
    fence_held,
    held,
    upload_accepted,
    upload_failed,
    upload_intended,
)
from runner.errors import LedgerError
from runner.ledger import Ledger
from runner.ledger.journal import Journal
from tests.contract.ledger_factories import START_S, Project, place_in, run_start, succeeded, to_send, waiting

TROUBLE = Problem(kind=ProblemKind.SERVER_TROUBLE, message="502", retry_after_s=1.5)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.open(tmp_path)


def one_shard(project: Project) -> Submission:
    (submission,) = project.commit([to_send(0, "a", line=0)])
    return submission


def facts_of(project: Project) -> list[dict[str, object]]:
    return list(Journal(project.ledger.place.journal).facts())


def test_every_state_on_the_way_comes_back_as_it_was(project: Project) -> None:
    here = one_shard(project)
    steps = [upload_intended(here)]
    steps.append(upload_failed(steps[-1], TROUBLE, START_S))
    steps.append(upload_intended(steps[-1]))
    steps.append(upload_accepted(steps[-1], "file-1"))
    steps.append(create_intended(steps[-1], START_S))
    steps.append(create_unknown(steps[-1], TROUBLE))
    steps.append(replace(steps[-1], state=ShardState.FENCING))
    steps.append(fence_held(steps[-1]))
    steps.append(create_accepted(steps[4], "batch-1", START_S))
    steps.append(
        replace(
            steps[-1],
            status="in_progress",
            total=1,
            completed=0,
            failed=0,
            output_file_id="out-1",
            expires_at_s=START_S + 86_400,
            cancel_requested=True,
        )
    )
    for step in steps:
        project.ledger.save(step, what=step.state, detail="on the way")
        assert project.ledger.submission(here.shard_id) == step
    assert [what for (what,) in project.asked("SELECT what FROM event ORDER BY id")] == [
        s.state for s in steps
    ]


def test_a_held_shard_needs_its_input_file_and_one_that_is_done_does_not(project: Project) -> None:
    here = one_shard(project)
    intended = create_intended(upload_accepted(upload_intended(here), "file-1"), START_S)
    unknown = create_unknown(intended, TROUBLE)
    for state, is_needed in ((ShardState.UNKNOWN, True), (ShardState.HELD, True), (ShardState.DONE, False)):
        project.ledger.save(replace(unknown, state=state), what=state)
        assert project.ledger.needs_file(here.path) is is_needed


def test_what_lives_in_memory_only_is_not_kept(project: Project) -> None:
    here = replace(one_shard(project), clean_scans=2, failed_scans=1)
    project.ledger.save(here, what="scanned")
    assert project.ledger.submission(here.shard_id) == replace(here, clean_scans=0, failed_scans=0)


def test_a_new_attempt_has_a_file_of_its_own(project: Project) -> None:
    first = upload_intended(one_shard(project))
    project.ledger.save(first, what="uploading")
    second = upload_intended(first)
    project.ledger.save(second, what="uploading")
    project.ledger.save(upload_accepted(second, "file-2"), what="uploaded")
    found = project.asked("SELECT attempt, filename, state, file_id FROM file ORDER BY attempt")
    assert found == [
        (1, first.tags.filename, "lost", None),
        (2, second.tags.filename, "uploaded", "file-2"),
    ]
    assert first.tags.filename != second.tags.filename


def test_a_fenced_file_is_known_as_deleted(project: Project) -> None:
    here = create_intended(upload_accepted(upload_intended(one_shard(project)), "file-1"), START_S)
    project.ledger.save(here, what="creating")
    project.ledger.save(replace(here, state=ShardState.FENCED), what="fenced")
    assert project.asked("SELECT state FROM file") == [("deleted",)]


def test_intents_and_new_ids_are_in_the_journal(project: Project) -> None:
    here = project.send(one_shard(project))
    polled = replace(here, status="in_progress", completed=1)
    project.ledger.save(polled, what="polled")
    finished = replace(polled, status="completed", output_file_id="out-1", error_file_id="err-1")
    project.ledger.save(finished, what="polled")
    planned, *facts = facts_of(project)
    assert (planned["what"], planned["run"], planned["manifest"]) == ("planned", here.run, "job.yaml")
    assert [(fact["what"], fact["input_file_id"], fact["batch_id"]) for fact in facts] == [
        ("uploading", None, None),
        ("uploaded", "file-1", None),
        ("creating", "file-1", None),
        ("submitted", "file-1", "batch-1"),
        ("polled", "file-1", "batch-1"),
    ]
    assert facts[-1]["output_file_id"] == "out-1"
    assert {fact["run"] for fact in facts} == {here.run}


def test_a_fact_is_in_the_journal_even_when_the_ledger_could_not_keep_it(project: Project) -> None:
    """I11: the journal may know more than the ledger, never less."""
    (one, two) = project.commit([to_send(0, "a", line=0, slot=0), to_send(1, "b", line=0, slot=1)])
    one, two = project.send(one), upload_accepted(upload_intended(two), "file-2")
    project.ledger.save(two, what="uploaded")
    assert project.ledger._writer is not None
    with project.ledger._writer.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER broken BEFORE INSERT ON event BEGIN SELECT raise(ABORT, 'disk gone'); END"
        )
    with pytest.raises(LedgerError):
        project.ledger.save(create_intended(two, START_S), what="creating")
    assert project.ledger.submission(two.shard_id) == two


def test_a_torn_journal_line_is_skipped_and_spoils_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "ids.jsonl")
    journal.append({"batch_id": "one"})
    with (tmp_path / "ids.jsonl").open("ab") as stream:
        stream.write(b'{"batch_id": "to')
    journal.append({"batch_id": "three"})
    assert list(journal.facts()) == [{"batch_id": "one"}, {"batch_id": "three"}]


def test_the_journal_is_synced_before_the_ledger_commits(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outsider that looks at the ledger at the moment of the journal's fsync still sees the old state."""
    here = upload_intended(one_shard(project))
    seen: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        ((state,),) = project.asked("SELECT state FROM shard")
        seen.append((state, b"uploading" in project.ledger.place.journal.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    project.ledger.save(here, what="uploading")
    assert seen[0] == ("ready", True)
    assert project.ledger.submission(here.shard_id).state is ShardState.UPLOADING


def test_a_save_never_takes_a_wish_to_cancel_back(project: Project) -> None:
    """The wish comes from another process, while the one that moves the shard knows nothing of it."""
    moving = upload_intended(one_shard(project))
    project.ledger.request_cancel(moving.shard_id)
    project.ledger.save(moving, what="uploading")
    assert project.ledger.submission(moving.shard_id).cancel_requested


def test_an_input_file_is_in_one_batch_only(project: Project) -> None:
    """I6."""
    (one, two) = project.commit([to_send(0, "a", line=0, slot=0), to_send(1, "b", line=0, slot=1)])
    one = project.send(one)
    stolen = upload_accepted(upload_intended(two), one.input_file_id or "")
    stolen = create_accepted(create_intended(stolen, START_S), "batch-2", START_S)
    with pytest.raises(LedgerError, match="break a rule"):
        project.ledger.save(stolen, what="submitted")
    assert project.ledger.submission(two.shard_id) == two


def test_a_batch_belongs_to_one_shard_only(project: Project) -> None:
    (one, two) = project.commit([to_send(0, "a", line=0, slot=0), to_send(1, "b", line=0, slot=1)])
    one = project.send(one)
    other = create_intended(upload_accepted(upload_intended(two), "file-x"), START_S)
    with pytest.raises(LedgerError, match="batch_id"):
        project.ledger.save(create_accepted(other, one.batch_id or "", START_S), what="submitted")


def test_two_servers_may_give_the_same_ids(project: Project) -> None:
    (one, two) = project.commit([to_send(0, "a", line=0, slot=0), to_send(1, "b", line=0, slot=1)])
    one = project.send(one)
    outsider(project, f"UPDATE shard SET server = 'http://elsewhere/v1' WHERE id = {two.shard_id}")
    two = replace(two, server="http://elsewhere/v1")
    two = create_intended(upload_accepted(upload_intended(two), one.input_file_id or ""), START_S)
    two = create_accepted(two, one.batch_id or "", START_S)
    project.ledger.save(two, what="submitted")
    assert project.ledger.submission(two.shard_id) == two
    assert project.ledger.submission(one.shard_id) == one


def test_held_shards_of_others_are_those_in_which_a_row_waits_for_an_answer(project: Project) -> None:
    waits, answered, apart = (project.beside(name) for name in ("waits", "answered", "apart"))
    rows = [to_send(0, "old", line=0)]
    first = project.send(project.commit(rows)[0])
    project.answer(first, [(0, succeeded())])
    project.finish(first)
    (shard,) = project.commit([*rows, to_send(1, "new", line=1)])
    waits.commit([waiting(0, "k", request="new"), waiting(1, "twin", request="new")])
    answered.commit([waiting(0, "k", request="old")])
    apart.commit([waiting(0, "k", request="another")])

    def elsewhere(manifest: Project) -> list[tuple[str, Submission]]:
        return project.ledger.held_elsewhere(manifest.manifest_id)

    sent = project.send(shard)
    assert elsewhere(waits) == [], "it is on its way"
    kept = held(sent, "nobody knows")
    project.ledger.save(kept, what="held")
    assert elsewhere(waits) == [("job.yaml", kept)]
    assert [elsewhere(one) for one in (answered, apart, project)] == [[], [], []]


def test_a_slot_of_a_run_has_one_shard(project: Project) -> None:
    one_shard(project)
    with pytest.raises(sqlite3.IntegrityError):
        outsider(project, "INSERT INTO shard SELECT 99, " + SHARD_COLUMNS + " FROM shard")


SHARD_COLUMNS = (
    "run_id, manifest_id, slot, sha, path, size_bytes, requests, endpoint, completion_window, model, server, "
    "state, attempt, send_by_s, not_before_s, problem, is_fenced, cancel_requested, created_at, updated_at"
)


def outsider(project: Project, statement: str) -> None:
    connection = sqlite3.connect(project.ledger.place.folder / "ledger.db")
    try:
        with connection:
            connection.execute(statement)
    finally:
        connection.close()


def test_open_shards_are_the_manifests_own_and_those_its_rows_wait_for(project: Project) -> None:
    mine = project.send(one_shard(project))
    other, third = project.beside("other"), project.beside("third")
    other.commit([waiting(0, "a"), to_send(1, "b", line=0)])
    assert [item.shard_id for item in other.ledger.open_submissions(other.manifest_id)] == [
        mine.shard_id,
        mine.shard_id + 1,
    ]
    third.commit([waiting(0, "c")])
    assert third.ledger.open_submissions(third.manifest_id) == []
    project.answer(mine, [(0, succeeded())])
    project.finish(mine)
    assert [item.shard_id for item in other.ledger.open_submissions(other.manifest_id)] == [mine.shard_id + 1]


def test_shards_for_people_say_where_they_stand(project: Project) -> None:
    here = project.send(one_shard(project))
    project.ledger.save(
        replace(here, status="completed", total=1, completed=1, failed=0, output_file_id="out"), what="polled"
    )
    (record,) = project.ledger.shards(project.manifest_id)
    assert (record.state, record.status, record.batch_id) == (ShardState.SUBMITTED, "completed", "batch-1")
    assert (record.total, record.completed, record.output_file_id) == (1, 1, "out")
    assert record.submitted_at is not None
    assert record.submitted_at.isoformat() == "2026-01-02T03:04:05.678000+00:00"
    assert record.finished_at == record.submitted_at
    (ids,) = project.ledger.all_ids(project.manifest_id)
    assert (ids.input_file_id, ids.batch_id, ids.output_file_id) == ("file-1", "batch-1", "out")


def test_a_shard_that_is_not_there_is_a_key_error(project: Project) -> None:
    with pytest.raises(KeyError):
        project.ledger.submission(7)


# ---------------------------------------------------------------- runs


def test_a_run_is_remembered_from_start_to_end(project: Project) -> None:
    here = project.send(one_shard(project))
    project.answer(here, [(0, succeeded())])
    project.finish(here)
    run_id = project.run_ids[0]
    totals = project.ledger.totals(project.manifest_id)
    project.ledger.end_run(run_id, state="finished", exit_code=0, totals=replace(totals, cost=0.25))
    (record,) = project.ledger.runs(project.manifest_id)
    assert (record.state, record.exit_code, record.rows, record.requests_sent) == ("finished", 0, 3, 1)
    assert (record.succeeded, record.failed, record.unsendable, record.cost) == (1, 0, 0, 0.25)
    assert (record.input_tokens, record.output_tokens) == (30, 10)
    assert record.started_at.isoformat() == "2026-01-02T03:04:05.678000+00:00"
    assert project.ledger.current_run(project.manifest_id) == record


def test_a_run_that_was_killed_is_known_as_interrupted_by_the_next(project: Project) -> None:
    project.start_run()
    project.start_run()
    other = project.beside("other")
    other.start_run()
    assert [run.state for run in project.ledger.runs(project.manifest_id)] == ["running", "interrupted"]
    assert [run.state for run in project.ledger.runs(project.manifest_id, 1)] == ["running"]


def test_two_runs_can_not_have_one_uid(project: Project) -> None:
    project.ledger.start_run(run_start("a" * 32, project.manifest_id))
    with pytest.raises(LedgerError, match="break a rule"):
        project.ledger.start_run(run_start("a" * 32, project.manifest_id))


def test_manifests_are_known_by_their_path_and_may_change_their_name(project: Project) -> None:
    assert project.ledger.ensure_manifest("job.yaml", "renamed") == project.manifest_id
    (record,) = project.ledger.manifests()
    assert (record.path, record.name, record.current_run_id) == ("job.yaml", "renamed", None)
    assert project.ledger.find_manifest("job.yaml") == project.manifest_id
    assert project.ledger.find_manifest("none.yaml") is None


def test_a_second_process_reads_what_the_first_has_written(project: Project, tmp_path: Path) -> None:
    here = project.send(one_shard(project))
    with Ledger.open_reading(place_in(tmp_path)) as reading:  # type: ignore[union-attr]
        assert reading.submission(here.shard_id) == here
        with pytest.raises(RuntimeError, match="opened to read"):
            reading.ensure_manifest("x.yaml", "x")
