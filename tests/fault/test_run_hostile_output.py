"""Whatever a server says of a batch and writes into its files, each row ends in its named outcome."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import runner
from runner.commands.moments import Finished, Moment, Silent
from tests.fault.run_factories import complete, rows_of
from tests.fault.run_hostile_server import (
    Batch,
    HostileServer,
    Look,
    Script,
    answer,
    failure,
    good,
    lines,
    well,
)
from tests.project_factory import Done, Project

pytestmark = pytest.mark.usefixtures("lent_duckdb")

SUCCEEDED, UNACCOUNTED = "succeeded", "unaccounted"
ROWS = 4


class Notes(Silent):
    """Keeps every moment."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []

    def tell(self, moment: Moment) -> None:
        self.moments.append(moment)


def go(project: Project, notes: Notes | None = None) -> Finished:
    finished = runner.run(project.manifest_path, reporter=notes or Notes())
    assert finished is not None
    return finished


def judged(project: Project, statuses: Sequence[str]) -> list[dict[str, Any]]:
    """The table: every row once, in order, with these outcomes, and each answer its own."""
    results = project.results()
    assert [row["id"] for row in results] == [row["id"] for row in rows_of(len(statuses))]
    assert [row["_status"] for row in results] == list(statuses)
    for row in results:
        if row["_status"] == SUCCEEDED:
            assert f"answer to {row['text']}" in row["_answer"]
        else:
            assert row["_error_class"], row
    return results


def only_first(script: Script) -> Script:
    """Hostile to the first batch; those that ask again are answered well."""
    return lambda batch, look: script(batch, look) if batch.number == 1 else well(batch, look)


def done(output: bytes | None, error: bytes | None = None, **fields: Any) -> Look:
    return Look(output=output, error=error, fields=fields)


def shuffled(batch: Batch) -> bytes:
    values = [answer(request) for request in batch.requests]
    random.Random(7).shuffle(values)
    return lines(*values)


def with_extra(batch: Batch, *extra: object) -> bytes:
    return lines(*extra) + good(batch) + lines(*extra)


def stranger(**fields: Any) -> dict[str, Any]:
    return {**answer({"custom_id": "x", "body": {"messages": [{"content": "stranger"}]}}), **fields}


# ---------------------------------------------------------------- every row is answered all the same

HARMLESS: dict[str, Script] = {
    "lines in another order": lambda batch, _: done(shuffled(batch)),
    "every line twice": lambda batch, _: done(good(batch) + good(batch)),
    "a second answer that differs": lambda batch, _: done(
        good(batch) + lines(*(answer(request, "wrong") for request in batch.requests))
    ),
    "an unknown custom_id": lambda batch, _: done(with_extra(batch, stranger(custom_id="k0-unknown"))),
    "a custom_id that is null": lambda batch, _: done(with_extra(batch, stranger(custom_id=None))),
    "a custom_id that is a number": lambda batch, _: done(with_extra(batch, stranger(custom_id=7))),
    "a custom_id that is empty": lambda batch, _: done(with_extra(batch, stranger(custom_id=""))),
    "no custom_id at all": lambda batch, _: done(with_extra(batch, {"id": "x"})),
    "lines that are no objects": lambda batch, _: done(with_extra(batch, 7, None, [], "text", True)),
    "lines that are no JSON": lambda batch, _: done(with_extra(batch, b"{torn\n", b"\xff\xfe\n", b"NaN\n")),
    "blank lines": lambda batch, _: done(with_extra(batch, b"\n", b"  \r\n", b"\n\n")),
    "carriage returns": lambda batch, _: done(good(batch).replace(b"\n", b"\r\n")),
    "a last line without its newline": lambda batch, _: done(good(batch).removesuffix(b"\n")),
    "deep nesting": lambda batch, _: done(with_extra(batch, b"[" * 100_000 + b"]" * 100_000 + b"\n")),
    "a byte order mark": lambda batch, _: done(lines(b"\xef\xbb\xbf\n") + good(batch)),
    "an error beside each answer": lambda batch, _: done(good(batch), lines(*map(failure, batch.requests))),
    "an error before each answer": lambda batch, _: done(lines(*map(failure, batch.requests)) + good(batch)),
    "counts of nothing": lambda batch, _: done(
        good(batch), request_counts={"total": 0, "completed": 0, "failed": 0}
    ),
    "counts beyond all measure": lambda batch, _: done(
        good(batch), request_counts={"total": 10**30, "completed": -5, "failed": 10**9}
    ),
    "counts that are null": lambda batch, _: done(good(batch), request_counts=None),
    "counts of words": lambda batch, _: done(
        good(batch), request_counts={"total": "4", "completed": 4.0, "failed": [], "x": {}}
    ),
    "a word in capitals": lambda batch, _: done(good(batch), status="COMPLETED"),
    "another word for the end": lambda batch, _: done(good(batch), status="succeeded"),
    "a word nobody knows": lambda batch, _: done(good(batch), status="wibble"),
    "no word at all": lambda batch, _: done(good(batch), status=None),
    "a word that is a number": lambda batch, _: done(good(batch), status=3),
    "failed, and all is there": lambda batch, _: done(good(batch), status="failed"),
    "cancelled, and all is there": lambda batch, _: done(good(batch), status="cancelled"),
    "expired, and all is there": lambda batch, _: done(good(batch), status="expired"),
    "an error file id that is empty": lambda batch, _: done(good(batch), error_file_id=""),
    "an error file id that is an object": lambda batch, _: done(good(batch), error_file_id={}),
    "an error file that does not exist": lambda batch, _: done(good(batch), error_file_id="gone"),
    "errors that are no list": lambda batch, _: done(good(batch), errors="odd"),
    "metadata that is a list": lambda batch, _: done(good(batch), metadata=["odd"]),
    "times that are words": lambda batch, _: done(good(batch), created_at="now", expires_at="soon"),
    "odd usage": lambda batch, _: done(
        lines(*(answer(request, usage={"prompt_tokens": "many"}) for request in batch.requests))
    ),
    "usage beyond 64 bits": lambda batch, _: done(
        lines(*(answer(request, usage={"prompt_tokens": 10**40}) for request in batch.requests))
    ),
    "a model that is a list": lambda batch, _: done(
        lines(*(answer(request, model=["m"]) for request in batch.requests))
    ),
    "an id that is an object": lambda batch, _: done(
        lines(*({**answer(request), "id": {"x": 1}} for request in batch.requests))
    ),
    "no status code": lambda batch, _: done(
        lines(
            *(
                {**answer(one), "response": {"body": answer(one)["response"]["body"]}}
                for one in batch.requests
            )
        )
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_row_gets_its_own_answer_whatever_else_the_server_sends(tmp_path: Path, name: str) -> None:
    with HostileServer(HARMLESS[name]) as server:
        project = server.project(tmp_path / "p", ROWS)
        finished = go(project)
    assert (finished.exit_code, finished.succeeded) == (0, ROWS)
    assert len(server.batches) == 1
    results = judged(project, [SUCCEEDED] * ROWS)
    assert all("wrong" not in row["_answer"] for row in results)


@pytest.mark.parametrize(
    "text",
    [
        "line\u2028separator\u2029paragraph\u0085next",
        "nul \0 inside",
        "\ufeffmark",
        'quote " backslash \\ newline \n tab \t',
        "🙂" * 300,
        "=1+1",
    ],
)
def test_an_answer_keeps_every_character(tmp_path: Path, text: str) -> None:
    script: Script = lambda batch, _: done(  # noqa: E731
        lines(*(answer(request, text + request["custom_id"]) for request in batch.requests))
    )
    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", ROWS)
        assert go(project).exit_code == 0
    assert [row["_answer"] for row in project.results()] == [
        text + row["_custom_id"] for row in project.results()
    ]


def test_an_answer_with_broken_characters_is_mended_and_kept(tmp_path: Path) -> None:
    def script(batch: Batch, _look: int) -> Look:
        first, second, *rest = batch.requests
        surrogate = json.dumps(answer(first, "SUR")).replace("SUR", "a\\ud800b").encode() + b"\n"
        invalid = json.dumps(answer(second, "INV")).encode().replace(b"INV", b"a\xff\xfeb") + b"\n"
        return done(surrogate + invalid + lines(*map(answer, rest)))

    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", 3)
        assert go(project).exit_code == 0
    assert [row["_answer"][0] for row in project.results()] == ["a", "a", "a"]
    assert "\ufffd" in project.results()[0]["_answer"]


def test_lines_that_match_nothing_are_kept_as_they_came(tmp_path: Path) -> None:
    odd = [b'{"custom_id":"k9-0123456789abcdef","response":null}', b"{torn", b"\xff\xfe"]
    with HostileServer(lambda batch, _: done(with_extra(batch, *(line + b"\n" for line in odd)))) as server:
        project = server.project(tmp_path / "p", ROWS)
        assert go(project).exit_code == 0
    kept = project.ledger(
        "SELECT raw_path, offset, length, reason FROM quarantine JOIN file ON file.id = quarantine.file_id"
    )
    bytes_kept = {
        (project.folder / ".runner" / path).read_bytes()[offset : offset + length]
        for path, offset, length, _reason in kept
    }
    assert bytes_kept == set(odd)
    assert all(reason for *_place, reason in kept)


def test_another_shards_answers_are_never_taken(tmp_path: Path) -> None:
    """The first batch's file also holds wrong answers to the requests of the second."""

    def script(batch: Batch, _look: int) -> Look:
        others = [one for other in server.batches if other is not batch for one in other.requests]
        return done(lines(*(answer(one, "wrong") for one in others)) + good(batch))

    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", ROWS, shards=2)
        assert go(project).exit_code == 0
    judged(project, [SUCCEEDED] * ROWS)


# ---------------------------------------------------------------- rows that have no answer


def all_but_last(batch: Batch) -> bytes:
    return lines(*map(answer, batch.requests[:-1]))


def last_line(batch: Batch, **replaced: Any) -> bytes:
    return all_but_last(batch) + lines({**answer(batch.requests[-1]), **replaced})


def last_body(batch: Batch, body: Any, status_code: int = 200) -> bytes:
    return last_line(batch, response={"status_code": status_code, "body": body})


EXPIRED_ERROR = {"code": "batch_expired", "message": "This request could not be executed in time."}
TOKEN_LIMIT = {
    "object": "list",
    "data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit"}],
}
LACKING: dict[str, tuple[Script, str, str]] = {
    "in neither file": (lambda batch, _: done(all_but_last(batch)), UNACCOUNTED, "unaccounted"),
    "a torn last line": (
        lambda batch, _: done(good(batch)[:-20]),
        UNACCOUNTED,
        "unaccounted",
    ),
    "a line that is no JSON": (
        lambda batch, _: done(all_but_last(batch) + b'{"custom_id": broken}\n'),
        UNACCOUNTED,
        "unaccounted",
    ),
    "a body that is a string": (lambda batch, _: done(last_body(batch, "sorry")), "failed", "unusable_body"),
    "a body that is null": (lambda batch, _: done(last_body(batch, None)), "failed", "unusable_body"),
    "a body that is empty": (lambda batch, _: done(last_body(batch, {})), "failed", "unusable_body"),
    "a body without choices": (
        lambda batch, _: done(last_body(batch, {"choices": []})),
        "failed",
        "unusable_body",
    ),
    "content that is null": (
        lambda batch, _: done(last_body(batch, {"choices": [{"message": {"content": None}}]})),
        "failed",
        "unusable_body",
    ),
    "a response that is null": (
        lambda batch, _: done(last_line(batch, response=None)),
        "failed",
        "unusable_body",
    ),
    "a 4xx in the output file": (
        lambda batch, _: done(last_body(batch, {"error": {"message": "no", "code": "bad"}}, 400)),
        "failed",
        "invalid_request",
    ),
    "expired, the rest in the error file": (
        lambda batch, _: done(
            all_but_last(batch), lines(failure(batch.requests[-1], **EXPIRED_ERROR)), status="expired"
        ),
        "expired",
        "expired",
    ),
    "expired, the rest nowhere": (
        lambda batch, _: done(all_but_last(batch), status="expired"),
        "expired",
        "expired",
    ),
    "cancelled in the middle": (
        lambda batch, _: done(all_but_last(batch), status="cancelled"),
        "cancelled",
        "cancelled",
    ),
    "an answer withheld by a filter": (
        lambda batch, _: done(
            last_body(batch, {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]})
        ),
        "refused",
        "content_filter",
    ),
}


@pytest.mark.parametrize("name", LACKING)
def test_a_row_without_an_answer_ends_in_its_named_outcome(tmp_path: Path, name: str) -> None:
    script, status, error_class = LACKING[name]
    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", ROWS, retry={"attempts": 1})
        finished = go(project)
    assert finished.exit_code == 3
    assert len(server.batches) == 1
    results = judged(project, [*[SUCCEEDED] * (ROWS - 1), status])
    assert results[-1]["_error_class"] == error_class


@pytest.mark.parametrize(
    "name", ["in neither file", "a torn last line", "expired, the rest nowhere", "cancelled in the middle"]
)
def test_a_cause_that_may_pass_is_asked_again_alone(tmp_path: Path, name: str) -> None:
    with HostileServer(only_first(LACKING[name][0])) as server:
        project = server.project(tmp_path / "p", ROWS)
        assert go(project).exit_code == 0
    assert [len(batch.requests) for batch in server.batches] == [ROWS, 1]
    assert judged(project, [SUCCEEDED] * ROWS)[-1]["_attempts"] == 2


def test_a_batch_that_failed_whole_is_sent_again_and_says_why_in_the_end(tmp_path: Path) -> None:
    def script(batch: Batch, _look: int) -> Look:
        counts = {"total": 0, "completed": 0, "failed": 0}
        return done(None, status="failed", errors=TOKEN_LIMIT, request_counts=counts)

    with HostileServer(only_first(script)) as server:
        project = server.project(tmp_path / "first", ROWS)
        assert go(project).exit_code == 0
        judged(project, [SUCCEEDED] * ROWS)
        assert len(server.batches) == 2
    errors = {"object": "list", "data": [{"code": "server_busy", "message": "no machine was free"}]}

    def always(batch: Batch, _look: int) -> Look:
        return done(None, status="failed", errors=errors, request_counts={"total": ROWS})

    with HostileServer(always) as server:
        project = server.project(tmp_path / "always", ROWS)
        assert go(project).exit_code == 3
    assert len(server.batches) == 3
    results = judged(project, ["failed"] * ROWS)
    assert "no machine was free" in results[0]["_error_message"]


def test_a_whole_batch_in_the_error_file_is_no_success(tmp_path: Path) -> None:
    script: Script = lambda batch, _: done(None, lines(*map(failure, batch.requests)))  # noqa: E731
    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", ROWS, retry={"attempts": 1})
        assert go(project).exit_code == 3
    judged(project, ["failed"] * ROWS)


# ---------------------------------------------------------------- what comes later

LATER: dict[str, Script] = {
    "the output file's id": lambda batch, look: well(batch, look) if look > 2 else done(None),
    "the output file's content": lambda batch, look: done(good(batch) if look > 2 else b""),
    "the last line": lambda batch, look: done(good(batch) if look > 2 else all_but_last(batch)),
    "the end of the last line": lambda batch, look: done(good(batch) if look > 2 else good(batch)[:-9]),
    "a success after an error": lambda batch, look: (
        well(batch, look) if look > 2 else done(all_but_last(batch), status="in_progress")
    ),
    "words that say it goes on": lambda batch, look: (
        well(batch, look) if look > 1 else done(None, status="PROGRESS", request_counts=None)
    ),
    "a batch object that is no object": lambda batch, look: (
        well(batch, look) if look > 2 else Look(reply=(200, b"[]"))
    ),
    "a batch object without an id": lambda batch, look: (
        well(batch, look) if look > 2 else Look(reply=(200, b'{"status":"completed"}'))
    ),
    "a web page for a while": lambda batch, look: (
        well(batch, look) if look > 2 else Look(reply=(200, b"<html>maintenance</html>"))
    ),
    "a 404 for a while": lambda batch, look: (
        well(batch, look) if look > 2 else Look(reply=(404, b'{"error":{"message":"no such batch"}}'))
    ),
    "a 500 for a while": lambda batch, look: well(batch, look) if look > 2 else Look(reply=(500, b"")),
}


@pytest.mark.parametrize("name", LATER)
def test_what_comes_late_is_waited_for(tmp_path: Path, name: str) -> None:
    with HostileServer(LATER[name]) as server:
        project = server.project(tmp_path / "p", ROWS)
        assert go(project).exit_code == 0
    assert len(server.batches) == 1
    judged(project, [SUCCEEDED] * ROWS)


# ---------------------------------------------------------------- ids that lead elsewhere


@pytest.mark.parametrize(
    "file_id", ["../../../../etc/passwd", "/etc/passwd", "a/b", "x" * 5000, "%2e%2e", "..", "with space", "é"]
)
def test_an_id_that_could_lead_elsewhere_is_never_followed(tmp_path: Path, file_id: str) -> None:
    with HostileServer(lambda batch, look: done(None, output_file_id=file_id)) as server:
        project = server.project(tmp_path / "p", 2, retry={"attempts": 1})
        assert go(project).exit_code == 3
    judged(project, [UNACCOUNTED] * 2)
    assert {path.name for path in tmp_path.iterdir()} <= {"p", "home"}
    assert not list((project.folder / ".runner" / "raw").iterdir())


# ---------------------------------------------------------------- creates and listings


def test_a_create_that_answers_without_an_id_is_found_in_the_listing(tmp_path: Path) -> None:
    with HostileServer(created=lambda batch: (200, b'{"status":"ok"}')) as server:
        project = server.project(tmp_path / "p", ROWS)
        assert go(project).exit_code == 0
    assert len(server.batches) == 1
    judged(project, [SUCCEEDED] * ROWS)


def test_a_server_that_drops_metadata_is_searched_by_input_file(tmp_path: Path) -> None:
    def listed(found: list[dict[str, Any]], _query: str) -> Any:
        return {"data": [{**one, "metadata": None} for one in found], "has_more": False}

    with HostileServer(created=lambda batch: (500, b"oops"), listed=listed) as server:
        project = server.project(tmp_path / "p", ROWS)
        assert go(project).exit_code == 0
    assert len(server.batches) == 1
    judged(project, [SUCCEEDED] * ROWS)


LISTINGS = {
    "never ends": lambda found, query: {"data": [{"id": "other"}], "has_more": True},
    "is empty and has more": lambda found, query: {"data": [], "has_more": True},
    "shows nothing": lambda found, query: {"data": [], "has_more": False},
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_create_that_nothing_proves_is_held_and_never_repeated(tmp_path: Path, name: str) -> None:
    with HostileServer(created=lambda batch: (502, b"<html>"), listed=LISTINGS[name]) as server:
        project = server.project(tmp_path / "p", ROWS)
        for _ in range(2):
            done = project.run()
            assert done.code == 4, (done.stdout, done.stderr)
            assert "bought twice" in done.stderr
        assert len(server.batches) == 1
        assert [row["_status"] for row in project.results()] == ["pending"] * ROWS
        server.listed = None
        assert project.run().code == 0
    judged(project, [SUCCEEDED] * ROWS)
    assert len(server.batches) == 1


def beside(project: Project, *options: str, name: str = "other.yaml") -> Done:
    """A run of another manifest that wants the same requests."""
    manifest = {**project.manifest, "name": "other", "output": {"path": "other.jsonl"}}
    (project.folder / name).write_text(yaml.safe_dump(manifest))
    return project.call("run", name, "--json", *options, cwd=project.folder)


@pytest.mark.parametrize("is_killed", [False, True], ids=["held by its own run", "held by the other one"])
def test_rows_that_wait_for_a_held_shard_of_another_manifest_say_which_and_how_to_decide(
    tmp_path: Path, is_killed: bool
) -> None:
    """The first run ends with its shard held, or is killed before it comes so far."""
    with HostileServer(created=lambda batch: (502, b"<html>"), listed=LISTINGS["shows nothing"]) as server:
        project = server.project(tmp_path / "p", ROWS)
        if is_killed:
            project.environ["RUNNER_FAILPOINT"] = "create.answered"
        assert project.run().code == (-9 if is_killed else 4)
        project.environ.pop("RUNNER_FAILPOINT", None)
        for options in ([], [], ["--detach"], ["--limit", "1"]):
            done = beside(project, *options)
            assert done.code == 4, (options, done.stdout, done.stderr)
            assert "manifest.yaml, shard 0: a create was sent" in done.stderr
            assert "`run resolve manifest.yaml` shows" in done.stderr
            assert done.event("finished")["exit_code"] == 4
        assert len(server.batches) == 1
        server.listed = None
        assert project.run().code == 0
        assert beside(project).code == 0
        assert len(server.batches) == 1, "found, and bought once for both"


def test_a_held_refresh_of_another_manifest_keeps_nobody_from_the_answers_that_are_there(
    tmp_path: Path,
) -> None:
    with HostileServer(listed=LISTINGS["shows nothing"]) as server:
        project = server.project(tmp_path / "p", ROWS)
        assert project.run().code == 0
        server.created = lambda batch: (502, b"<html>")
        assert project.run("--refresh").code == 4
        assert beside(project).code == 0


def test_a_refused_shard_says_so_and_the_others_are_collected(tmp_path: Path) -> None:
    def created(batch: Batch) -> tuple[int, bytes] | None:
        refused = b'{"error":{"message":"line 2 is too odd","code":"invalid_request"}}'
        return (400, refused) if batch.ids[0].startswith("k2-") else None

    with HostileServer(created=created) as server:
        project = server.project(tmp_path / "p", ROWS, shards=2)
        done = project.run()
        assert done.code == 4
        assert "line 2 is too odd" in done.stderr
        assert [row["_status"] for row in project.results()] == [SUCCEEDED] * 2 + ["pending"] * 2
        server.created = lambda batch: None
        assert project.run().code == 0
    judged(project, [SUCCEEDED] * ROWS)
    assert [batch.ids[0][:2] for batch in server.batches] == ["k0", "k2"]


def test_a_batch_that_the_server_forgot_is_held_and_collected_when_it_is_back(tmp_path: Path) -> None:
    missing = Look(reply=(404, b'{"error":{"message":"no such batch"}}'))
    with HostileServer(lambda batch, look: missing) as server:
        project = server.project(tmp_path / "p", 2)
        done = project.run()
        assert done.code == 4, (done.stdout, done.stderr)
        assert "no longer knows" in done.stderr
        server.script = well
        assert project.run().code == 0
    assert len(server.batches) == 1
    judged(project, [SUCCEEDED] * 2)


# ---------------------------------------------------------------- another batch's object


def test_what_is_told_of_another_batch_answers_nothing_of_this_one(tmp_path: Path) -> None:
    """A retry's batch has the custom_ids of the first: what stands in that one's files is no answer here."""
    told: list[str] = []

    def script(batch: Batch, _look: int) -> Look:
        counts = {"request_counts": {"total": 4, "completed": 3, "failed": 1}}
        if batch.number == 1:
            first = lines(*map(answer, batch.requests[:3]))
            return Look(output=first, error=lines(failure(batch.requests[3])), fields=counts)
        if not told:
            told.append(batch.id)
            files = {"output_file_id": "output-1", "error_file_id": "error-1"}
            other = server._object(server.batches[0], {**files, **counts})
            return Look(reply=(200, json.dumps(other).encode()))
        return Look(output=good(batch))

    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 2, "backoff": {"initial": 0}})
        done = project.run()
        assert (done.code, told) == (0, ["batch-2"]), done.stderr
        complete(project, rows_of(4))
        assert [len(batch.requests) for batch in server.batches] == [4, 1]
    assert any("the server told of batch-1" in event["what"] for event in done.events if "what" in event)


def test_a_server_that_gives_ids_anew_sells_nothing(tmp_path: Path) -> None:
    """A small server that numbers what it has in memory, and was started again."""
    with HostileServer() as server:
        project = server.project(tmp_path / "p", 2)
        assert project.run().code == 0
        server.batches.clear()
        server.uploads = 0
        project.write_rows([{"id": "new", "text": "row-new-end"}])
        for _ in range(2):
            done = project.run()
            assert done.code == 4, done.stderr
            assert "it has lost its state" in done.stderr
            server.uploads = 0
        assert server.batches == []
        server.uploads = 7  # its files have other ids, its batches not yet
        for _ in range(2):
            done = project.run()
            assert (done.code, "gave the id batch-1 to another batch before" in done.stderr) == (4, True)
        assert len(server.batches) == 1, "what was bought is held for a person"
