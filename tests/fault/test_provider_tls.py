"""A server whose certificate nobody vouches for gets neither the key nor the data (I32)."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from runner.core.model import ProblemKind, Refused
from runner.provider import Patience, ServerTroubleError
from tests.fault.provider_factories import ScriptedServer, SeenRequest, client_for

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")


def _certificate(folder: Path) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=60
    )
    return key, certificate


def test_a_self_signed_certificate_ends_the_call_before_anything_is_sent(tmp_path: Path) -> None:
    key, certificate = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    seen: list[bytes] = []

    def script(request: SeenRequest, connection: object) -> None:
        assert hasattr(connection, "recv")
        try:
            with context.wrap_socket(connection, server_side=True) as secure:  # type: ignore[arg-type]
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
