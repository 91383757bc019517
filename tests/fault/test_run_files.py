"""Files that change, vanish or can't be written while answers are on their way: no answer at a wrong row."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fault.run_factories import (
    EXIT_STILL_RUNNING,
    all_well,
    arm,
    complete,
    executed,
    named,
    paid_once,
    project_of,
    rows_of,
    server_of,
    until_done,
    watch,
    work_off,
)
from tests.localserver_process import eventually
from tests.project_factory import Done, Project, finish

ROWS = 4


def detached(folder: Path, *, shards: int = 2, is_over: bool = True) -> Project:
    """A project whose batches are bought and (unless `is_over` is False) answered, and not collected."""
    project = project_of(folder, ROWS, shards=shards)
    assert project.run("--detach").code == EXIT_STILL_RUNNING
    if is_over:
        with server_of(project) as server:
            work_off(server)
    return project


# ---------------------------------------------------------------- the dataset moves

Rows = list[dict[str, str]]
EDITS: Mapping[str, tuple[Rows, int]] = {
    "reordered": (rows_of(ROWS)[::-1], 0),
    "one row changed": ([*rows_of(ROWS)[:3], {"id": "k3", "text": "changed-3-end"}], 1),
    "the first row removed": (rows_of(ROWS)[1:], 0),
    "a row put before": ([{"id": "k9", "text": "added-9-end"}, *rows_of(ROWS)], 1),
    "keys exchanged": ([{**row, "id": f"k{ROWS - 1 - n}"} for n, row in enumerate(rows_of(ROWS))], 0),
    "a row doubled under another key": ([*rows_of(ROWS), {"id": "twin", "text": "row-0-end"}], 0),
    "all of it replaced": (rows_of(ROWS, name="other"), ROWS),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_while_a_batch_is_on_its_way_joins_each_answer_with_its_row(
    tmp_path: Path, edit: str
) -> None:
    rows, costs = EDITS[edit]
    project = detached(tmp_path / "p")
    project.write_rows(rows)
    done = project.run()
    assert (done.code, done.event("finished")["requests_sent"]) == (0, costs), done.stderr
    complete(project, rows)
    paid_once(project)
    project.write_rows(rows_of(ROWS))
    back = project.run()
    assert (back.code, back.event("finished")["requests_sent"]) == (0, 0)
    complete(project, rows_of(ROWS))


def test_a_deleted_dataset_is_a_mistake_that_loses_nothing(tmp_path: Path) -> None:
    project = detached(tmp_path / "p")
    (project.folder / "rows.csv").rename(project.folder / "aside.csv")
    assert project.run().code == 2
    (project.folder / "aside.csv").rename(project.folder / "rows.csv")
    assert project.run().event("finished")["requests_sent"] == 0
    all_well(project, rows_of(ROWS))


def test_a_dataset_edited_under_a_run_changes_nothing_of_that_run(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS, token="[[local:slow 1]]")
    before = rows_of(ROWS, "[[local:slow 1]]")
    process = project.start()
    assert watch(process, named("batch_created")) is not None
    project.write_rows(rows_of(ROWS, name="late"))
    assert finish(process).code == 0
    complete(project, before)
    assert project.run().event("finished")["requests_sent"] == ROWS
    complete(project, rows_of(ROWS, name="late"))
    paid_once(project)


def test_a_template_edited_and_put_back_pays_for_nothing_twice(tmp_path: Path) -> None:
    project = detached(tmp_path / "p")
    template = (project.folder / "prompt.j2").read_text()
    project.write_template("{{ text }} please")
    assert project.run().event("finished")["requests_sent"] == ROWS
    complete(project, rows_of(ROWS))
    project.write_template(template)
    assert project.run().event("finished")["requests_sent"] == 0
    complete(project, rows_of(ROWS))
    paid_once(project)


def test_a_server_exchanged_and_put_back_loses_no_answer(tmp_path: Path) -> None:
    project = detached(tmp_path / "p")
    model = project.manifest["model"]
    project.manifest["model"] = {**model, "provider": {"base_url": "http://127.0.0.1:9/v1", "settle_s": 0.1}}
    project.write_manifest()
    done = project.run("--wait", "2")
    assert done.code == EXIT_STILL_RUNNING, (done.stdout, done.stderr)
    project.manifest["model"] = model
    project.write_manifest()
    assert project.run().event("finished")["requests_sent"] == 0
    all_well(project, rows_of(ROWS))


# ---------------------------------------------------------------- what is kept under .runner


def raw_files(project: Project) -> list[Path]:
    return sorted((project.folder / ".runner" / "raw").iterdir())


def delete(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink()


def truncate(paths: Sequence[Path]) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:-200])


def exchange(paths: Sequence[Path]) -> None:
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)


def scramble(paths: Sequence[Path]) -> None:
    for path in paths:
        path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[::-1]))


@pytest.mark.parametrize("damage", [delete, truncate, exchange, scramble])
def test_damaged_raw_answers_are_named_and_never_joined_with_another_row(tmp_path: Path, damage: Any) -> None:
    project = project_of(tmp_path / "p", ROWS, shards=2)
    until_done(project)
    damage(raw_files(project))
    (project.folder / "results.jsonl").unlink()
    done = project.run()
    assert done.code == 3, (done.stdout, done.stderr)
    results = project.results()
    assert [row["id"] for row in results] == [row["id"] for row in rows_of(ROWS)]
    for row in results:
        if row["_status"] == "succeeded":
            assert row["text"] in row["_answer"]
        else:
            assert (row["_status"], row["_error_class"]) == ("unaccounted", "raw_missing")
    assert any(row["_status"] == "unaccounted" for row in results)
    paid_once(project)


@pytest.mark.parametrize("damage", [delete, truncate])
def test_raw_answers_lost_before_the_batch_was_collected_are_read_again(tmp_path: Path, damage: Any) -> None:
    rows = [{"id": f"k{n}", "text": f"row-{n}-end [[local:slow {n}]]"} for n in range(3)]
    project = project_of(tmp_path / "p", 3)
    project.write_rows(rows)
    process = project.start()
    assert watch(process, named("answers_stored")) is not None
    process.kill()
    process.communicate()
    damage(raw_files(project))
    done = until_done(project) if damage is not delete else project.run()
    assert done.code in (0, 3)
    for row, expected in zip(project.results(), rows, strict=True):
        assert row["id"] == expected["id"]
        assert row["_status"] in ("succeeded", "unaccounted")
        assert row["_answer"] is None or expected["text"].split()[0] in row["_answer"]
    paid_once(project)


def test_a_shard_file_that_vanished_before_its_upload_is_written_anew(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 6, shards=6)
    arm(project, "slow-request", route="POST /v1/files", times=4, params={"seconds": 2})
    process = project.start()
    eventually(lambda: has_state(project, "uploading"), what="an upload")
    uploading = {path for (path,) in project.ledger("SELECT path FROM shard WHERE state <> 'ready'")}
    for path in (project.folder / ".runner" / "shards").iterdir():
        if f"shards/{path.name}" not in uploading:
            path.unlink()
    done = finish(process)
    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert "run the same command again" in done.stderr
    until_done(project)
    all_well(project, rows_of(6))


def has_state(project: Project, state: str) -> bool:
    try:
        return bool(project.ledger(f"SELECT id FROM shard WHERE state = '{state}'"))
    except Exception:
        return False


@pytest.mark.parametrize("name", ["shards", "raw", "snapshots", "scratch", "ledger.db", "ids.jsonl", "locks"])
def test_something_of_the_wrong_kind_under_runner_is_an_error_with_a_next_step(
    tmp_path: Path, name: str
) -> None:
    project = detached(tmp_path / "p")
    place = project.folder / ".runner" / name
    aside = tmp_path / "aside"
    if place.exists():
        place.rename(aside)
    was_folder = aside.is_dir()
    if was_folder:
        place.write_text("in the way")
    else:
        place.mkdir()
    done = project.run()
    assert done.code in (1, 2), (done.code, done.stdout, done.stderr)
    assert "internal error" not in done.stderr
    assert "next:" in done.stderr
    if was_folder:
        place.unlink()
    else:
        place.rmdir()
    if aside.exists():
        aside.rename(place)
    until_done(project)
    all_well(project, rows_of(ROWS))


def test_a_lost_scratch_folder_is_made_again(tmp_path: Path) -> None:
    project = detached(tmp_path / "p")
    for name in ("scratch", "shards", "snapshots"):
        shutil.rmtree(project.folder / ".runner" / name)
    until_done(project)
    all_well(project, rows_of(ROWS))


# ---------------------------------------------------------------- places that can't be written


def test_results_that_can_not_be_written_are_a_mistake_before_anything_is_bought(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS)
    (project.folder / "results.jsonl").mkdir()
    assert project.run().code == 2
    assert not project.state.exists()


def test_results_that_can_not_be_written_in_the_end_are_written_by_the_next_run(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS, token="[[local:slow 1]]")
    process = project.start()
    assert watch(process, named("batch_created")) is not None
    (project.folder / "results.jsonl").mkdir()
    done = finish(process)
    assert done.code in (1, 2), (done.stdout, done.stderr)
    assert "internal error" not in done.stderr
    assert "next:" in done.stderr
    (project.folder / "results.jsonl").rmdir()
    again = project.run()
    assert (again.code, again.event("finished")["requests_sent"]) == (0, 0)
    all_well(project, rows_of(ROWS, "[[local:slow 1]]"))


@pytest.mark.parametrize("limit_bytes", [8_000, 60_000, 200_000])
def test_a_disk_that_takes_no_more_is_told_and_nothing_is_bought_twice(
    tmp_path: Path, limit_bytes: int
) -> None:
    """No file may grow beyond the limit: what a full disk looks like to one program."""
    project = detached(tmp_path / "p", shards=1)
    done = limited(project, limit_bytes)
    assert done.code in (0, 1, EXIT_STILL_RUNNING), (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    until_done(project)
    all_well(project, rows_of(ROWS))
    assert len(executed(project)) == ROWS


def limited(project: Project, limit_bytes: int) -> Done:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    process = subprocess.Popen(
        project.command("run", str(project.manifest_path), "--json", "--wait", "10"),
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        preexec_fn=limit,
    )
    return finish(process)
