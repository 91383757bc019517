"""The client against the local batch server, as a real process on a real socket."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner.core.model import Accepted, Limits, ProblemKind, ProviderSettings, Refused, Unknown
from runner.provider import (
    ApiKey,
    AuthenticationError,
    Client,
    NotFoundYetError,
    Patience,
    ServerTroubleError,
    resolve,
)
from tests.localserver_process import KEY, ServerProcess, chat_line, eventually, running_server

CHAT = "/v1/chat/completions"


@contextmanager
def at_work(folder: Path, *, tries: int = 4, **settings: Any) -> Iterator[tuple[ServerProcess, Client]]:
    with running_server(folder / "server", **settings) as server:
        provider = resolve(ProviderSettings(name="local"), local_base_url=server.base_url)
        patience = Patience(attempts=tries, first_wait_s=0.01)
        with Client(provider, api_key=ApiKey(KEY), patience=patience) as client:
            yield server, client


def shard(folder: Path, rows: int) -> Path:
    path = folder / "shard.jsonl"
    path.write_bytes(b"".join(chat_line(f"row-{number}") for number in range(rows)))
    return path


def uploaded(client: Client, folder: Path, rows: int = 3) -> str:
    outcome = client.upload(shard(folder, rows), "runner-ab12-s0001.jsonl")
    assert isinstance(outcome, Accepted)
    return outcome.object_id


def created(client: Client, file_id: str, **metadata: str) -> str:
    outcome = client.create_batch(file_id, CHAT, "24h", metadata)
    assert isinstance(outcome, Accepted), outcome
    assert json.loads(outcome.raw)["id"] == outcome.object_id
    return outcome.object_id


def finished(client: Client, batch_id: str) -> None:
    eventually(lambda: client.retrieve_batch(batch_id).status == "completed", what="the batch's end")


def posts(server: ServerProcess) -> list[str]:
    return [
        seen["path"]
        for seen in server.witness.http()
        if seen["method"] == "POST" and seen["path"] != "/faults"
    ]


def test_a_batch_from_upload_to_results(tmp_path: Path) -> None:
    with at_work(tmp_path) as (server, client):
        file_id = uploaded(client, tmp_path, rows=20)
        batch_id = created(client, file_id, **{"runner-run": "ab12", "runner-slot": "0001"})
        finished(client, batch_id)
        batch = client.retrieve_batch(batch_id)
        assert batch.told_at_s is not None
        assert abs(batch.told_at_s - time.time()) < 60, "by the server's clock"
        assert (batch.total, batch.completed, batch.failed, batch.input_file_id) == (20, 20, 0, file_id)
        assert batch.metadata["runner-run"] == "ab12"
        whole = client.download(batch.output_file_id or "", tmp_path / "output.part")
        rest = client.download(batch.output_file_id or "", tmp_path / "rest.part", skip=15)
        errors = client.download(batch.error_file_id or "", tmp_path / "error.part")
        assert posts(server) == ["/v1/files", "/v1/batches"]
        assert [row["sha256"] for row in server.witness.uploads()]
    lines = (tmp_path / "output.part").read_bytes().split(b"\n")[:-1]
    assert (whole.lines, whole.is_whole, whole.incomplete, whole.last_line) == (20, True, False, 20)
    assert {json.loads(line)["custom_id"] for line in lines} == {f"row-{number}" for number in range(20)}
    assert (rest.lines, rest.skip) == (5, 15)
    assert (tmp_path / "rest.part").read_bytes().split(b"\n")[:-1] == lines[15:]
    assert (errors.lines, errors.is_whole) == (0, True)


def test_listings_find_what_was_made(tmp_path: Path) -> None:
    with at_work(tmp_path) as (_, client):
        file_id = uploaded(client, tmp_path)
        batch_id = created(client, file_id, **{"runner-run": "ab12"})
        other_id = created(client, file_id, **{"runner-run": "cd34"})
        found = client.list_batches(search="ab12-no-such")
        assert (found.is_complete, found.objects) == (True, ())
        everything = client.list_batches()
        assert (everything.is_complete, {batch.batch_id for batch in everything.objects}) == (
            True,
            {batch_id, other_id},
        )
        tagged = client.list_batches(search="cd34")
        assert other_id in {batch.batch_id for batch in tagged.objects}
        files = client.list_files(search="runner-ab12-s0001")
        assert file_id in {file.file_id for file in files.objects}
        assert client.retrieve_file(file_id).filename == "runner-ab12-s0001.jsonl"


def test_a_listing_of_several_pages_is_seen_whole(tmp_path: Path) -> None:
    with at_work(tmp_path) as (_, client):
        file_id = uploaded(client, tmp_path, rows=1)
        made = {created(client, file_id) for _ in range(105)}
        scan = client.list_batches()
    assert scan.is_complete
    assert {batch.batch_id for batch in scan.objects} == made
    assert len(scan.objects) == 105


def test_the_fence_holds(tmp_path: Path) -> None:
    with at_work(tmp_path) as (server, client):
        file_id = uploaded(client, tmp_path)
        assert client.delete_file(file_id) is True
        refused = client.create_batch(file_id, CHAT, "24h", {})
        assert isinstance(refused, Refused)
        assert refused.problem.kind is ProblemKind.NOT_FOUND
        assert server.witness.creates() == []
        with pytest.raises(NotFoundYetError):
            client.retrieve_file(file_id)


def test_cancelling_gives_the_batch_back(tmp_path: Path) -> None:
    with at_work(tmp_path, validating_delay_s=0.0, request_latency_s=5.0, concurrency=1) as (_, client):
        batch_id = created(client, uploaded(client, tmp_path, rows=5))
        eventually(lambda: client.retrieve_batch(batch_id).status == "in_progress", what="the start")
        assert client.cancel_batch(batch_id).batch_id == batch_id
        eventually(lambda: client.retrieve_batch(batch_id).status.startswith("cancel"), what="the end")
        assert client.retrieve_batch(batch_id).cancelled_at_s is not None


@pytest.mark.parametrize(
    ("kind", "outcome", "problem_kind", "made"),
    [
        ("capacity-429", Refused, ProblemKind.CAPACITY, 0),
        ("volume-429", Refused, ProblemKind.VOLUME, 0),
        ("balance-402", Refused, ProblemKind.PAYMENT, 0),
        ("unauthorized-401", Refused, ProblemKind.AUTHENTICATION, 0),
        ("internal-500", Unknown, ProblemKind.SERVER_TROUBLE, 0),
        ("unavailable-503", Unknown, ProblemKind.SERVER_TROUBLE, 0),
        ("gateway-502", Unknown, ProblemKind.SERVER_TROUBLE, 0),
        ("gateway-504", Unknown, ProblemKind.SERVER_TROUBLE, 0),
        ("lost-reply", Unknown, ProblemKind.SERVER_TROUBLE, 1),
        ("error-after-effect", Unknown, ProblemKind.SERVER_TROUBLE, 1),
    ],
)
def test_a_create_under_a_fault_is_one_request_with_the_right_outcome(
    kind: str, outcome: type[Refused | Unknown], problem_kind: ProblemKind, made: int, tmp_path: Path
) -> None:
    with at_work(tmp_path) as (server, client):
        file_id = uploaded(client, tmp_path)
        server.arm(kind, times=0, route="POST /v1/batches")
        found = client.create_batch(file_id, CHAT, "24h", {})
        assert isinstance(found, outcome)
        assert found.problem.kind is problem_kind
        assert posts(server).count("/v1/batches") == 1
        assert len(server.witness.creates()) == made


@pytest.mark.parametrize(
    ("kind", "outcome", "made"),
    [
        ("upload-queue-429", Refused, 0),
        ("internal-500", Unknown, 0),
        ("gateway-502", Unknown, 0),
        ("lost-reply", Unknown, 1),
        ("error-after-effect", Unknown, 1),
    ],
)
def test_an_upload_under_a_fault_is_one_request_with_the_right_outcome(
    kind: str, outcome: type[Refused | Unknown], made: int, tmp_path: Path
) -> None:
    with at_work(tmp_path) as (server, client):
        server.arm(kind, times=0, route="POST /v1/files")
        found = client.upload(shard(tmp_path, 3), "runner-ab12.jsonl")
        assert isinstance(found, outcome)
        assert posts(server) == ["/v1/files"]
        assert len(server.witness.uploads()) == made
        assert len(client.list_files(search="runner-ab12").objects) == made


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (b"not json\n", ProblemKind.INVALID_REQUEST, "Invalid JSON on line 1"),
        (b"", ProblemKind.INVALID_REQUEST, "no valid request templates"),
        (chat_line("a") * 4, ProblemKind.TOO_LARGE, "which exceeds the maximum of 3"),
        (chat_line("a", "x" * 20_000), ProblemKind.TOO_LARGE, "File exceeds the maximum allowed size"),
        (chat_line("a", "x" * 3000), ProblemKind.INVALID_REQUEST, "Request body is"),
        (chat_line("a", model="other"), ProblemKind.INVALID_REQUEST, "Model 'other'"),
    ],
)
def test_a_refused_file_says_why(lines: bytes, kind: ProblemKind, words: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "max_requests_per_file": 3,
        "max_file_bytes": 5000,
        "max_body_bytes": 2000,
        "models": {"local": {}},
    }
    path = tmp_path / "shard.jsonl"
    path.write_bytes(lines)
    with at_work(tmp_path, **settings) as (server, client):
        found = client.upload(path, "a.jsonl")
        assert server.witness.uploads() == []
    assert isinstance(found, Refused), found
    assert found.problem.kind is kind
    assert words in found.problem.message


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"completion_window": "7h"}, ProblemKind.INVALID_REQUEST, "Unsupported completion_window"),
        ({"endpoint": "/v1/nothing"}, ProblemKind.INVALID_REQUEST, "Unsupported endpoint"),
        ({"input_file_id": "file-abc"}, ProblemKind.INVALID_REQUEST, "Invalid input_file_id format"),
        ({"input_file_id": "6c0b2c9e-0000-4000-8000-5f7f3a1d9c0b"}, ProblemKind.NOT_FOUND, "not found"),
    ],
)
def test_a_refused_create_says_why(
    fields: dict[str, str], kind: ProblemKind, words: str, tmp_path: Path
) -> None:
    with at_work(tmp_path) as (server, client):
        asked = {
            "input_file_id": uploaded(client, tmp_path),
            "endpoint": CHAT,
            "completion_window": "24h",
        } | fields
        found = client.create_batch(**asked, metadata={})
        assert server.witness.creates() == []
    assert isinstance(found, Refused), found
    assert found.problem.kind is kind
    assert words in found.problem.message


def test_a_wrong_key_is_told_and_nothing_is_tried_again(tmp_path: Path) -> None:
    with at_work(tmp_path, api_keys=["another-key"]) as (server, client):
        with pytest.raises(AuthenticationError):
            client.list_batches()
        found = client.upload(shard(tmp_path, 1), "a.jsonl")
        assert isinstance(found, Refused)
        assert found.problem.kind is ProblemKind.AUTHENTICATION
        assert len(server.witness.http()) == 2


@pytest.mark.parametrize("kind", ["internal-500", "unavailable-503", "gateway-502"])
def test_a_read_survives_a_passing_fault(kind: str, tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        provider = resolve(ProviderSettings(name="local"), local_base_url=server.base_url)
        waits: list[float] = []
        with Client(
            provider, api_key=ApiKey(KEY), sleep=waits.append, patience=Patience(total_s=120)
        ) as client:
            batch_id = created(client, uploaded(client, tmp_path))
            server.arm(kind, times=2, route="GET /v1/batches/*")
            assert client.retrieve_batch(batch_id).batch_id == batch_id
    assert len(waits) == 2


def test_a_download_that_is_cut_keeps_its_lines_and_goes_on_with_skip(tmp_path: Path) -> None:
    with at_work(tmp_path) as (server, client):
        batch_id = created(client, uploaded(client, tmp_path, rows=30))
        finished(client, batch_id)
        output = client.retrieve_batch(batch_id).output_file_id or ""
        server.arm("abort-download", times=1, params={"after_bytes": 5000})
        first = client.download(output, tmp_path / "first.part")
        assert not first.is_whole
        assert 0 < first.lines < 30
        rest = client.download(output, tmp_path / "rest.part", skip=first.lines)
        whole = client.download(output, tmp_path / "whole.part")
    assert (rest.lines, rest.is_whole, whole.lines) == (30 - first.lines, True, 30)
    joined = (tmp_path / "first.part").read_bytes() + (tmp_path / "rest.part").read_bytes()
    assert joined == (tmp_path / "whole.part").read_bytes()


def test_a_file_that_is_not_yet_visible_is_not_found_yet(tmp_path: Path) -> None:
    with at_work(tmp_path) as (server, client):
        file_id = uploaded(client, tmp_path)
        server.arm("replica-lag", times=0, params={"seconds": 600.0})
        with pytest.raises(NotFoundYetError):
            client.retrieve_file(file_id)
        scan = client.list_files(search="runner-ab12")
    assert (scan.is_complete, scan.objects) == (True, ())


def test_a_server_that_died_is_server_trouble(tmp_path: Path) -> None:
    with at_work(tmp_path, tries=2) as (server, client):
        server.kill()
        with pytest.raises(ServerTroubleError) as caught:
            client.list_batches()
        assert caught.value.problem.kind is ProblemKind.UNREACHABLE
        assert isinstance(client.create_batch("f", CHAT, "24h", {}), Refused)


def test_the_local_profile_promises_what_the_local_server_does(tmp_path: Path) -> None:
    provider = resolve(ProviderSettings(name="local"))
    assert provider.limits == Limits(
        max_file_bytes=200_000_000, max_requests_per_file=50_000, max_body_bytes=10 * 1024 * 1024
    )
    with at_work(tmp_path) as (_, client):
        file_id = uploaded(client, tmp_path)
        for endpoint in provider.endpoints:
            for window in provider.windows:
                assert isinstance(client.create_batch(file_id, endpoint, window, {}), Accepted)
        assert client.models() is not None
        assert abs(client.server_clock_offset_s or 0.0) < 5
