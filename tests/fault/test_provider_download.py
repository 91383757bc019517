"""Result files: whole lines on the disk, and an honest word about their end (modes 51 to 75)."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.model import Download
from runner.errors import LedgerError
from runner.provider import NotFoundYetError, ServerTroubleError
from tests.fault.provider_factories import (
    ScriptedServer,
    SeenRequest,
    always,
    chunked,
    client_for,
    one_after_another,
    reply,
)

LINES = b'{"custom_id":"a"}\n{"custom_id":"b"}\n'
TORN = b'{"custom_id":"c","respon'


def download(answer: bytes, target: Path, *, skip: int = 0) -> Download:
    with ScriptedServer(always(answer)) as server, client_for(server) as client:
        found = client.download("f", target, skip=skip)
    assert len(server.requests) == 1
    assert found.path == str(target)
    assert target.stat().st_size == found.size_bytes
    return found


@pytest.mark.parametrize(
    "whole", [reply(200, LINES), chunked(LINES), chunked(LINES[:5], LINES[5:30], LINES[30:])]
)
def test_a_whole_file_arrives_as_it_is(whole: bytes, tmp_path: Path) -> None:
    found = download(whole, tmp_path / "x.part")
    assert (found.lines, found.is_whole, found.size_bytes) == (2, True, len(LINES))
    assert (tmp_path / "x.part").read_bytes() == LINES


def test_an_empty_file_is_whole(tmp_path: Path) -> None:
    found = download(chunked(), tmp_path / "x.part")
    assert (found.lines, found.is_whole, found.size_bytes) == (0, True, 0)


@pytest.mark.parametrize(
    "cut",
    [reply(200, LINES + TORN + b"se"), chunked(LINES + TORN, ended=False), reply(200, LINES + TORN * 9)],
)
def test_a_cut_transfer_keeps_its_whole_lines(cut: bytes, tmp_path: Path) -> None:
    answer = cut[: cut.index(TORN) + len(TORN)]
    found = download(answer, tmp_path / "x.part")
    assert (found.lines, found.is_whole) == (2, False)
    assert (tmp_path / "x.part").read_bytes() == LINES


def test_a_torn_last_line_is_cut_off_even_if_the_transfer_says_it_is_whole(tmp_path: Path) -> None:
    found = download(reply(200, LINES + TORN), tmp_path / "x.part")
    assert (found.lines, found.is_whole, found.size_bytes) == (2, True, len(LINES))
    assert (tmp_path / "x.part").read_bytes() == LINES


@pytest.mark.parametrize(
    "answer", [reply(200, LINES[:-1]), chunked(LINES[:-1]), chunked(LINES[:-1], ended=False)]
)
def test_a_last_line_that_only_lacks_its_newline_counts(answer: bytes, tmp_path: Path) -> None:
    found = download(answer, tmp_path / "x.part")
    assert found.lines == 2
    assert (tmp_path / "x.part").read_bytes() == LINES[:-1]


@pytest.mark.parametrize("tail", [b"12", b'"text"', b"null", b"[1]"])
def test_a_last_line_that_is_no_object_counts_as_torn(tail: bytes, tmp_path: Path) -> None:
    assert download(chunked(LINES + tail), tmp_path / "x.part").lines == 2
    assert (tmp_path / "x.part").read_bytes() == LINES


def test_lines_end_at_the_newline_and_nowhere_else(tmp_path: Path) -> None:
    data = '{"a":"x\u2028y\u0085z\x0bq\x0cw\x1ce"}\r\n'.encode() + b'{"b":1}\n'
    found = download(chunked(data), tmp_path / "x.part")
    assert found.lines == 2
    assert (tmp_path / "x.part").read_bytes() == data


def test_a_body_whose_end_can_not_be_known_is_not_whole(tmp_path: Path) -> None:
    found = download(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n" + LINES, tmp_path / "x.part")
    assert (found.lines, found.is_whole) == (2, False)


@pytest.mark.parametrize(
    ("headers", "incomplete", "last_line"),
    [
        ({}, None, None),
        ({"x_incomplete": "true", "x_last_line": "41"}, True, 41),
        ({"x_incomplete": "False", "x_last_line": "0"}, False, 0),
        ({"x_incomplete": "perhaps", "x_last_line": "-1"}, None, None),
        ({"x_incomplete": "", "x_last_line": "9" * 40}, None, None),
    ],
)
def test_the_hints_in_the_headers(
    headers: dict[str, str], incomplete: bool | None, last_line: int | None, tmp_path: Path
) -> None:
    found = download(chunked(LINES, ended=True, **headers), tmp_path / "x.part", skip=39)
    assert (found.incomplete, found.last_line, found.skip) == (incomplete, last_line, 39)


def test_a_transfer_that_breaks_before_its_first_line_is_tried_again(tmp_path: Path) -> None:
    answers = one_after_another(chunked(TORN, ended=False), reply(503, b"busy"), b"", chunked(LINES))
    with ScriptedServer(answers) as server, client_for(server) as client:
        found = client.download("f", tmp_path / "x.part")
    assert (found.lines, found.is_whole, len(server.requests)) == (2, True, 4)


def test_a_transfer_that_never_brings_a_line_raises_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        ScriptedServer(always(chunked(TORN, ended=False))) as server,
        client_for(server) as client,
        pytest.raises(ServerTroubleError, match="broke off before its first line"),
    ):
        client.download("f", tmp_path / "x.part")
    assert not (tmp_path / "x.part").exists()
    assert len(server.requests) == 4


def test_a_web_page_is_not_a_result_file(tmp_path: Path) -> None:
    page = reply(200, b"<html>Sign in</html>", media_type="text/html; charset=utf-8")
    with (
        ScriptedServer(always(page)) as server,
        client_for(server) as client,
        pytest.raises(ServerTroubleError),
    ):
        client.download("f", tmp_path / "x.part")
    assert not (tmp_path / "x.part").exists()


def test_a_file_that_is_not_there_raises(tmp_path: Path) -> None:
    with (
        ScriptedServer(always(reply(404, b"File with ID f not found"))) as server,
        client_for(server) as client,
        pytest.raises(NotFoundYetError, match="File with ID f not found"),
    ):
        client.download("f", tmp_path / "x.part")
    assert len(server.requests) == 1


def test_a_download_is_private_and_never_goes_through_a_link(tmp_path: Path) -> None:
    download(chunked(LINES), tmp_path / "x.part")
    assert (tmp_path / "x.part").stat().st_mode & 0o777 == 0o600
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep me")
    (tmp_path / "y.part").symlink_to(precious)
    with (
        ScriptedServer(always(chunked(LINES))) as server,
        client_for(server) as client,
        pytest.raises(LedgerError),
    ):
        client.download("f", tmp_path / "y.part")
    assert precious.read_bytes() == b"keep me"


def test_an_older_part_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"z" * 1000)
    download(chunked(LINES), tmp_path / "x.part")
    assert (tmp_path / "x.part").read_bytes() == LINES


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with (
        ScriptedServer(always(chunked(LINES))) as server,
        client_for(server) as client,
        pytest.raises(LedgerError, match="No space left on device") as caught,
    ):
        client.download("f", Path("/dev/full"))
    assert "free disk space" in caught.value.next_step


def test_progress_counts_the_bytes(tmp_path: Path) -> None:
    seen: list[int] = []
    with ScriptedServer(always(chunked(LINES[:10], LINES[10:]))) as server, client_for(server) as client:
        client.download("f", tmp_path / "x.part", on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(LINES)


@settings(deadline=None, max_examples=40)
@given(
    lines=st.lists(
        st.sampled_from([b'{"a":1}', b'{"b":"\xe2\x80\xa8"}', b"{}", b'{"long":"' + b"x" * 300 + b'"}'])
    ),
    cut=st.integers(0, 2000),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5),
)
def test_wherever_a_transfer_is_cut_the_disk_holds_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: int, sizes: list[int]
) -> None:
    data = b"".join(line + b"\n" for line in lines)
    kept = data[:cut]
    pieces: list[bytes] = []
    start = 0
    while start < len(kept):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(kept[start : start + size])
        start += size
    target = tmp_path_factory.mktemp("cut") / "x.part"
    whole = kept.split(b"\n")[:-1]
    if kept.split(b"\n")[-1] in lines:
        whole.append(kept.split(b"\n")[-1])

    def script(request: SeenRequest, connection: socket.socket) -> None:
        connection.sendall(chunked(*pieces, ended=False))

    with ScriptedServer(script) as server, client_for(server) as client:
        if whole:
            found = client.download("f", target)
            assert (found.lines, found.is_whole) == (len(whole), False)
            assert target.read_bytes().removesuffix(b"\n").split(b"\n") == whole
        else:
            with pytest.raises(ServerTroubleError):
                client.download("f", target)
