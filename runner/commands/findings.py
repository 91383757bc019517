"""What the server's listing knows of our batches and the journal does not: found by tags, never by guess.

A batch is ours if it carries the tags of a run that the journal names, or was made of an input file that
it names. A run the journal has lost is ours only where its input file lies here: other projects may use
the same account, and tag their batches as we do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands.local import connected
from runner.commands.moments import Reporter, Trouble
from runner.commands.workplace import Workplace
from runner.core.states import ShardState, terminal_word
from runner.core.tags import read_tags
from runner.core.wire import BatchObject, decode_json
from runner.ledger import Journaled, JournaledShard, ShardFact
from runner.provider import NotFoundYetError, ProviderError

if TYPE_CHECKING:
    from runner.provider import Client

_SLACK_S = 86_400


@dataclass(slots=True)
class Findings:
    """`facts`: one for each batch that the journal did not know of. `unknown`: shards it knew nothing of.

    `extras` are second batches of a shard by run and slot, `remarks` are for people. Empty where the server
    was not asked.
    """

    facts: list[ShardFact] = field(default_factory=list)
    unknown: list[JournaledShard] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    extras: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)

    def client_for(self, fact: ShardFact) -> Client | None:
        """Who can ask the server that this shard was sent to."""
        return self.clients.get(fact.server)

    def is_gone(self, fact: ShardFact) -> bool:
        """Whether the server says that it no longer knows the shard's batch. Another account's key knows
        none."""
        client = self.client_for(fact)
        try:
            if client is not None and fact.batch_id is not None:
                if fact.key not in ("", client.key_digest(fact.run)):
                    return False
                client.retrieve_batch(fact.batch_id)
        except NotFoundYetError:
            return True
        except ProviderError:
            return False
        return False

    def completed(self, known: JournaledShard) -> JournaledShard:
        """The shard with the batches that were found for its attempts."""
        attempts = {fact.attempt: fact for fact in known.attempts}
        for fact in self.facts:
            if (fact.run, fact.slot) == (known.newest.run, known.newest.slot):
                attempts[fact.attempt] = fact
        return JournaledShard(attempts=tuple(attempts[key] for key in sorted(attempts)))


def look_for_batches(
    workplaces: Sequence[Workplace],
    journaled: Journaled,
    environ: Mapping[str, str],
    stack: ExitStack,
    reporter: Reporter,
) -> Findings:
    """Walk the listing of each server once. Raises ProviderError where one can't be asked."""
    findings = Findings()
    for workplace in workplaces:
        server = workplace.provider.server
        if server in findings.clients:
            continue
        client, _ = stack.enter_context(connected(workplace.provider, workplace.place.folder, environ))
        findings.clients[server] = client
        listed = client.list_batches(not_before_s=_first_moment_s(journaled))
        if not listed.is_complete:
            what = f"the listing of batches at {workplace.provider.name} could not be read to its end"
            findings.remarks.append(what)
            reporter.tell(Trouble(what=what))
        for batch in listed.objects:
            _take(batch, findings, journaled, workplace)
    return findings


def _first_moment_s(journaled: Journaled) -> int | None:
    """Back to a day before the first line; without any line, back to the beginning."""
    moments = [datetime.fromisoformat(one.attempts[0].at) for one in journaled.shards]
    if not moments or journaled.damaged_lines:
        return None
    return int(min(moments).astimezone(UTC).timestamp()) - _SLACK_S


def _take(batch: BatchObject, findings: Findings, journaled: Journaled, workplace: Workplace) -> None:
    here = [
        fact for one in journaled.shards for fact in one.attempts if fact.server == workplace.provider.server
    ]
    known = {fact.batch_id for fact in here}.union(*journaled.extras.values())
    if batch.batch_id in known:
        return
    tags = read_tags(batch.metadata)
    wanted = (tags.run, tags.slot, tags.attempt) if tags is not None else None
    for fact in here:
        is_its_file = batch.input_file_id is not None and batch.input_file_id == fact.input_file_id
        if is_its_file or wanted == (fact.run, fact.slot, fact.attempt):
            _adopt(batch, fact, findings)
            return
    if tags is not None and tags.run not in {one.newest.run for one in journaled.shards}:
        _take_unknown(batch, findings, workplace)


def _adopt(batch: BatchObject, fact: ShardFact, findings: Findings) -> None:
    if fact.batch_id is not None or any(
        (found.run, found.slot, found.attempt) == (fact.run, fact.slot, fact.attempt)
        for found in findings.facts
    ):
        key = (fact.run, fact.slot)
        findings.extras[key] = (*findings.extras.get(key, ()), batch.batch_id)
        findings.remarks.append(
            f"the server holds a second batch of shard {fact.slot} of run {fact.run[:8]}: {batch.batch_id}; "
            f"it may be billed, and {_who_stops(batch, fact)}"
        )
        return
    findings.facts.append(_with_batch(fact, batch))


def _who_stops(batch: BatchObject, fact: ShardFact) -> str:
    """Who collects a shard stops its second batches, and nobody collects one that has come to its end."""
    if terminal_word(batch.status) is not None:
        return f"has ended ({batch.status})"
    if fact.shard_state is ShardState.HELD or not fact.shard_state.is_final:
        return "the next run stops it"
    return f"no run stops it, because the shard is {fact.state}: cancel it on the server's own page"


def _with_batch(fact: ShardFact, batch: BatchObject) -> ShardFact:
    state = fact.shard_state
    return replace(
        fact,
        at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        what="found on the server",
        state=(ShardState.DONE if state is ShardState.DONE else ShardState.SUBMITTED).value,
        batch_id=batch.batch_id,
        input_file_id=fact.input_file_id or batch.input_file_id,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        status=batch.status,
        submitted_at_s=float(batch.created_at_s) if batch.created_at_s is not None else None,
        problem=None,
    )


def _take_unknown(batch: BatchObject, findings: Findings, workplace: Workplace) -> None:
    """A batch of a run that the journal has lost: ours if the very input file lies here."""
    tags = read_tags(batch.metadata)
    folder = workplace.place.folder
    if tags is None:
        return
    files = [*(folder / "shards").glob(f"{tags.sha}*.jsonl"), *(folder / "requests").glob(f"{tags.sha}*.txt")]
    if not files:
        return
    sha = files[0].stem.partition("-")[0]
    is_input = files[0].parent.name == "shards"
    path = Path("shards") / (files[0].name if is_input else f"{sha}-{workplace.file_owner}.jsonl")
    manifest = workplace.manifest
    fact = ShardFact(
        at="",
        what="",
        manifest=workplace.manifest_path,
        name=manifest.name,
        server=workplace.provider.server,
        run=tags.run,
        shard=0,
        slot=tags.slot,
        attempt=tags.attempt,
        sha=sha,
        path=path.as_posix(),
        size_bytes=files[0].stat().st_size,
        requests=tags.requests,
        endpoint=manifest.model.endpoint,
        completion_window=manifest.batch.completion_window,
        model=manifest.model.name,
        state=ShardState.SUBMITTED.value,
        provider=decode_json(manifest.canonical)["model"]["provider"],
    )
    found = _with_batch(fact, batch)
    findings.facts.append(found)
    findings.unknown.insert(0, JournaledShard(attempts=(found,)))  # the listing is newest first
