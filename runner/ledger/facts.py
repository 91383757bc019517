"""What a line of the side journal says: enough of a shard to put it back into a new ledger.

Every line stands for itself (a journal may lose lines in the middle): where the shard belongs (manifest,
run, slot), what it was made of (sha, sizes, endpoint, model, provider), where it stood, and every id the
server gave for the attempt. `ledger` names the database, because several can share one folder; it is empty
for the usual one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, bindparam, select

from runner.core.states import ShardState, Submission
from runner.core.wire import JsonError, decode_json
from runner.ledger.bulk import RecordQuery
from runner.ledger.tables import manifest, run, shard
from runner.ledger.times import iso


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFact:
    """One shard and its attempt at one moment. `provider` is `model.provider` as the manifest had it. `key`:
    on the line of a create-intent the digest of the key that it is sent with; empty where it is not told."""

    at: str
    what: str
    manifest: str
    name: str
    server: str
    run: str
    shard: int
    slot: int
    attempt: int
    sha: str
    path: str
    size_bytes: int
    requests: int
    endpoint: str
    completion_window: str
    model: str
    state: str
    provider: Any = None
    send_by_s: float | None = None
    submitted_at_s: float | None = None
    is_fenced: bool = False
    cancel_requested: bool = False
    problem: str | None = None
    status: str = ""
    input_file_id: str | None = None
    batch_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    key: str = ""

    @property
    def shard_state(self) -> ShardState:
        """The state as a word of ours."""
        return ShardState(self.state)


_NAMES = tuple(one.name for one in fields(ShardFact))
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("at", "what", "manifest", "name", "server", "run", "sha", "path"), (str,)),
    **dict.fromkeys(("endpoint", "completion_window", "model", "state"), (str,)),
    **dict.fromkeys(("shard", "slot", "attempt", "size_bytes", "requests"), (int,)),
}


_OF_SHARD = RecordQuery(
    select(manifest.c.path, manifest.c.name, shard.c.model, run.c.document)
    .select_from(
        shard.join(run, run.c.id == shard.c.run_id).join(manifest, manifest.c.id == shard.c.manifest_id)
    )
    .where(shard.c.id == bindparam("this_shard")),
    "this_shard",
)


def fact_of(
    connection: Connection, submission: Submission, what: str, now_s: float, *, key: str
) -> dict[str, Any]:
    """The line for a shard that moves."""
    found = _OF_SHARD.record(connection, submission.shard_id)
    fact = ShardFact(
        at=iso(now_s),
        what=what,
        manifest=found.path,
        name=found.name,
        server=submission.server,
        run=submission.run,
        shard=submission.shard_id,
        slot=submission.slot,
        attempt=submission.attempt,
        sha=submission.sha,
        path=submission.path,
        size_bytes=submission.size_bytes,
        requests=submission.requests,
        endpoint=submission.endpoint,
        completion_window=submission.completion_window,
        model=found.model,
        state=submission.state.value,
        provider=_provider_of(found.document),
        send_by_s=submission.send_by_s,
        submitted_at_s=submission.submitted_at_s,
        is_fenced=submission.is_fenced,
        cancel_requested=submission.cancel_requested,
        problem=submission.problem,
        status=submission.status,
        input_file_id=submission.input_file_id,
        batch_id=submission.batch_id,
        output_file_id=submission.output_file_id,
        error_file_id=submission.error_file_id,
        key=key,
    )
    return {name: getattr(fact, name) for name in _NAMES}


def read_fact(line: object) -> ShardFact | None:
    """A line's value as a fact; None for lines of other kinds and for what can't be one."""
    if not isinstance(line, dict) or "slot" not in line:
        return None
    if any(not isinstance(line.get(name), kinds) for name, kinds in _TYPES.items()):
        return None
    if len(line["run"]) != 32 or len(line["sha"]) != 64 or line["state"] not in set(ShardState):
        return None
    return ShardFact(**{name: line[name] for name in _NAMES if name in line})


def _provider_of(document: str | None) -> Any:
    try:
        return decode_json(document or "null")["manifest"]["model"]["provider"]
    except (JsonError, KeyError, TypeError):
        return None


def document_with(provider: Any) -> dict[str, Any]:
    """As much of a run's document as a line knows: which server its batches are at."""
    return {"manifest": {"model": {"provider": provider}}}
