"""What an upload may hold: every rule of the server, in its order, with its words; all or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.localserver_process import ServerProcess, chat_line, multipart, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(
        tmp_path_factory.mktemp("server"), max_requests_per_file=5, max_body_bytes=3_000
    ) as running:
        yield running


def line(**change: Any) -> bytes:
    """A good line with fields replaced; a field given as None is left out."""
    value = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    } | change
    return json.dumps({key: item for key, item in value.items() if item is not None}).encode() + b"\n"


REFUSED = [
    (b"\xef\xbb\xbf" + line(), "Invalid JSON on line 1: "),
    (line() + b"{nonsense\n", "Invalid JSON on line 2: "),
    (b"\n\n" + line() + b"\n[]\n", "Invalid JSON on line 2: invalid type: sequence, expected struct"),
    (line(custom_id=None), "Invalid JSON on line 1: missing field `custom_id` at line 1 column "),
    (line(url=None), "Invalid JSON on line 1: missing field `url` at line 1 column "),
    (line(custom_id=5), "Invalid JSON on line 1: invalid type: integer `5`, expected a string"),
    (line()[:-2] + b',"url":"/v1/embeddings"}\n', "Invalid JSON on line 1: duplicate field `url`"),
    (line(custom_id="é" * 33), "Line 1: custom_id exceeds maximum length of 64 characters (got 66)"),
    (
        line(custom_id="a\nb"),
        "Line 1: custom_id contains invalid characters: must be valid ASCII without control characters",
    ),
    (
        line(method="GET", url="/x"),
        "Line 1: Unsupported HTTP method 'GET'. Only POST is currently supported.",
    ),
    (
        line(url="/v1/chat/completions/"),
        "Line 1: Unsupported URL path '/v1/chat/completions/'. Allowed paths are: ",
    ),
    (line(body={}), "Line 1: Missing 'model' field in request body"),
    (line(body="text"), "Line 1: Missing 'model' field in request body"),
    (line(body={"model": "m", "thinking": True}), "Line 1: Unsupported reasoning parameter 'thinking'"),
    (line(body={"model": "m", "reasoning_effort": "huge"}), "Line 1: Unsupported reasoning effort 'huge'"),
    (
        line(body={"model": "m", "x": "y" * 3_000}),
        "Line 1: Request body is 3020 bytes, which exceeds the maximum allowed size of 3000 bytes",
    ),
    (line() * 6, "File contains 6 requests, which exceeds the maximum of 5"),
    (line() * 9, "File contains 6 requests, which exceeds the maximum of 5"),
    (b'{"custom_id":"\xff"}\n', "File contains invalid UTF-8 on/near line 1 at byte offset 14: "),
    (line() + b"\xff\n", f"File contains invalid UTF-8 on/near line 2 at byte offset {len(line())}: "),
    (b" \n\t\r\n\xc2\xa0\n", "File contains no valid request templates"),
    (line(body={"model": "\ud800"}), "Invalid JSON on line 1: "),
    (line()[:-3] + b',"n":NaN}}\n', "Invalid JSON on line 1: "),
    (
        line()[:-3] + b',"n":' + b"[" * 130 + b"]" * 130 + b"}}\n",
        "Invalid JSON on line 1: recursion limit exceeded",
    ),
]


@pytest.mark.parametrize(("data", "words"), REFUSED, ids=[words[:60] for _, words in REFUSED])
def test_a_bad_line_refuses_the_whole_file_in_the_servers_words(
    server: ServerProcess, data: bytes, words: str
) -> None:
    before = len(server.witness.uploads())
    status, body = server.upload(data)
    assert (status, body.decode()[: len(words)]) == (400, words)
    assert len(server.witness.uploads()) == before


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (line(custom_id=""), 1),
        (line() * 2, 2),
        (line(method="pOsT"), 1),
        (line(custom_id="é" * 32), 1),
        (line(custom_id="tab\there"), 1),
        (line(url="/v1/embeddings"), 1),
        (line().replace(b"\n", b"\r\n") * 2, 2),
        (b"\n \n" + line() + b"\n\r\n" + line()[:-1], 2),
        ("\u2003".encode() + line()[:-1] + "\u3000\n".encode(), 1),
        (line()[:-1] + b"\xe2\x80", 1),
        (line(body={"model": "m", "stream": True, "messages": 5}), 1),
        (line(body={"model": "m", "text": "\u2028\u0085"}).replace(b"\\u2028", "\u2028".encode()), 1),
        (line(extra={"custom_id": 1, "url": 2}), 1),
        (line()[:-3] + b',"n":' + b"[" * 120 + b"]" * 120 + b"}}\n", 1),
    ],
)
def test_odd_but_legal_files_pass(server: ServerProcess, data: bytes, count: int) -> None:
    status, body = server.upload(data)
    assert status == 201, body
    file = json.loads(body)
    assert (file["bytes"], len(server.content(file["id"]))) == (len(data), count)


def test_a_refused_upload_leaves_nothing_on_disk(server: ServerProcess) -> None:
    before = set((server.state_dir / "files").iterdir())
    assert server.upload(line() + b"nonsense\n")[0] == 400
    assert set((server.state_dir / "files").iterdir()) == before


def test_fields_may_follow_the_file_and_an_expiry_is_kept(server: ServerProcess) -> None:
    body, content_type = multipart(line())
    edge = content_type.split("=")[1].encode()
    tail = b'--%b\r\nContent-Disposition: form-data; name="expires_after[seconds]"\r\n\r\n3600\r\n' % edge
    body = body.replace(b"\r\n--%b--\r\n" % edge, b"\r\n" + tail + b"--%b--\r\n" % edge)
    status, _, reply = server.call("POST", "/files", body=body, headers={"Content-Type": content_type})
    file = json.loads(reply)
    assert (status, file["expires_at"] - file["created_at"]) == (201, 3600)


def test_a_file_without_a_name_gets_one(server: ServerProcess) -> None:
    body, content_type = multipart(line())
    body = body.replace(b'; filename="input.jsonl"', b"")
    _, _, reply = server.call("POST", "/files", body=body, headers={"Content-Type": content_type})
    assert json.loads(reply)["filename"].startswith("upload-")


def test_a_large_upload_does_not_fill_the_memory(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        data = chat_line("a", "x" * 30_000) * 3_000
        assert len(data) > 90_000_000
        before = _peak_kb(server)
        assert server.upload(data)[0] == 201
        assert _peak_kb(server) - before < 40_000


def _peak_kb(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    (found,) = [entry for entry in status.read_text().split("\n") if entry.startswith("VmHWM:")]
    return int(found.split()[1])
