"""`run resolve` and `run rebuild`: what a person must decide, and a ledger that was lost."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from runner.cli.arguments import (
    Bending,
    Session,
    bending_options,
    check_manifests,
    json_option,
    manifest_options,
    yes_option,
)
from runner.cli.json_lines import json_line
from runner.cli.reporting import asker, reporter_for
from runner.cli.streams import say, write_out
from runner.cli.texts import clean, counted, money
from runner.errors import EXIT_DONE, EXIT_REFUSED, InputError, InterruptedRunError, Mistake

if TYPE_CHECKING:
    from runner.commands.options import ManifestOptions
    from runner.commands.rebuild import RebuildResult
    from runner.commands.resolve import Decision, HeldShard


@click.command(
    epilog="""\b
Without a decision it lists what is held, and the exact commands to decide.
Nothing is sent by this command itself; the next `run` acts on the decision.

\b
Examples:
  run resolve manifest.yaml
  run resolve manifest.yaml --adopt BATCH_ID    the server's page shows it
  run resolve manifest.yaml --resubmit          you are sure that there is none
  run resolve manifest.yaml --abandon           its rows become `unaccounted`
"""
)
@click.argument("manifest", metavar="MANIFEST")
@click.option("--shard", metavar="N", help="Which one, where several are held.")
@click.option("--adopt", metavar="BATCH_ID", help="This batch is the shard's: collect it.")
@click.option("--resubmit", is_flag=True, help="No batch exists: let the next run send it again.")
@click.option("--abandon", is_flag=True, help="Give it up: no run asks its rows again by itself.")
@json_option("one object")
@yes_option
@bending_options
@click.pass_obj
def resolve(
    session: Session,
    manifest: str,
    shard: str | None,
    adopt: str | None,
    resubmit: bool,
    abandon: bool,
    as_json: bool,
    yes: bool,
    bent: Bending,
) -> int:
    """Decide about what only a person can decide."""
    from runner.commands.resolve import held_shards

    session.enter("resolve", (manifest,))
    check_manifests((manifest,))
    if (adopt is not None) + resubmit + abandon > 1:
        what = "--adopt, --resubmit and --abandon are three decisions"
        raise InputError([Mistake(where="run resolve", what=what, hint="give one of them")])
    options = manifest_options(manifest, bent)
    held = held_shards(options, environ=dict(os.environ))
    if adopt is None and not resubmit and not abandon:
        _list(manifest, [one for one in held if shard in (None, one.shard)], as_json=as_json)
        return EXIT_DONE
    ask = asker(yes=yes or adopt is not None, interrupts=session.interrupts)
    if not ask(_question(held, shard, is_resubmit=resubmit)):
        raise InterruptedRunError("nothing was decided")
    done = _decide(options, shard, adopt, is_resubmit=resubmit)
    if as_json:
        write_out(json_line({"format_version": 1, **asdict(done)}))
    else:
        say(f"shard {clean(done.shard)}: {clean(done.decided)} ({counted(done.requests, 'request')})")
        say(f"next:  {clean(done.then)}")
    return EXIT_DONE


def _decide(
    options: ManifestOptions, shard: str | None, batch_id: str | None, *, is_resubmit: bool
) -> Decision:
    from runner.commands import resolve as decisions

    environ = dict(os.environ)
    if batch_id is not None:
        return decisions.adopt(options, batch_id, shard=shard, environ=environ)
    if is_resubmit:
        return decisions.resubmit(options, shard=shard, environ=environ)
    return decisions.abandon(options, shard=shard, environ=environ)


def _question(held: tuple[HeldShard, ...], shard: str | None, *, is_resubmit: bool) -> str:
    meant = [one for one in held if shard in (None, one.shard)]
    requests = sum(one.unanswered or one.requests for one in meant)
    if not is_resubmit and any(one.is_untold for one in meant):
        return (
            f"Give {counted(requests, 'request')} up? Which rows they are of is not known, so the next run"
            f" sends all rows without an answer; what a batch has answered is paid twice ({_cost(meant)})."
        )
    if not is_resubmit:
        return f"Give {counted(requests, 'request')} up? If a batch exists, what it costs is lost."
    return (
        f"Send {counted(requests, 'request')} again? If a batch exists after all, they are paid twice"
        f" ({_cost(meant)})."
    )


def _cost(held: list[HeldShard]) -> str:
    if any(one.cost is None for one in held):
        return "cost unknown: model.prices or max_tokens is not set"
    currency = next((one.currency for one in held if one.currency is not None), None)
    return f"at most {money(sum(one.cost or 0 for one in held), currency)}"


def _list(manifest: str, held: list[HeldShard], *, as_json: bool) -> None:
    if as_json:
        write_out(json_line({"format_version": 1, "held": [asdict(one) for one in held]}))
    elif not held:
        say(f"nothing of {clean(manifest)} is held")
    else:
        write_out("".join(f"{line}\n" for one in held for line in _held_text(one)))


def _held_text(one: HeldShard) -> list[str]:
    place = " (at another server than the manifest names now)" if one.is_elsewhere else ""
    if one.gone_manifest is not None:
        place += f" (of {clean(one.gone_manifest)}, which is gone)"
    requests = f"{counted(one.requests, 'request')}, {one.unanswered} without an answer"
    return [
        f"shard {clean(one.shard)} of run {one.run[:8]}, attempt {one.attempt}: {requests}{place}",
        f"  sent      {one.sent_at or 'not known when'}",
        f"  file      {clean(one.input_file_id or 'none')}",
        f"  batch     {clean(one.batch_id or 'not known')}",
        f"  known     {clean(one.known)}",
        *(f"  twice     {clean(extra)} was made of the same create" for extra in one.extra_batches),
        f"  again     {_cost([one])}",
        "  decide",
        f"    {clean(one.adopt)}    it is this batch",
        f"    {clean(one.resubmit)}    no batch exists: send it again",
        f"    {clean(one.abandon)}    give it up",
    ]


@click.command(
    epilog="""\b
For a ledger that is damaged, deleted or an old copy. Nothing is sent: the
next `run` collects what is on its way and asks only what was never answered.
The old ledger is kept beside the new one.

\b
Examples:
  run rebuild manifest.yaml
  run rebuild manifest.yaml --offline       without asking the server
"""
)
@click.argument("manifests", metavar="MANIFEST...", nargs=-1, required=True)
@click.option("--offline", is_flag=True, help="From this machine's files alone.")
@json_option("one object")
@bending_options
@click.pass_obj
def rebuild(
    session: Session,
    manifests: tuple[str, ...],
    offline: bool,
    as_json: bool,
    bent: Bending,
) -> int:
    """Make a lost or damaged ledger again; nothing is sent."""
    from runner.commands.rebuild import RebuildOptions
    from runner.commands.rebuild import rebuild as make_again

    session.enter("rebuild", manifests)
    check_manifests(manifests)
    options = RebuildOptions(
        manifests=tuple(manifest_options(one, bent) for one in manifests),
        is_offline=offline,
        environ=dict(os.environ),
    )
    with closing(reporter_for(interrupts=session.interrupts, yes=True)) as screen:
        found = make_again(options, reporter=screen)
    if as_json:
        write_out(json_line({"format_version": 1, **asdict(found)}))
    else:
        _tell_rebuilt(found, manifests)
    return EXIT_REFUSED if found.shards.get("held") else EXIT_DONE


def _tell_rebuilt(found: RebuildResult, manifests: tuple[str, ...]) -> None:
    shards = ", ".join(f"{number} {state}" for state, number in sorted(found.shards.items()))
    say(f"shards    {shards}")
    say(f"answers   {counted(found.answers, 'request')} with an answer or a cause")
    say(f"open      {counted(found.on_their_way, 'request')} on the way, or to be collected again")
    for batch_id in found.found_on_server:
        say(f"found     batch {clean(batch_id)}, which the journal did not know")
    for what in found.lost:
        say(f"lost      {clean(what)}")
    if found.set_aside is not None:
        say(f"kept      the old ledger is {clean(found.set_aside)}")
    command = "resolve" if found.shards.get("held") else "plan"
    say(f"next:  `run {command} {clean(manifests[0])}` shows what is to be done; nothing was sent")
