"""The judge of a history of the submission protocol: what must hold after every step, and what at the end.

What was paid is taken from the witness; ledger and journal are evidence for what only they can say (that
an intent came first, where an answer's bytes are). Every function names the invariant that it asks about.
"""

from __future__ import annotations

import json
import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runner.core.model import Status
from tests.property.edit_factories import Row, Settings
from tests.property.states_factories import ATTEMPTS, Books, Created, Evidence, Executed

_TWO_OPEN_ATTEMPTS = """
SELECT a.request_id, count(*) FROM attempt a JOIN shard s ON s.id = a.shard_id
WHERE a.status IS NULL AND s.state IN ('creating', 'unknown', 'fencing', 'fenced', 'submitted', 'held')
GROUP BY a.request_id HAVING count(*) > 1
"""
_DONE_BUT_OPEN = """
SELECT s.id, a.line FROM shard s JOIN attempt a ON a.shard_id = s.id
WHERE s.state = 'done' AND a.status IS NULL
"""
_ANSWERS = """
SELECT lower(hex(r.fingerprint)), w.word, f.raw_path, a.offset, a.length
FROM request r JOIN status w ON w.code = r.status
JOIN attempt a ON a.shard_id = r.answer_shard_id AND a.line = r.answer_line
JOIN file f ON f.id = a.file_id
"""
OPEN_SHARDS = "SELECT id, state FROM shard WHERE state NOT IN ('done', 'discarded', 'refused')"

HELD_SHARDS = "SELECT id FROM shard WHERE state = 'held'"


@dataclass
class Past:
    """What a history has seen and must see again."""

    wanted: set[str] = field(default_factory=set)
    """Bodies that a manifest asked for at any time."""
    answers: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, list[list[str]]] = field(default_factory=lambda: defaultdict(list))
    """Every dataset that a manifest had, by its keys."""
    cancels: int = 0
    failing_rows: int = 0
    """Failures of rows that were ordered from the server."""
    was_clock_set: bool = False


# ---------------------------------------------------------------- after every step


def judge_step(books: Books, evidence: Evidence, past: Past) -> None:
    """Everything that holds at any time."""
    judge_payments(books.executed(), past)
    judge_intents(books, evidence, past)
    assert not evidence.ledger(_TWO_OPEN_ATTEMPTS), "I1: two attempts of one request are open"
    assert not evidence.ledger(_DONE_BUT_OPEN), "I16: a shard is done and a request has no outcome"
    _judge_what_stays(evidence, past)
    for which, versions in past.rows.items():
        table = evidence.table(which)
        assert table is None or [row["_key"] for row in table] in versions, "I23: half a table"


def judge_payments(executed: Sequence[Executed], past: Past) -> None:
    """I1, I7, I26: whoever sent it, a request that was answered is executed once; a failure, as often as
    the manifest allows. What somebody else had run again is not of our doing."""
    by_body = defaultdict(list)
    for one in executed:
        by_body[one.body_sha256].append(one)
    assert by_body.keys() <= past.wanted, "a request that nobody asked for"
    for of_body in by_body.values():
        again = sum({one.batch_id: one.retries for one in of_body}.values())
        results = Counter(one.result for one in of_body)
        assert results["completed"] <= 1 + again, f"I1: paid twice: {of_body}"
        assert results["failed"] <= ATTEMPTS + again + past.failing_rows, f"I7: too many attempts: {of_body}"


def judge_intents(books: Books, evidence: Evidence, past: Past) -> None:
    """I3: before a create, an intent that names slot, attempt and file. I4: at most one POST for each
    intent, counted on the wire. I6: no input file twice."""
    posts, created = books.posts().count("/v1/batches"), books.created()
    intents: dict[tuple[str, int, int], tuple[str, float]] = {}
    for line in evidence.journal():
        if line.get("state") == "creating":
            at_s = datetime.fromisoformat(line["at"]).timestamp()
            place = (line["run"], line["slot"], line["attempt"])
            file_id, _ = intents.setdefault(place, (line["input_file_id"], at_s))
            assert file_id == line["input_file_id"], "I6: an attempt with two files"
    assert len({file_id for file_id, _ in intents.values()}) == len(intents), "I6: a file in two intents"
    assert posts <= len(intents), f"I4: {posts} creates on the wire for {len(intents)} intents"
    for one in created:
        file_id, at_s = intents[(one.run, one.slot, one.attempt)]
        assert file_id == one.input_file_id, "I3: a create of another file than was intended"
        assert past.was_clock_set or at_s <= one.at_s + 0.001, "I3: the intent came after the create"


def _judge_what_stays(evidence: Evidence, past: Past) -> None:
    """I21: raw output is never deleted nor changed. I22: an answer is never replaced."""
    for name, data in past.raw.items():
        assert (evidence.folder / name).read_bytes().startswith(data), f"I21: {name} was changed"
    for name in evidence.files():
        if name.startswith(".runner/raw/"):
            past.raw[name] = (evidence.folder / name).read_bytes()
    answers = {name: tuple(rest) for name, word, *rest in evidence.ledger(_ANSWERS) if word == "succeeded"}
    for name, answer in past.answers.items():
        assert answers.get(name) == answer, "I22: an answer was replaced"
    past.answers = answers


# ---------------------------------------------------------------- after a whole run


def judge_table(which: str, wanted: Settings, books: Books, evidence: Evidence) -> None:
    """I17, I18: each planned row once, with one word. I19, I24: each answer is in the raw bytes that it is
    said to be in, is what the server executed for this very request, and is about this row."""
    table = evidence.table(which)
    assert table is not None
    assert [row["_key"] for row in table] == [row.id for row in wanted.rows], "I18"
    executed = {(one.batch_id, one.custom_id): one for one in books.executed()}
    places = {name[:16]: place for name, _, *place in evidence.ledger(_ANSWERS)}
    for row, asked in zip(table, wanted.rows, strict=True):
        request = wanted.request(asked)
        assert row["_status"] in set(Status), "I17"
        assert (row["_status"] == "unsendable") == (request is None), "I17"
        if row["_status"] != "succeeded" or request is None:
            continue
        found = executed[(row["_batch_id"], row["_custom_id"])]
        assert (found.body_sha256, found.result) == (request.body_sha256, "completed"), "I24"
        raw, offset, length = places[row["_custom_id"][-16:]]
        data = (evidence.folder / ".runner" / raw).read_bytes()[offset : offset + length]
        line = json.loads(data)
        assert line["custom_id"] == row["_custom_id"], "I19"
        assert line["id"] == row["_response_id"], "I19"
        assert json.dumps(asked.text.split("[")[0].strip())[1:-1] in data.decode(), "I19: another's answer"


# ---------------------------------------------------------------- at the end


def judge_end(
    now: Mapping[str, Settings], books: Books, evidence: Evidence, past: Past, keys: Collection[str]
) -> None:
    """All is quiet: nothing is open, no batch is unknown, no answer is lost, no secret is anywhere."""
    assert not evidence.ledger(OPEN_SHARDS), "I12: something stays open"
    _judge_batches(books.created(), evidence)
    executed = books.executed()
    for which, wanted in now.items():
        judge_table(which, wanted, books, evidence)
        statuses = {row["_key"]: row["_status"] for row in evidence.table(which) or []}
        for row in wanted.rows:
            _judge_row(row, wanted, statuses[row.id], executed, past)
    _judge_files(evidence, keys)


def _judge_batches(created: Sequence[Created], evidence: Evidence) -> None:
    """I2: a slot has one batch that is not fenced. I11: every id that the server gave is in the journal."""
    slots = Counter((one.run, one.slot) for one in created if not one.is_fenced)
    assert set(slots.values()) <= {1}, f"I2: {slots}"
    known = {line.get(name) for line in evidence.journal() for name in ("batch_id", "id")}
    unknown = [one.batch_id for one in created if not one.is_fenced and one.batch_id not in known]
    assert not unknown, f"I11: nobody knows of the batches {unknown}"


def _judge_row(row: Row, wanted: Settings, status: str, executed: Sequence[Executed], past: Past) -> None:
    """No paid answer is lost, and every other word has a cause in this history."""
    request = wanted.request(row)
    if request is None:
        return
    answered = [
        one for one in executed if one.body_sha256 == request.body_sha256 and one.result == "completed"
    ]
    answer = "refused" if "refuse" in row.text else "succeeded"
    allowed = {answer} if answered else set()
    if not any(one.retries == 0 for one in answered):
        allowed |= {"cancelled"} if past.cancels else set()
        allowed |= {"failed"} if "fail" in row.text or past.failing_rows else set()
    assert status in allowed, f"{row} is {status}, not {allowed}; executed: {answered}"


def _judge_files(evidence: Evidence, keys: Collection[str]) -> None:
    """I30: no key in any file. I31: modes, and nothing outside the ledger's folder and the tables."""
    for name in sorted(evidence.files()):
        data = (evidence.folder / name).read_bytes()
        assert not any(key.encode() in data for key in keys), f"I30: a key is in {name}"
    for path in (evidence.folder / ".runner").rglob("*"):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"I31: {path} has {mode:o}"
    outside = {name for name in evidence.files() if not name.startswith(".runner/")}
    written = {f"{which}{end}" for which in "ab" for end in (".yaml", ".jsonl", ".j2", "-results.jsonl")}
    assert outside <= written | {"stdout", "stderr"}, f"I31: {outside - written}"
