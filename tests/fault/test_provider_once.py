"""One upload or create is one request on the wire, whatever happens to it (I4, I8; modes 1 to 8, 81)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.core.model import Accepted, ProblemKind, Refused, Unknown
from runner.errors import LedgerError
from runner.provider import Client, Timeouts
from tests.fault.provider_factories import (
    BATCH_ID,
    Script,
    ScriptedServer,
    SeenRequest,
    always,
    client_for,
    json_reply,
    reply,
    reset,
)

Outcome = Accepted | Refused | Unknown
Act = Callable[[Client, Path], Outcome]
SHORT = Timeouts(read_s=0.4, write_s=0.4, call_s=1.5, upload_read_s=0.4, grace_s=1.0)
HTML = b"<html><title>502 Bad Gateway</title></html>"
CREATED = b'{"id":"%b","object":"batch","status":"validating"}' % BATCH_ID.encode()


def create(client: Client, folder: Path) -> Outcome:
    return client.create_batch("file-1", "/v1/chat/completions", "24h", {"runner-run": "ab"})


def upload(client: Client, folder: Path) -> Outcome:
    path = folder / "shard.jsonl"
    path.write_bytes(b'{"custom_id":"a"}\n' * 1000)
    return client.upload(path, "runner-ab.jsonl")


BOTH = pytest.mark.parametrize("act", [create, upload])
OWN_ERROR = b'{"error":{"message":"no","type":"invalid_request_error","code":null}}'


def outcome_of(
    act: Act, script: Script, folder: Path, *, profile: str = "doubleword", reads: str = "all"
) -> Outcome:
    """The outcome of one call, after checking that it was one request on one connection."""
    with (
        ScriptedServer(script, reads=reads) as server,
        client_for(server, profile=profile) as client,
    ):
        outcome = act(client, folder)
    assert len(server.requests) == 1
    return outcome


@BOTH
@pytest.mark.parametrize("profile", ["doubleword", "openai", "custom"])
@pytest.mark.parametrize(
    "status",
    [*range(300, 309), *range(400, 411), 413, 415, 418, 422, 425, 429, 451, 499, *range(500, 505), 520, 599],
)
def test_no_status_makes_a_call_repeat(act: Act, profile: str, status: int, tmp_path: Path) -> None:
    answer = json_reply(status, OWN_ERROR, location="http://127.0.0.1:9/", retry_after="0")
    outcome = outcome_of(act, always(answer), tmp_path, profile=profile)
    definite = status in (400, 401, 402, 403, 404, 405, 413, 415, 422)
    assert isinstance(outcome, Refused if definite else Unknown)
    assert outcome.problem.status_code == status


@BOTH
@pytest.mark.parametrize("status", [200, 201, 400, 401, 403, 404, 413, 422, 429, 500, 502, 503, 504])
def test_a_web_page_leaves_the_outcome_unknown(act: Act, status: int, tmp_path: Path) -> None:
    outcome = outcome_of(act, always(reply(status, HTML, media_type="text/html")), tmp_path)
    assert isinstance(outcome, Unknown)


@BOTH
@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_created_object_is_accepted_with_its_raw_reply(act: Act, status: int, tmp_path: Path) -> None:
    assert outcome_of(act, always(json_reply(status, CREATED)), tmp_path) == Accepted(
        object_id=BATCH_ID, raw=CREATED
    )


def _nothing(request: SeenRequest, connection: socket.socket) -> None:
    """Hang up in silence."""


def _reset(request: SeenRequest, connection: socket.socket) -> None:
    reset(connection)


def _half_status_line(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 2")


def _half_headers(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 201 Created\r\ncontent-type: appl")


def _headers_only(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(json_reply(201, CREATED)[: -len(CREATED)])


def _half_id(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(json_reply(201, CREATED)[: -len(CREATED) + 20])


def _cut_refusal(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(reply(400, b"Invalid input_file_id format")[:-5])


def _garbage(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(b"\x00\xff\x16\x03\x01 not http at all\r\n\r\n")


def _endless_headers(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 201 Created\r\n" + b"x: " + b"y" * 300_000)


def _half_chunk(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n50\r\n{")


@BOTH
@pytest.mark.parametrize(
    "script",
    [
        _nothing,
        _reset,
        _half_status_line,
        _half_headers,
        _headers_only,
        _half_id,
        _cut_refusal,
        _garbage,
        _endless_headers,
        _half_chunk,
    ],
)
def test_a_broken_reply_leaves_the_outcome_unknown(act: Act, script: Script, tmp_path: Path) -> None:
    outcome = outcome_of(act, script, tmp_path)
    assert isinstance(outcome, Unknown)
    assert outcome.problem.kind in (ProblemKind.SERVER_TROUBLE, ProblemKind.INVALID_REQUEST)


@BOTH
def test_a_reply_that_is_cut_after_the_id_is_accepted(act: Act, tmp_path: Path) -> None:
    def script(request: SeenRequest, connection: socket.socket) -> None:
        connection.sendall(json_reply(201, CREATED)[:-4])

    outcome = outcome_of(act, script, tmp_path)
    assert isinstance(outcome, Accepted)
    assert (outcome.object_id, outcome.raw) == (BATCH_ID, CREATED[:-4])


@BOTH
@pytest.mark.parametrize("reads", ["all", "head", "nothing"])
def test_a_silent_server_leaves_the_outcome_unknown_in_time(act: Act, reads: str, tmp_path: Path) -> None:
    def script(request: SeenRequest, connection: socket.socket) -> None:
        server.silence()

    with ScriptedServer(script, reads=reads) as server, client_for(server, timeouts=SHORT) as client:
        outcome = act(client, tmp_path)
    assert isinstance(outcome, Unknown)
    assert len(server.requests) == 1


@BOTH
def test_a_reset_while_sending_leaves_the_outcome_unknown(act: Act, tmp_path: Path) -> None:
    assert isinstance(outcome_of(act, _reset, tmp_path, reads="head"), Unknown)


@BOTH
def test_a_reset_on_connecting_is_either_unsent_or_unknown(act: Act, tmp_path: Path) -> None:
    outcome = outcome_of(act, _reset, tmp_path, reads="nothing")
    assert not isinstance(outcome, Accepted)
    # The reset races with our first byte: if it wins, surely nothing was sent.
    assert isinstance(outcome, Refused) == (outcome.problem.kind is ProblemKind.UNREACHABLE)


def test_a_refusal_before_the_whole_file_was_taken_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"x" * 8_000_000)

    def script(request: SeenRequest, connection: socket.socket) -> None:
        connection.sendall(reply(413, b"File exceeds the maximum allowed size of 1000000 bytes"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with ScriptedServer(script, reads="head") as server, client_for(server) as client:
        outcome = client.upload(path, "runner-ab.jsonl")
    assert isinstance(outcome, Refused)
    assert outcome.problem.kind is ProblemKind.TOO_LARGE


@BOTH
def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(act: Act, tmp_path: Path) -> None:
    with ScriptedServer(always(json_reply(201, CREATED))) as other:
        answer = reply(307, b"", location=f"{other.base_url}/batches")
        outcome = outcome_of(act, always(answer), tmp_path)
    assert isinstance(outcome, Unknown)
    assert other.requests == []


@BOTH
def test_a_refused_connection_is_surely_not_done(act: Act, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with client_for(f"http://127.0.0.1:{port}/v1") as client:
        outcome = act(client, tmp_path)
    assert isinstance(outcome, Refused)
    assert outcome.problem.kind is ProblemKind.UNREACHABLE
    assert outcome.problem.message == "nothing was sent: no connection ([Errno 111] Connection refused)"


@BOTH
def test_an_unknown_host_is_surely_not_done(act: Act, tmp_path: Path) -> None:
    with client_for("http://no-such-host.invalid/v1") as client:
        outcome = act(client, tmp_path)
    assert isinstance(outcome, Refused)
    assert outcome.problem.kind is ProblemKind.UNREACHABLE


@BOTH
def test_a_failed_tls_handshake_is_surely_not_done(act: Act, tmp_path: Path) -> None:
    with (
        ScriptedServer(_nothing, reads="nothing") as server,
        client_for(server.base_url.replace("http:", "https:")) as client,
    ):
        outcome = act(client, tmp_path)
    assert isinstance(outcome, Refused)
    assert outcome.problem.kind is ProblemKind.UNREACHABLE


def test_every_create_has_a_connection_of_its_own(tmp_path: Path) -> None:
    def keep_alive(request: SeenRequest, connection: socket.socket) -> None:
        connection.sendall(json_reply(201, CREATED, connection="keep-alive"))
        server.silence(2)

    with ScriptedServer(keep_alive) as server, client_for(server) as client:
        for _ in range(5):
            assert isinstance(create(client, tmp_path), Accepted)
    assert len({request.port for request in server.requests}) == 5
    assert all(request.headers["connection"] == "close" for request in server.requests)


def test_a_file_that_is_not_there_raises_before_anything_is_sent(tmp_path: Path) -> None:
    missing = pytest.raises(LedgerError, match="the input file can't be read: No such file")
    with ScriptedServer(always(b"")) as server, client_for(server) as client, missing:
        client.upload(tmp_path / "absent.jsonl", "a.jsonl")
    assert server.requests == []


def test_a_file_that_shrinks_while_it_is_sent_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"x" * 1_000_000)
    with ScriptedServer(always(json_reply(201, CREATED))) as server, client_for(server) as client:
        outcome = client.upload(path, "a.jsonl", on_progress=lambda _: os.truncate(path, 0))
    assert isinstance(outcome, Unknown)
    assert "became shorter" in outcome.problem.message
    assert server.requests == []


def test_no_cookie_comes_back(tmp_path: Path) -> None:
    answer = json_reply(201, CREATED, set_cookie="dw_active_org=other; Path=/")
    with ScriptedServer(always(answer)) as server, client_for(server) as client:
        create(client, tmp_path)
        create(client, tmp_path)
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]
