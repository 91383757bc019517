"""Calls that can be repeated: they try a few times, then raise one class per thing a person does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from runner.core.model import ProblemKind
from runner.core.wire import BatchObject
from runner.provider import (
    AuthenticationError,
    CapacityError,
    Client,
    InvalidRequestError,
    NotFoundYetError,
    Patience,
    PaymentError,
    ProviderError,
    ServerTroubleError,
    Timeouts,
)
from tests.fault.provider_factories import (
    BATCH_ID,
    ScriptedServer,
    SeenRequest,
    always,
    client_for,
    json_reply,
    one_after_another,
    reply,
    reset,
)

BATCH = b'{"id":"%b","status":"in_progress","request_counts":{"total":3}}' % BATCH_ID.encode()
GOOD = json_reply(200, BATCH)
TRIES = Patience().attempts


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(401, b"Authentication required"), AuthenticationError),
        (reply(402, b"Account balance too low."), PaymentError),
        (reply(400, b"Invalid batch ID format"), InvalidRequestError),
        (reply(404, b"Batch with ID x not found"), NotFoundYetError),
        (reply(308, b"", location="https://elsewhere.example/"), InvalidRequestError),
        (
            json_reply(
                429, b'{"error":"too_many_requests","message":"Unverified accounts can submit at most 1"}'
            ),
            CapacityError,
        ),
    ],
)
def test_what_waiting_does_not_cure_is_asked_once(answer: bytes, error: type[ProviderError]) -> None:
    with (
        ScriptedServer(always(answer)) as server,
        client_for(server) as client,
        pytest.raises(error) as caught,
    ):
        client.retrieve_batch(BATCH_ID)
    assert type(caught.value) is error
    assert caught.value.exit_code == 4
    assert caught.value.next_step
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(429, b"slow down"), CapacityError),
        (reply(408, b""), ServerTroubleError),
        (reply(500, b"Internal server error"), ServerTroubleError),
        (reply(502, b"<html>Bad Gateway</html>", media_type="text/html"), ServerTroubleError),
        (reply(200, b"<html>Sign in to Wi-Fi</html>", media_type="text/html"), ServerTroubleError),
        (json_reply(200, b"{}"), ServerTroubleError),
        (json_reply(200, b'{"id": {}}'), ServerTroubleError),
        (json_reply(200, BATCH)[:-3], ServerTroubleError),
        (json_reply(200, BATCH + b" " * 50)[:-50], ServerTroubleError),
        (b"HTTP/1.1 200", ServerTroubleError),
        (b"", ServerTroubleError),
    ],
)
def test_what_may_pass_is_tried_again_but_not_for_ever(answer: bytes, error: type[ProviderError]) -> None:
    sleeps: list[float] = []
    with (
        ScriptedServer(always(answer)) as server,
        client_for(server, sleeps=sleeps) as client,
        pytest.raises(error),
    ):
        client.retrieve_batch(BATCH_ID)
    assert len(server.requests) == TRIES
    assert len(sleeps) == TRIES - 1
    assert all(0 <= wait <= 10 for wait in sleeps)


def _calls() -> list[Callable[[Client], object]]:
    return [
        lambda client: client.retrieve_batch(BATCH_ID),
        lambda client: client.cancel_batch(BATCH_ID),
        lambda client: client.retrieve_file("f"),
        lambda client: client.delete_file("f"),
        lambda client: client.list_batches(),
        lambda client: client.list_files(search="ab"),
        lambda client: client.models(),
    ]


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize(
    "fault", [reply(503, b"busy"), b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"]
)
def test_one_fault_is_not_noticed(number: int, fault: bytes) -> None:
    good = json_reply(200, b'{"id":"f","deleted":true,"data":[],"has_more":false}')
    with ScriptedServer(one_after_another(fault, good)) as server, client_for(server) as client:
        assert _calls()[number](client) is not None
    assert len(server.requests) == 2


@pytest.mark.parametrize("number", range(7))
def test_a_reset_connection_is_not_noticed(number: int) -> None:
    good = json_reply(200, b'{"id":"f","deleted":true,"data":[],"has_more":false}')

    def script(request: SeenRequest, connection: socket.socket) -> None:
        if len(server.requests) == 1:
            reset(connection)
        else:
            connection.sendall(good)

    with ScriptedServer(script) as server, client_for(server) as client:
        assert _calls()[number](client) is not None
    assert len(server.requests) == 2


def test_the_server_says_how_long_to_wait() -> None:
    busy = json_reply(
        503, b'{"error":"service_unavailable","message":"x","retry_after_seconds":3}', retry_after="5"
    )
    sleeps: list[float] = []
    with ScriptedServer(one_after_another(busy, GOOD)) as server, client_for(server, sleeps=sleeps) as client:
        assert client.retrieve_batch(BATCH_ID).batch_id == BATCH_ID
    assert len(sleeps) == 1
    assert 5 <= sleeps[0] <= 15


def test_a_wait_beyond_our_patience_is_handed_to_the_caller() -> None:
    busy = json_reply(429, b'{"error":"too_many_requests","message":"later"}', retry_after="60")
    with (
        ScriptedServer(always(busy)) as server,
        client_for(server) as client,
        pytest.raises(CapacityError) as caught,
    ):
        client.retrieve_batch(BATCH_ID)
    assert caught.value.problem.retry_after_s == 60
    assert "the server asks to wait 60 s" in caught.value.next_step
    assert len(server.requests) == 1


def test_an_unreachable_server_names_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    sleeps: list[float] = []
    with client_for(base_url, sleeps=sleeps) as client, pytest.raises(ServerTroubleError) as caught:
        client.retrieve_batch(BATCH_ID)
    assert caught.value.problem.kind is ProblemKind.UNREACHABLE
    assert base_url in caught.value.next_step
    assert len(sleeps) == TRIES - 1


def test_the_texts_that_people_meet_most() -> None:
    answers = [
        (reply(401, b"Authentication required"), "401 Unauthorized: Authentication required"),
        (
            reply(402, b"Account balance too low. Please add credits to continue."),
            "402 Payment Required: Account balance too low. Please add credits to continue.",
        ),
    ]
    steps = [
        "check the key: export SOME_API_KEY=<your API key>, then run again",
        "add credit to the account, then run the same command again",
    ]
    for (answer, text), step in zip(answers, steps, strict=True):
        with (
            ScriptedServer(always(answer)) as server,
            client_for(server) as client,
            pytest.raises(ProviderError) as caught,
        ):
            client.list_batches()
        assert caught.value.what == f"doubleword: GET /batches: {text}"
        assert caught.value.next_step == step


def test_only_the_servers_own_word_makes_a_fence() -> None:
    cases = [
        (json_reply(200, b'{"id":"f","object":"file","deleted":true}'), True),
        (json_reply(200, b'{"id":"f","object":"file","deleted":false}'), False),
        (json_reply(200, b'{"id":"f","deleted":"true"}'), False),
        (json_reply(200, b"{}"), False),
        (json_reply(204, b""), False),
    ]
    for answer, expected in cases:
        with ScriptedServer(always(answer)) as server, client_for(server) as client:
            assert client.delete_file("f") is expected


def test_a_server_without_a_model_listing_has_none() -> None:
    for answer in (reply(404, b"not found"), reply(405, b""), reply(400, b"no")):
        with ScriptedServer(always(answer)) as server, client_for(server) as client:
            assert client.models() is None


def test_unknown_words_and_types_are_taken_as_they_come() -> None:
    odd = (
        b'{"id":"b","status":"Warming_Up","request_counts":{"total":-1,"completed":null},"output_file_id":{}}'
    )
    with ScriptedServer(always(json_reply(200, odd))) as server, client_for(server) as client:
        batch = client.retrieve_batch("b")
    assert (batch.status, batch.total, batch.completed, batch.output_file_id) == (
        "warming_up",
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "name", ["", "../batches", "a/b", "a?b", "a#b", "a b", "a%2Fb", "a\n", "ä", "x" * 129, "."]
)
def test_an_id_that_would_lead_elsewhere_is_not_asked_for(name: str) -> None:
    with ScriptedServer(always(GOOD)) as server, client_for(server) as client:
        for act in (client.retrieve_batch, client.cancel_batch, client.retrieve_file, client.delete_file):
            with pytest.raises(InvalidRequestError):
                act(name)
    assert server.requests == []


def test_a_listing_is_walked_page_by_page() -> None:
    def script(request: SeenRequest, connection: socket.socket) -> None:
        first = b'{"data":[{"id":"b2"},{"id":"b1"}],"has_more":true,"last_id":"b1"}'
        last = b'{"data":[{"id":"b0"}],"has_more":false}'
        connection.sendall(json_reply(200, last if "after=b1" in request.target else first))

    with ScriptedServer(script) as server, client_for(server) as client:
        scan = client.list_batches(search="ab-12")
    assert [batch.batch_id for batch in scan.objects] == ["b2", "b1", "b0"]
    assert scan.is_complete
    assert [request.target for request in server.requests] == [
        "/v1/batches?limit=100&search=ab-12",
        "/v1/batches?limit=100&search=ab-12&after=b1",
    ]


def test_a_cursor_from_the_server_can_not_add_parameters() -> None:
    page = b'{"data":[{"id":"b"}],"has_more":true,"last_id":"x&limit=1#/../"}'
    answers = one_after_another(json_reply(200, page), json_reply(200, b'{"data":[],"has_more":false}'))
    with ScriptedServer(answers) as server, client_for(server) as client:
        client.list_files()
    assert server.requests[1].target == "/v1/files?limit=100&after=x%26limit%3D1%23%2F..%2F"


def test_a_reply_without_end_is_cut_at_the_limit() -> None:
    def script(request: SeenRequest, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            connection.sendall(b" " * 1_000_000)

    once = Patience(attempts=1)
    with (
        ScriptedServer(script) as server,
        client_for(server, patience=once) as client,
        pytest.raises(ServerTroubleError),
    ):
        client.retrieve_batch(BATCH_ID)
    assert len(server.requests) == 1


def test_one_client_serves_many_threads() -> None:
    def script(request: SeenRequest, connection: socket.socket) -> None:
        connection.sendall(json_reply(200, b'{"id":"%b"}' % request.target.rpartition("/")[2].encode()))

    results: dict[str, BatchObject] = {}
    with ScriptedServer(script) as server, client_for(server) as client:

        def ask(number: int) -> None:
            for turn in range(10):
                name = f"b{number}-{turn}"
                results[name] = client.retrieve_batch(name)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(results) == 80
    assert all(name == batch.batch_id for name, batch in results.items())


def test_the_servers_clock_is_compared_with_ours() -> None:
    answer = json_reply(200, BATCH, date="Sun, 01 Mar 2099 12:00:00 GMT")
    with ScriptedServer(always(answer)) as server, client_for(server) as client:
        before = client.server_clock_offset_s
        client.retrieve_batch(BATCH_ID)
        after = client.server_clock_offset_s
    assert before is None
    assert after is not None
    assert after > 365 * 86400


def test_a_provider_without_an_address_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="has no address yet"):
        client_for("")


def test_proxies_of_the_environment_are_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(always(GOOD)) as server, ScriptedServer(always(reply(502, b"proxy"))) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.base_url.removesuffix("/v1"))
        with client_for(server) as client:
            assert client.retrieve_batch(BATCH_ID).batch_id == BATCH_ID
    assert proxy.requests == []


def test_proxies_of_the_environment_are_asked_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(always(GOOD)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with client_for("http://batch.invalid/v1") as client:
            assert client.retrieve_batch(BATCH_ID).batch_id == BATCH_ID
    assert proxy.requests[0].target == f"http://batch.invalid/v1/batches/{BATCH_ID}"


def test_a_proxy_that_can_not_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks9://127.0.0.1:1")
    with pytest.raises(ServerTroubleError, match="the environment's proxy or certificates can't be used"):
        client_for("https://batch.invalid/v1")


def test_explicit_numbers_for_every_timeout() -> None:
    defaults = Timeouts()
    assert all(0 < getattr(defaults, name) < float("inf") for name in Timeouts.__slots__)
    assert defaults.upload_read_s >= 300
