"""`run resolve`: a shard is held where nothing proves what was bought, and a person decides each way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault.run_hostile_server import HostileServer, Look, Reply
from tests.localserver_process import KEY, ServerProcess, running_server
from tests.project_factory import Done, Project, make_project

ROWS = [{"id": f"k{number}", "text": f"row-{number}-end"} for number in range(4)]
CREATE = "POST /v1/batches"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with running_server(tmp_path / "server") as running:
        yield running


def project_at(server: ServerProcess, folder: Path, rows: Any = ROWS, **batch: int) -> Project:
    """A project at a server that the program knows no fence of."""
    provider = {
        "base_url": server.base_url,
        "api_key_env": "TEST_KEY",
        "settle_s": 0.2,
        "poll_interval_s": 0.1,
    }
    model = {
        "provider": provider,
        "name": "m",
        "parameters": {"max_tokens": 100},
        "prices": {"input_per_million": 1000, "output_per_million": 1000},
    }
    project = make_project(folder, rows=rows, model=model, batch=batch)
    project.environ["TEST_KEY"] = KEY
    return project


def held_by_a_lie(server: ServerProcess, project: Project, shards: int = 1) -> None:
    """The creates end in a 502 and buy nothing, and the run holds their shards."""
    server.arm("gateway-502", route=CREATE, times=shards)
    stopped(project.run(), project)
    assert server.witness.creates() == []


def held_though_bought(server: ServerProcess, project: Project) -> str:
    """The create takes effect, its reply is lost, and the listing shows the state of long ago."""
    server.arm("lost-reply", route=CREATE)
    server.arm("replica-lag", route="GET /v1/batches", times=0, params={"seconds": 3600})
    stopped(project.run(), project)
    (created,) = server.witness.creates()
    return str(created["batch_id"])


def stopped(done: Done, project: Project) -> None:
    assert done.code == 4, (done.stdout, done.stderr)
    assert f"run resolve {project.manifest_path}" in done.stderr


def resolve(project: Project, *options: str) -> Done:
    done = project.call("resolve", str(project.manifest_path), *options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def listed(project: Project) -> list[dict[str, Any]]:
    done = resolve(project, "--json")
    assert done.code == 0, done.stderr
    held: list[dict[str, Any]] = json.loads(done.stdout)["held"]
    return held


def statuses(project: Project) -> list[str]:
    return [row["_status"] for row in project.results()]


def sent(project: Project, requests: int, code: int = 0) -> Done:
    done = project.run()
    assert done.code == code, (done.stdout, done.stderr)
    assert done.event("finished")["requests_sent"] == requests
    return done


def test_nothing_held_is_said_and_nothing_can_be_decided(server: ServerProcess, tmp_path: Path) -> None:
    project = project_at(server, tmp_path / "p")
    assert listed(project) == []
    assert "nothing of" in resolve(project).stderr
    refused = resolve(project, "--resubmit", "--yes")
    assert (refused.code, "nothing of it is held" in refused.stderr) == (2, True)
    both = resolve(project, "--resubmit", "--abandon")
    assert (both.code, "three decisions" in both.stderr) == (2, True)


def test_what_is_held_is_listed_with_the_commands_to_decide(server: ServerProcess, tmp_path: Path) -> None:
    project = project_at(server, tmp_path / "p")
    held_by_a_lie(server, project)
    (held,) = listed(project)
    (uploaded,) = server.witness.uploads()
    assert held["input_file_id"] == uploaded["file_id"]
    assert (held["shard"], held["attempt"], held["requests"], held["unanswered"]) == ("0", 1, 4, 4)
    assert (held["batch_id"], held["currency"], held["is_elsewhere"]) == (None, "USD", False)
    assert 0.4 < held["cost"] < 1
    assert "outcome is unknown" in held["known"]
    assert held["sent_at"].endswith("Z")
    shown = resolve(project)
    for key in ("adopt", "resubmit", "abandon"):
        assert held[key].startswith(f"run resolve {project.manifest_path} --shard 0 --{key}")
        assert held[key] in shown.stdout
    assert uploaded["file_id"] in shown.stdout
    stopped(project.run(), project)
    assert statuses(project) == ["pending"] * 4
    assert server.witness.creates() == [], "a run holds it again and sends nothing"


def test_what_a_held_shard_may_cost_once_more_takes_the_largest_limit(
    server: ServerProcess, tmp_path: Path
) -> None:
    project = project_at(server, tmp_path / "p")
    project.manifest["model"]["parameters"] = {"max_tokens": 1, "max_completion_tokens": 300}
    project.write_manifest()
    held_by_a_lie(server, project)
    (held,) = listed(project)
    assert held["cost"] > 4 * 0.3


def test_a_person_who_says_that_no_batch_exists_lets_it_be_sent_anew(
    server: ServerProcess, tmp_path: Path
) -> None:
    project = project_at(server, tmp_path / "p")
    held_by_a_lie(server, project)
    done = resolve(project, "--resubmit", "--yes")
    assert done.code == 0, done.stderr
    assert listed(project) == []
    sent(project, 4)
    assert statuses(project) == ["succeeded"] * 4
    first, second = server.witness.uploads()
    assert first["filename"] != second["filename"]
    (created,) = server.witness.creates()
    assert created["input_file_id"] == second["file_id"]
    events = [what for (what,) in project.ledger("SELECT what FROM event")]
    assert "resubmitted by a person" in events
    assert b"resubmitted by a person" in (project.folder / ".runner" / "ids.jsonl").read_bytes()


def test_what_the_server_shows_is_not_sent_again_whatever_a_person_says(
    server: ServerProcess, tmp_path: Path
) -> None:
    project = project_at(server, tmp_path / "p")
    batch_id = held_though_bought(server, project)
    server.call("DELETE", "//faults")
    refused = resolve(project, "--resubmit", "--yes")
    assert refused.code == 4
    assert f"--adopt {batch_id}" in refused.stderr
    assert len(listed(project)) == 1
    sent(project, 0)
    assert statuses(project) == ["succeeded"] * 4
    assert len(server.witness.creates()) == 1


def test_a_listing_that_could_not_be_read_to_its_end_lets_nothing_be_sent_again(
    server: ServerProcess, tmp_path: Path
) -> None:
    project = project_at(server, tmp_path / "p")
    server.arm("lost-reply", route=CREATE)
    server.arm("pages-empty", route="GET /v1/batches", times=0)
    stopped(project.run(), project)
    refused = resolve(project, "--resubmit", "--yes")
    assert refused.code == 4
    assert "could not be read to its end" in refused.stderr
    for then in ("again later", "--shard 0 --adopt BATCH_ID", "--shard 0 --abandon", "`run retry "):
        assert then in refused.stderr
    assert len(listed(project)) == 1
    stopped(project.run(), project)
    assert len(server.witness.creates()) == 1
    server.call("DELETE", "//faults")
    sent(project, 0)
    assert statuses(project) == ["succeeded"] * 4


class Fenced(HostileServer):
    """The create is lost, and the listing shows nothing: at first not to its end. `deleting` is the reply to
    a delete of the input file, `shown` which files are still there."""

    def __init__(self, deleting: Reply, shown: tuple[str, ...]) -> None:
        lost = (502, b"<html>bad</html>")
        super().__init__(created=lambda _: lost, listed=lambda *_: self.listing)
        self.listing: dict[str, Any] = {"object": "list", "data": []}
        self._deleting = deleting
        self._shown = shown

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        *_, file_id = target.split("/")
        if "/files/" not in target:
            return super().answer(method, target, body)
        if method == "DELETE" and file_id == "file-1":
            return self._deleting
        if method == "DELETE" or file_id in self._shown:
            return 200, json.dumps({"id": file_id, "object": "file", "deleted": True}).encode()
        return 404, b"File not found"

    def held(self, folder: Path) -> Project:
        provider = {"name": "doubleword", "base_url": self.base_url, "api_key_env": "TEST_KEY"}
        provider |= {"settle_s": 0.2, "poll_interval_s": 0.1}  # type: ignore[dict-item]
        model = {"provider": provider, "name": "m", "parameters": {"temperature": 0}}
        project = make_project(folder, rows=ROWS, model=model)
        project.environ["TEST_KEY"] = KEY
        stopped(project.run(), project)
        self.listing["has_more"] = False
        return project


NOTHING = {"object": "list", "data": [], "has_more": False}
DELETED = (200, b'{"id": "file-1", "object": "file", "deleted": true}')
NOT_SAID = (200, b'{"id": "file-1", "object": "file"}')
MISSING = (404, b"File not found")


@pytest.mark.parametrize(
    ("deleting", "shown", "key", "is_proved"),
    [
        (DELETED, (), KEY, True),
        (NOT_SAID, ("file-1", "file-2"), KEY, False),
        (MISSING, ("file-1", "file-2"), KEY, False),  # it is there all the same
        (MISSING, (), KEY, False),  # as little as what was uploaded a moment ago
        (MISSING, ("file-2",), KEY, True),  # what was uploaded a moment ago is seen, and this is not
        (MISSING, ("file-2",), "another-key", False),
    ],
)
def test_where_no_fence_is_proved_nothing_is_sent_again(
    tmp_path: Path, deleting: Reply, shown: tuple[str, ...], key: str, is_proved: bool
) -> None:
    with Fenced(deleting, shown) as server:
        project = server.held(tmp_path / "p")
        project.environ["TEST_KEY"] = key
        done = resolve(project, "--resubmit", "--yes")
        assert done.code == (0 if is_proved else 4), done.stderr
        assert len(listed(project)) == (0 if is_proved else 1)
        assert ("file-1 of shard 0 was to be deleted" in done.stderr) is not is_proved
        assert len(server.batches) == 1


def test_what_another_account_does_not_see_is_not_sent_again(server: ServerProcess, tmp_path: Path) -> None:
    project = project_at(server, tmp_path / "p")
    assert project.run("--detach").code == 75
    project.environ["TEST_KEY"] = "of-another-account"
    stopped(project.run(), project)
    refused = resolve(project, "--resubmit", "--yes")
    assert refused.code == 4
    assert "was sent with another key" in refused.stderr
    stopped(project.run(), project)
    project.environ["TEST_KEY"] = KEY
    sent(project, 0)
    assert len(server.witness.creates()) == 1


class NoCreates(HostileServer):
    """Every create is lost; input files are shown to every key."""

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        if method == "GET" and target.endswith("/files/file-1"):
            return 200, b'{"id": "file-1", "object": "file"}'
        return super().answer(method, target, body)


def test_a_newer_key_of_the_same_account_lets_it_be_sent_anew(tmp_path: Path) -> None:
    with NoCreates(created=lambda _: (502, b"<html>bad</html>"), listed=lambda *_: NOTHING) as hostile:
        project = hostile.project(tmp_path / "p", 2)
        project.manifest["model"]["provider"]["api_key_env"] = "TEST_KEY"
        project.write_manifest()
        project.environ["TEST_KEY"] = "the-key-of-then"
        stopped(project.run(), project)
        project.environ["TEST_KEY"] = "a-newer-key"
        done = resolve(project, "--resubmit", "--yes")
        assert done.code == 0, done.stderr
        assert listed(project) == []


def test_a_batch_that_a_person_names_is_checked_and_collected(server: ServerProcess, tmp_path: Path) -> None:
    project = project_at(server, tmp_path / "p")
    batch_id = held_though_bought(server, project)
    line = json.dumps(
        {
            "custom_id": "foreign",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        }
    )
    foreign = server.start_batch(line.encode() + b"\n", someone="else")["id"]
    wrong = resolve(project, "--adopt", foreign)
    assert wrong.code == 2
    assert foreign in wrong.stderr
    assert "without our tags" in wrong.stderr
    none = resolve(project, "--adopt", "no-such-batch")
    assert (none.code, "knows no batch" in none.stderr) == (2, True)
    assert len(listed(project)) == 1
    done = resolve(project, "--adopt", batch_id)
    assert done.code == 0, done.stderr
    assert listed(project) == []
    sent(project, 0)
    assert statuses(project) == ["succeeded"] * 4
    assert [row["_batch_id"] for row in project.results()] == [batch_id] * 4
    assert len(server.witness.executions()) == 5


def test_what_is_given_up_is_unaccounted_and_asked_again_on_demand_only(
    server: ServerProcess, tmp_path: Path
) -> None:
    project = project_at(server, tmp_path / "p")
    held_by_a_lie(server, project)
    done = resolve(project, "--abandon", "--yes")
    assert done.code == 0, done.stderr
    assert "run retry" in done.stderr
    for _ in range(2):
        sent(project, 0, code=3)
    assert statuses(project) == ["unaccounted"] * 4
    assert {row["_error_class"] for row in project.results()} == {"abandoned"}
    assert server.witness.creates() == []
    retried = project.call("retry", str(project.manifest_path), "--json", "--yes")
    assert retried.code == 0, retried.stderr
    assert statuses(project) == ["succeeded"] * 4


def test_what_is_given_up_names_the_batch_that_was_bought(tmp_path: Path) -> None:
    with HostileServer(lambda batch, look: Look(reply=(404, b'{"error":{"message":"no"}}'))) as hostile:
        project = hostile.project(tmp_path / "p", 2)
        assert project.run().code == 4
        assert resolve(project, "--abandon", "--yes").code == 0
        assert project.run().code == 3
    assert all("its batch batch-1 was bought" in row["_error_message"] for row in project.results())


def test_of_several_held_shards_one_must_be_named(server: ServerProcess, tmp_path: Path) -> None:
    project = project_at(server, tmp_path / "p", max_requests_per_file=2)
    held_by_a_lie(server, project, shards=2)
    assert [one["shard"] for one in listed(project)] == ["0", "1"]
    unnamed = resolve(project, "--abandon", "--yes")
    assert unnamed.code == 2
    assert "2 shards are held" in unnamed.stderr
    assert resolve(project, "--shard", "7", "--abandon", "--yes").code == 2
    assert resolve(project, "--shard", "1", "--abandon", "--yes").code == 0
    assert resolve(project, "--resubmit", "--yes").code == 0
    sent(project, 2, code=3)
    assert statuses(project) == ["succeeded"] * 2 + ["unaccounted"] * 2


def test_a_shard_of_a_renamed_manifest_is_decided_about_by_its_new_name(
    server: ServerProcess, tmp_path: Path
) -> None:
    project = project_at(server, tmp_path / "p")
    held_by_a_lie(server, project)
    new = project.folder / "renamed.yaml"
    project.manifest_path.rename(new)
    waiting = project.call("run", str(new), "--json")
    assert (waiting.code, f"run resolve {new}`" in waiting.stderr) == (4, True), waiting.stderr
    listed = project.call("resolve", str(new), "--json")
    (held,) = json.loads(listed.stdout)["held"]
    assert (held["gone_manifest"], held["unanswered"]) == ("manifest.yaml", 4)
    assert "of manifest.yaml, which is gone" in project.call("resolve", str(new)).stdout
    decided = project.call("resolve", str(new), "--resubmit", "--yes")
    assert decided.code == 0, decided.stderr
    done = project.call("run", str(new), "--json")
    assert (done.code, done.event("finished")["requests_sent"]) == (0, 4), done.stderr
    assert len(server.witness.creates()) == 1


def test_a_manifest_that_is_there_decides_about_its_own_shards_alone(
    server: ServerProcess, tmp_path: Path
) -> None:
    from runner.ledger import hold, locate

    project = project_at(server, tmp_path / "p")
    held_by_a_lie(server, project)
    other = project.folder / "other.yaml"
    other.write_text(project.manifest_path.read_text())
    assert "nothing of" in project.call("resolve", str(other)).stderr
    assert project.call("resolve", str(other), "--abandon", "--yes").code == 2
    place = locate(str(project.manifest_path), {})
    with hold(place.manifest_lock(project.manifest_path)):  # it began before its file went
        project.manifest_path.unlink()
        assert project.call("resolve", str(other), "--abandon", "--yes").code == 75
    assert project.call("resolve", str(other), "--abandon", "--yes").code == 0


def test_no_decision_is_taken_beside_a_running_process(server: ServerProcess, tmp_path: Path) -> None:
    from runner.ledger import hold, locate

    project = project_at(server, tmp_path / "p")
    held_by_a_lie(server, project)
    place = locate(str(project.manifest_path), {})
    with hold(place.manifest_lock(project.manifest_path)):
        for decision in ("--resubmit", "--abandon"):
            assert resolve(project, decision, "--yes").code == 75
    assert len(listed(project)) == 1
