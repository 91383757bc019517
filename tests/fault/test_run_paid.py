"""What was paid is stated once, by the run that collected it, whatever becomes of its batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fault.run_hostile_server import HostileServer, gone_half_way
from tests.project_factory import Project

PRICES = {"input_per_million": 1e6, "output_per_million": 1e6}
ANSWER_COSTS = 5.0
"""Three tokens in, two out."""


def history(project: Project) -> list[dict[str, Any]]:
    """Past runs, the first one first."""
    done = project.call("history", str(project.manifest_path), "--json")
    assert done.code == 0, done.stderr
    runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    return runs[::-1]


def priced(server: HostileServer, folder: Path) -> Project:
    """Four rows, with prices."""
    project = server.project(folder, 4)
    project.manifest["model"] |= {"prices": PRICES}
    project.write_manifest()
    return project


def test_answers_of_a_batch_that_was_given_up_are_paid_by_the_run_that_collected_them(tmp_path: Path) -> None:
    with HostileServer(gone_half_way, listed=lambda *_: {"data": [], "has_more": False}) as server:
        project = priced(server, tmp_path / "p")
        assert project.run().event("finished")["paid_cost"] == 2 * ANSWER_COSTS
        decided = project.call("resolve", str(project.manifest_path), "--resubmit", "--yes")
        assert decided.code == 0, decided.stderr
        done = project.run()
        assert done.code == 0, done.stderr
        assert [len(batch.requests) for batch in server.batches] == [4, 2], "only what has no answer"
        assert done.event("finished")["paid_cost"] == 2 * ANSWER_COSTS
        assert done.event("finished")["cost"] == 4 * ANSWER_COSTS
        assert [(run["state"], run["paid_cost"]) for run in history(project)] == [
            ("failed", 2 * ANSWER_COSTS),
            ("finished", 2 * ANSWER_COSTS),
        ], "the lines add up to what was paid"
