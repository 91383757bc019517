"""`run gc`: removes what nothing refers to, and nothing that a row, a run or a batch may need."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fault.run_hostile_server import Batch, HostileServer, Look
from tests.fault.test_run_hostile_output import all_but_last
from tests.localserver_process import KEY, eventually, running_server
from tests.project_factory import ROWS, Done, Project, finish, kill, make_project

EDITED = (*ROWS[:4], {"id": "k4", "text": "another question"})


def gc(project: Project, *options: str) -> dict[str, Any]:
    """What a `run gc --json` removed, by kind."""
    done = project.call("gc", "--json", *options)
    assert (done.code, "Traceback" in done.stderr) == (0, False), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def kinds(found: dict[str, Any]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for one in found["removed"]:
        counted[one["kind"]] = counted.get(one["kind"], 0) + 1
    return counted


def ran(done: Done, sent: int) -> None:
    assert done.code == 0, done.stderr
    assert done.event("finished")["requests_sent"] == sent


def everything(project: Project) -> dict[str, bytes]:
    """The files of `.runner/` that gc may touch."""
    folder = project.folder / ".runner"
    parts = ("scratch", "shards", "snapshots", "history", "raw")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for part in parts
        for path in (folder / part).rglob("*")
        if path.is_file()
    }


def has_created(project: Project) -> bool:
    """Whether the local server, which may just be starting, has a batch."""
    try:
        return (project.state / "server.db").exists() and bool(project.witness.creates())
    except sqlite3.OperationalError:
        return False


def make_older(project: Project, days: float) -> None:
    """Every run and shard so many days ago, in place of waiting."""
    with closing(sqlite3.connect(project.folder / ".runner" / "ledger.db", timeout=30)) as ledger, ledger:
        for table, column in (("run", "started_at"), ("run", "finished_at"), ("shard", "updated_at")):
            for row, text in ledger.execute(f"SELECT id, {column} FROM {table}").fetchall():
                if text is not None:
                    moment = datetime.fromisoformat(text) - timedelta(days=days)
                    ledger.execute(
                        f"UPDATE {table} SET {column} = ? WHERE id = ?",
                        (
                            moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                            row,
                        ),
                    )


def test_a_project_in_order_has_nothing_to_remove(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    assert gc(project)["removed"] == []
    project.run()
    before = everything(project)
    assert gc(project)["removed"] == []
    make_older(project, 400)
    assert gc(project, "--older-than", "1d")["removed"] == []
    assert everything(project) == before
    ran(project.run(), 0)


def test_leftovers_of_dead_processes_are_listed_and_then_removed(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    folder = project.folder / ".runner"
    (folder / "scratch" / "plan-dead").mkdir()
    for name in ("scratch/plan-dead/x.part", "shards/" + "0" * 64 + ".jsonl", "raw/nobody.jsonl"):
        (folder / name).write_bytes(b"12345")
    (folder / "snapshots" / ("0" * 32 + ".parquet")).write_bytes(b"12345")
    before = everything(project)
    listed = gc(project, "--dry-run")
    assert everything(project) == before
    assert kinds(listed) == {"scratch": 1, "shard": 1, "snapshot": 1, "answers": 1}
    assert (listed["dry_run"], listed["freed_bytes"]) == (True, 20)
    shown = project.call("gc", "--dry-run")
    assert "answers     5 bytes  raw/nobody.jsonl\n" in shown.stdout
    assert "nothing was removed: --dry-run" in shown.stderr
    assert gc(project)["removed"] == listed["removed"]
    assert len(everything(project)) == len(before) - 4
    assert gc(project)["removed"] == []
    ran(project.run(), 0)


def test_what_a_running_process_may_need_is_left_alone(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=[*ROWS, {"id": "slow", "text": "x [[local:slow 60]]"}])
    process = project.start()
    try:
        eventually(lambda: has_created(project))
        (project.folder / ".runner" / "scratch" / "plan-other").mkdir()
        before = everything(project)
        for options in ((), (str(project.manifest_path),), ("--remote",)):
            found = gc(project, "--older-than", "0s", *options)
            assert (found["removed"], found["busy"]) == ([], ["manifest.yaml"])
        assert set(everything(project)) >= set(before)
    finally:
        kill(process)


def test_a_shard_that_is_under_way_keeps_its_file_here_and_there(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=[*ROWS, {"id": "slow", "text": "x [[local:slow 2]]"}])
    assert project.run("--detach").code == 75
    before = everything(project)
    assert gc(project, "--remote", "--older-than", "0s")["removed"] == []
    assert everything(project) == before
    assert not project.witness.changes()
    ran(project.run(), 0)
    assert len(project.witness.executions()) == 6


def test_remote_input_files_go_once_all_their_answers_are_here(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", batch={"max_requests_per_file": 2})
    project.run()
    uploads = sorted(upload["file_id"] for upload in project.witness.uploads())
    assert len(uploads) == 3
    listed = gc(project, "--remote", "--dry-run")
    assert sorted(one["name"] for one in listed["removed"]) == uploads
    assert not project.witness.changes()
    assert kinds(gc(project, str(project.manifest_path), "--remote")) == {"remote": 3}
    deleted = [change["id"] for change in project.witness.changes()]
    assert sorted(deleted) == uploads
    assert kinds(gc(project, "--remote")) == {}
    ran(project.run(), 0)
    assert all(row["_status"] == "succeeded" for row in project.results())


def test_remote_input_files_of_a_manifest_that_is_gone_go_by_what_its_last_run_named(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path / "p", batch={"max_requests_per_file": 2})
    project.run()
    project.manifest_path.rename(project.folder / "renamed.yaml")
    assert kinds(gc(project, "--remote")) == {"remote": 3}
    assert kinds(gc(project, "--remote")) == {}


def test_without_its_raw_file_a_shards_input_stays_on_the_server(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    for path in (project.folder / ".runner" / "raw").iterdir():
        path.unlink()
    assert gc(project, "--remote")["removed"] == []
    assert not project.witness.changes()


def test_the_input_of_a_shard_that_was_given_up_stays_on_the_server(tmp_path: Path) -> None:
    """Its batch may be under way, and would be stopped."""
    with HostileServer(
        created=lambda batch: (502, b"<html>bad</html>") if batch.number == 1 else None,
        listed=lambda *_: {"object": "list", "data": [], "has_more": False},
    ) as server:
        project = server.project(tmp_path / "p", 4, batch={"max_requests_per_file": 2})
        assert project.run().code == 4
        assert project.call("resolve", str(project.manifest_path), "--abandon", "--yes").code == 0
        assert project.run().code == 3
        assert [row["_status"] for row in project.results()].count("succeeded") == 2
        (given_up, other) = server.batches
        for options in (("--dry-run",), ()):
            removed = gc(project, "--remote", *options)["removed"]
            names = [one["name"] for one in removed if one["kind"] == "remote"]
            assert names == [other.input_file_id]
        assert f"DELETE /v1/files/{given_up.input_file_id}" not in server.seen


def test_the_input_of_a_shard_that_has_left_a_row_in_neither_file_stays_on_the_server(
    tmp_path: Path,
) -> None:
    def script(batch: Batch, _look: int) -> Look:
        counts = {"total": 4, "completed": 3, "failed": 0}
        return Look(output=all_but_last(batch), fields={"request_counts": counts})

    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 1})
        assert project.run().code == 3
        assert "remote" not in kinds(gc(project, "--remote"))


def test_an_upload_expires_after_thirty_days(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    with closing(sqlite3.connect(project.state / "server.db", timeout=30)) as server:
        found = server.execute("SELECT expires_s - created_us / 1000000 FROM file WHERE kind = 'input'")
        assert [life_s for (life_s,) in found] == [30 * 86_400]


def test_answers_go_when_nothing_has_wanted_them_for_so_long_and_are_asked_again(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    project.write_template("{{ text }}?")
    project.run()
    make_older(project, 40)
    project.write_template("{{ text }}!")
    ran(project.run(), 5)
    before = project.results()
    # The table of 40 days ago is the one that was in force 30 days ago: its answers stay.
    assert kinds(gc(project)) == {"answers": 2}
    ran(project.run(), 0)
    project.write_template("{{ text }}?")
    ran(project.run(), 0)
    project.write_template("{{ text }}!")
    ran(project.run(), 0)
    assert project.results() == before
    project.write_template(
        "{% block system %}Be brief.{% endblock %}{% block user %}{{ text }}{% endblock %}"
    )
    ran(project.run(), 5)
    assert [row["_attempts"] for row in project.results()] == [2] * 5


def test_an_answer_that_another_manifest_wants_stays(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    other = project.folder / "other.yaml"
    text = project.manifest_path.read_text()
    other.write_text(text.replace("name: test", "name: other").replace("results", "other"))
    project.run()
    assert project.call("run", str(other), "--json").code == 0
    project.write_template("{{ text }}?")
    project.run()
    make_older(project, 100)
    project.run()
    assert kinds(gc(project, "--older-than", "1d")) == {}
    assert project.call("run", str(other), "--json").code == 0
    make_older(project, 100)
    assert kinds(gc(project, "--older-than", "1d")) == {"answers": 2}


def test_after_a_rebuild_no_answers_go_while_a_manifest_has_not_run(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    other = project.folder / "other.yaml"
    text = project.manifest_path.read_text()
    other.write_text(text.replace("name: test", "name: other").replace("results", "other"))
    other.write_text(other.read_text().replace("prompt.j2", "other.j2"))
    (project.folder / "other.j2").write_text("{{ text }} otherwise")
    project.run()
    assert project.call("run", "other.yaml").code == 0
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-seal"):
        (project.folder / ".runner" / name).unlink(missing_ok=True)
    assert project.call("rebuild", "manifest.yaml", "other.yaml", "--offline").code == 0
    ran(project.run(), 0)
    done = project.call("gc", "--older-than", "0s")
    assert "no answers are removed: what other.yaml wants is not known" in done.stderr
    other_run = project.call("run", "other.yaml", "--json")
    ran(other_run, 0)
    assert "no answers are removed" not in project.call("gc", "--older-than", "0s").stderr


def test_the_tables_of_the_last_ten_runs_stay_whatever_their_age(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=ROWS[:1])
    for number in range(12):
        project.write_template(f"{{{{ text }}}} {number}")
        ran(project.run(), 1)
    assert kinds(gc(project)) == {}
    make_older(project, 31)
    removed = gc(project, str(project.manifest_path))
    assert kinds(removed) == {"history": 2}
    assert len(list((project.folder / ".runner" / "history").iterdir())) == 10
    kept = project.ledger("SELECT count(*), count(history) FROM run")
    assert kept == [(12, 10)]
    ran(project.run(), 0)


def test_after_a_kill_gc_leaves_what_the_next_run_needs(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=[*ROWS, {"id": "slow", "text": "x [[local:slow 3]]"}])
    process = project.start()
    eventually(lambda: has_created(project))
    kill(process)
    gc(project, "--older-than", "0s", "--remote")
    assert not project.witness.changes()
    done = finish(project.start())
    assert done.code == 0, done.stderr
    assert len(project.witness.executions()) == 6
    assert all(row["_status"] == "succeeded" for row in project.results())


# ---------------------------------------------------------------- uploads that nothing uses


def dies(project: Project, point: str) -> None:
    """A run that is killed at a named point."""
    project.environ["RUNNER_FAILPOINT"] = point
    assert project.run().code == -9
    del project.environ["RUNNER_FAILPOINT"]


def uploaded(project: Project) -> list[str]:
    """The ids of all uploads, in order."""
    found = sorted(project.witness.uploads(), key=lambda upload: upload["at_us"])
    return [upload["file_id"] for upload in found]


def removed_there(project: Project, *options: str) -> list[str]:
    """The files that `run gc --remote` names."""
    removed = gc(project, "--remote", *options)["removed"]
    return [one["name"] for one in removed if one["kind"] == "remote"]


def test_an_upload_that_was_cut_off_goes_from_the_server(tmp_path: Path) -> None:
    """Its id is not known here; its name is."""
    project = make_project(tmp_path / "p")
    dies(project, "upload.answered")
    (lost,) = uploaded(project)
    assert removed_there(project, "--dry-run") == [lost]
    assert not project.witness.changes()
    ran(project.run(), 5)
    (_, used) = uploaded(project)
    assert sorted(removed_there(project, "--dry-run")) == sorted([lost, used])
    assert removed_there(project) == [used, lost]
    assert [change["id"] for change in project.witness.changes()] == [used, lost]
    assert removed_there(project) == []
    ran(project.run(), 0)


def test_an_upload_whose_shard_was_planned_anew_goes_from_the_server(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    dies(project, "upload.recorded")
    assert removed_there(project) == [], "the next run may use it"
    project.write_rows(EDITED)
    ran(project.run(), 5)
    (taken_back, used) = uploaded(project)
    assert sorted(removed_there(project)) == sorted([taken_back, used])
    assert len(project.witness.executions()) == 5


@pytest.mark.parametrize("point", ["create.intended", "create.answered", "create.unknown_recorded"])
def test_an_upload_that_a_create_may_have_used_stays(tmp_path: Path, point: str) -> None:
    fault = {"create.unknown_recorded": (502, b"<html>bad</html>")}.get(point)
    with HostileServer(created=lambda batch: fault if batch.number == 1 else None) as server:
        project = server.project(tmp_path / "p", 2)
        dies(project, point)
        for options in (("--dry-run",), ()):
            assert removed_there(project, *options) == []
        assert not [line for line in server.seen if line.startswith("DELETE")]


def test_an_upload_that_a_copy_of_the_project_went_on_with_stays(tmp_path: Path) -> None:
    with running_server(tmp_path / "s") as server:
        project = make_project(tmp_path / "p")
        project.environ["COPY_KEY"] = "k"
        project.manifest["model"]["provider"] = {
            "name": "doubleword",
            "base_url": server.base_url,
            "api_key_env": "COPY_KEY",
            "poll_interval_s": 0.1,
            "settle_s": 1,
        }
        project.write_manifest()
        dies(project, "upload.recorded")
        shutil.copytree(project.folder, tmp_path / "copy")
        copy = replace(project, folder=tmp_path / "copy")
        assert copy.call("schedule", "tick", "manifest.yaml").code == 0
        assert len(server.witness.creates()) == 1
        project.write_rows(EDITED)
        project.call("plan", "manifest.yaml")
        assert project.run("--detach").code == 75
        assert removed_there(project) == []
        assert not [one for one in server.witness.changes() if one["action"] == "cancel"]


def test_an_upload_of_a_batch_that_only_the_server_knows_stays(tmp_path: Path) -> None:
    """A copy of the project went on with it, say: here its id never came."""
    project = make_project(tmp_path / "p")
    dies(project, "create.answered")
    with closing(sqlite3.connect(project.folder / ".runner" / "ledger.db", timeout=30)) as ledger, ledger:
        ledger.execute("UPDATE file SET file_id = NULL, state = 'lost'")
    assert removed_there(project) == []
    assert not project.witness.changes()


def test_after_a_rebuild_uploads_of_which_the_ledger_can_t_be_sure_stay(tmp_path: Path) -> None:
    """The journal may have lost the line of an id, and of the create that named it."""
    with running_server(tmp_path / "server") as server:
        provider = {"name": "doubleword", "base_url": server.base_url, "api_key_env": "GC_KEY"}
        quick = {"settle_s": 0.1, "poll_interval_s": 0.05}
        project = make_project(tmp_path / "p", model={"provider": provider | quick, "name": "m"})
        project.environ["GC_KEY"] = KEY
        server.arm("lost-reply", route="POST /v1/files")
        dies(project, "create.recorded")
        for path in (project.folder / ".runner").glob("ledger.db*"):
            path.unlink()
        assert project.call("rebuild", str(project.manifest_path), "--offline").code == 0
        assert project.run().code == 0
        (_, used) = sorted(server.witness.uploads(), key=lambda upload: upload["at_us"])
        assert removed_there(project) == [used["file_id"]]
