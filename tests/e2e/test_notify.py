"""`notify:` as a user sees it: what arrives at the address after a whole run, and what never does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.core.planning import cost_text
from tests.fault.provider_factories import ScriptedServer, always, reply
from tests.fault.run_factories import arm
from tests.project_factory import ROWS, Project, make_project

EVERY = ["failed", "completed", "budget"]
PRICES = {"input_per_million": 1000, "output_per_million": 1000}
MODEL: dict[str, Any] = {"provider": "local", "name": "m", "parameters": {"temperature": 0}}


@pytest.fixture
def hook() -> Any:
    with ScriptedServer(always(reply(200, b"ok"))) as server:
        yield server


def notifying(folder: Path, hook: ScriptedServer, *, on: Any = EVERY, **sections: Any) -> Project:
    project = make_project(folder, notify={"on": on, "url_env": "ALERT_URL"}, **sections)
    project.environ["ALERT_URL"] = f"{hook.base_url}/canary-hook-77"
    return project


def received(hook: ScriptedServer) -> list[dict[str, Any]]:
    return [json.loads(request.body) for request in hook.requests]


def test_a_completed_run_names_counts_cost_results_and_where_to_look(
    tmp_path: Path, hook: ScriptedServer
) -> None:
    project = notifying(tmp_path, hook, model={**MODEL, "prices": PRICES})
    done = project.run()
    assert done.code == 0, done.stderr
    (message,) = received(hook)
    finished = done.event("finished")
    assert done.events[-1] == finished
    assert {**finished, "event": "completed"} == {name: message[name] for name in finished}
    lines = message["text"].split("\n")
    assert lines[:3] == ["test: completed", "5 rows: 5 succeeded", "requests sent: 5 in 1 batch"]
    assert lines[3].startswith(f"cost: {cost_text(finished['cost'])} USD (")
    assert lines[4:] == [
        f"results: {project.folder / 'results.jsonl'}",
        f"look further: run history {project.manifest_path}",
    ]
    assert "canary-hook-77" not in done.stdout + done.stderr
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    assert [path for path in files if b"canary-hook" in path.read_bytes()] == []


def test_a_cost_is_told_as_a_decimal_number_however_large_or_small(
    tmp_path: Path, hook: ScriptedServer
) -> None:
    project = notifying(tmp_path, hook, model={**MODEL, "prices": {**PRICES, "output_per_million": 1e9}})
    finished = project.run().event("finished")
    (message,) = received(hook)
    assert finished["cost"] > 10_000
    assert f"cost: {finished['cost']:,.2f} USD (" in message["text"]


def test_a_run_with_nothing_to_do_tells_nobody(tmp_path: Path, hook: ScriptedServer) -> None:
    project = notifying(tmp_path, hook)
    assert [project.run().code for _ in range(2)] == [0, 0]
    (project.folder / "results.jsonl").unlink()
    assert project.run().code == 0
    assert len(received(hook)) == 1


def test_too_many_failed_rows_are_a_failure_and_told_once(tmp_path: Path, hook: ScriptedServer) -> None:
    """Also by a manifest whose query has it planned anew every time."""
    template = "{{ text }}{% if id == 'k1' %}{{ 1 / 0 }}{% endif %}"
    dataset = {"path": "rows.csv", "key": "id", "query": "SELECT * FROM dataset"}
    project = notifying(tmp_path, hook, template=template, dataset=dataset)
    assert [project.run().code for _ in range(2)] == [3, 3]
    (message,) = received(hook)
    assert (message["event"], message["unsendable"], message["succeeded"]) == ("failed", 1, 4)
    assert "look further: run results" in message["text"]
    project.manifest["allow_failures"] = 1
    project.write_manifest()
    assert project.run().code == 0
    assert [message["event"] for message in received(hook)] == ["failed", "completed"]


def test_a_run_that_was_killed_before_it_could_tell_is_told_by_the_next(
    tmp_path: Path, hook: ScriptedServer
) -> None:
    project = notifying(tmp_path, hook)
    project.environ["RUNNER_FAILPOINT"] = "publish.begins"
    assert project.run().code != 0
    del project.environ["RUNNER_FAILPOINT"]
    assert received(hook) == []
    assert project.run().code == 0
    assert [message["event"] for message in received(hook)] == ["completed"]


def test_a_detached_run_is_told_of_when_it_is_collected(tmp_path: Path, hook: ScriptedServer) -> None:
    project = notifying(tmp_path, hook)
    assert project.run("--detach").code == 75
    assert received(hook) == []
    assert project.run().code == 0
    assert [message["event"] for message in received(hook)] == ["completed"]


def test_an_error_is_told_with_its_next_step(tmp_path: Path, hook: ScriptedServer) -> None:
    provider = {"base_url": "http://127.0.0.1:1/v1", "api_key_env": "CANARY_API_KEY"}
    project = notifying(tmp_path, hook, model={**MODEL, "provider": provider})
    done = project.run()
    assert done.code == 4
    (message,) = received(hook)
    assert (message["event"], message["exit_code"]) == ("failed", 4)
    assert message["error"] == "no API key: the environment variable CANARY_API_KEY is not set"
    assert message["text"].endswith(f"look further: run status {project.manifest_path}")


def test_a_refusal_after_some_answers_is_told_once_with_both(tmp_path: Path, hook: ScriptedServer) -> None:
    project = notifying(tmp_path, hook)
    arm(project, "balance-402", route="POST /v1/batches", times=0)
    done = project.run()
    assert done.code == 4, done.stderr
    (message,) = received(hook)
    assert message["event"] == "failed"
    assert message["exit_code"] == 4
    assert "credit" in message["error"]


def test_a_budget_that_is_too_small_is_its_own_occasion(tmp_path: Path, hook: ScriptedServer) -> None:
    provider = {"base_url": "http://127.0.0.1:1/v1"}  # the local server costs nothing
    model = {**MODEL, "provider": provider, "parameters": {"max_tokens": 100}, "prices": PRICES}
    project = notifying(tmp_path, hook, model=model, budget={"max_cost": 0.001})
    assert project.run().code == 2
    (message,) = received(hook)
    assert message["event"] == "budget"
    assert message["text"].startswith("test: not run, over its budget\nerror: the estimate is ")
    project.manifest["notify"]["on"] = ["failed", "completed"]
    project.write_manifest()
    assert project.run().code == 2
    assert len(received(hook)) == 1


def test_a_message_that_can_t_be_delivered_fails_no_run(tmp_path: Path) -> None:
    with ScriptedServer(always(reply(404, b"gone"))) as hook:
        project = notifying(tmp_path, hook, on=["completed"])
        done = project.run()
    assert done.code == 0
    assert len(project.results()) == len(ROWS)
    assert done.event("trouble")["what"] == (
        "nobody was told that test: completed: the address answered HTTP 404 (notify.url_env: ALERT_URL)"
    )
    assert done.events[-1]["event"] == "finished"
    assert "canary-hook-77" not in done.stdout + done.stderr


def test_validate_says_where_nobody_would_be_told(tmp_path: Path, hook: ScriptedServer) -> None:
    project = notifying(tmp_path, hook)
    warning = "manifest.yaml:{}: notify.url_env: "
    line = project.manifest_path.read_text().split("\n").index("  url_env: ALERT_URL") + 1
    for address, words in (
        (project.environ["ALERT_URL"], None),
        ("", "ALERT_URL is not set here, so nobody would be told"),
        ("bogus://canary", "ALERT_URL holds neither an http(s) address nor one that Apprise knows"),
    ):
        project.environ["ALERT_URL"] = address
        done = project.call("validate", "manifest.yaml")
        assert done.code == 0
        assert "canary" not in done.stdout + done.stderr
        told = [one for one in (done.stdout + done.stderr).split("\n") if "notify" in one]
        assert told == [] if words is None else told[0].endswith(words)
        assert words is None or warning.format(f"{line}:12") in told[0]
