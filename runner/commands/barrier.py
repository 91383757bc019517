"""Proof that the server's reads have caught up with its writes.

Listings may come from a replica that is behind, and one that is far enough behind the fence would show no
batch where there is one. So a file of one line, the canary, is uploaded after the fence: whoever sees it
sees everything that was written before. It is never part of a batch, costs nothing, and is deleted again.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.model import Accepted
from runner.core.states import Submission
from runner.failpoints import failpoint
from runner.provider import NotFoundYetError, ProviderError

if TYPE_CHECKING:
    from runner.provider import Client

LOOKS = 5
SHORTEST_LIFE_S = 3600
"""The least that the API keeps a file for; so long a canary stays whose deletion failed."""


def has_caught_up(
    client: Client, submission: Submission, shard_path: Path, scratch: Path, pause_s: float
) -> bool:
    """Whether a canary that was uploaded now is seen, in so many looks with pauses (seconds) between.

    Its line is the first of the shard's, which the server took before. Raises ProviderError.
    """
    canary = scratch / f"{submission.shard_id}-canary.jsonl"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with shard_path.open("rb") as shard, os.fdopen(os.open(canary, flags, 0o600), "wb") as file:
            file.write(shard.readline())
    except OSError:
        return False
    failpoint("canary.sending")
    sent = client.upload(canary, submission.tags.canary_filename, expires_after_s=SHORTEST_LIFE_S)
    failpoint("canary.answered")
    canary.unlink(missing_ok=True)
    if not isinstance(sent, Accepted):
        return False
    try:
        return _is_seen(client, sent.object_id, pause_s)
    finally:
        with suppress(ProviderError):
            client.delete_file(sent.object_id)


def _is_seen(client: Client, file_id: str, pause_s: float) -> bool:
    for look in range(LOOKS):
        if look:
            time.sleep(pause_s)
        with suppress(NotFoundYetError):
            client.retrieve_file(file_id)
            return True
    return False
