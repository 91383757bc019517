"""The key is in no error, no log, no repr and no file, whatever the server echoes (I30)."""

from __future__ import annotations

import logging
import socket
import traceback
from pathlib import Path

import pytest

from runner.core.model import Refused, Unknown
from runner.provider import Patience, ProviderError
from tests.fault.provider_factories import (
    KEY,
    Script,
    ScriptedServer,
    SeenRequest,
    always,
    chunked,
    client_for,
    json_reply,
    reply,
)

ONCE = Patience(attempts=1)
ECHO = KEY.encode()


def _echo_status_line(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(b"Bearer " + ECHO + b"\r\n\r\n")


ECHOES: list[Script] = [
    always(reply(401, b"Incorrect API key provided: " + ECHO)),
    always(json_reply(400, b'{"error":{"message":"bad key ' + ECHO.replace(b"/", b"\\/") + b'"}}')),
    always(reply(502, b"<html><title>" + ECHO + b"</title></html>", media_type="text/html")),
    always(reply(500, b"x" * 480 + ECHO)),
    always(reply(429, b"slow down, Bearer " + ECHO)),
    always(reply(302, b"", location=f"https://elsewhere.example/{KEY}?key={KEY}")),
    always(json_reply(200, b"not json " + ECHO)),
    always(json_reply(200, b" " * 190 + ECHO)),
    always(reply(200, b"<html>" + ECHO, media_type="text/html")),
    always(chunked(ECHO, ended=False)),
    always(b"HTTP/1.1 200 OK\r\n" + ECHO + b"\r\n\r\n"),
    _echo_status_line,
]


def _texts(error: BaseException) -> str:
    shown = "".join(traceback.format_exception(error))
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
        shown += f"{error!r} {error} {vars(error)}"
    return shown


def _pieces_of_key(text: str) -> list[str]:
    """Parts of the key, long enough to be of use to a thief, that a text shows."""
    return [KEY[start : start + 12] for start in range(len(KEY) - 11) if KEY[start : start + 12] in text]


@pytest.mark.parametrize("script", ECHOES)
def test_no_error_shows_the_key(script: Script, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = ""
    with ScriptedServer(script) as server, client_for(server, patience=ONCE) as client:
        shown += f"{client!r} {client}"
        for act in (
            lambda: client.retrieve_batch("b"),
            lambda: client.list_batches(),
            lambda: client.delete_file("f"),
        ):
            with pytest.raises(ProviderError) as caught:
                act()
            shown += f"{caught.value.what} {caught.value.next_step} {caught.value.problem!r}"
            shown += _texts(caught.value)
        try:
            shown += repr(client.download("f", tmp_path / "x.part"))
        except ProviderError as error:
            shown += f"{error.what} {error.problem!r} {_texts(error)}"
        path = tmp_path / "shard.jsonl"
        path.write_bytes(b"{}\n")
        for outcome in (client.create_batch("f", "/v1/x", "24h", {}), client.upload(path, "a.jsonl")):
            assert isinstance(outcome, Refused | Unknown)
            shown += repr(outcome)
        assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in server.requests)
    shown += caplog.text
    shown += "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert _pieces_of_key(shown) == []


def test_no_error_without_a_reply_shows_the_key(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with client_for(base_url, patience=ONCE) as client:
        with pytest.raises(ProviderError) as caught:
            client.retrieve_batch("b")
        outcome = client.create_batch("f", "/v1/x", "24h", {})
    assert _pieces_of_key(f"{caught.value!r} {_texts(caught.value)} {outcome!r}") == []


def test_libraries_say_nothing_about_calls(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ScriptedServer(always(json_reply(200, b'{"id":"b"}'))) as server, client_for(server) as client:
        client.retrieve_batch("b")
    assert [record.name for record in caplog.records] == []


def test_what_the_server_says_is_safe_on_a_terminal() -> None:
    nasty = "\x1b]0;title\x07\x1b[2J\u202egnp.exe\r\n\x9b31m".encode()
    with (
        ScriptedServer(always(reply(400, nasty))) as server,
        client_for(server) as client,
        pytest.raises(ProviderError) as caught,
    ):
        client.retrieve_batch("b")
    assert caught.value.what.isprintable()
