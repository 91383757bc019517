"""Texts from servers and data: harmless on a terminal, never a path, never code, whole in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fault.run_hostile_server import Batch, HostileServer, Look, answer, failure, lines, well
from tests.project_factory import Done, Project

ESCAPE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\r\nfake: done\x08"
QUOTES = "Robert'); DROP TABLE request;-- \" %s {0} {{ 7*7 }} $(id) `id` \0"
COMMANDS = (("status",), ("explain", "k0"), ("explain", "k1"), ("history",), ("plan",), ("results",))


def looks(project: Project) -> list[Done]:
    path = str(project.manifest_path)
    return [project.call(word, path, *rest) for word, *rest in COMMANDS]


def is_harmless(done: list[Done]) -> None:
    for one in done:
        assert "Traceback" not in one.stderr
        for sign in ("\x1b", "\x9b", "\u202e", "\x07", "\x08", "\0", "\r"):
            assert sign not in one.stderr, one.stderr
            assert sign not in one.stdout, one.stdout


def nasty(batch: Batch, _look: int) -> Look:
    """Control signs in every text that a server can write."""
    first, *others = batch.requests
    finished = [answer(request, model=ESCAPE, id=ESCAPE) for request in others]
    for line in finished:
        line["response"]["body"]["choices"][0]["finish_reason"] = ESCAPE + QUOTES
        line["id"] = ESCAPE
    return Look(
        output=lines(*finished),
        error=lines(failure(first, code=ESCAPE + QUOTES, message=ESCAPE + QUOTES)),
        fields={"status": "completed", "errors": ESCAPE, "object": ESCAPE, "endpoint": ESCAPE},
    )


def test_no_text_of_a_server_reaches_the_terminal_as_it_came(tmp_path: Path) -> None:
    with HostileServer(nasty) as server:
        project = server.project(tmp_path / "p", 3, retry={"attempts": 1})
        run = project.call("run", str(project.manifest_path))
        assert run.code == 3, run.stderr
        is_harmless([run, *looks(project)])
    assert [row["_status"] for row in project.results()] == ["failed", "succeeded", "succeeded"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500])
def test_no_refusal_reaches_the_terminal_as_it_came(tmp_path: Path, status: int) -> None:
    body = b'{"error":{"message":"' + b"\\u001b[2J\\u009b31m\\u202e\\u0000\\r" + b'","code":"\\u001b[1m"}}'
    with HostileServer(well, created=lambda batch: (status, body)) as server:
        project = server.project(tmp_path / "p", 2)
        run = project.call("run", str(project.manifest_path), "--wait", "2")
        assert run.code in (0, 4, 75), run.stderr  # a 500 may have bought: the batch is looked for and found
        is_harmless([run, *looks(project)])


def test_live_words_of_a_batch_are_harmless_too(tmp_path: Path) -> None:
    def script(batch: Batch, look: int) -> Look:
        return Look(fields={"status": ESCAPE}) if look < 4 else well(batch, look)

    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", 2)
        run = project.call("run", str(project.manifest_path))
        assert run.code == 0, run.stderr
        is_harmless([run, *looks(project)])


CANARIES = (
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "../../../../tmp/owned",
    '=HYPERLINK("http://x")',
    "__import__('os').system('touch owned')",
    QUOTES.replace("\0", ""),
    "$(touch owned)",
)


def test_answers_are_data_and_come_back_sign_for_sign(tmp_path: Path) -> None:
    def script(batch: Batch, _look: int) -> Look:
        tool: dict[str, Any] = {"id": "t", "type": "function", "function": {"name": "rm", "arguments": "{}"}}
        given = zip(batch.requests, CANARIES, strict=True)
        found = [answer(request, text) for request, text in given]
        found[0]["response"]["body"]["choices"][0]["message"]["tool_calls"] = [tool]
        return Look(output=lines(*found))

    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", len(CANARIES))
        before = {path.name for path in tmp_path.rglob("*")}
        assert project.run().code == 0
        is_harmless(looks(project))
        assert not any(line.startswith("GET /tmp") for line in server.seen)
    assert [row["_answer"] for row in project.results()] == list(CANARIES)
    new = {path.name for path in tmp_path.rglob("*")} - before
    assert "owned" not in new
