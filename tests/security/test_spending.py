"""A key goes to the address that its own block names, and money is spent only inside the budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.run_hostile_server import HostileServer
from tests.project_factory import make_project


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


def test_a_key_is_not_sent_unencrypted_to_another_machine(tmp_path: Path) -> None:
    provider = {"base_url": "http://llm.example.com/v1", "api_key_env": "SOME_KEY"}
    project = make_project(tmp_path / "p", model={"provider": provider, "name": "m"})
    done = project.run()
    assert done.code == 2
    assert "would send the API key unencrypted" in done.stderr
