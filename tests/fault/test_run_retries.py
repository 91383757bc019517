"""Retries by cause: what is sent again, when, with which limit, and what stops the run instead.

Real runs over HTTP; the judge is the witness (what the local server accepted and executed) and the table.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fault.run_factories import (
    EXIT_FAILED_ROWS,
    EXIT_REFUSED,
    EXIT_STILL_RUNNING,
    all_gone,
    executed,
    named,
    paid_once,
    rows_of,
    server_of,
    until_done,
    watch,
)
from tests.localserver_process import ServerProcess, eventually, running_server
from tests.project_factory import Done, Project, kill, make_project

PERMANENT = (400, 403, 413, 422)
PASSING = (408, 429, 500, 503)
PRICES = {"input_per_million": 1.0, "output_per_million": 1.0}


def failing(*statuses: int) -> list[dict[str, str]]:
    """One row that succeeds, and one that fails with each status."""
    return [
        {"id": "fine", "text": "row-fine-end"},
        *({"id": f"k{status}", "text": f"row-{status}-end [[local:fail {status}]]"} for status in statuses),
    ]


def sendings(project: Project) -> dict[str, int]:
    """How often each row's request was executed, by the row's key."""
    return {custom_id.rpartition("-")[0]: count for custom_id, count in executed(project).items()}


def statuses(project: Project) -> dict[str, str]:
    return {row["_key"]: row["_status"] for row in project.results()}


def events(done: Done, name: str) -> list[dict[str, Any]]:
    return [event for event in done.events if event["event"] == name]


def waiting_until(project: Project) -> float:
    """Until when a shard waits that is ready to be sent (Unix seconds); 0: none does."""
    return float(project.ledger("SELECT max(not_before_s) FROM shard WHERE state = 'ready'")[0][0] or 0)


# ---------------------------------------------------------------- by cause


def test_a_cause_that_may_pass_is_repeated_and_a_permanent_one_never(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=failing(*PERMANENT, *PASSING))
    done = project.run()
    assert done.code == EXIT_FAILED_ROWS
    wanted = {"fine": 1} | {f"k{status}": 1 for status in PERMANENT} | {f"k{status}": 3 for status in PASSING}
    assert sendings(project) == wanted
    assert {row["_key"]: row["_attempts"] for row in project.results()} == wanted
    assert project.ledger("SELECT requests FROM shard ORDER BY id") == [(9,), (4,), (4,)], "only those"
    assert [event["requests"] for event in events(done, "retrying")] == [4, 4]
    again = project.run("--set", "allow_failures=8")
    assert (again.code, sendings(project)) == (0, wanted), "allow_failures decides; nothing is asked again"
    assert project.run("--set", "retry.attempts=4").code == EXIT_FAILED_ROWS
    assert sendings(project) == wanted | {f"k{status}": 4 for status in PASSING}


def test_a_refusal_a_filter_and_a_body_without_an_answer_are_not_asked_again(tmp_path: Path) -> None:
    rows = [
        {"id": "refused", "text": "[[local:refuse]]"},
        {"id": "string", "text": "[[local:body-string]]"},
        {"id": "cut", "text": "[[local:truncate]]"},
    ]
    project = make_project(tmp_path / "p", rows=rows)
    assert project.run().code == EXIT_FAILED_ROWS
    assert project.run().code == EXIT_FAILED_ROWS
    assert sendings(project) == {"refused": 1, "string": 1, "cut": 1}
    assert statuses(project) == {"refused": "refused", "string": "failed", "cut": "truncated"}


def test_of_a_batch_that_was_cancelled_on_the_server_only_the_missing_is_sent_again(tmp_path: Path) -> None:
    rows = rows_of(4) + [{"id": f"s{n}", "text": f"slow-{n}-end [[local:slow 3]]"} for n in range(3)]
    provider = {"name": "local", "settle_s": 0.2}  # so is the grace short in which they might be answered
    project = make_project(tmp_path / "p", rows=rows)
    project.manifest["model"]["provider"] = provider
    project.write_manifest()
    process = project.start()
    assert watch(process, named("batch_created")) is not None
    eventually(lambda: len(project.witness.executions()) == 4, what="the quick half")
    with server_of(project) as server:
        (created,) = project.witness.creates()
        status, _, _ = server.call("POST", f"/batches/{created['batch_id']}/cancel", key="local")
        assert status == 200
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert statuses(project) == {row["id"]: "succeeded" for row in rows}
    assert {key: sendings(project)[key] for key in ("k0", "k1", "k2", "k3")} == dict.fromkeys(
        ("k0", "k1", "k2", "k3"), 1
    )
    first, second = project.witness.creates()
    assert (first["total"], second["total"]) == (7, 3)


# ---------------------------------------------------------------- key and credit


def test_an_account_that_is_refused_inside_result_lines_stops_the_run_and_burns_no_attempt(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path / "p", rows=failing(401, 402), retry={"attempts": 2})
    for number in range(1, 4):
        done = project.run()
        assert done.code == EXIT_REFUSED, done.stderr
        assert "run the same command again" in done.stderr
        assert events(done, "retrying") == []
        assert sendings(project) == {"fine": 1, "k401": number, "k402": number}, "once in each run"
        assert done.event("finished")["exit_code"] == EXIT_REFUSED
        found = {row["_key"]: row["_error_class"] for row in project.results()}
        assert found == {"fine": None, "k401": "authentication", "k402": "payment"}


# ---------------------------------------------------------------- back-off


def test_a_pause_survives_a_kill_and_holds_nothing_else_up(tmp_path: Path) -> None:
    project = make_project(
        tmp_path / "p", rows=failing(429), retry={"backoff": {"initial": "1h", "max": "2h"}}
    )
    process = project.start()
    told = watch(process, named("retrying"))
    assert told is not None
    assert 3500 < told["pause_s"] <= 3600
    until = eventually(lambda: waiting_until(project), what="the pause in the ledger")
    kill(process)
    all_gone(project.folder)

    left = project.run("--wait", "1")
    assert left.code == EXIT_STILL_RUNNING, left.stderr
    assert abs(waiting_until(project) - until) < 1.0, "the same moment as before the kill"
    assert any("sent again in" in event["what"] for event in events(left, "trouble"))

    project.write_rows([*failing(429), {"id": "new", "text": "row-new-end"}])
    detached = project.run("--detach")
    assert detached.code == EXIT_STILL_RUNNING
    assert [event["requests"] for event in events(detached, "uploaded")] == [1], "the new row goes alone"
    assert abs(waiting_until(project) - until) < 1.0
    assert project.run("--wait", "1").code == EXIT_STILL_RUNNING
    assert sendings(project) == {"fine": 1, "k429": 1, "new": 1}

    assert project.call("retry", str(project.manifest_path), "--detach").code == EXIT_STILL_RUNNING
    eventually(lambda: len(project.witness.creates()) == 3, what="a person's wish goes at once")


# ---------------------------------------------------------------- larger limits


def cut_project(folder: Path, *, limit: int, ceiling: int, **sections: Any) -> Project:
    """Rows whose answers need about 18 tokens, two of them alike."""
    rows = [{"id": f"k{n}", "text": f"row-{n}-end some more words here to make it long"} for n in range(3)]
    return make_project(
        folder,
        rows=[*rows, {**rows[0], "id": "twin"}],
        model={
            "provider": "local",
            "name": "m",
            "parameters": {"max_tokens": limit, "temperature": 0},
            "prices": PRICES,
        },
        on_truncated={"max_tokens_factor": 2, "ceiling": ceiling},
        **sections,
    )


def test_an_answer_that_was_cut_is_asked_with_larger_limits_and_found_again_for_nothing(
    tmp_path: Path,
) -> None:
    project = cut_project(tmp_path / "p", limit=5, ceiling=100, repeats=2)
    done = project.run()
    assert done.code == 0, done.stderr
    assert [event["requests"] for event in events(done, "raising")] == [6, 6]
    assert all(row["text"] in row["_answer"] for row in project.results())
    assert set(executed(project).values()) == {1}, "each limit is a request of its own"
    assert Counter(sendings(project).values())[1] == len(sendings(project))
    finished = done.event("finished")
    tokens = project.ledger("SELECT sum(input_tokens), sum(output_tokens) FROM attempt")
    assert [(finished["paid_input_tokens"], finished["paid_output_tokens"])] == tokens
    assert finished["paid_cost"] == pytest.approx(sum(tokens[0]) / 1e6)
    assert finished["paid_cost"] > finished["cost"] > 0, "the rows show what their answers cost"
    table = project.results()

    assert project.run().event("finished")["requests_sent"] == 0
    collected = project.call("gc", "--older-than", "0d")
    assert collected.code == 0, collected.stderr
    project.write_rows([{"id": row["id"], "text": row["text"]} for row in reversed(table[::2])])
    moved = project.run()
    assert (moved.code, moved.event("finished")["requests_sent"]) == (0, 0), "found again, gc or not"
    bare = {**project.manifest, "on_truncated": None}
    project.manifest = {key: value for key, value in bare.items() if value is not None}
    project.write_manifest()
    assert project.run().event("finished")["truncated"] == 8, "without the wish the cut answers are shown"
    assert len(project.witness.creates()) == 3
    history = project.ledger("SELECT sum(paid_input_tokens), sum(paid_output_tokens) FROM run")
    assert history == tokens, "over all runs exactly what was paid"


def test_a_larger_limit_that_is_not_enough_or_refused_keeps_the_answer_that_was_cut(tmp_path: Path) -> None:
    project = cut_project(tmp_path / "p", limit=4, ceiling=9)
    done = project.run()
    assert done.code == EXIT_FAILED_ROWS
    limits = project.ledger("SELECT output_tokens FROM attempt ORDER BY shard_id, line")
    assert [limit for (limit,) in limits] == [4] * 3 + [8] * 3 + [9] * 3, "up to the ceiling"
    assert {row["_status"] for row in project.results()} == {"truncated"}
    assert {row["_output_tokens"] for row in project.results()} == {9}
    assert project.run().event("finished")["requests_sent"] == 0


def killed_at(project: Project, point: str) -> None:
    """Run until a named place, and die there."""
    project.environ["RUNNER_FAILPOINT"] = point
    done = project.call("run", str(project.manifest_path), "--json")
    assert done.code == -9, (point, done.code, done.stderr)
    del project.environ["RUNNER_FAILPOINT"]
    all_gone(project.folder)


def test_a_kill_between_a_cut_answer_and_the_larger_request_pays_nothing_twice(tmp_path: Path) -> None:
    project = cut_project(tmp_path / "p", limit=3, ceiling=100)
    for point in ("raise.begins", "raise.sealed", "raise.committed"):
        killed_at(project, point)
    until_done(project)
    assert {row["_status"] for row in project.results()} == {"succeeded"}
    assert len(project.results()) == 4
    paid_once(project)
    assert len(executed(project)) == 3 * 4, "with 3, 6, 12 and 24 tokens"
    assert list((project.folder / ".runner" / "shards").iterdir()) == []


def test_a_budget_bounds_what_larger_limits_may_cost(tmp_path: Path) -> None:
    project = cut_project(tmp_path / "p", limit=5, ceiling=100, budget={"max_cost": 0.00021})
    with running_server(tmp_path / "s") as server:
        project.manifest["model"]["provider"] = provider_of(project, server)
        project.write_manifest()
        done = project.run()
    assert done.code == EXIT_FAILED_ROWS, done.stderr
    assert any("budget.max_cost" in event["what"] for event in events(done, "trouble"))
    assert {row["_status"] for row in project.results()} == {"truncated"}


# ---------------------------------------------------------------- too large


def provider_of(project: Project, server: ServerProcess) -> dict[str, Any]:
    """A server that takes less than its profile says."""
    project.environ["RETRY_TEST_KEY"] = "k"
    return {
        "name": "doubleword",
        "base_url": server.base_url,
        "api_key_env": "RETRY_TEST_KEY",
        "poll_interval_s": 0.1,
        "settle_s": 1,
    }


@pytest.mark.parametrize("limits", [{"max_file_bytes": 4000}, {"max_requests_per_file": 5}])
def test_a_file_that_is_too_large_for_the_server_goes_on_in_smaller_ones(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    rows = [{"id": f"k{n}", "text": f"row-{n}-end {'x' * 300}"} for n in range(24)]
    rows[7]["text"] += "y" * 4000
    with running_server(tmp_path / "s", **limits) as server:
        project = make_project(tmp_path / "p", rows=rows)
        project.manifest["model"]["provider"] = provider_of(project, server)
        project.write_manifest()
        done = project.run()
        is_too_large = "max_file_bytes" in limits
        assert done.code == (EXIT_FAILED_ROWS if is_too_large else 0), done.stderr
        found = {row["_key"]: (row["_status"], row["_error_class"]) for row in project.results()}
        wanted = {row["id"]: ("succeeded", None) for row in rows}
        assert found == wanted | ({"k7": ("failed", "body_too_large")} if is_too_large else {})
        ran = Counter(execution["custom_id"] for execution in server.witness.executions())
        assert set(ran.values()) == {1}
        assert len(ran) == len(rows) - is_too_large
        refused = [one for one in server.witness.http() if one["status"] in (400, 413)]
        assert len(refused) < len(events(done, "cut")) + 1
        assert sum(event["failed"] for event in events(done, "cut")) == is_too_large
        assert project.run().event("finished")["requests_sent"] == 0, "nor is it tried again"
        left = project.ledger("SELECT DISTINCT state FROM shard ORDER BY 1")
        assert left == [("discarded",), ("done",)]
        assert list((project.folder / ".runner" / "shards").iterdir()) == []


def test_what_the_server_took_before_is_remembered_for_the_rest_of_the_run(tmp_path: Path) -> None:
    rows = [{"id": f"k{n}", "text": f"row-{n}-end {'x' * 300}"} for n in range(16)]
    with running_server(tmp_path / "s", max_file_bytes=2500) as server:
        project = make_project(
            tmp_path / "p", rows=rows, batch={"max_requests_per_file": 8, "max_open_batches": 1}
        )
        project.manifest["model"]["provider"] = provider_of(project, server)
        project.write_manifest()
        done = project.run()
        assert done.code == 0, done.stderr
        refused = [one for one in server.witness.http() if one["status"] == 413]
        assert len(refused) == 1, "the second file is cut before it is sent"
        assert len(events(done, "cut")) == 2


def test_a_kill_while_files_are_cut_loses_nothing(tmp_path: Path) -> None:
    rows = [{"id": f"k{n}", "text": f"row-{n}-end {'x' * 300}"} for n in range(16)]
    with running_server(tmp_path / "s", max_file_bytes=1300) as server:
        project = make_project(tmp_path / "p", rows=rows)
        project.manifest["model"]["provider"] = provider_of(project, server)
        project.write_manifest()
        for point in ("cut.begins", "cut.sealed", "cut.before", "cut.committed:2"):
            killed_at(project, point)
        until_done(project)
        ran = Counter(execution["custom_id"] for execution in server.witness.executions())
        assert (len(ran), set(ran.values())) == (16, {1})
        assert statuses(project) == {row["id"]: "succeeded" for row in rows}
