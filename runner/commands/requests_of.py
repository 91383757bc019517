"""Which requests a shard held: from the list that was kept, its input file here, or the server's copy.

Never from likeness: each request is known by its whole fingerprint, and that is computed from the very
bytes that were sent and must agree with the half that stands in the custom_id.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core.identity import recognise
from runner.core.model import ProviderSettings
from runner.errors import InputError
from runner.ledger import KeptRequest, ShardFact, load_requests
from runner.provider import ProviderError, resolve

if TYPE_CHECKING:
    from runner.provider import Client


def requests_of(fact: ShardFact, folder: Path, client: Client | None) -> list[KeptRequest] | None:
    """The requests in the order of the lines; None where nobody has them any more."""
    kept = load_requests(folder, fact.sha, fact.requests)
    if kept is not None:
        return kept
    path = folder / fact.path
    if path.is_file() and _sha_of(path) == fact.sha:
        return _recognised(path, fact)
    return None if client is None else _from_server(fact, folder, client)


def _from_server(fact: ShardFact, folder: Path, client: Client) -> list[KeptRequest] | None:
    """The input file as the server has it; put back in its place if it is the same, byte for byte."""
    if fact.input_file_id is None:
        return None
    with tempfile.TemporaryDirectory(prefix="input-", dir=folder / "scratch") as scratch:
        part = Path(scratch) / "input.jsonl"
        try:
            client.download(fact.input_file_id, part)
        except ProviderError:
            return None
        found = _recognised(part, fact)
        if found is not None and _sha_of(part) == fact.sha:
            part.replace(folder / fact.path)
        return found


def _recognised(path: Path, fact: ShardFact) -> list[KeptRequest] | None:
    """All lines or none: a shard of which a part is known is not known."""
    try:
        identity = resolve(_settings(fact.provider)).identity
    except (InputError, AttributeError):
        return None
    found = []
    with path.open("rb") as lines:
        for line in lines:
            known = recognise(line, provider_identity=identity, endpoint=fact.endpoint)
            if known is None:
                return None
            found.append(KeptRequest(fingerprint=known[1], name=known[0]))
    return found if len(found) == fact.requests else None


def _settings(named: Any) -> ProviderSettings:
    """`model.provider` of a manifest, as far as the server's address goes."""
    values = {"name": named} if isinstance(named, str) else named
    return ProviderSettings(
        name=values.get("name"), base_url=values.get("base_url"), upstream=values.get("upstream")
    )


def _sha_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
