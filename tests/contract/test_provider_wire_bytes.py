"""The literal bytes of every request that we send, as they leave the socket.

Client and local server share a core and could misread the wire alike, so the bytes are pinned here.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from runner.core.model import Provider
from runner.provider import ApiKey, Client
from runner.provider.multipart import UploadForm
from runner.provider.profiles import DOUBLEWORD, GENERIC, LOCAL, OPENAI

EVERY_PROFILE = pytest.mark.parametrize("profile", [DOUBLEWORD, OPENAI, GENERIC, LOCAL], ids=lambda p: p.name)


@contextmanager
def recorded(profile: Provider, answer: bytes) -> Iterator[tuple[Client, Callable[[], bytes]]]:
    """A client, and the bytes of its one request: a socket that answers once and listens no more."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen = bytearray()

    def serve() -> None:
        connection, _ = listener.accept()
        listener.close()
        with connection:
            while not _is_whole(seen):
                seen.extend(connection.recv(65536))
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                % len(answer)
                + answer
            )

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with Client(replace(profile, base_url=base_url), api_key=ApiKey("sk-test-key", name="K")) as client:
        yield client, lambda: bytes(seen)
    thread.join(10)


def _is_whole(seen: bytearray) -> bool:
    head, blank, body = bytes(seen).partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return bool(blank) and len(body) >= (lengths[0] if lengths else 0)


def head(request_line: str, port: str, *extra: str, accept: str = "application/json") -> list[bytes]:
    lines = [
        request_line,
        f"Host: 127.0.0.1:{port}",
        f"User-Agent: runner/{version('runner')}",
        f"Accept: {accept}",
        "Accept-Encoding: identity",
        "Connection: close",
        "Authorization: Bearer sk-test-key",
        *extra,
    ]
    return sorted(line.encode().lower() if ":" in line[:20] else line.encode() for line in lines)


def sent_head(raw: bytes) -> tuple[list[bytes], str, bytes]:
    """The lines of a head in lower case (but the request line), sorted; the port; the body."""
    top, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = top.split(b"\r\n")
    port = next(line for line in lines if line.lower().startswith(b"host:")).rpartition(b":")[2].decode()
    return sorted([first, *(line.lower() for line in lines)]), port, body


@EVERY_PROFILE
def test_create_batch(profile: Provider) -> None:
    with recorded(profile, b'{"id":"batch_1"}') as (client, seen):
        client.create_batch(
            "file-1", "/v1/chat/completions", "24h", {"runner-run": "ab", "runner-slot": "0001"}
        )
    lines, port, body = sent_head(seen())
    assert body == (
        b'{"input_file_id":"file-1","endpoint":"/v1/chat/completions","completion_window":"24h",'
        b'"metadata":{"runner-run":"ab","runner-slot":"0001"}}'
    )
    assert lines == head(
        "POST /v1/batches HTTP/1.1", port, "Content-Type: application/json", f"Content-Length: {len(body)}"
    )


def form_bytes(boundary: bytes, *, expires: bool) -> bytes:
    field = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    life = field % (boundary, b"expires_after[anchor]", b"created_at")
    life += field % (boundary, b"expires_after[seconds]", b"86400")
    return (
        field % (boundary, b"purpose", b"batch")
        + (life if expires else b"")
        + b'--%b\r\nContent-Disposition: form-data; name="file"; filename="runner-ab-s0001.jsonl"\r\n'
        % boundary
        + b"Content-Type: application/jsonl\r\n\r\n"
        + b'{"custom_id":"a"}\n\r\n--%b--\r\n' % boundary
    )


@EVERY_PROFILE
@pytest.mark.parametrize("expires", [False, True])
def test_upload(profile: Provider, expires: bool, tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b'{"custom_id":"a"}\n')
    with recorded(profile, b'{"id":"file-1"}') as (client, seen):
        client.upload(path, "runner-ab-s0001.jsonl", expires_after_s=86400 if expires else None)
    lines, port, body = sent_head(seen())
    media_type = next(line for line in lines if line.startswith(b"content-type:")).decode()
    boundary = media_type.partition("boundary=")[2].encode()
    assert body == form_bytes(boundary, expires=expires)
    assert lines == head(
        "POST /v1/files HTTP/1.1",
        port,
        f"Content-Type: multipart/form-data; boundary={boundary.decode()}",
        f"Content-Length: {len(body)}",
    )


def test_a_form_is_as_long_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"x" * 200_001)
    progress: list[int] = []
    with path.open("rb") as source:
        form = UploadForm(source, "a.jsonl", on_progress=progress.append, boundary="edge")
        body = b"".join(form.pieces())
    assert len(body) == form.size_bytes == int(form.headers["Content-Length"])
    assert progress == [65536, 131072, 196608, 200_001]


@pytest.mark.parametrize("filename", ["", 'a".jsonl', "a\r\nb", "../a", "ä.jsonl", "x" * 201])
def test_a_filename_that_would_need_quoting_is_not_sent(filename: str, tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"{}\n")
    with (
        Client(replace(OPENAI, base_url="http://127.0.0.1:9"), api_key=None) as client,
        pytest.raises(ValueError),
    ):
        client.upload(path, filename)


@EVERY_PROFILE
@pytest.mark.parametrize(
    ("act", "line", "extra"),
    [
        (lambda c: c.retrieve_batch("b-1"), "GET /v1/batches/b-1 HTTP/1.1", []),
        (lambda c: c.cancel_batch("b-1"), "POST /v1/batches/b-1/cancel HTTP/1.1", ["Content-Length: 0"]),
        (lambda c: c.retrieve_file("f-1"), "GET /v1/files/f-1 HTTP/1.1", []),
        (lambda c: c.delete_file("f-1"), "DELETE /v1/files/f-1 HTTP/1.1", []),
    ],
)
def test_calls_about_one_object(
    profile: Provider, act: Callable[[Client], object], line: str, extra: list[str]
) -> None:
    with recorded(profile, b'{"id":"b-1","deleted":true}') as (client, seen):
        act(client)
    lines, port, body = sent_head(seen())
    assert (lines, body) == (head(line, port, *extra), b"")


@EVERY_PROFILE
def test_listings_search_only_where_the_provider_can(profile: Provider) -> None:
    with recorded(profile, b'{"data":[],"has_more":false}') as (client, seen):
        assert client.list_batches(search="ab12").is_complete
    lines, port, _ = sent_head(seen())
    query = "limit=100&search=ab12" if profile.searches else "limit=100"
    assert lines == head(f"GET /v1/batches?{query} HTTP/1.1", port)


@EVERY_PROFILE
def test_downloads_skip_only_where_the_provider_can(profile: Provider, tmp_path: Path) -> None:
    with recorded(profile, b'{"custom_id":"a"}\n') as (client, seen):
        download = client.download("f-1", tmp_path / "x.part", skip=7)
    lines, port, _ = sent_head(seen())
    query = "?skip=7" if profile.reads_partial else ""
    assert lines == head(f"GET /v1/files/f-1/content{query} HTTP/1.1", port, accept="*/*")
    assert download.skip == (7 if profile.reads_partial else 0)


def test_without_a_key_no_authorization_is_sent() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.close()
    with recorded(LOCAL, b'{"data":[{"id":"m"}]}') as (client, seen):
        base = client.provider
        with Client(base, api_key=None) as keyless:
            assert keyless.models() == ("m",)
    assert b"authorization" not in seen().lower()
