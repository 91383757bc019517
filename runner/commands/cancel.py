"""`run cancel MANIFEST`: stop what is under way. Finished requests are kept; what never ran is not paid.

The batches are told to stop, those of held shards too where they are known; the next `run` collects what they
finished and asks the rest again. Where the server does not take that, each look at the batch tells it once
more, until it does. Works beside a running process: that one sees the batches end, and the wish
that is recorded for the manifest and for every other open shard: it sends nothing more, failures and larger
limits included, and stops a batch that was being made. The same holds for a schedule's look that goes on with
the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.commands.discarding import take_back_unsent
from runner.commands.local import connected
from runner.commands.moments import Reporter, Trouble
from runner.commands.options import ManifestOptions
from runner.commands.under_way import at_own_server, under_way
from runner.commands.workplace import Workplace, open_workplace
from runner.core.states import ShardState, Submission
from runner.failpoints import failpoint
from runner.ledger import HeldElsewhereError, Ledger, hold
from runner.provider import ProviderError

if TYPE_CHECKING:
    from runner.provider import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelResult:
    """`cancelled` and `failed` are batch ids; `discarded` counts shards that were never sent, `in_doubt`
    those that are being sent, or were without a reply: they are stopped when that is known; `held` those of
    which only a person can say whether there is a batch. `is_beside_run`: a process is at work on the
    manifest; it sends nothing more. `left`: batches that rows wait for and that are another manifest's, each
    with that one's path; the id is empty where it is not known yet."""

    cancelled: tuple[str, ...] = ()
    discarded: int = 0
    failed: tuple[str, ...] = ()
    in_doubt: int = 0
    held: int = 0
    is_beside_run: bool = False
    left: tuple[tuple[str, str], ...] = ()


def cancel(options: ManifestOptions, *, environ: Mapping[str, str], reporter: Reporter) -> CancelResult:
    """Cancel every batch of the manifest that is under way. Those of others, which its rows wait for too, are
    theirs."""
    workplace = open_workplace(options, environ)
    looked = Ledger.open_reading(workplace.place)
    if looked is None:
        return CancelResult()
    looked.close()
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(workplace.place))
        manifest_id = ledger.find_manifest(workplace.manifest_path)
        if manifest_id is None:
            return CancelResult()
        ledger.wishes().cancel_manifest(manifest_id)
        discarded = _discard(workplace, ledger, manifest_id)
        ours = {record.shard_id for record in ledger.shards(manifest_id)}
        open_shards = under_way(workplace, ledger, manifest_id)
        found = [one for one in open_shards if one.shard_id in ours]
        left = [
            (one.batch_id or "", workplace.as_typed(ledger.owner_of_shard(one.shard_id), options))
            for one in open_shards
            if one.shard_id not in ours
        ]
        held = _held(workplace, ledger, manifest_id)
        bought = [one for one in (*found, *held) if one.batch_id is not None]
        in_doubt = [one for one in found if one.batch_id is None]
        for one in (*in_doubt, *(one for one in held if one.batch_id is None)):
            ledger.request_cancel(one.shard_id)
        outcomes = []
        if bought:
            client, _ = stack.enter_context(connected(workplace.provider, workplace.place.folder, environ))
            outcomes = [(one.batch_id or "", _cancel(ledger, client, one, reporter)) for one in bought]
    return CancelResult(
        cancelled=tuple(batch_id for batch_id, done in outcomes if done),
        discarded=discarded or 0,
        failed=tuple(batch_id for batch_id, done in outcomes if not done),
        in_doubt=len(in_doubt),
        held=sum(one.batch_id is None for one in held),
        is_beside_run=discarded is None,
        left=tuple(left),
    )


def _held(workplace: Workplace, ledger: Ledger, manifest_id: int) -> list[Submission]:
    """A shard of which only a person can say what became of it may have a batch that runs."""
    records = [record for record in ledger.shards(manifest_id) if record.state is ShardState.HELD]
    return at_own_server(workplace, [ledger.submission(record.shard_id) for record in records])


def cancel_unwanted(
    ledger: Ledger, client: Client, submissions: Sequence[Submission], reporter: Reporter
) -> int:
    """`on_edit: cancel`: batches of which no row wants anything any more are told to stop."""
    wanted = ledger.wanted_shards()
    unwanted = [
        one
        for one in submissions
        if one.state is ShardState.SUBMITTED and not one.cancel_requested and one.shard_id not in wanted
    ]
    return sum(_cancel(ledger, client, one, reporter) for one in unwanted)


def _discard(workplace: Workplace, ledger: Ledger, manifest_id: int) -> int | None:
    """Shards that were never sent; None while another process may be sending them."""
    try:
        with hold(workplace.lock_path):
            return take_back_unsent(workplace, ledger, manifest_id)
    except HeldElsewhereError:
        return None


def _cancel(ledger: Ledger, client: Client, submission: Submission, reporter: Reporter) -> bool:
    """The wish is recorded first: who collects the batch must know that a person wanted this."""
    failpoint("cancel.begins")
    ledger.request_cancel(submission.shard_id)
    failpoint("cancel.requested")
    try:
        client.cancel_batch(submission.batch_id or "")
    except ProviderError as error:
        reporter.tell(Trouble(what=f"batch {submission.batch_id}: {error.what}", slot=submission.slot))
        return False
    failpoint("cancel.sent")
    return True
