"""A batch of which nobody knows the requests any more, after a rebuild that lacked its files."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.test_rebuild import lose, rebuilt, sent
from tests.fault.run_factories import all_well, project_of, rows_of
from tests.fault.run_hostile_server import Batch, HostileServer, Look, good
from tests.project_factory import Done, Project

SLOW = "[[local:slow 1]]"


def forget_what_was_asked(project: Project) -> None:
    """Ledger, lists of requests and input files are gone; the last are set aside in `kept`."""
    folder = project.folder / ".runner"
    shutil.rmtree(folder / "requests")
    (folder / "shards").rename(project.folder / "kept")
    lose(project)
    assert rebuilt(project, is_offline=True).shards == {"held": 1}


def resolve(project: Project, *options: str) -> Done:
    return project.call("resolve", str(project.manifest_path), *options)


def unended_at_first(batch: Batch, look: int) -> Look:
    """Who looks a second time finds the batch ended."""
    return Look(output=good(batch), fields={"status": "completed" if look > 1 else "in_progress"})


def test_a_batch_of_unknown_requests_is_adopted_where_the_server_has_its_input_file(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, token=SLOW)
    assert project.run("--detach").code == 75
    forget_what_was_asked(project)
    ((batch_id,),) = project.ledger("SELECT batch_id FROM batch")
    assert "4 without an answer" in resolve(project).stdout
    adopted = resolve(project, "--adopt", batch_id)
    assert adopted.code == 0, adopted.stderr
    sent(project.run(), 0)
    all_well(project, rows_of(4, SLOW))


def test_a_batch_whose_requests_nobody_can_tell_is_not_adopted_until_its_file_is_back(
    tmp_path: Path,
) -> None:
    with HostileServer(unended_at_first) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == 75
        forget_what_was_asked(project)
        refused = resolve(project, "--adopt", "batch-1")
        assert (refused.code, "nothing was decided" in refused.stderr) == (4, True), refused.stderr
        assert project.run().code == 4
        for path in (project.folder / "kept").iterdir():
            assert str(project.folder / ".runner" / "shards" / path.name) in refused.stderr
            shutil.copy(path, project.folder / ".runner" / "shards")
        assert resolve(project, "--adopt", "batch-1").code == 0
        sent(project.run(), 0)
        assert [row["_status"] for row in project.results()] == ["succeeded"] * 4
        assert len(server.batches) == 1


def other_manifest(project: Project, name: str, rows: int, provider: Any) -> Path:
    """Another manifest of the project that asks the first rows of the same ones."""
    lines = (project.folder / "rows.csv").read_text().splitlines(keepends=True)
    (project.folder / f"{name}.csv").write_text("".join(lines[: rows + 1]))
    model = {**project.manifest["model"], "provider": provider}
    texts = {"dataset": {"path": f"{name}.csv", "key": "id"}, "output": {"path": f"{name}.jsonl"}}
    path = project.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**project.manifest, **texts, "name": name, "model": model}))
    return path


def test_requests_that_nobody_can_tell_stop_every_manifest_that_asks_their_server(tmp_path: Path) -> None:
    with HostileServer(unended_at_first) as server, HostileServer() as elsewhere:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == 75
        forget_what_was_asked(project)
        provider = project.manifest["model"]["provider"]
        few = other_manifest(project, "few", 3, provider)
        stopped = project.call("run", str(few), "--json")
        assert stopped.code == 4, stopped.stderr
        assert f"shard 0 of {project.manifest_path} holds 4 requests" in stopped.stderr
        assert f"run resolve {project.manifest_path}" in stopped.stderr
        away = other_manifest(project, "away", 3, {**provider, "base_url": elsewhere.base_url})
        assert project.call("run", str(away), "--json").code == 0
        shutil.copytree(project.folder / "kept", project.folder / ".runner" / "shards", dirs_exist_ok=True)
        assert resolve(project, "--adopt", "batch-1").code == 0
        assert project.call("run", str(few), "--json").code == 0
        assert [len(server.batches), len(elsewhere.batches)] == [1, 1]


def test_unknown_requests_of_a_renamed_manifest_are_decided_about_by_its_new_name(tmp_path: Path) -> None:
    with HostileServer(unended_at_first) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == 75
        forget_what_was_asked(project)
        shutil.copytree(project.folder / "kept", project.folder / ".runner" / "shards", dirs_exist_ok=True)
        new = project.folder / "renamed.yaml"
        project.manifest_path.rename(new)
        stopped = project.call("run", str(new), "--json")
        assert (stopped.code, f"run resolve {new}`" in stopped.stderr) == (4, True), stopped.stderr
        assert project.call("resolve", str(new), "--adopt", "batch-1").code == 0
        done = project.call("run", str(new), "--json")
        assert (done.code, done.event("finished")["requests_sent"]) == (0, 0), done.stderr
        assert [row["_status"] for row in project.results()] == ["succeeded"] * 4
        assert len(server.batches) == 1


def test_a_batch_of_unknown_requests_that_was_taken_over_before_is_held_again(tmp_path: Path) -> None:
    with HostileServer(unended_at_first) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == 75
        forget_what_was_asked(project)
        with closing(sqlite3.connect(project.folder / ".runner" / "ledger.db")) as connection, connection:
            connection.execute("UPDATE shard SET state = 'submitted'")
        (project.folder / ".runner" / "ledger.db-seal").unlink(missing_ok=True)
        assert project.run().code == 4
        assert "batch-1" in resolve(project).stdout
        assert len(server.batches) == 1


def test_a_batch_of_unknown_requests_that_is_given_up_is_not_taken_for_done(tmp_path: Path) -> None:
    with HostileServer(unended_at_first) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == 75
        forget_what_was_asked(project)
        given_up = resolve(project, "--abandon", "--yes")
        assert given_up.code == 0, given_up.stderr
        assert "also what batch batch-1 has answered" in given_up.stderr
        assert project.ledger("SELECT state FROM shard") == [("discarded",)]
        sent(project.run(), 4)
