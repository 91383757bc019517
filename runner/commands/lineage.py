"""Stored rows and raw lines to the lines of a results table, in position order.

Theory. Nearly all rows of a table are alike: a success whose raw line holds its text at the usual place. Of
such a row (`_usual`) no record is made: what is the same for thousands of rows stands in a template, the rest
is put between. A row is taken for usual only where the ledger and the raw line say all that, with values of
the right kinds, and the line names this very request. Every other row goes the general way (`_record`), which
alone decides what a row is. Both make the same bytes of a usual row (a property test holds it). Nothing in
here touches the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from runner.commands.raw_answers import RawAnswers
from runner.core.model import Cause, Prices, Status
from runner.core.planning import ANSWERS, cost_of
from runner.core.settling import Answer, read_answer
from runner.core.wire import JsonError, decode_json, encode_json, encode_text
from runner.ledger import (
    SUCCEEDED_CODE,
    LedgerRow,
    Place,
    StoredRow,
    StoredRows,
    Verdict,
    ledger_row,
    unpack_finish_reason,
    unpack_model,
    unpack_response_id,
)
from runner.results import LineForm, Lines, ResultColumn, field_reader, lineage_columns

_JUDGED = (Status.SUCCEEDED, Status.INVALID, Status.UNACCOUNTED)
"""What a look at the answer itself decides, where there is one."""
_WORDS = {status: status.value for status in Status}
_HASH_DIGITS = 16
_BEFORE_COST = {"_answer": b"%b", "_input_tokens": b"%d", "_output_tokens": b"%d"}
_AFTER_COST = {"_custom_id": b"%b", "_response_id": b"%b", "_fingerprint": b'"%b"'}
_HOLES = {**_BEFORE_COST, **_AFTER_COST}
_PRICED_HOLES = {**_BEFORE_COST, "_cost": b"%b", **_AFTER_COST}
"""What differs between usual rows, in the order of the columns."""
_position = itemgetter(Place.POSITION)
_Shared = tuple[int, str | None, str | None, int, int]
_MAX_TEMPLATES = 1_000
_GROUP_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageSource:
    """All that the lines of a manifest's table depend on, beside its rows. `folder` holds the raw files."""

    folder: Path
    schema: Mapping[str, Any] | None
    prefix: str
    prices: Prices | None
    repeats: int
    embeddings: bool

    def columns(self) -> tuple[ResultColumn, ...]:
        """The columns of the table that are ours."""
        return lineage_columns(self.schema, self.prefix, embeddings=self.embeddings)


@dataclass(slots=True)
class Seen:
    """What was seen in some rows: how many there are of each status, when the oldest of their answers was
    given (0 where one doesn't say; None without answers), and by fingerprint each answer that is another
    thing than the ledger says."""

    by_status: Counter[Status] = field(default_factory=Counter)
    oldest_s: float | None = None
    verdicts: dict[bytes, Verdict] = field(default_factory=dict)

    def see(self, status: Status, stored: Status, given_s: int | None) -> None:
        """A row, by its status and the one that is stored of it."""
        self.by_status[status] += 1
        if stored in ANSWERS:
            self.date(given_s or 0)

    def add(self, other: Seen) -> None:
        """What was seen in other rows, which come later."""
        self.by_status.update(other.by_status)
        self.verdicts.update(other.verdicts)
        if other.oldest_s is not None:
            self.date(other.oldest_s)

    def date(self, given_s: float) -> None:
        """An answer that was given then."""
        if self.oldest_s is None or given_s < self.oldest_s:
            self.oldest_s = given_s


class LineageMaker:
    """Makes lines of stored rows. `seen` grows with them. One thread at a time."""

    def __init__(
        self, source: LineageSource, raw: RawAnswers, check_answer: Callable[[str], str | None]
    ) -> None:
        self._raw = raw
        self._check_answer = check_answer
        self._prices = source.prices
        self.repeats = source.repeats
        self._form = LineForm(source.columns())
        self._fields = field_reader(source.schema, prefix=source.prefix) if source.schema else None
        self._templates: dict[_Shared, bytes] = {}
        self._holes = _HOLES if self._prices is None else _PRICED_HOLES
        self.leaves_cycles = source.schema is not None
        """A schema's errors hold each other."""
        self._none_is_usual = source.schema is not None or source.repeats > 1
        self.seen = Seen()

    def groups(self, stored: StoredRows) -> Iterator[Lines]:
        """Their lines, a bounded number at a time. The rows of a position are all among them."""
        rows = stored.rows
        if not rows:
            return
        first = rows[0][Place.POSITION]
        is_whole = list(map(_position, rows)) == list(range(first, first + len(rows)))
        if self._none_is_usual or not is_whole:
            records = (self._record(values, stored) for values in rows)
            yield from self._form.groups(records, first // self.repeats)
            return
        yield from self._lines(stored, first)

    def _lines(self, stored: StoredRows, start: int) -> Iterator[Lines]:
        """One for each row; position order is known."""
        lines: list[bytes] = []
        size = usual = 0
        for values in stored.rows:
            line = self._usual(values, stored)
            if line is None:
                line = self._form.line(self._record(values, stored))
            else:
                usual += 1
            lines.append(line)
            size += len(line)
            if size >= _GROUP_BYTES:
                yield Lines.of(start, lines)
                start += len(lines)
                lines, size = [], 0
        self.seen.by_status[Status.SUCCEEDED] += usual
        if lines:
            yield Lines.of(start, lines)

    # ------------------------------------------------------------ the usual row

    def _usual(self, values: StoredRow, stored: StoredRows) -> bytes | None:
        """The line of a success with nothing special about it; None for any other row."""
        (
            position, own_key, _, fingerprint, name, code, attempts, _, _,
            shard_id, finish_reason, input_tokens, output_tokens, model,
            uuid, response_id, file_id, offset, length, answered_at, _, error_code, _,
        ) = values  # fmt: skip
        if (
            code != SUCCEEDED_CODE
            or error_code is not None
            or input_tokens is None
            or output_tokens is None
            or file_id is None
            or offset is None
            or length is None
            or answered_at is None
        ):
            return None
        digits = fingerprint.hex()
        custom_id = f"{name}-{digits[:_HASH_DIGITS]}"
        text = self._text(stored.paths[file_id], offset, length, custom_id)
        response_id = unpack_response_id(uuid, response_id)
        if text is None or response_id is None:
            return None
        shared = shard_id, finish_reason, model, attempts, answered_at
        template = self._templates.get(shared) or self._template(shared, stored)
        key = encode_text(name if own_key is None else own_key)
        told = key, encode_text(text), input_tokens, output_tokens
        ids = encode_text(custom_id), encode_text(response_id), digits.encode()
        if self._prices is None:
            return template % (position, *told, *ids)
        cost = cost_of(input_tokens, output_tokens, self._prices)
        return template % (position, *told, encode_json(cost), *ids)

    def _text(self, path: str | None, offset: int, length: int, custom_id: str) -> str | None:
        """The answer in a raw line of this request, where it is at its usual place; else None."""
        data = None if path is None else self._raw.data(path, offset, length)
        if data is None:
            return None
        try:
            line = decode_json(data)
            text = line["response"]["body"]["choices"][0]["message"]["content"]
            is_usual = line["custom_id"] == custom_id and text.__class__ is str
        except (JsonError, KeyError, TypeError, IndexError):
            return None
        return text if is_usual else None

    def _template(self, shared: _Shared, stored: StoredRows) -> bytes:
        shard_id, finish_reason, model, attempts, answered_at = shared
        usual_model, batch_id = stored.shards[shard_id]
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
        self.seen.date(answered_at)
        constants = {
            "_status": _WORDS[Status.SUCCEEDED],
            "_finish_reason": unpack_finish_reason(finish_reason),
            "_model": unpack_model(model, usual_model),
            "_batch_id": batch_id,
            "_attempts": attempts,
            "_repeat": 1,
            "_answered_at": answered_at,
        }
        template = self._templates[shared] = self._form.template(constants, self._holes)
        return template

    # ------------------------------------------------------------ any row

    def _record(self, values: StoredRow, stored: StoredRows) -> dict[str, Any]:
        row = ledger_row(values, stored.shards, stored.paths)
        line = self._raw.read(row)
        answer = None if line is None else read_answer(line.body)
        status, problem = self._status(row, answer)
        if status is not row.status and row.fingerprint is not None:
            cause = None if problem is None else Cause(error_class=problem[0], message=problem[1])
            self.seen.verdicts[row.fingerprint] = Verdict(values[Place.SHARD], status, cause)
        self.seen.see(status, row.status, row.answered_at_s)
        error_class, error_message = problem or (
            (None, None) if status is Status.SUCCEEDED else (row.error_class, row.error_message)
        )
        position, repeat = divmod(row.position, self.repeats)
        record: dict[str, Any] = {
            "_position": position,
            "_key": row.key if repeat == 0 else row.key.removesuffix(f" #{repeat + 1}"),  # its repeat's name
            "_status": _WORDS[status],
            "_answer": None if answer is None else answer.text,
            "_finish_reason": row.finish_reason,
            "_error_class": error_class,
            "_error_code": row.error_code,
            "_error_message": error_message,
            "_input_tokens": row.input_tokens,
            "_output_tokens": row.output_tokens,
            "_cost": None if self._prices is None else self._cost(row),
            "_model": row.model,
            "_custom_id": row.custom_id,
            "_batch_id": row.batch_id,
            "_response_id": row.response_id,
            "_attempts": row.attempts,
            "_repeat": repeat + 1,
            "_answered_at": row.answered_at_s,
            "_fingerprint": None if row.fingerprint is None else row.fingerprint.hex(),
        }
        if answer is not None and answer.embedding is not None:
            record["_embedding"] = answer.embedding
        if self._fields is not None and status is Status.SUCCEEDED and answer is not None:
            fields = self._fields(answer.text or "")
            record |= fields if not isinstance(fields, str) else {}
        return record

    def _status(self, row: LedgerRow, answer: Answer | None) -> tuple[Status, tuple[str, str] | None]:
        """The row's status; an answer that breaks the schema, or whose bytes are gone, is said so.

        What an earlier table said of that is judged anew: the bytes may be back.
        """
        if row.raw_path is None or row.status not in _JUDGED:
            return row.status, None
        if answer is None:
            return Status.UNACCOUNTED, ("raw_missing", f"the raw line of this answer is gone: {row.raw_path}")
        broken = self._check_answer(answer.text) if answer.text is not None else None
        return (Status.SUCCEEDED, None) if broken is None else (Status.INVALID, ("schema", broken))

    def _cost(self, row: LedgerRow) -> float | None:
        if self._prices is None or row.input_tokens is None:
            return None
        return cost_of(row.input_tokens, row.output_tokens or 0, self._prices)
