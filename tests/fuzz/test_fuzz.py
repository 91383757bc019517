"""5,000 examples of each kind, conversations cut at every byte, and whole runs against servers that lie."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from runner.core import wire
from runner.core.model import Accepted, Status, Unknown
from runner.core.settling import is_better, judge
from runner.core.wire import BadLine, ResultLine
from runner.provider import outcome
from runner.provider.exchange import Reply
from runner.provider.listing import read_page
from runner.provider.profiles import DOUBLEWORD
from tests.fault.run_hostile_server import Batch, HostileServer, Look, answer, failure
from tests.fuzz.__main__ import figures_line, run_part
from tests.fuzz.driving import random_of
from tests.fuzz.kinds import KINDS
from tests.fuzz.manifests import Manifests
from tests.fuzz.mutation import mutated, shaken
from tests.fuzz.wire_objects import WORDS
from tests.localserver_process import chat_line, eventually, running_server

EXAMPLES = 5_000
PEAK_MB = {"manifests": 300, "datasets": 700, "templates": 300, "replies": 300}
"""Of the whole process with all its imports; DuckDB alone may take 256 MB and a copy of what it reads."""
COMMON_SHARE = 0.02
"""Both ends must be met this often, or the examples try nothing."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_every_example_ends_in_a_value_or_a_clear_error(kind: str) -> None:
    found = run_part(kind, range(EXAMPLES), seed=1)
    assert found.faults == []
    assert found.examples == EXAMPLES == sum(found.endings.values())
    assert found.peak_mb < PEAK_MB[kind]
    good = ("accepted", "rendered", "succeeded", "stored", "complete", "known-word")
    shares = [
        sum(count for ending, count in found.endings.items() if ending.endswith(good) is is_good) / EXAMPLES
        for is_good in (True, False)
    ]
    assert min(shares) > COMMON_SHARE, found.endings


def test_the_last_line_of_the_command_is_a_line_of_figures() -> None:
    line = figures_line({"replies": run_part("replies", range(20), seed=7)})
    words = dict(word.split("=") for word in line.split())
    assert list(words) == ["replies", "faults", "slowest_s", "peak_mb"]
    assert (words["replies"], words["faults"]) == ("20", "0")


def test_an_example_is_made_again_from_its_number_alone(tmp_path: Path) -> None:
    kind = Manifests(tmp_path)
    made = [kind.make(random_of(3, "manifests", number)) for number in range(50)]
    assert [kind.make(random_of(3, "manifests", number)) for number in reversed(range(50))] == made[::-1]
    assert len({example.manifest for example in made}) > 30


# ---------------------------------------------------------------- recorded conversations


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the local server says in the life of a batch of which one request fails."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        lines = chat_line("a-1") + chat_line("b-2", text="[[status 400]]") + chat_line("c-3", text="é\u2028")
        status, uploaded = server.upload(lines)
        assert status in (200, 201)
        batch = server.send_json(
            "/batches",
            {
                "input_file_id": json.loads(uploaded)["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {"runner-run": "ab" * 16},
            },
        )
        done = eventually(lambda: _ended(server.get(f"/batches/{batch['id']}")), what="the end of the batch")
        files = {
            kind: server.call("GET", f"/files/{done[f'{kind}_file_id']}/content")[2]
            for kind in ("output", "error")
            if done.get(f"{kind}_file_id")
        }
        return {
            "uploaded": uploaded,
            "created": json.dumps(batch).encode(),
            "retrieved": json.dumps(done).encode(),
            "listed": server.call("GET", "/batches?limit=10")[2],
            **files,
        }


def _ended(batch: dict[str, object]) -> dict[str, object] | None:
    return batch if batch["status"] in ("completed", "failed") else None


def test_a_create_cut_at_any_byte_is_its_own_id_or_unknown(conversation: dict[str, bytes]) -> None:
    for name in ("uploaded", "created"):
        whole = conversation[name]
        true_id = json.loads(whole)["id"]
        for cut in range(len(whole)):
            found = outcome.judge(
                Reply(status_code=200, headers={}, body=whole[:cut], is_cut=True), DOUBLEWORD
            )
            assert isinstance(found, Accepted | Unknown)
            assert not isinstance(found, Accepted) or found.object_id == true_id


def test_an_object_cut_at_any_byte_is_unreadable(conversation: dict[str, bytes]) -> None:
    for cut in range(len(conversation["retrieved"])):
        assert wire.read_batch(conversation["retrieved"][:cut]) is None
    assert wire.read_batch(conversation["retrieved"]) is not None
    for cut in range(len(conversation["listed"].rstrip())):
        assert read_page(conversation["listed"][:cut], lambda value: None) is None


def test_a_line_cut_or_flipped_at_any_byte_never_replaces_an_answer(conversation: dict[str, bytes]) -> None:
    lines = [line for line in conversation["output"].split(b"\n") if line]
    results = [found for found in map(wire.read_result_line, lines) if isinstance(found, ResultLine)]
    statuses = {judge(result).status for result in results}
    assert Status.SUCCEEDED in statuses
    for line in lines:
        for place in range(len(line)):
            assert isinstance(wire.read_result_line(line[:place]), BadLine)
            for bit in range(8):
                flipped = line[:place] + bytes([line[place] ^ 1 << bit]) + line[place + 1 :]
                found = wire.read_result_line(flipped)
                if isinstance(found, ResultLine):
                    assert not is_better(judge(found).status, Status.SUCCEEDED)


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize("seed", range(6))
def test_a_whole_run_against_a_server_that_lies_ends_in_order(tmp_path: Path, seed: int) -> None:
    """Odd objects and lines while the batch runs, then the truth: every row has its answer, bought once."""
    random = Random(f"whole run {seed}")

    def script(batch: Batch, look: int) -> Look:
        answers = [answer(request) for request in batch.requests]
        if look > 5:
            return Look(output=b"".join(json.dumps(line).encode() + b"\n" for line in answers))
        said = [failure(request) if random.random() < 0.3 else answer(request) for request in batch.requests]
        odd = [
            {**line, "response": mutated(random, line["response"])} if random.random() < 0.5 else line
            for line in said
        ]
        data = b"".join(shaken(random, json.dumps(line).encode()) + b"\n" for line in odd)
        fields = mutated(random, {"status": random.choice(WORDS), "request_counts": {"total": 4}})
        return Look(
            output=data,
            fields={"status": "in_progress", **(fields if isinstance(fields, dict) else {}), "id": batch.id},
        )

    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 1})
        done = project.run()
        again = project.run()
        assert len(server.batches) == 1, [batch.ids for batch in server.batches]
    assert done.code in (0, 3), (done.code, done.stderr)
    assert (again.code, "Traceback" in again.stderr) == (done.code, False)
    rows = project.results()
    assert [row["id"] for row in rows] == ["k0", "k1", "k2", "k3"]
    for row in rows:
        assert row["_status"] == "succeeded" or row["_error_class"], row
