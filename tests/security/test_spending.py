"""A key goes to the address that its own block names, and money is spent only inside the budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fault.run_hostile_server import Batch, HostileServer, Look, Script, answer, failure, lines
from tests.project_factory import Done, Project, make_project

LIMIT = 10
"""The most tokens of an answer; one costs one dollar."""


def test_nothing_is_sent_beyond_the_budget_or_by_a_plan(tmp_path: Path) -> None:
    with HostileServer() as server:
        model = {
            "provider": {"base_url": server.base_url},
            "name": "m",
            "prices": {"input_per_million": 1000, "output_per_million": 1000},
            "parameters": {"max_tokens": 1000},
        }
        project = make_project(tmp_path / "p", model=model, budget={"max_cost": 0.001})
        assert project.call("plan", str(project.manifest_path)).code == 0
        done = project.run("--yes")
        assert done.code == 2, (done.code, done.stderr)
        assert not [line for line in server.seen if line.startswith("POST")]


def test_a_budget_can_be_rehearsed_with_the_local_server(tmp_path: Path) -> None:
    model = {
        "provider": "local",
        "name": "m",
        "prices": {"input_per_million": 1000, "output_per_million": 1000},
        "parameters": {"max_tokens": 1000},
    }
    project = make_project(tmp_path / "p", model=model, budget={"max_cost": 0.001})
    done = project.run()
    assert (done.code, "above budget.max_cost 0.001" in done.stderr) == (2, True), done.stderr
    assert not (project.state / "server.db").exists()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"max_tokens": 1, "max_completion_tokens": 1000}, "above budget.max_cost 1"),
        ({"max_output_tokens": 1}, "set `model.prices` and a `max_tokens` parameter"),
    ],
)
def test_of_several_limits_the_largest_counts_and_one_that_the_endpoint_does_not_know_is_none(
    tmp_path: Path, parameters: dict[str, int], said: str
) -> None:
    prices = {"input_per_million": 0, "output_per_million": 1000}
    with HostileServer() as server:
        project = server.project(tmp_path / "p", budget={"max_cost": 1})
        project.manifest["model"] |= {"prices": prices, "parameters": parameters}
        project.write_manifest()
        done = project.run()
        assert (done.code, said in done.stderr) == (2, True), done.stderr
        assert server.batches == []


# ---------------------------------------------------------------- what the same run sends again


def budgeted(server: HostileServer, folder: Path, most: float, rows: int = 4, **sections: Any) -> Project:
    """Rows whose requests may cost ten dollars each, all of it for the output."""
    project = server.project(folder, rows, budget={"max_cost": most, "confirm_above": 1000}, **sections)
    prices = {"input_per_million": 0, "output_per_million": 1_000_000}
    project.manifest["model"] |= {"parameters": {"max_tokens": LIMIT}, "prices": prices}
    project.write_manifest()
    return project


def used_up(request: Mapping[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """An answer as long as its limit allows."""
    tokens = request["body"]["max_tokens"]
    value = answer(request, usage={"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens})
    value["response"]["body"]["choices"][0]["finish_reason"] = finish_reason
    return value


def broken(request: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """A failure that may pass, for which so much was billed."""
    usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
    body = {"error": {"message": "it broke"}, "usage": usage}
    response = {"status_code": 500, "request_id": "r", "body": body}
    return {"id": "line", "custom_id": request["custom_id"], "response": response, "error": None}


def first(script: Script) -> Script:
    """Of the batches only the first is as the script says; the others are answered as long as may be."""
    return lambda batch, look: (
        script(batch, look) if batch.number == 1 else Look(output=lines(*map(used_up, batch.requests)))
    )


def limits_of(server: HostileServer) -> list[list[int]]:
    """The limit of every request that was bought, batch by batch."""
    return [[request["body"]["max_tokens"] for request in batch.requests] for batch in server.batches]


def told(done: Done) -> str:
    return "\n".join(event["what"] for event in done.events if event["event"] == "trouble")


def two_failed_and_two_cut(batch: Batch, _look: int) -> Look:
    failed = lines(*map(failure, batch.requests[:2]))
    cut = lines(*(used_up(request, "length") for request in batch.requests[2:]))
    return Look(output=cut, error=failed)


@pytest.mark.parametrize("most", [79, 80])
def test_larger_limits_leave_room_for_the_failures_that_were_sent_again_before(
    tmp_path: Path, most: int
) -> None:
    raised = {"max_tokens_factor": 2, "ceiling": 2 * LIMIT}
    with HostileServer(first(two_failed_and_two_cut)) as server:
        project = budgeted(server, tmp_path / "p", most, on_truncated=raised)
        done = project.run()
        bought = [[LIMIT] * 4, [LIMIT] * 2]
        wanted = bought if most == 79 else [*bought, [2 * LIMIT] * 2]
        assert sorted(limits_of(server)) == sorted(wanted), "in whatever order the two were bought"
        assert done.event("finished")["paid_cost"] <= most
        assert ("stay so" in told(done)) == (most == 79), told(done)


@pytest.mark.parametrize(("most", "again"), [(40, 0), (59, 1), (60, 2)])
def test_a_failure_that_was_billed_is_sent_again_only_as_far_as_the_budget_goes(
    tmp_path: Path, most: int, again: int
) -> None:
    def two_billed(batch: Batch, _look: int) -> Look:
        failed = lines(*(broken(request, LIMIT) for request in batch.requests[:2]))
        return Look(output=lines(*map(used_up, batch.requests[2:])), error=failed)

    with HostileServer(first(two_billed)) as server:
        project = budgeted(server, tmp_path / "p", most)
        done = project.run()
        assert limits_of(server) == [[LIMIT] * 4, *([[LIMIT] * again] if again else [])]
        assert done.event("finished")["paid_cost"] == 40 + 10 * again
        assert (f"{2 - again} requests that failed are not sent again" in told(done)) == (again < 2)
        after = project.run()
        assert after.event("finished")["succeeded"] == 4, "the next run may, by its own plan"


def test_a_failure_that_nobody_billed_is_sent_again_inside_the_estimate(tmp_path: Path) -> None:
    with HostileServer(
        first(lambda batch, _look: Look(error=lines(*map(failure, batch.requests))))
    ) as server:
        done = budgeted(server, tmp_path / "p", 40).run()
        assert (done.code, limits_of(server)) == (0, [[LIMIT] * 4, [LIMIT] * 4]), done.stderr


@pytest.mark.parametrize(("most", "again"), [(59, 1), (60, 2)])
def test_a_request_that_no_result_speaks_of_may_have_been_billed(
    tmp_path: Path, most: int, again: int
) -> None:
    def two_missing(batch: Batch, _look: int) -> Look:
        return Look(output=lines(*map(used_up, batch.requests[2:])))

    with HostileServer(first(two_missing)) as server:
        budgeted(server, tmp_path / "p", most).run()
        assert limits_of(server) == [[LIMIT] * 4, [LIMIT] * again]


def test_a_key_is_not_sent_unencrypted_to_another_machine(tmp_path: Path) -> None:
    provider = {"base_url": "http://llm.example.com/v1", "api_key_env": "SOME_KEY"}
    project = make_project(tmp_path / "p", model={"provider": provider, "name": "m"})
    done = project.run()
    assert done.code == 2
    assert "would send the API key unencrypted" in done.stderr
