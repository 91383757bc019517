"""What a later run asks again: refresh, repeats, retry; and edits while batches are on their way."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.e2e.changing_model import changing_model
from tests.project_factory import ROWS, Done, Project, make_project

DAY_S = 86_400
BAD = {"id": "bad", "text": "x [[local:fail 400]]"}
FLAKY = {"id": "flaky", "text": "x [[local:fail 500]]"}


def sent(done: Done) -> int:
    """How many requests a finished run has sent."""
    assert done.code in (0, 3), (done.code, done.stderr)
    return int(done.event("finished")["requests_sent"])


def age_answers(project: Project, days: float, where: str = "1") -> None:
    """Make the answers that are held so many days older, in place of waiting."""
    with closing(sqlite3.connect(project.folder / ".runner" / "ledger.db", timeout=30)) as ledger, ledger:
        ledger.execute(f"UPDATE attempt SET answered_at = answered_at - {int(days * DAY_S)} WHERE {where}")
        note_oldest(ledger, "min(answered_at)")


def note_oldest(ledger: sqlite3.Connection, moment: str) -> None:
    """When the oldest answer was given is noted with each table too."""
    ledger.execute(
        f"UPDATE run SET published = json_set(published, '$.oldest_s', (SELECT {moment} FROM attempt)) "
        "WHERE published IS NOT NULL"
    )


def by_key(project: Project) -> dict[str, dict[str, Any]]:
    return {row["_key"]: row for row in project.results()}


# ---------------------------------------------------------------- refresh


def test_answers_older_than_the_manifest_allows_are_asked_again_and_no_others(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", refresh={"older_than": "30d"})
    project.run()
    assert sent(project.run()) == 0
    age_answers(project, 29)
    assert sent(project.run()) == 0
    age_answers(project, 2, where="line < 2")
    before = by_key(project)
    assert sent(project.run()) == 2
    after = by_key(project)
    asked = {key for key in after if after[key]["_response_id"] != before[key]["_response_id"]}
    assert asked == {"k0", "k1"}
    assert {after[key]["_attempts"] for key in asked} == {2}
    assert sent(project.run()) == 0


def test_refresh_asks_all_again_and_the_results_hold_the_new_answers(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    before = project.results()
    assert sent(project.run("--refresh")) == 5
    after = project.results()
    assert not {row["_response_id"] for row in before} & {row["_response_id"] for row in after}
    assert [row["_status"] for row in after] == ["succeeded"] * 5
    assert sent(project.run()) == 0


def test_an_old_answer_stays_where_its_refresh_fails(tmp_path: Path) -> None:
    with changing_model() as model:
        provider = {"name": "local", "upstream": model.address}
        project = make_project(tmp_path / "p", model={"provider": provider, "name": "m"})
        model.word = "first"
        project.run()
        assert {row["_answer"] for row in project.results()} == {"first"}
        before = project.results()
        model.status = 400
        done = project.run("--refresh")
        assert (done.code, sent(done)) == (0, 5)
        assert done.event("finished")["refresh_failed"] == 5
        stable = [name for name in before[0] if name != "_attempts"]
        assert [[row[name] for name in stable] for row in project.results()] == [
            [row[name] for name in stable] for row in before
        ]
        assert sent(project.run()) == 0
        model.status, model.word = 200, "second"
        assert sent(project.run("--refresh", "--limit", "2")) == 2
        answers = [row["_answer"] for row in project.results()]
        assert answers == ["second", "second", "first", "first", "first"]


def test_a_refreshed_run_asks_nothing_twice_that_is_on_its_way(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"id": "slow", "text": "wait [[local:slow 3]]"}]
    project = make_project(tmp_path / "p", rows=rows)
    assert project.run("--detach").code == 75
    assert project.run("--refresh", "--detach").code == 75
    assert sent(project.run()) == 0
    assert len(project.witness.creates()) <= 2
    asked = [one["custom_id"] for one in project.witness.executions()]
    assert sum(name.startswith("slow-") for name in asked) == 1


def test_a_refresh_of_several_manifests_asks_each_request_once_more(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"id": "slow", "text": "wait [[local:slow 2]]"}]
    project = make_project(tmp_path / "p", rows=rows, batch={"max_requests_per_file": 1})
    text = project.manifest_path.read_text()
    other = project.folder / "other.yaml"
    other.write_text(
        text.replace("name: test", "name: other").replace("name: m", "name: n").replace("results", "other")
    )
    manifests = (str(project.manifest_path), str(other))
    for asked in (6, 12):
        done = project.call("run", *manifests, "--json", *(("--refresh",) if asked == 12 else ()))
        assert done.code == 0, done.stderr
        assert len(project.witness.executions()) == asked
    done = project.call("run", *manifests, "--json")
    assert (done.code, len(project.witness.executions())) == (0, 12)


# ---------------------------------------------------------------- repeats


def test_raising_repeats_keeps_the_first_answers_and_lowering_costs_nothing(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    first = by_key(project)
    project.manifest["repeats"] = 3
    project.write_manifest()
    assert sent(project.run()) == 10
    results = project.results()
    assert [(row["_key"], row["_repeat"]) for row in results] == [
        (row["id"], repeat) for row in ROWS for repeat in (1, 2, 3)
    ]
    assert len({row["_fingerprint"] for row in results}) == 15
    assert all(row == first[row["_key"]] for row in results if row["_repeat"] == 1)
    assert sent(project.run()) == 0
    project.manifest["repeats"] = 1
    project.write_manifest()
    assert sent(project.run()) == 0
    assert by_key(project) == first
    project.manifest["repeats"] = 2
    project.write_manifest()
    assert sent(project.run()) == 0
    assert len(project.results()) == 10


def test_a_key_that_is_a_repeats_name_is_refused_and_every_other_row_can_be_explained(tmp_path: Path) -> None:
    rows = [ROWS[0], {"id": "k0 #2", "text": "another"}, {"id": "alone #2", "text": "more"}]
    project = make_project(tmp_path / "p", rows=rows, repeats=2)
    for command in ("validate", "plan", "run"):
        done = project.call(command, str(project.manifest_path))
        assert done.code == 2
        assert "the key 'k0 #2' is also the name of a repeat of 'k0'" in done.stderr
    assert not (project.state / "server.db").exists()
    project.write_rows([rows[0], rows[2]])
    assert sent(project.run()) == 4
    for key, (row, repeat) in {"k0 #2": ("k0", 2), "alone #2": ("alone #2", 1)}.items():
        done = project.call("explain", str(project.manifest_path), key, "--json")
        explained = json.loads(done.stdout)
        assert (explained["position"], explained["repeat"]) == ({"k0": 0, "alone #2": 1}[row], repeat)


def test_a_limit_counts_rows_and_not_their_repeats(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", repeats=2)
    assert sent(project.run("--limit", "2")) == 4
    answered = {(row["_key"], row["_repeat"]) for row in project.results() if row["_status"] == "succeeded"}
    assert answered == {("k0", 1), ("k0", 2), ("k1", 1), ("k1", 2)}


# ---------------------------------------------------------------- retry


def test_a_permanent_failure_is_asked_again_only_by_retry_and_then_alone(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=[*ROWS[:2], BAD])
    assert sent(project.run()) == 3
    assert sent(project.run()) == 0
    for attempts in (2, 3, 4, 5):
        done = project.call("retry", str(project.manifest_path), "--json")
        assert (done.code, sent(done)) == (3, 1)
        assert by_key(project)["bad"]["_attempts"] == attempts
    assert sent(project.run()) == 0
    numbers = project.ledger("SELECT number FROM attempt ORDER BY shard_id, line")
    assert sorted(number for (number,) in numbers) == [1, 1, 1, 2, 3, 4, 5]


def test_retry_asks_once_where_the_attempts_are_used_up(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=[*ROWS[:2], FLAKY], retry={"attempts": 2})
    assert sent(project.run()) == 4
    assert sent(project.run()) == 0
    done = project.call("retry", str(project.manifest_path), "--json")
    assert (done.code, sent(done)) == (3, 1)
    assert by_key(project)["flaky"]["_attempts"] == 3


def test_retry_without_failures_sends_nothing(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run("--limit", "2")
    done = project.call("retry", str(project.manifest_path), "--json")
    assert (done.code, sent(done)) == (0, 0)


def test_retry_of_new_or_changed_rows_is_a_mistake(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    done = project.call("retry", str(project.manifest_path), "--only", "new")
    assert done.code == 2
    assert done.stderr.startswith("error: --only: --only new leaves nothing to retry")


# ---------------------------------------------------------------- edits under way


def slow_project(folder: Path, **sections: Any) -> Project:
    """Three rows, one shard each; the last takes a while."""
    rows = [*ROWS[:2], {"id": "slow", "text": "wait [[local:slow 3]]"}]
    return make_project(folder, rows=rows, batch={"max_requests_per_file": 1}, **sections)


def test_a_batch_that_nobody_wants_any_more_is_kept_by_default(tmp_path: Path) -> None:
    project = slow_project(tmp_path / "p")
    assert project.run("--detach").code == 75
    project.write_rows([*ROWS[:2], {"id": "slow", "text": "quick"}])
    assert sent(project.run()) == 1
    assert not [change for change in project.witness.changes() if change["action"] == "cancel"]
    assert by_key(project)["slow"]["_status"] == "succeeded"
    project.write_rows([*ROWS[:2], {"id": "slow", "text": "wait [[local:slow 3]]"}])
    assert sent(project.run()) == 0
    assert "wait" in by_key(project)["slow"]["_answer"]
    assert len(project.witness.executions()) == 4


def test_on_edit_cancel_stops_what_nobody_wants_and_nothing_else(tmp_path: Path) -> None:
    project = slow_project(tmp_path / "p", on_edit="cancel")
    project.write_rows(
        [
            {"id": "kept", "text": "keep [[local:slow 2]]"},
            {"id": "edited", "text": "drop [[local:slow 300]]"},
        ]
    )
    assert project.run("--detach").code == 75
    project.write_rows(
        [{"id": "kept", "text": "keep [[local:slow 2]]"}, {"id": "edited", "text": "now quick"}]
    )
    done = project.run()
    assert (done.code, sent(done)) == (0, 1), done.stderr
    assert [change["action"] for change in project.witness.changes()] == ["cancel"]
    results = by_key(project)
    assert [results[key]["_status"] for key in ("kept", "edited")] == ["succeeded"] * 2
    asked = [one["custom_id"] for one in project.witness.executions()]
    assert sum(name.startswith("kept-") for name in asked) == 1
    assert sent(project.run()) == 0


def test_rows_that_still_want_a_running_request_wait_for_it(tmp_path: Path) -> None:
    project = slow_project(tmp_path / "p")
    assert project.run("--detach").code == 75
    project.write_rows(
        [{"id": "new", "text": "question 7"}, {"id": "renamed", "text": "wait [[local:slow 3]]"}, *ROWS[:2]]
    )
    done = project.run()
    assert (done.code, sent(done)) == (0, 1), done.stderr
    assert by_key(project)["renamed"]["_status"] == "succeeded"
    assert len(project.witness.executions()) == 4
