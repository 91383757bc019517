"""How much is sent at a time to a server that lets only so many tokens wait.

OpenAI and Azure count the input tokens of all batches that have not ended (the *enqueued tokens* of an
account and a model). A batch that would go beyond the limit is created, fails within minutes and names the
limit; nothing of it is begun or billed. Which limit an account has can't be asked, so it is learnt: what was
refused goes in portions of what should fit, the next when all before it have ended.

The number of tokens is an estimate from bytes, and others may use the same account. So a portion that is
refused though nothing of this run was waiting is halved, and only when several have come through is one tried
that is twice as large, at most a few times what the limit should hold. The protocol of sending is the same as
ever; only the cut of a repetition changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from runner.core.planning import BYTES_PER_TOKEN

_LIMIT = re.compile(
    r"\blimit\s*(?::|is|of)\s*([0-9]{1,3}(?:,[0-9]{3}){1,5}|[0-9]{1,18})(?![0-9])(?!\s*[.,]?[0-9])(?!\w)",
    re.IGNORECASE,
)
_MOST_HALVINGS, _MOST_DOUBLINGS = 12, 3
_CALM_PORTIONS = 8
"""After one that was refused so many come through at the same size, and one more: of ten one is in vain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What may wait at the server: `limit_tokens` as it named it, halved so often (below 0: doubled).
    `until_wider`: how many portions must come through before one may bring a larger one."""

    limit_tokens: int
    halvings: int = 0
    until_wider: int = 0

    @property
    def size_bytes(self) -> int:
        """How many bytes of request lines should fit."""
        size_bytes = self.limit_tokens * BYTES_PER_TOKEN
        return max(size_bytes >> self.halvings if self.halvings > 0 else size_bytes << -self.halvings, 1)


def limit_in(message: str) -> int | None:
    """The limit that a refused batch names ("Limit: 2,000,000 enqueued tokens"), in tokens; None where it
    names none, or in a way of its own ("2M")."""
    found = _LIMIT.search(message)
    tokens = int(found[1].replace(",", "")) if found else 0
    return tokens or None


def room_after(room: Room | None, *, limit_tokens: int | None) -> Room | None:
    """The room for the next portion, after all that was sent before has ended.

    `limit_tokens`: what a batch of it was told that did not fit; None where all did. `room` is None where
    that was no portion yet. None: nothing is known to limit what is sent.
    """
    if limit_tokens is not None and room is None:
        return Room(limit_tokens=limit_tokens)
    if limit_tokens is not None and room is not None:
        halvings = min(room.halvings + 1, _MOST_HALVINGS)
        return Room(limit_tokens=limit_tokens, halvings=halvings, until_wider=_CALM_PORTIONS)
    if room is None:
        return None
    if room.until_wider > 0:
        return replace(room, until_wider=room.until_wider - 1)
    return replace(room, halvings=max(room.halvings - 1, -_MOST_DOUBLINGS))
