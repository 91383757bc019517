"""Shards on their way that a run of this manifest can move: those at the server it names now.

A manifest may name another server while its batches are under way. Their ids mean nothing there, and no
row wants them any more (the server is part of every fingerprint), so they are left to finish where they
are. Once the manifest, or another one that wants the same requests, names their server again, they are
collected like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.commands.workplace import Workplace
from runner.core.model import Provider, ProviderSettings
from runner.core.states import Submission
from runner.core.wire import decode_json
from runner.ledger import Ledger
from runner.provider import resolve


def under_way(workplace: Workplace, ledger: Ledger, manifest_id: int) -> list[Submission]:
    """Open shards of the manifest, or that its rows wait for, at its own server."""
    return at_own_server(workplace, ledger, ledger.open_submissions(manifest_id))


def at_own_server(
    workplace: Workplace, ledger: Ledger, submissions: Sequence[Submission]
) -> list[Submission]:
    """Those of the shards that were made for the manifest's server."""
    here = _server(workplace.provider)
    servers: dict[str, str] = {}
    for submission in submissions:
        if submission.run not in servers:
            records = ledger.find_runs(submission.run)
            document = records[0].document if records else None
            servers[submission.run] = here if document is None else _server_of(document)
    return [submission for submission in submissions if servers[submission.run] == here]


def _server_of(document: str) -> str:
    """The server that a run's document names."""
    named: Any = decode_json(document)["manifest"]["model"]["provider"]
    values = {"name": named} if isinstance(named, str) else named
    settings = ProviderSettings(
        name=values.get("name"), base_url=values.get("base_url"), upstream=values.get("upstream")
    )
    return _server(resolve(settings))


def _server(provider: Provider) -> str:
    """Where its files and batches are. The built-in server is one, whoever answers behind it."""
    return "local" if provider.is_local else provider.base_url
