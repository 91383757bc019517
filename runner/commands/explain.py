"""`run explain`: one row with all that is known of it: what was asked, every attempt, where its answer is.

From the ledger and the files beside it. The prompt is the one of the run that the rows are of; the
manifest's own files are only looked at to say that they are others by now.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from runner.commands.asked import asked_by
from runner.commands.documents import changes, document_of, repeats_of, schema_of, was_isolated
from runner.commands.inputs import same_inputs
from runner.commands.isolation import marked_isolated
from runner.commands.options import ManifestOptions
from runner.commands.past import Past, past_of, utc_text
from runner.commands.prompt_of import prompt_source
from runner.commands.raw_answers import RawAnswers
from runner.commands.workplace import open_workplace
from runner.core.model import Cause, Message, Status
from runner.core.settling import Answer, read_answer
from runner.errors import InputError, Mistake, RunnerError
from runner.ledger import AttemptRecord, LedgerRow, RunRecord
from runner.manifest import answer_checker

_KEYS_LOOKED_AT = 200_000
_KEYS_COMPARED = 20_000
_SIMILAR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlace:
    """Where the line of a row's answer (or failure) stands. `is_there` says that it could be read."""

    path: str
    offset: int
    length: int
    is_there: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainResult:
    """One row. `position` counts the dataset's rows from 0, `repeat` from 1.

    `prompt` is None where it can't be shown, and `prompt_problem` says why. `edited_since` names what is
    another than when the row was asked (dataset, template, params, model, schema, or `manifest` where it
    can't even be read). `embedding_length` is None but for embeddings.
    """

    manifest: str
    run: str
    key: str
    position: int
    repeat: int
    repeats: int
    status: Status
    cause: Cause | None
    fingerprint: str | None
    custom_id: str | None
    prompt: tuple[Message, ...] | None
    prompt_problem: str | None
    edited_since: tuple[str, ...]
    attempts: tuple[AttemptRecord, ...]
    place: AnswerPlace | None
    answer: str | None
    embedding_length: int | None

    def as_json(self) -> dict[str, Any]:
        """The object of `run explain --json`; times are UTC text."""
        values = asdict(self)
        if self.prompt is not None:  # a tuple, to `asdict`
            values["prompt"] = [message._asdict() for message in self.prompt]
        for attempt in values["attempts"]:
            seconds = attempt.pop("answered_at_s")
            attempt["answered_at"] = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
            attempt |= {name: utc_text(attempt[name]) for name in attempt if name.endswith("_at")}
        return {"format_version": 1, **values}


def explain(options: ManifestOptions, key: str, *, environ: Mapping[str, str], cwd: str) -> ExplainResult:
    """Explain the row with this key; a repeat's key is `key #2`. Raises InputError where there is none."""
    with past_of(options.path, environ=environ, cwd=cwd) as past:
        run = past.ledger.current_run(past.manifest.id)
        if run is None:
            raise InputError([Mistake(where=options.path, what="no run of it was planned to its end")])
        found = past.ledger.row_by_key(past.manifest.id, key)
        if not found:
            raise _unknown(past, key)
        prompt = _prompt(past, run, found[0], is_isolated=options.is_isolated)
        return _explained(past, run, found[0], prompt, edited_since(options, run, environ))


def _explained(
    past: Past,
    run: RunRecord,
    row: LedgerRow,
    prompt: tuple[Message, ...] | str,
    edited: tuple[str, ...],
) -> ExplainResult:
    place, answer = _answer(past, row)
    status, cause = _judged(run, row, answer)
    repeats = repeats_of(run)
    attempts = past.ledger.attempts(row.fingerprint) if row.fingerprint is not None else []
    return ExplainResult(
        manifest=past.manifest.path,
        run=run.uid,
        key=row.key,
        position=row.position // repeats,
        repeat=row.position % repeats + 1,
        repeats=repeats,
        status=status,
        cause=cause,
        fingerprint=row.fingerprint.hex() if row.fingerprint is not None else None,
        custom_id=row.custom_id,
        prompt=prompt if isinstance(prompt, tuple) else None,
        prompt_problem=prompt if isinstance(prompt, str) else None,
        edited_since=edited,
        attempts=tuple(attempts),
        place=place,
        answer=answer.text if answer is not None else None,
        embedding_length=len(answer.embedding) if answer is not None and answer.embedding else None,
    )


def _prompt(past: Past, run: RunRecord, row: LedgerRow, *, is_isolated: bool) -> tuple[Message, ...] | str:
    """What was asked, or why that can't be shown."""
    asked = asked_by(run, ledger=past.ledger, place=past.place, is_isolated=is_isolated)
    if isinstance(asked, str):
        return asked
    values = asked.row(row.position)
    if values is None:
        return "the snapshot of that run has no such row"
    messages = asked.messages(values)
    return messages.message if isinstance(messages, Cause) else messages


def _answer(past: Past, row: LedgerRow) -> tuple[AnswerPlace | None, Answer | None]:
    if row.raw_path is None or row.offset is None or row.length is None:
        return None, None
    with RawAnswers(past.place.folder) as raw:
        line = raw.read(row)
    place = AnswerPlace(path=row.raw_path, offset=row.offset, length=row.length, is_there=line is not None)
    return place, read_answer(line.body) if line is not None else None


def _judged(run: RunRecord, row: LedgerRow, answer: Answer | None) -> tuple[Status, Cause | None]:
    """The status as the results table says it: an answer is checked against the schema it was asked with."""
    cause = None
    if row.error_class is not None:
        cause = Cause(error_class=row.error_class, code=row.error_code, message=row.error_message or "")
    if row.status in (Status.SUCCEEDED, Status.INVALID) and answer is not None and answer.text is not None:
        broken = answer_checker(schema_of(run))(answer.text)
        if broken is not None:
            return Status.INVALID, Cause(error_class="schema", message=broken)
    return row.status, cause


def edited_since(options: ManifestOptions, run: RunRecord, environ: Mapping[str, str]) -> tuple[str, ...]:
    """What of the manifest is another by now than in this run."""
    try:
        workplace = open_workplace(options, environ)
        if was_isolated(run):
            manifest = marked_isolated(workplace.manifest)
            workplace = replace(workplace, manifest=manifest, is_isolated=True)
        prompt = prompt_source(workplace).compile()
        is_same = run.inputs is None or same_inputs(workplace, run.inputs) is not None
    except RunnerError:
        return ("manifest",)
    document = document_of(workplace.manifest)
    parts = tuple(one.what for one in changes(run, document, run.dataset_digest, prompt.digest()))
    return (() if is_same else ("dataset",)) + parts


def _unknown(past: Past, key: str) -> InputError:
    """No such key; with those that look like it."""
    near = _similar(past, key)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "keys are in the column `_key`"
    return InputError([Mistake(where=past.path, what=f"its last run has no row with key {key!r}", hint=hint)])


def _similar(past: Past, key: str) -> list[str]:
    """Keys that differ by case, blanks or leading zeros alone, else the most alike; among the first ones.

    Nobody waits for the hint: a million keys would take seconds.
    """
    known: list[str] = []
    for rows in past.ledger.previous_rows(past.manifest.id):
        known += [row_key for row_key, _ in rows]
        if len(known) >= _KEYS_LOOKED_AT:
            break
    wanted = _folded(key)
    same = [one for one in known if _folded(one) == wanted][:_SIMILAR]
    return same or difflib.get_close_matches(key, known[:_KEYS_COMPARED], n=_SIMILAR, cutoff=0.7)


def _folded(key: str) -> str:
    return "".join(key.casefold().split()).lstrip("0")
