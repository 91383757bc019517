"""Every wait has an end, also while a server sends one byte at a time (modes 74 to 78)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.core.model import Unknown
from runner.provider import Client, Patience, ServerTroubleError, Timeouts
from tests.fault.provider_factories import BATCH_ID, ScriptedServer, SeenRequest, client_for, json_reply

ONCE = Patience(attempts=1)
PATIENT_READS = Timeouts(read_s=30, call_s=0.8, upload_read_s=30, upload_floor=1e9, grace_s=0.4)
"""Long enough between two bytes, so that only the total deadline can end a call."""


def _drip(data: bytes) -> Callable[[SeenRequest, socket.socket], None]:
    def script(request: SeenRequest, connection: socket.socket) -> None:
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            time.sleep(0.05)

    return script


def _create(client: Client, folder: Path) -> object:
    return client.create_batch("f", "/v1/chat/completions", "24h", {})


def _retrieve(client: Client, folder: Path) -> object:
    return client.retrieve_batch(BATCH_ID)


SLOW_HEADERS = b"HTTP/1.1 201 Created\r\n" + b"x-y: z\r\n" * 100
SLOW_BODY = json_reply(201, b" " * 1000)


@pytest.mark.parametrize("data", [SLOW_HEADERS, SLOW_BODY, b"HTTP/1.1 100 Continue\r\n\r\n" * 50])
def test_a_dripping_create_ends_and_is_unknown(data: bytes, tmp_path: Path) -> None:
    with ScriptedServer(_drip(data)) as server, client_for(server, timeouts=PATIENT_READS) as client:
        started = time.monotonic()
        outcome = _create(client, tmp_path)
        elapsed_s = time.monotonic() - started
    assert isinstance(outcome, Unknown)
    assert 0.7 < elapsed_s < 8
    assert len(server.requests) == 1


@pytest.mark.parametrize("data", [SLOW_HEADERS, SLOW_BODY])
def test_a_dripping_read_ends_and_is_server_trouble(data: bytes, tmp_path: Path) -> None:
    with (
        ScriptedServer(_drip(data)) as server,
        client_for(server, timeouts=PATIENT_READS, patience=ONCE) as client,
    ):
        started = time.monotonic()
        with pytest.raises(ServerTroubleError):
            _retrieve(client, tmp_path)
    assert 0.7 < time.monotonic() - started < 8


def test_an_upload_that_is_taken_byte_by_byte_ends_and_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"x" * 16_000_000)
    timeouts = Timeouts(write_s=30, upload_read_s=0.5, upload_floor=16e6, grace_s=0.3)

    def sip(request: SeenRequest, connection: socket.socket) -> None:
        while connection.recv(512):
            time.sleep(0.02)

    with ScriptedServer(sip, reads="head") as server, client_for(server, timeouts=timeouts) as client:
        started = time.monotonic()
        outcome = client.upload(path, "a.jsonl")
    assert isinstance(outcome, Unknown)
    assert 1.5 < time.monotonic() - started < 10
    assert "no whole reply within 2 s" in outcome.problem.message


def test_an_upload_that_nobody_takes_ends_and_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"x" * 16_000_000)

    def script(request: SeenRequest, connection: socket.socket) -> None:
        server.silence()

    with (
        ScriptedServer(script, reads="head") as server,
        client_for(server, timeouts=Timeouts(write_s=0.3)) as client,
    ):
        outcome = client.upload(path, "a.jsonl")
    assert isinstance(outcome, Unknown)
    assert outcome.problem.message == "the server stopped taking data (timed out)"


def _drip_lines(request: SeenRequest, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"3\r\n{}\n\r\n")
        time.sleep(0.02)


def test_a_download_below_the_least_rate_ends_with_what_it_got(tmp_path: Path) -> None:
    timeouts = Timeouts(grace_s=0.5, download_floor=100_000)
    with ScriptedServer(_drip_lines) as server, client_for(server, timeouts=timeouts) as client:
        download = client.download("f", tmp_path / "x.part")
    assert download.lines > 0
    assert not download.is_whole
    assert (tmp_path / "x.part").read_bytes() == b"{}\n" * download.lines


def test_a_download_that_never_ends_is_ended(tmp_path: Path) -> None:
    timeouts = Timeouts(download_s=1.5)
    with ScriptedServer(_drip_lines) as server, client_for(server, timeouts=timeouts) as client:
        started = time.monotonic()
        download = client.download("f", tmp_path / "x.part")
    assert 1.4 < time.monotonic() - started < 12
    assert not download.is_whole
    assert download.lines > 0


def test_a_download_that_falls_silent_ends_with_what_it_got(tmp_path: Path) -> None:
    def script(request: SeenRequest, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}\n{}\r\n")
        server.silence()

    with ScriptedServer(script) as server, client_for(server, timeouts=Timeouts(read_s=1.5)) as client:
        download = client.download("f", tmp_path / "x.part")
    assert (download.lines, download.is_whole, download.size_bytes) == (2, False, 5)


def test_a_download_whose_headers_drip_is_ended(tmp_path: Path) -> None:
    with (
        ScriptedServer(_drip(SLOW_HEADERS)) as server,
        client_for(server, timeouts=PATIENT_READS, patience=ONCE) as client,
        pytest.raises(ServerTroubleError, match="no whole reply within"),
    ):
        client.download("f", tmp_path / "x.part")
    assert not (tmp_path / "x.part").exists()
