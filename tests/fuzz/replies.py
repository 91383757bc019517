"""Server replies: every wire object with places changed, bytes shaken or cut, in the hands of our readers.

Judged: the readers return a value and never raise; an outcome is definite only where the protocol's theory
allows it; unknown words and types move no shard and buy nothing (I14); what the readers return can be
stored in the ledger, shown on a terminal and sent as JSON.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from runner.commands.calls import Progress, reads_wanted
from runner.core import states, wire
from runner.core.model import Accepted, Outcome, Problem, ProblemKind, Provider, Refused, Status, Unknown
from runner.core.settling import judge as judge_line
from runner.core.settling import judge_absence, read_answer
from runner.core.states import Create, ShardState, Submission, Upload
from runner.core.wire import BadLine, BatchObject, ResultLine
from runner.provider import outcome
from runner.provider.classify import classify
from runner.provider.exchange import Reply
from runner.provider.listing import Page, read_page, walk
from runner.provider.profiles import PROFILES
from tests.contract.ledger_factories import START_S, Project, to_send
from tests.fuzz import wire_objects as good
from tests.fuzz.mutation import ODD_TEXTS, mutated, shaken, some_value
from tests.fuzz.result_files import FilesExample, ResultFiles, make_files

STATUSES = (
    200, 200, 200, 201, 204, 301, 308, 400, 401, 402, 403, 404, 405, 408, 409, 410, 413, 415, 422, 425,
    429, 429, 499, 500, 502, 503, 504, 100, 999
)  # fmt: skip
DEFINITE = (400, 401, 402, 403, 404, 405, 413, 415, 422, 429)
ERROR_BODIES: tuple[Any, ...] = (
    {"error": {"message": "no such thing", "type": "invalid_request_error", "code": "model_not_found"}},
    {"error": "word", "message": "text", "retry_after_seconds": 30},
    {"detail": [{"loc": ["body"], "msg": "field required"}]},
    {"message": "unverified accounts can submit at most 5 requests"},
)
TEXT_BODIES = (
    b"Insufficient capacity for model x",
    b"<html><head><title>502 Bad\x1b[31m Gateway</title></head></html>",
    b"File contains 60000 requests, which exceeds the maximum",
    b"",
)
HEADERS: dict[str, tuple[str, ...]] = {
    "content-type": ("application/json", "text/html; charset=utf-8", "text/plain", "", "\0"),
    "retry-after": ("5", "-1", "1e9", "9" * 20, "Fri, 31 Dec 9999 23:59:59 -2359", "soon", "", "0.5", "٣"),
    "date": ("Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 +2359", "x" * 500, ""),
    "location": ("https://evil.example/", "http://[", "//x", "\0"),
}
PROVIDERS = tuple(PROFILES.values())


@dataclass(frozen=True)
class ReplyExample:
    """One reply (or, for a walk, its pages) and which reader it is for."""

    reader: str
    status: int
    headers: dict[str, str]
    bodies: tuple[bytes, ...]
    is_cut: bool
    provider: Provider


class Replies:
    """See the module. The ledger holds one shard that is on its way, and those of `result_files`."""

    def __init__(self, folder: Path) -> None:
        batches, files = folder / "batches", folder / "files"
        batches.mkdir()
        files.mkdir()
        self._project = Project.open(batches)
        [shard] = self._project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1)])
        self._sent = self._project.send(shard)
        self._files = ResultFiles(files)
        self._readers = {
            "create": self._create,
            "batch": self._batch,
            "page": self._page,
            "line": self._line,
            "error": self._error,
        }

    # ------------------------------------------------------------ making

    def make(self, random: Random) -> ReplyExample | FilesExample:
        """Lines and batches most often: they are what can lose or buy something."""
        reader = random.choice(("create", "batch", "batch", "page", "line", "line", "line", "error", "files"))
        if reader == "files" and random.random() < 0.4:
            return make_files(random)
        reader = "line" if reader == "files" else reader
        headers = {name: random.choice(texts) for name, texts in HEADERS.items() if random.random() < 0.4}
        bodies = tuple(
            _body(random, reader) for _ in range(random.randrange(1, 4) if reader == "page" else 1)
        )
        return ReplyExample(
            reader, random.choice(STATUSES), headers, bodies, random.random() < 0.2, random.choice(PROVIDERS)
        )

    # ------------------------------------------------------------ judging

    def judge(self, example: ReplyExample | FilesExample) -> str:
        """The reader's name and what it made of the reply."""
        if isinstance(example, FilesExample):
            return self._files.judge(example)
        return f"{example.reader}-{self._readers[example.reader](example)}"

    def _create(self, example: ReplyExample) -> str:
        reply = Reply(
            status_code=example.status, headers=example.headers, body=example.bodies[0], is_cut=example.is_cut
        )
        found = outcome.judge(reply, example.provider)
        uploaded = states.upload_accepted(states.upload_intended(_fresh(self._sent)), "file-1")
        creating = states.create_intended(uploaded, START_S)
        match found:
            case Accepted(object_id=object_id, raw=raw):
                assert 200 <= example.status < 300
                assert outcome.ID.match(object_id)
                assert raw == example.bodies[0]
                assert object_id.encode() in raw or b"\\u" in raw
                states.create_accepted(creating, object_id, START_S)
            case Refused(problem=problem):
                assert example.status in DEFINITE
                assert not example.is_cut
                _check_problem(problem)
                states.create_refused(creating, problem, START_S)
            case Unknown(problem=problem):
                _check_problem(problem)
                unknown = states.create_unknown(creating, problem)
                for later_s in (0, 10, 100_000):
                    action = states.decide(unknown, example.provider, START_S + later_s)
                    assert not isinstance(action, Create | Upload)
        return type(found).__name__.lower()

    def _batch(self, example: ReplyExample) -> str:
        batch = wire.read_batch(example.bodies[0])
        wire.read_file(example.bodies[0])
        if batch is None:
            return "unreadable"
        moved = states.seen(self._sent, batch)
        assert moved.state is ShardState.SUBMITTED
        assert isinstance(states.decide(moved, example.provider, START_S), states.Poll)
        reads_wanted(moved, example.provider, Progress())
        states.best_match((batch,))
        word = states.last_word(moved)
        _check_outcome(judge_absence(word, batch.errors))
        self._project.ledger.save(moved, what="batch seen", detail=batch.status)
        assert self._project.ledger.submission(moved.shard_id) == moved
        return "known-word" if word else "live-or-unknown-word"

    def _page(self, example: ReplyExample) -> str:
        pages = [read_page(body, _listed_batch) for body in example.bodies]
        given = iter([page for page in pages if page is not None])
        empty = Page(objects=(), has_more=None, cursor=None, is_readable=False)
        taken: list[Page] = []

        def fetch(_: str | None) -> Page:
            taken.append(next(given, empty))
            return taken[-1]

        scan = walk(fetch, not_before_s=1_799_999_999)
        ids = [object_id for page in taken for object_id, _ in page.objects]
        assert not scan.is_complete or (all(page.is_readable for page in taken) and len(set(ids)) == len(ids))
        matches = tuple(batch for batch in scan.objects if self._sent.tags.match(batch, "file-1"))
        unknown = states.create_unknown(
            states.create_intended(
                states.upload_accepted(states.upload_intended(_fresh(self._sent)), "file-1"), START_S
            ),
            Problem(kind=ProblemKind.SERVER_TROUBLE, message="lost"),
        )
        moved = states.scanned(
            unknown, matches, is_complete=scan.is_complete, provider=example.provider, now_s=START_S
        )
        assert (moved.state is ShardState.SUBMITTED) == bool(matches)
        assert not isinstance(states.decide(moved, example.provider, START_S + 1e6), Create | Upload)
        for body in example.bodies:
            read_page(body, _listed_file)
        return "complete" if scan.is_complete else "incomplete"

    def _line(self, example: ReplyExample) -> str:
        found = wire.read_result_line(example.bodies[0])
        if isinstance(found, BadLine):
            assert found.reason
            return "bad"
        result = judge_line(found)
        _check_outcome(result)
        if result.status is Status.SUCCEEDED:
            assert read_answer(found.body) is not None
            assert found.status_code is None or 200 <= found.status_code < 300
        assert judge_line(wire.read_result_line(example.bodies[0])) == result  # type: ignore[arg-type]
        return _kept_line(found, result)

    def _error(self, example: ReplyExample) -> str:
        problem = classify(
            example.status, example.headers, example.bodies[0], received_at=datetime(2024, 1, 1, tzinfo=UTC)
        )
        _check_problem(problem)
        return str(problem.kind)


_SOME_KIND = next(
    iter(classify(500, {}, b"", received_at=datetime(2024, 1, 1, tzinfo=UTC)).kind for _ in "1")
)


def _fresh(sent: Submission) -> Submission:
    return Submission(
        server=sent.server,
        shard_id=sent.shard_id,
        run=sent.run,
        slot=0,
        sha=sent.sha,
        path=sent.path,
        size_bytes=sent.size_bytes,
        requests=sent.requests,
        endpoint=sent.endpoint,
        completion_window=sent.completion_window,
    )


def _kept_line(line: ResultLine, result: Outcome) -> str:
    return f"{result.status}{'-mended' if line.mended else ''}"


def _check_problem(problem: Problem) -> None:
    assert problem.message.isprintable(), problem.message
    assert 0 < len(problem.message) < 700
    assert problem.retry_after_s is None or 0 <= problem.retry_after_s <= 3600


def _check_outcome(result: Outcome) -> None:
    assert (result.cause is None) == (result.status is Status.SUCCEEDED), result
    wire.encode_json(result._asdict())
    if result.cause is not None:
        assert result.cause.message.isprintable(), result.cause
        assert len(result.cause.message) <= 2010
    code = result.cause.code if result.cause is not None else None
    for word in (result.finish_reason, result.model, result.response_id, code):
        assert word is None or len(word) <= 300
    for number in (result.input_tokens, result.output_tokens):
        assert number is None or 0 <= number < 2**53


def _listed_batch(value: object) -> tuple[str, BatchObject] | None:
    batch = wire.batch_from(value)
    return None if batch is None else (batch.batch_id, batch)


def _listed_file(value: object) -> tuple[str, wire.FileObject] | None:
    found = wire.file_from(value)
    return None if found is None else (found.file_id, found)


# ---------------------------------------------------------------- bodies


def _body(random: Random, reader: str) -> bytes:
    value = _value(random, reader)
    if isinstance(value, bytes):
        return shaken(random, value) if random.random() < 0.5 else value
    if random.random() < 0.7:
        value = mutated(random, value, _words(value))
    data = json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    if random.random() < 0.05:
        return _deepened(random, data)
    return shaken(random, data) if random.random() < 0.3 else data


def _deepened(random: Random, data: bytes) -> bytes:
    """One value replaced by one that is nested nearly as deep as the strict reader allows, or deeper."""
    places = [match.span(1) for match in re.finditer(rb':\s?("[^"\\]*"|[0-9]+|null)', data)]
    if not places:
        return data
    start, end = random.choice(places)
    levels = random.choice((254, 500, 990, 1015, 1030, 100_000))
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return data[:start] + opening * levels + b"1" + closing * levels + data[end:]


def _words(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, dict) else ("error", "message")


def _value(random: Random, reader: str) -> Any:
    match reader:
        case "create":
            return random.choice((good.BATCH, good.FILE, *ERROR_BODIES, *TEXT_BODIES))
        case "batch":
            value = dict(random.choice((good.BATCH, good.FAILED_BATCH)))
            if random.random() < 0.5:
                value["status"] = random.choice((*good.WORDS, *ODD_TEXTS))
            return value
        case "page":
            return random.choice((good.PAGE, good.PAGE, good.FILE_PAGE))
        case "error":
            return random.choice((*ERROR_BODIES, *TEXT_BODIES, some_value(random)))
        case _:
            if random.random() < 0.6:
                return good.answer_line("k0-0123456789abcdef", random.choice(good.BODIES))
            return good.error_line("k0-0123456789abcdef", random.choice(good.ERRORS))
