"""The quick way of a usual row and the general way of any row: the same bytes, the same things seen."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.commands.lineage import LineageMaker, LineageSource, Seen
from runner.commands.raw_answers import RawAnswers
from runner.commands.request_tokens import Tokens, request_tokens
from runner.core.model import Prices
from runner.ledger import SUCCEEDED_CODE, Place, StoredRow, StoredRows
from runner.ledger.packing import STATUSES

FINGERPRINT = bytes(range(16))
NAME = "T-1"
CUSTOM_ID = f"{NAME}-{FINGERPRINT[:8].hex()}"
SHARDS: dict[int | None, tuple[str, str | None]] = {
    None: ("", None),
    1: ("50 % model", "batch-1"),
    2: ("m", None),
}
PATHS: dict[int | None, str | None] = {None: None, 1: "raw/answers.jsonl", 2: "raw/gone.jsonl"}
USUAL: dict[str, Any] = {
    "id": "batch_req_1",
    "custom_id": CUSTOM_ID,
    "response": {
        "status_code": 200,
        "body": {
            "choices": [{"finish_reason": "stop", "message": {"content": "An answer.", "refusal": None}}]
        },
    },
    "error": None,
}
DEEP_PLACES: tuple[tuple[str | int, ...], ...] = (
    ("custom_id",),
    ("response",),
    ("response", "body"),
    ("response", "body", "choices"),
    ("response", "body", "choices", 0),
    ("response", "body", "choices", 0, "message"),
    ("response", "body", "choices", 0, "message", "content"),
    ("response", "body", "choices", 0, "message", "refusal"),
    ("response", "body", "choices", 0, "finish_reason"),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ("", "\0", "\u2028", "\x7f", '"\\', "%b %d", "\U0001f600", "null")
)
ODD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | TEXTS | st.integers(-(2**70), 2**70) | st.floats() | st.just([]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
BODIES: st.SearchStrategy[Any] = st.one_of(
    ODD,
    TEXTS.map(lambda text: {"choices": [{"finish_reason": "stop", "message": {"content": text}}]}),
    TEXTS.map(lambda text: {"choices": [{"message": {"content": [{"type": "text", "text": text}]}}]}),
    TEXTS.map(lambda text: {"choices": [{"text": text}]}),
    TEXTS.map(lambda text: {"status": "completed", "output": [{"content": [{"text": text}]}]}),
    st.just({"choices": [{"message": {"content": None, "tool_calls": [{"id": "call"}]}}]}),
    st.just({"choices": [{"finish_reason": "length", "message": {"content": None}}]}),
    st.just({"choices": [{"message": {"content": None, "refusal": "no"}}]}),
    st.just({"data": [{"embedding": [1, 2.5]}]}),
)


@st.composite
def raw_lines(draw: st.DrawFn) -> bytes:
    """A raw line of any server: nearly always JSON, often one that holds an answer to the request."""
    value = json.loads(json.dumps(USUAL))
    match draw(st.sampled_from(("usual", "usual", "answer", "body", "odd", "lacks", "other", "bytes"))):
        case "answer":
            value["response"]["body"]["choices"][0]["message"]["content"] = draw(TEXTS)
        case "body":
            value["response"]["body"] = draw(BODIES)
        case "odd":
            put(value, draw(st.sampled_from(DEEP_PLACES)), lambda holder, at: {at: draw(ODD)})
        case "lacks":
            put(value, draw(st.sampled_from(DEEP_PLACES)), lambda holder, at: {})
        case "other":
            value["custom_id"] = draw(st.sampled_from(("T-2-0001020304050607", CUSTOM_ID.upper(), "")))
        case "bytes":
            spoil = draw(st.sampled_from((b"\\ud800", b"\xff", b"\0", b"\\u0000", b'"', b"\\u2028", b"")))
            line = json.dumps(value).encode().replace(b"An answer.", b"An " + spoil)
            return line[: draw(st.sampled_from((len(line), 150, 0)))]
        case _:
            pass
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode()


def put(value: Any, place: tuple[str | int, ...], change: Callable[[Any, str | int], dict[Any, Any]]) -> None:
    """Put another value at a place, or take what is there away."""
    *way, last = place
    for step in way:
        value = value[step]
    changed = change(value, last)
    if isinstance(value, list):
        value[:] = [changed[last]] if last in changed else []
    else:
        value.pop(last)
        value.update(changed)


PRICES = Prices(input_per_million=0.3, output_per_million=2.5)
WORDS = st.none() | st.sampled_from(("", "stop", "length", "tool_calls")) | TEXTS
COUNTS = st.none() | st.integers(0, 2**53)


@st.composite
def stored_rows(draw: st.DrawFn) -> tuple[StoredRow, bytes]:
    """A row as the ledger may hold it, and what stands at its place in the raw file."""
    line = draw(raw_lines())
    is_usual = draw(st.booleans())
    values: list[Any] = [None] * 23
    values[Place.OWN_KEY] = draw(st.none() | TEXTS)
    values[Place.REQUEST] = draw(st.integers(1, 40))
    values[Place.FINGERPRINT] = FINGERPRINT
    values[Place.NAME] = NAME
    values[Place.STATUS] = SUCCEEDED_CODE
    values[Place.ATTEMPTS] = draw(st.integers(0, 3))
    values[Place.SHARD] = draw(st.sampled_from((1, 2)))
    values[Place.FINISH_REASON] = draw(WORDS)
    values[Place.MODEL] = draw(WORDS)
    values[Place.INPUT_TOKENS], values[Place.OUTPUT_TOKENS] = 90, 41
    values[Place.RESPONSE_UUID] = draw(st.none() | st.uuids().map(lambda uuid: uuid.bytes))
    values[Place.RESPONSE_ID] = draw(st.none() | TEXTS)
    values[Place.FILE], values[Place.LENGTH] = 1, len(line)
    values[Place.ANSWERED_AT] = draw(st.integers(0, 2**33))
    if not is_usual:
        values[Place.STATUS] = draw(st.sampled_from([*STATUSES, None]))
        values[Place.OPEN_SHARD] = draw(st.sampled_from((None, None, 2)))
        values[Place.FAILED_SHARD] = draw(st.sampled_from((None, 2)))
        values[Place.INPUT_TOKENS], values[Place.OUTPUT_TOKENS] = draw(COUNTS), draw(COUNTS)
        values[Place.FILE] = draw(st.sampled_from((1, 1, 2, None)))
        values[Place.ANSWERED_AT] = draw(st.none() | st.integers(-1, 2**45))
        for place in (Place.ERROR_CLASS, Place.ERROR_CODE, Place.ERROR_MESSAGE):
            values[place] = draw(st.none() | TEXTS)
        if draw(st.integers(0, 9)) == 0:
            values[Place.REQUEST : Place.ERROR_CLASS] = [None] * (Place.ERROR_CLASS - Place.REQUEST)
            values[Place.OWN_KEY] = draw(TEXTS)
    return tuple(values), line


class General(LineageMaker):
    """Takes no row for a usual one."""

    def _usual(self, values: StoredRow, stored: StoredRows) -> bytes | None:
        return None


def checked(text: str) -> str | None:
    return "too long" if len(text) > 20 else None


def stored_in(folder: Path, drawn: list[tuple[StoredRow, bytes]]) -> StoredRows:
    """The rows at positions 0, 1, ..., and their lines in a raw file, the last one first."""
    rows: list[StoredRow] = []
    (folder / "raw").mkdir()
    with (folder / "raw" / "answers.jsonl").open("wb") as file:
        for position, (values, line) in reversed(list(enumerate(drawn))):
            placed = list(values)
            placed[Place.POSITION] = position
            if placed[Place.FILE] is not None:
                placed[Place.OFFSET] = file.tell()
            file.write(line + b"\n")
            rows.insert(0, tuple(placed))
    return StoredRows(rows, SHARDS, PATHS)


def made(
    kind: type[LineageMaker], folder: Path, stored: StoredRows, prices: Prices | None
) -> tuple[bytes, Seen, set[str]]:
    source = LineageSource(folder=folder, schema=None, prefix="", prices=prices, repeats=1, embeddings=False)
    with RawAnswers(folder) as raw:
        maker = kind(source, raw, lambda _: None)
        groups = list(maker.groups(stored))
    assert [group.start for group in groups] == [0] * len(groups)
    return b"".join(group.text for group in groups), maker.seen, raw.paths


@settings(deadline=None, max_examples=300)
@given(
    st.lists(stored_rows(), min_size=1, max_size=4),
    st.sampled_from((None, Prices(input_per_million=0.3, output_per_million=2.5))),
)
def test_the_quick_way_and_the_general_way_agree(
    drawn: list[tuple[StoredRow, bytes]], prices: Prices | None
) -> None:
    with tempfile.TemporaryDirectory() as name:
        stored = stored_in(Path(name), drawn)
        quick, general = (made(kind, Path(name), stored, prices) for kind in (LineageMaker, General))
    assert quick == general


def test_a_usual_answer_goes_the_quick_way(tmp_path: Path) -> None:
    """Or the property above would compare the general way with itself."""
    line = json.dumps(USUAL).encode()
    values: list[Any] = [None] * 23
    usual = {
        Place.POSITION: 0, Place.REQUEST: 7, Place.FINGERPRINT: FINGERPRINT, Place.NAME: NAME,
        Place.STATUS: SUCCEEDED_CODE, Place.ATTEMPTS: 1, Place.SHARD: 1, Place.INPUT_TOKENS: 90,
        Place.OUTPUT_TOKENS: 41, Place.RESPONSE_UUID: UUID(int=5).bytes, Place.FILE: 1, Place.OFFSET: 0,
        Place.LENGTH: len(line), Place.ANSWERED_AT: 1_800_000_000,
    }  # fmt: skip
    for place, value in usual.items():
        values[place] = value
    stored = stored_in(tmp_path, [(tuple(values), line)])
    source = LineageSource(folder=tmp_path, schema=None, prefix="", prices=None, repeats=1, embeddings=False)
    with RawAnswers(tmp_path) as raw:
        made_line = LineageMaker(source, raw, lambda _: None)._usual(stored.rows[0], stored)
    assert made_line is not None
    assert json.loads(made_line) == {
        "p": 0, "k": NAME, "0": "succeeded", "1": "An answer.", "2": "stop", "6": 90, "7": 41,
        "9": "50 % model", "10": CUSTOM_ID, "11": "batch-1",
        "12": "batch_req_00000000-0000-0000-0000-000000000005", "13": 1, "14": 1,
        "15": "2027-01-15T08:00:00+00:00", "16": FINGERPRINT.hex(),
    }  # fmt: skip


@pytest.mark.parametrize("without", [{"schema": {"type": "object"}}, {"repeats": 2}])
def test_what_the_quick_way_does_not_know_never_goes_it(tmp_path: Path, without: dict[str, Any]) -> None:
    settings_ = {"schema": None, "prefix": "", "prices": None, "repeats": 1, "embeddings": False, **without}
    with RawAnswers(tmp_path) as raw:
        assert LineageMaker(LineageSource(folder=tmp_path, **settings_), raw, checked)._none_is_usual


# ---------------------------------------------------------------- tokens


@settings(deadline=None)
@given(st.lists(st.lists(st.none() | st.integers(1, 300_000), max_size=9), max_size=4))
def test_a_request_that_rows_share_is_counted_once(pieces: list[list[int | None]]) -> None:
    tokens = Tokens()
    wanted: dict[int, int] = {}
    for piece in pieces:
        rows: list[StoredRow] = []
        for request in piece:
            values: list[Any] = [None] * 23
            values[Place.REQUEST] = request
            if request is not None:
                wanted[request] = values[Place.INPUT_TOKENS] = request % 1000
                values[Place.OUTPUT_TOKENS] = 1
                values[Place.FAILED_SHARD] = 3 if request % 2 else None
            rows.append(tuple(values))
        tokens.count(request_tokens(StoredRows(rows, {}, {})))
    assert (tokens.input, tokens.output) == (sum(wanted.values()), len(wanted))
    assert tokens.failed_since == sum(1 for piece in pieces for one in piece if one is not None and one % 2)
