"""A file of 200 MB whose upload or download breaks in the middle: no half is kept, what came is read on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.core.model import Accepted, ProviderSettings, Unknown
from runner.provider import ApiKey, Client, resolve
from tests.localserver_process import ServerProcess, chat_line, running_server

LINES, TEXT_BYTES = 400, 499_000
SIZE_BYTES = 199_000_000


@pytest.fixture(scope="module")
def input_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "input.jsonl"
    with path.open("wb") as file:
        for number in range(LINES):
            file.write(chat_line(f"k{number}", "TEXT").replace(b"TEXT", b"x" * TEXT_BYTES))
    assert path.stat().st_size > SIZE_BYTES
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with running_server(tmp_path / "server") as running:
        yield running


def client_of(server: ServerProcess) -> Client:
    settings = ProviderSettings(name="doubleword", base_url=server.base_url)
    return Client(resolve(settings), api_key=ApiKey("test-key"))


def test_transfers_that_break_in_the_middle_are_made_whole(
    server: ServerProcess, input_file: Path, tmp_path: Path
) -> None:
    size_bytes = input_file.stat().st_size
    server.arm("reset-upload", params={"after_bytes": size_bytes // 2})
    server.arm("abort-download", params={"after_bytes": size_bytes // 2})
    target = tmp_path / "content"
    with client_of(server) as client:
        broken = client.upload(input_file, "first.jsonl")
        assert isinstance(broken, Unknown), broken
        assert server.witness.uploads() == [], "nothing is kept of half an upload"
        assert list((server.state_dir / "files").iterdir()) == []
        whole = client.upload(input_file, "second.jsonl")
        assert isinstance(whole, Accepted), whole
        (kept,) = server.witness.uploads()
        assert (kept["size_bytes"], kept["requests"]) == (size_bytes, LINES)

        first = client.download(whole.object_id, target)
        assert not first.is_whole
        assert 0 < first.lines < LINES
        assert target.read_bytes().endswith(b"\n"), "what is kept ends with a whole line"
        begun = target.read_bytes()
        rest = client.download(whole.object_id, target, skip=first.lines)
        assert rest.is_whole
        assert first.lines + rest.lines == LINES
    found = [json.loads(line)["custom_id"] for line in (begun + target.read_bytes()).split(b"\n") if line]
    assert found == [f"k{number}" for number in range(LINES)]
