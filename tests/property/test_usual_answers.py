"""The usual answer is told in one look: the same as line by line, in any ledger, whatever else stands around.

There are three ways: every line by itself (`read_result_line` and `judge`), usual answers by the thousand,
and files that were prepared before their turn.
"""

from __future__ import annotations

import copy
import io
import json
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.commands import collecting, judging
from runner.commands.collecting import ShardBook, Tally
from runner.commands.judging import judged_pieces
from runner.commands.preparing import prepare
from runner.core.model import Download
from runner.core.settling import judge
from runner.core.states import Submission
from runner.core.usual import UsualAnswer, usual_answer
from runner.core.wire import BadLine, JsonError, decode_json, read_result_line
from tests.contract.ledger_factories import UUID_ID, Project, to_send

ROWS = 4
_SHARDS_AT_ONCE = 100
_FEW = settings(deadline=None, max_examples=80)

# ---------------------------------------------------------------- lines

ODD: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 200, 200.0, 201, 404, 2**53 - 1, 2**53, 2**63, 2**64, 10**30, 1.5),
    *(
        "",
        "x",
        "stop",
        "length",
        "content_filter",
        "é\u2028\u0000\x7f",
        "w" * 300,
        "w" * 301,
        UUID_ID.upper(),
    ),
    *([], {}, [1], ["text"], {"a": 1}, [{"type": "text", "text": "part"}], [{"id": "call_1"}]),
)
EMBEDDING = {"data": [{"embedding": [0.5, 1]}], "model": "m", "usage": {"prompt_tokens": 3}}
RESPONSE = {
    "status": "completed",
    "model": "m",
    "output": [{"content": [{"type": "output_text", "text": "hello"}]}],
    "usage": {"input_tokens": 4, "output_tokens": 2},
}
ERRORS: Sequence[Any] = (
    {"code": "batch_expired", "message": "too late"},
    {"code": None, "message": json.dumps({"type": "RetriableHttpStatus", "details": {"status": 429}})},
    {"code": "insufficient_quota", "message": "pay"},
    "plain text",
    {},
)


class Line(NamedTuple):
    """A line before its custom_id is put in (`@0` to `@3`)."""

    value: Any
    ascii: bool = True
    damage: tuple[bytes, bytes] = (b"", b"")
    end: bytes = b"\n"

    def data(self, ids: Sequence[str]) -> bytes:
        text = json.dumps(self.value, ensure_ascii=self.ascii)
        data = text.encode("utf-8", "surrogatepass").replace(*self.damage, 1)
        for place, custom_id in enumerate(ids):
            data = data.replace(b"@%d" % place, custom_id.encode())
        return data + self.end


def usual(custom_id: Any = "@0", **changes: Any) -> dict[str, Any]:
    """What nearly every line is."""
    body = {
        "choices": [{"finish_reason": "stop", "message": {"content": "yes", "refusal": None}}],
        "model": "qwen",
        "usage": {"prompt_tokens": 30, "completion_tokens": 10},
    }
    response = {"status_code": 200, "body": body}
    return {"id": UUID_ID, "custom_id": custom_id, "response": response, "error": None, **changes}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in ((*path, key), *_places(one, (*path, key)))]


_GONE = object()
_PLACES = [place for place in _places(usual()) if place != ("custom_id",)]
_IDS = st.sampled_from([*(f"@{number}" for number in range(ROWS)), "@0", "@0", "", "nobody-00"])


def _change(value: Any, place: tuple[Any, ...], odd: Any) -> None:
    """Put it there, or (`_GONE`) take away what is there; nothing where the place is gone already."""
    with suppress(KeyError, IndexError, TypeError):
        for key in place[:-1]:
            value = value[key]
        if odd is _GONE:
            del value[place[-1]]
        else:
            value[place[-1]] = copy.deepcopy(odd)


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """A usual line with odd values in some places, or without them."""
    value = usual(draw(_IDS))
    for place in draw(st.lists(st.sampled_from(_PLACES), max_size=2, unique=True)):
        _change(value, place, draw(st.sampled_from([*ODD, _GONE, _GONE, _GONE])))
    return value


def _of_body(custom_id: str, body: Any, status: Any) -> dict[str, Any]:
    return usual(custom_id, response={"status_code": status, "body": body})


values = st.one_of(
    st.builds(usual, _IDS),
    st.builds(usual, _IDS, id=st.sampled_from([UUID_ID, "batch_req_1", "resp-" + "9" * 40])),
    changed(),
    changed(),
    st.builds(lambda name, error: usual(name, response=None, error=error), _IDS, st.sampled_from(ERRORS)),
    st.builds(
        _of_body,
        _IDS,
        st.sampled_from(
            [EMBEDDING, RESPONSE, "text", '{"error":{"message":"no"}}', {"error": {"code": "x"}}, None, [], 7]
        ),
        st.sampled_from([200, 400, 402, 429, 500, None, "200"]),
    ),
    st.sampled_from([[], [usual()], "text", 5, None, {}, {"custom_id": "@1"}, usual(7), usual(["@1"])]),
)
_DAMAGES = (
    *((b'"yes"', b'"\\ud83d"'), (b'"yes"', b'"\xff"'), (b'"yes"', b'"\\u0000"'), (b'"yes"', b'"a\x00b"')),
    *(
        (b"30", b"NaN"),
        (b"30", b"30.0"),
        (b"30", b"1e400"),
        (b"30", b"9" * 400),
        (b"30", b"-0"),
        (b"30", b"03"),
    ),
    *((b"}", b""), (b"{", b"{{"), (b'"qwen"', b'"\\udc00x"'), (b"qwen", b"other"), (b"qwen", b"q\\u0000")),
    *((b'"id"', b'"id": 1, "id"'), (b"stop", b"st\\u006fp"), (UUID_ID.encode(), b"\\ud800"), (b" ", b" \r ")),
)
lines = st.builds(
    Line,
    values,
    st.booleans(),
    st.one_of(st.just((b"", b"")), st.just((b"", b"")), st.sampled_from(_DAMAGES)),
    st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b" \n", b"\n\n", b"\n \r\n", b"\r\r\n"]),
)


@settings(deadline=None, max_examples=800)
@given(line=lines)
@example(Line(usual()))
@example(Line(usual(error={})))
@example(Line(_of_body("@0", usual()["response"]["body"], True)))
def test_what_is_told_in_one_look_is_what_is_judged(line: Line) -> None:
    told, judged = told_and_judged(line)
    assert told in (None, judged)


def test_one_odd_value_anywhere_is_told_as_it_is_judged() -> None:
    looks = [told_and_judged(Line(usual(), damage=damage)) for damage in _DAMAGES]
    for place in _PLACES:
        for odd in (*ODD, _GONE):
            value = usual()
            _change(value, place, odd)
            looks.append(told_and_judged(Line(value)))
    assert [look for look in looks if look[0] not in (None, look[1])] == []
    assert 0 < sum(told is not None for told, _ in looks) < len(looks)


def told_and_judged(line: Line) -> tuple[object, object]:
    """What is told of a line in one look (None: nothing), and what it is when all of it is looked at."""
    data = line.data(["a-1", "b-2", "c-3", "d-4"]).rstrip(b"\r\n")
    result = read_result_line(data)
    judged: object = result
    if not isinstance(result, BadLine) and not result.mended:
        judged = (result.custom_id or "", judge(result))
    try:
        found = usual_answer(decode_json(data))
    except JsonError:
        return None, judged
    if found is None:
        return None, judged
    told = UsualAnswer(*found)
    return (told.custom_id, told.outcome()), judged


@given(
    name=st.text(st.characters(codec="utf-8"), min_size=1),
    content=st.text(st.characters(codec="utf-8")),
    tokens=st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1)),
    model=st.text(st.characters(codec="utf-8"), min_size=1, max_size=300),
)
def test_the_usual_line_is_told(name: str, content: str, tokens: tuple[int, int], model: str) -> None:
    value = usual(name)
    body = value["response"]["body"]
    body["choices"][0]["message"]["content"] = content
    body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    body["model"] = model
    assert usual_answer(decode_json(json.dumps(value))) == (name, *tokens, model, UUID_ID)


# ---------------------------------------------------------------- files into a ledger


class Request(NamedTuple):
    """How the ledger knows a request of the shard before its first line comes."""

    status: int | None = None
    answered_in: int = 0
    open_in: int | None = 0
    failed: bool = False


requests = st.builds(
    Request,
    status=st.one_of(st.none(), st.none(), st.integers(0, 7)),
    answered_in=st.sampled_from([-1, 0, 1]),
    open_in=st.sampled_from([0, 0, 0, -1, None]),
    failed=st.booleans(),
)
downloads = st.lists(
    st.tuples(st.sampled_from(["output", "output", "error"]), st.lists(lines, max_size=7), st.booleans()),
    min_size=1,
    max_size=3,
)


class Twins:
    """A ledger with shards of four requests; three of them are taken for each example."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.project = Project.open(Path(self._folder.name))
        self.ledger = self.project.ledger
        self.ledger.place.prepare()
        self._ready: list[Submission] = []
        self._made = 0

    def shard(self, states: Sequence[Request], *, is_cancelled: bool) -> int:
        """A shard whose requests are in these states; the numbers of shards are relative to its own."""
        if not self._ready:
            rows = [
                to_send(place, f"k{self._made + place:07}", slot=place // ROWS, line=place % ROWS)
                for place in range(ROWS * _SHARDS_AT_ONCE)
            ]
            self._made += len(rows)
            self._ready = self.project.commit(rows)
        shard_id = self.project.send(self._ready.pop()).shard_id
        with sqlite3.connect(self.ledger.place.folder / "ledger.db") as connection:
            connection.execute("UPDATE shard SET cancel_requested = ? WHERE id = ?", (is_cancelled, shard_id))
            for line, one in enumerate(states):
                connection.execute(_STATE, _state_values(shard_id, line, one))
        connection.close()
        return shard_id

    def taken_in(self, shard_id: int, files: Sequence[tuple[str, bytes]], way: str) -> list[Any]:
        """What a book says after each file."""
        book = ShardBook(self.ledger, shard_id)
        said: list[Any] = []
        with patch.object(judging, "usual_answer", usual_answer if way != "by line" else lambda _: None):
            for kind, data in files:
                raw = self.ledger.raw_file(
                    shard_id, "output" if kind == "output" else "error", f"f-{shard_id}"
                )
                part = self.ledger.place.folder / "scratch" / "x.part"
                part.write_bytes(data)
                prepared = prepare(self.ledger, shard_id, part) if way == "prepared" else None
                tally = book.take_in(_download(part, data), raw, self.ledger.place.folder / "raw", prepared)
                is_complete = book.is_complete
                if way == "resting":
                    book.rest()
                    assert book.is_complete == is_complete
                lines_left = [one.line for one in book.outstanding]
                assert is_complete is (lines_left == [])
                said.append(
                    (tally, lines_left, book.accounted, book.failures, book.retry_after_s, book.blocked)
                )
        return said

    def told(self, shard_id: int) -> list[Any]:
        """All that the ledger and the raw files hold of a shard, with numbers relative to it."""
        ids = [custom_id.encode() for custom_id in self.ledger.expected(shard_id)]
        found: list[Any] = [self.project.asked(query, shard_id) for query in _TOLD]
        for (path,) in self.project.asked(
            "SELECT raw_path FROM file WHERE shard_id = ? AND raw_path > ''", shard_id
        ):
            data = (self.ledger.place.folder / path).read_bytes()
            for place, custom_id in enumerate(ids):
                data = data.replace(custom_id, b"@%d" % place)
            found.append(data)
        return found


_STATE = """UPDATE request SET status = ?, answer_shard_id = ?, answer_line = ?, open_shard_id = ?,
    open_line = ?, failed_shard_id = ?, failed_line = ?, attempts = 3, excused = 1, retryable = 1
    WHERE id = (SELECT request_id FROM attempt WHERE shard_id = ? AND line = ?)"""
_TOLD = (
    """SELECT line, number, status, finish_reason, input_tokens, output_tokens, model, hex(response_uuid),
        response_id, (SELECT kind FROM file WHERE id = file_id), "offset", length, answered_at
        FROM attempt WHERE shard_id = ? ORDER BY line""",
    """SELECT line, request.status, retryable, attempts, excused, answer_shard_id - shard_id, answer_line,
        open_shard_id - shard_id, open_line, failed_shard_id - shard_id, failed_line
        FROM attempt JOIN request ON request.id = request_id WHERE shard_id = ? ORDER BY line""",
    """SELECT line, status, error_class, error_code, error_message
        FROM attempt_cause WHERE shard_id = ? ORDER BY line, status""",
    """SELECT kind, "offset", length, reason FROM quarantine JOIN file ON file.id = quarantine.file_id
        WHERE shard_id = ? ORDER BY kind, "offset" """,
    """SELECT kind, lines, duplicate_lines, unknown_lines, bad_lines
        FROM file WHERE shard_id = ? ORDER BY kind""",
)


def _state_values(shard_id: int, line: int, one: Request) -> tuple[int | None, ...]:
    answered = (None, None, None) if one.status is None else (one.status, shard_id + one.answered_in, line)
    opened = (None, None) if one.open_in is None else (shard_id + one.open_in, line)
    failed = (shard_id - 1, line) if one.failed else (None, None)
    return *answered, *opened, *failed, shard_id, line


def _download(part: Path, data: bytes) -> Download:
    return Download(
        path=str(part),
        size_bytes=len(data),
        lines=data.count(b"\n"),
        skip=0,
        is_whole=True,
        incomplete=None,
        last_line=None,
    )


TWINS = Twins()


@_FEW
@given(
    files=downloads,
    states=st.lists(requests, min_size=ROWS, max_size=ROWS),
    is_cancelled=st.booleans(),
    piece_bytes=st.sampled_from([1, 100, 700, 1 << 20]),
    group_lines=st.sampled_from([1, 3, 50_000]),
)
def test_whichever_way_a_file_is_taken_in_the_ledger_is_the_same(
    files: list[tuple[str, list[Line], bool]],
    states: list[Request],
    is_cancelled: bool,
    piece_bytes: int,
    group_lines: int,
) -> None:
    found = []
    for way in ("by line", "by the thousand", "prepared", "resting"):
        shard_id = TWINS.shard(states, is_cancelled=is_cancelled)
        ids = list(TWINS.ledger.expected(shard_id))
        data = [
            (kind, b"".join(line.data(ids) for line in some)[: -1 if is_cut else None])
            for kind, some, is_cut in files
        ]
        with (
            patch.object(judging, "_PIECE_BYTES", piece_bytes),
            patch.object(collecting, "_STORE_LINES", group_lines),
        ):
            said = TWINS.taken_in(shard_id, data, way)
        found.append((said, TWINS.told(shard_id)))
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert found[3] == found[0]


def test_what_waits_for_the_server_holds_no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    shard_id = TWINS.shard([Request(None, 0, 0, False)] * ROWS, is_cancelled=False)
    book = ShardBook(TWINS.ledger, shard_id)
    monkeypatch.setattr(TWINS.ledger, "awaited", lambda _: pytest.fail("nobody asked for the requests"))
    assert not book.is_complete
    assert book.failures == ""


def test_the_usual_file_is_told_by_the_thousand() -> None:
    shard_id = TWINS.shard([Request()] * ROWS, is_cancelled=False)
    ids = list(TWINS.ledger.expected(shard_id))
    data = b"".join(Line(usual(f"@{place}")).data(ids) for place in (2, 0, 3, 1))
    (piece,) = judged_pieces(io.BytesIO(data))
    (run,) = piece.runs
    assert [row[0] for row in run.rows] == [ids[place] for place in (2, 0, 3, 1)]
    assert (run.model, run.then, piece.end) == ("qwen", None, len(data))
    with patch.object(collecting, "read_result_line", None):
        said = TWINS.taken_in(shard_id, [("output", data)], "prepared")
    assert said == [(Tally(lines=4, stored=4), [], 4, "", 0.0, None)]


def test_the_better_answer_of_a_later_shard_is_kept() -> None:
    later = Request(status=1, answered_in=1)
    shard_id = TWINS.shard([later, Request(), Request(), Request()], is_cancelled=False)
    ids = list(TWINS.ledger.expected(shard_id))
    data = b"".join(Line(usual(f"@{place}")).data(ids) for place in range(ROWS))
    TWINS.taken_in(shard_id, [("output", data)], "prepared")
    attempts, requests_, *_ = TWINS.told(shard_id)
    assert [attempt[2] for attempt in attempts] == [1, 1, 1, 1]
    assert [request[5] for request in requests_] == [1, 0, 0, 0]
    assert [request[7] for request in requests_] == [None] * ROWS


@pytest.mark.parametrize(
    "second",
    [
        Line(usual("@2")),
        Line(usual("@2", response=None, error={"code": "x"})),
        Line(usual("@2"), damage=(b"yes", b"\\ud800")),
    ],
)
def test_a_file_in_which_the_order_of_two_lines_matters_is_not_prepared(second: Line) -> None:
    shard_id = TWINS.shard([Request()] * ROWS, is_cancelled=False)
    ids = list(TWINS.ledger.expected(shard_id))
    path = TWINS.ledger.place.folder / "scratch" / "x.part"
    data = Line(usual("@0")).data(ids) + Line(usual("@2")).data(ids)
    path.write_bytes(data + Line(usual("@1", response=None, error={"code": "x"})).data(ids))
    prepared = prepare(TWINS.ledger, shard_id, path)
    assert prepared is not None
    assert ([values[-2] for values in prepared.values], len(prepared.others)) == ([0, 2], 1)
    path.write_bytes(second.data(ids) + data)
    assert prepare(TWINS.ledger, shard_id, path) is None


# ---------------------------------------------------------------- lines of a file


@given(
    parts=st.lists(
        st.one_of(
            st.binary(max_size=9),
            st.sampled_from([b"\n", b"\r\n", b"x" * 7, b"x" * 8, b"x" * 20, b"\xe2\x80\xa8"]),
        ),
        max_size=12,
    ),
    piece_bytes=st.integers(1, 4),
)
def test_lines_end_at_a_newline_and_nowhere_else(parts: list[bytes], piece_bytes: int) -> None:
    data = b"".join(parts)
    expected: list[tuple[int, int | None]] = []
    offset = 0
    for line in data.split(b"\n"):
        ended = offset + len(line) < len(data)
        whole = len(line) + ended
        if whole > 8 or (whole == 8 and not ended):
            expected.append((offset, None))
        elif line.strip():
            expected.append((offset, len(line.removesuffix(b"\r"))))
        offset += len(line) + 1
    with patch.object(judging, "_PIECE_BYTES", piece_bytes), patch.object(judging, "MAX_LINE_BYTES", 8):
        runs = [run for piece in judged_pieces(io.BytesIO(data)) for run in piece.runs]
    assert [run.then for run in runs] == expected
