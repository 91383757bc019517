"""A server whose certificate nobody vouches for gets neither the key nor the data (I32)."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from runner.core.model import ProblemKind, Refused, Unknown
from runner.provider import ApiKey, Client, Patience, ServerTroubleError, Timeouts
from tests.fault.provider_factories import KEY, ScriptedServer, SeenRequest, client_for, provider_at

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")


def _certificate(folder: Path) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=60
    )
    return key, certificate


def _server_context(folder: Path) -> ssl.SSLContext:
    key, certificate = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_a_self_signed_certificate_ends_the_call_before_anything_is_sent(tmp_path: Path) -> None:
    context = _server_context(tmp_path)
    seen: list[bytes] = []

    def script(request: SeenRequest, connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                seen.append(secure.recv(65536))
        except ssl.SSLError:
            seen.append(b"")

    server = ScriptedServer(script, reads="nothing")
    with server:
        base_url = server.base_url.replace("http:", "https:")
        with client_for(base_url, patience=Patience(attempts=1)) as client:
            outcome = client.create_batch("f", "/v1/chat/completions", "24h", {})
            with pytest.raises(ServerTroubleError, match=r"(?i)certificate"):
                client.retrieve_batch("b")
    assert isinstance(outcome, Refused)
    assert outcome.problem.kind is ProblemKind.UNREACHABLE
    assert seen == [b"", b""]


def test_a_dripping_reply_over_tls_ends_in_time(tmp_path: Path) -> None:
    context = _server_context(tmp_path)

    def script(request: SeenRequest, connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(b"HTTP/1.1 201 Created\r\n")
            while True:
                secure.sendall(b"x-y: z\r\n")
                time.sleep(0.05)

    trusting = httpx.HTTPTransport(
        verify=ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    )
    with ScriptedServer(script, reads="nothing") as server:
        provider = provider_at(server.base_url.replace("http:", "https:"))
        timeouts = Timeouts(call_s=0.8, read_s=30)
        with Client(provider, api_key=ApiKey(KEY), transport=trusting, timeouts=timeouts) as client:
            started = time.monotonic()
            outcome = client.create_batch("f", "/v1/chat/completions", "24h", {})
            elapsed_s = time.monotonic() - started
    assert isinstance(outcome, Unknown)
    assert outcome.problem.message == "no whole reply within 1 s"
    assert 0.7 < elapsed_s < 8
