"""`run resolve MANIFEST`: shards about which only a person can decide, and the three decisions.

Theory. A shard is held where the program can't prove whether a batch was bought for it: a create without
an answer at a server whose listing proves nothing, a batch that the server no longer knows. While it is
held its rows wait and nothing is sent for them. A person can know more (the server's own page, an invoice):

    adopt      this batch is it: checked against the server, then collected like any other
    resubmit   no batch exists: the server is asked once more, late creates are fenced off where that can
               be done, and then the requests are free, so that the next run sends them in a new file;
               where the server could not be asked in full, or no fence is proved, nothing is decided
    abandon    given up: what has no answer becomes `unaccounted`; no run asks it again, `run retry` does

A shard of which nobody knows the requests any more (see `untold`) is adopted only where its list, its input
file or the server's copy of that tells them: without, each of its answers would match nothing. Given up, no
row can be told from it, so its rows are asked like any other.

Each takes the manifest's and the shard's lock and is one recorded move.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from runner.commands import calls
from runner.commands.local import connected
from runner.commands.options import ManifestOptions, command_line
from runner.commands.requests_of import requests_of
from runner.commands.under_way import at_own_server
from runner.commands.untold import is_untold
from runner.commands.workplace import Workplace, open_workplace
from runner.core.model import ProblemKind, Provider
from runner.core.planning import Estimate, estimate
from runner.core.raising import output_bound
from runner.core.settling import judge_abandoned
from runner.core.states import ShardState, Submission, abandoned, adopted, disowned
from runner.core.tags import read_tags
from runner.core.wire import BatchObject
from runner.errors import DecisionNeededError, InputError, Mistake
from runner.ledger import Ledger, ManifestRecord, hold, kept_path, read_journal
from runner.provider import NotFoundYetError, ProviderError

if TYPE_CHECKING:
    from runner.provider import Client

_SHORT_ID = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldShard:
    """One shard that waits for a decision. `shard` is what `--shard` takes; times are UTC text.

    `sent_at` is when the create was sent at the latest, `unanswered` counts requests without an answer,
    `is_untold`: which ones it holds is not known. `known` is what is known, `cost` what sending it again may
    cost (None: unknown). `is_elsewhere`: it was sent to another server than the manifest names now.
    `gone_manifest`: the manifest that made it, where its file is gone. The commands are whole command lines.
    """

    shard: str
    run: str
    slot: int
    attempt: int
    requests: int
    unanswered: int
    is_untold: bool
    input_file_id: str | None
    batch_id: str | None
    sent_at: str | None
    known: str
    cost: float | None
    currency: str | None
    is_elsewhere: bool
    gone_manifest: str | None
    extra_batches: tuple[str, ...]
    adopt: str
    resubmit: str
    abandon: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided, and what the next run does about it."""

    shard: str
    decided: str
    requests: int
    then: str


# ---------------------------------------------------------------- looking


def held_shards(options: ManifestOptions, *, environ: Mapping[str, str]) -> tuple[HeldShard, ...]:
    """What waits for a decision. Looks only: no network, no writing."""
    workplace = open_workplace(options, environ)
    ledger = Ledger.open_reading(workplace.place)
    if ledger is None:
        return ()
    try:
        return tuple(
            _described(workplace, ledger, options, name, one)
            for name, one in _held(workplace, ledger).items()
        )
    finally:
        ledger.close()


class _Held(NamedTuple):
    """A held shard and the manifest that made it."""

    owner: ManifestRecord
    shard: Submission


def _held(workplace: Workplace, ledger: Ledger) -> dict[str, _Held]:
    """By the name that `--shard` takes: the number, with the run's id before it where that is not enough.

    A shard whose manifest is gone or renamed is decided about here too, if it is at this one's server: nobody
    can name its own.
    """
    held: list[_Held] = []
    for owner in ledger.manifests():
        is_own = owner.path == workplace.manifest_path
        if is_own or not (workplace.place.project / owner.path).exists():
            states = [one for one in ledger.shards(owner.id) if one.state is ShardState.HELD]
            shards = [ledger.submission(one.shard_id) for one in states]
            held += [_Held(owner, one) for one in (shards if is_own else at_own_server(workplace, shards))]
    slots = Counter(one.shard.slot for one in held)
    return {_name(one.shard, is_enough=slots[one.shard.slot] == 1): one for one in held}


def _name(shard: Submission, *, is_enough: bool) -> str:
    return str(shard.slot) if is_enough else f"{shard.run[:_SHORT_ID]}/{shard.slot}"


def _described(
    workplace: Workplace, ledger: Ledger, options: ManifestOptions, name: str, held: _Held
) -> HeldShard:
    submission = held.shard
    answered = sum(one.status is not None for one in ledger.expected(submission.shard_id).values())
    risk = _risk(workplace, submission)
    base = command_line("resolve", options)

    def command(decision: str) -> str:
        return f"{base} --shard {name} {decision}"

    return HeldShard(
        shard=name,
        run=submission.run,
        slot=submission.slot,
        attempt=submission.attempt,
        requests=submission.requests,
        unanswered=submission.requests - answered,
        is_untold=is_untold(ledger, submission),
        input_file_id=submission.input_file_id,
        batch_id=submission.batch_id,
        sent_at=_utc(submission.submitted_at_s or submission.send_by_s),
        known=submission.problem or "nothing more",
        cost=risk.cost,
        currency=risk.currency,
        is_elsewhere=not at_own_server(workplace, [submission]),
        gone_manifest=None if held.owner.path == workplace.manifest_path else held.owner.path,
        extra_batches=tuple(ledger.extra_batches(submission.shard_id)),
        adopt=command("--adopt BATCH_ID"),
        resubmit=command("--resubmit"),
        abandon=command("--abandon"),
    )


def _risk(workplace: Workplace, submission: Submission) -> Estimate:
    """What the shard may cost once more, as `run plan` would state it; with the largest limit that the
    manifest allows, for it may hold what was cut before."""
    model = workplace.manifest.model
    return estimate(
        body_bytes=submission.size_bytes,
        requests=submission.requests,
        max_output_tokens=output_bound(model.endpoint, workplace.ladder[-1]),
        prices=model.prices,
        is_free=workplace.provider.is_local,
    )


def _utc(moment_s: float | None) -> str | None:
    return None if moment_s is None else datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---------------------------------------------------------------- deciding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One held shard while it is decided about: its locks are held. `manifest_id` is of who made it."""

    name: str
    options: ManifestOptions
    workplace: Workplace
    ledger: Ledger
    manifest_id: int
    submission: Submission


@contextmanager
def _case(options: ManifestOptions, shard: str | None, environ: Mapping[str, str]) -> Iterator[_Case]:
    workplace = open_workplace(options, environ)
    if not held_shards(options, environ=environ):
        raise InputError([Mistake(where=options.path, what="nothing of it is held")])
    with ExitStack() as stack:
        stack.enter_context(hold(workplace.lock_path))
        ledger = stack.enter_context(Ledger.open(workplace.place))
        held = _held(workplace, ledger)
        name = _chosen(held, shard, options)
        owner, found = held[name]
        if owner.path != workplace.manifest_path:  # who runs it still may have begun before its file went
            stack.enter_context(hold(workplace.place.manifest_lock(owner.path)))
        stack.enter_context(hold(workplace.place.shard_lock(found.shard_id)))
        submission = ledger.submission(found.shard_id)
        if submission.state is not ShardState.HELD:  # another manifest decided about it a moment ago
            raise InputError([Mistake(where=options.path, what=f"shard {name} is held no more")])
        yield _Case(
            name=name,
            options=options,
            workplace=workplace,
            ledger=ledger,
            manifest_id=owner.id,
            submission=submission,
        )


def _chosen(held: Mapping[str, _Held], shard: str | None, options: ManifestOptions) -> str:
    look = f"`{command_line('resolve', options)}` lists them"
    if not held:
        raise InputError([Mistake(where=options.path, what="nothing of it is held")])
    if shard is None and len(held) == 1:
        return next(iter(held))
    if shard is None:
        what = f"{len(held)} shards are held, so --shard must say which"
        raise InputError([Mistake(where="--shard", what=what, hint=f"one of {', '.join(held)}; {look}")])
    if shard not in held:
        what = f"no held shard {shard!r}"
        raise InputError([Mistake(where="--shard", what=what, hint=f"one of {', '.join(held)}; {look}")])
    return shard


@contextmanager
def _server_of(case: _Case, environ: Mapping[str, str]) -> Iterator[tuple[Client, Provider]]:
    if not at_own_server(case.workplace, [case.submission]):
        raise InputError(
            [
                Mistake(
                    where=case.options.path,
                    path="model.provider",
                    what=f"shard {case.name} was sent to another server than the manifest names now",
                    hint="name that server again, for example with --set model.provider=...",
                )
            ]
        )
    with connected(case.workplace.provider, case.workplace.place.folder, environ) as found:
        yield found


def adopt(
    options: ManifestOptions, batch_id: str, *, shard: str | None, environ: Mapping[str, str]
) -> Decision:
    """This batch is the shard's. Raises InputError, with what was found, where the server says otherwise."""
    with _case(options, shard, environ) as case, _server_of(case, environ) as (client, _):
        try:
            batch = client.retrieve_batch(batch_id)
        except ProviderError as error:
            if error.problem.kind not in (ProblemKind.NOT_FOUND, ProblemKind.INVALID_REQUEST):
                raise
            what = f"the server knows no batch {batch_id!r}, or this key does not see it"
            raise _refused("--adopt", what, "nothing was changed") from None
        _check_is_its_batch(case, batch)
        if is_untold(case.ledger, case.submission):
            _learn_requests(case, batch, client)
        moved = adopted(case.submission, batch, time.time())
        case.ledger.save(moved, what="adopted by a person", detail=batch.batch_id)
    then = f"`{command_line('', options)}` collects it (the server says: {batch.status or 'nothing'})"
    return Decision(shard=case.name, decided=f"adopted {batch.batch_id}", requests=moved.requests, then=then)


def _check_is_its_batch(case: _Case, batch: BatchObject) -> None:
    """By our tags of this very shard, or by an input file that was uploaded for it."""
    ours = case.submission
    ids = case.ledger.all_ids(case.manifest_id)
    files = {one.input_file_id for one in ids if one.shard_id == ours.shard_id and one.input_file_id}
    tags = read_tags(batch.metadata)
    is_tagged = tags is not None and (tags.run, tags.slot, tags.sha) == (ours.run, ours.slot, ours.sha[:16])
    if not is_tagged and batch.input_file_id not in files:
        found = f"batch {batch.batch_id} was made of input file {batch.input_file_id or '(not told)'}"
        found += (
            f", tagged for shard {tags.slot} of run {tags.run[:_SHORT_ID]}" if tags else ", without our tags"
        )
        wanted = (
            f"shard {case.name} of run {ours.run[:_SHORT_ID]} has {', '.join(sorted(files)) or 'no file'}"
        )
        raise _refused(
            "--adopt", f"{found}; {wanted}", "a batch of other requests would be no answer to these"
        )
    others = [one for one in ids if one.batch_id == batch.batch_id and one.shard_id != ours.shard_id]
    if others:
        raise _refused("--adopt", f"batch {batch.batch_id} is another shard's already", "nothing was changed")


def _learn_requests(case: _Case, batch: BatchObject, client: Client) -> None:
    """Which requests the shard holds. Raises DecisionNeededError where nobody can tell."""
    place, ours = case.workplace.place, case.submission
    journaled = (one.newest for one in read_journal(place).shards)
    newest = next((fact for fact in journaled if (fact.run, fact.slot) == (ours.run, ours.slot)), None)
    requests = None
    if newest is not None:
        fact = replace(newest, input_file_id=batch.input_file_id or newest.input_file_id)
        requests = requests_of(fact, place.folder, client)
    if requests is None:
        list_path = kept_path(place.folder, ours.sha)
        raise DecisionNeededError(
            f"which requests shard {case.name} holds is not known, and the server does not give its input "
            f"file: the answers of batch {batch.batch_id} would match no row, and be bought again; nothing "
            "was decided",
            next_step=f"put {list_path} or {place.folder / ours.path} back from a backup, or wait until the "
            "server gives the file, and run the same command again: till then nothing is lost and nothing "
            f"paid; to buy it again whatever it has answered, `{_about(case)} --abandon`",
        )
    case.ledger.restoration().learn(ours.shard_id, requests)


def resubmit(options: ManifestOptions, *, shard: str | None, environ: Mapping[str, str]) -> Decision:
    """No batch exists, a person says. Raises DecisionNeededError where the server shows one, and where it
    could not be looked whether there is one."""
    with _case(options, shard, environ) as case, _server_of(case, environ) as (client, provider):
        _refuse_if_listed(case, client, provider)
        if provider.has_fence and case.submission.input_file_id is not None:
            _refuse_if_not_fenced(case, client, provider)
        else:
            _refuse_if_unseen(case, client)
        moved = disowned(case.submission, "a person said that no batch exists for it")
        case.ledger.release(moved, what="resubmitted by a person")
    then = f"`{command_line('', options)}` sends what its rows still want, in a new file"
    return Decision(shard=case.name, decided="no batch exists", requests=moved.requests, then=then)


def _refuse_if_listed(case: _Case, client: Client, provider: Provider) -> None:
    found: Sequence[BatchObject]
    found, is_complete = calls.scan(client, case.submission, provider)
    if not found and case.submission.batch_id is not None:
        try:
            found = [client.retrieve_batch(case.submission.batch_id)]
        except NotFoundYetError:
            found = []
    if found:
        command = f"{_about(case)} --adopt {found[0].batch_id}"
        raise DecisionNeededError(
            f"there is a batch of shard {case.name} at the server: {found[0].batch_id} "
            f"({found[0].status or 'no status'}); to send it again would pay it again",
            next_step=f"`{command}`",
        )
    if not is_complete:
        why = f"the server's listing of batches could not be read to its end, so that shard {case.name} has"
        raise _unproved(case, f"{why} none in it proves nothing")


def _refuse_if_unseen(case: _Case, client: Client) -> None:
    """Without a fence a listing is all there is, and another account's lacks the batch: so where the create
    was surely sent with another key, this one must at least see the input file."""
    submission = case.submission
    if case.ledger.key_of_create(submission.shard_id) in ("", client.key_digest(submission.run)):
        return
    if not calls.sees_input_file(client, submission):
        why = f"the create of shard {case.name} was sent with another key, and this one does not see its file"
        raise _unproved(case, f"{why}: set the one of then, for another account sees no batch of it either")


def _refuse_if_not_fenced(case: _Case, client: Client, provider: Provider) -> None:
    """The input file is deleted, so that a create that is still on its way buys nothing."""
    reply = calls.draw_fence(client, case.submission)
    if reply == "deleted" or (reply == "missing" and _is_surely_gone(case, client, provider)):
        return
    said = "knows no such file" if reply == "missing" else "did not say that it is deleted"
    why = f"input file {case.submission.input_file_id} of shard {case.name} was to be deleted, so that a late"
    raise _unproved(case, f"{why} create can buy nothing, and the server {said}")


def _is_surely_gone(case: _Case, client: Client, provider: Provider) -> bool:
    """Whether a file that the server does not know was deleted before. It is not known with another account's
    key either, nor by a replica that is behind."""
    submission, place = case.submission, case.workplace.place
    if case.ledger.key_of_create(submission.shard_id) != client.key_digest(submission.run):
        return False
    return calls.is_file_gone(
        client, submission, provider, place.folder / submission.path, place.folder / "scratch"
    )


def _about(case: _Case) -> str:
    """The command that decides about this shard, but for the decision."""
    return f"{command_line('resolve', case.options)} --shard {case.name}"


def _unproved(case: _Case, why: str) -> DecisionNeededError:
    base = _about(case)
    return DecisionNeededError(
        f"{why}; nothing was decided",
        next_step=f"run the same command again later; `{base} --adopt BATCH_ID` if the server's own page "
        f"shows a batch; to send it again whatever was bought, `{base} --abandon` and then "
        f"`{command_line('retry', case.options)}`",
    )


def abandon(options: ManifestOptions, *, shard: str | None, environ: Mapping[str, str]) -> Decision:
    """Give the shard up. Needs no server."""
    with _case(options, shard, environ) as case:
        if is_untold(case.ledger, case.submission):
            return _abandon_untold(case)
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        batch_id = case.submission.batch_id
        what_is_known = (
            "whether a batch was bought for it is unknown"
            if batch_id is None
            else f"its batch {batch_id} was bought, and what it answered was not read to the end"
        )
        why = f"given up by a person on {today}; {what_is_known}"
        entries = case.ledger.expected(case.submission.shard_id).values()
        outcome = judge_abandoned(why)
        absent = [(one.line, one.request_id, outcome) for one in entries if one.status is None]
        case.ledger.finish_shard(abandoned(case.submission, why), absent, what="abandoned by a person")
    then = (
        f"{len(absent)} of its rows are `unaccounted` now; no run asks them again by itself, "
        f"`{command_line('retry', options)}` does"
    )
    return Decision(shard=case.name, decided="given up", requests=case.submission.requests, then=then)


def _abandon_untold(case: _Case) -> Decision:
    """No outcome can be written to requests that nobody knows; so they are free."""
    batch_id = case.submission.batch_id
    why = "given up by a person; which requests it held is not known"
    case.ledger.release(disowned(case.submission, why), what="abandoned by a person")
    then = (
        f"`{command_line('', case.options)}` sends what its rows want, "
        f"also what {f'batch {batch_id}' if batch_id else 'a batch of this shard'} has answered"
    )
    return Decision(shard=case.name, decided="given up", requests=case.submission.requests, then=then)


def _refused(where: str, what: str, hint: str) -> InputError:
    return InputError([Mistake(where=where, what=what, hint=hint)])
