"""Which rows a run is about: `--only`, `--where`, `--sample`, `--limit`.

A narrowed run sends less; it changes nothing about what rows there are. Rows left out keep the answers
they have, and are pending where they have none.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runner.core.model import Fingerprint, Status
from runner.core.planning import Held
from runner.dataset import Snapshot, select_rows

Only = Literal["failed", "new", "changed"]
_ANSWERS = (Status.SUCCEEDED, Status.TRUNCATED, Status.REFUSED, Status.INVALID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """What the person at the keyboard asked for. All given conditions must hold.

    `only`: rows that failed before; whose key the last run did not have; whose request is another one
    than in the last run. `sample`: so many rows by chance, the same for the same `seed` and rows.
    `limit`: the first so many of the rows that are left.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    where: str | None = None
    only: Only | None = None

    def over(self, snapshot: Snapshot) -> Selection:
        """The conditions on positions, worked out. Raises InputError for a wrong `where`."""
        chosen = select_rows(snapshot.path, self.where, snapshot.rows) if self.where is not None else None
        if self.sample is not None:
            chosen = _sampled(chosen, snapshot.rows, self.sample, self.seed)
        return Selection(self, chosen)


def _sampled(chosen: bytearray | None, rows: int, size: int, seed: int) -> bytearray:
    """`size` of the chosen rows, by chance. One byte a row."""
    candidates = range(rows) if chosen is None else [position for position in range(rows) if chosen[position]]
    picked = random.Random(seed).sample(candidates, min(size, len(candidates)))  # noqa: S311
    sampled = bytearray(rows)
    for position in picked:
        sampled[position] = 1
    return sampled


class Selection:
    """Asked row by row, in order; counts towards the limit."""

    def __init__(self, narrowing: Narrowing, chosen: bytearray | None) -> None:
        self._narrowing = narrowing
        self._chosen = chosen
        self._taken = 0

    @property
    def asks_before(self) -> bool:
        """Whether `takes` needs the rows of the last run."""
        return self._narrowing.only in ("new", "changed")

    def takes(
        self,
        position: int,
        key: str,
        fingerprint: Fingerprint,
        held: Held | None,
        before: Mapping[str, bytes | None],
    ) -> bool:
        """Whether the run is about this row."""
        if self._chosen is not None and not self._chosen[position]:
            return False
        if not self._fits(key, fingerprint, held, before):
            return False
        if self._narrowing.limit is not None and self._taken >= self._narrowing.limit:
            return False
        self._taken += 1
        return True

    def _fits(
        self, key: str, fingerprint: Fingerprint, held: Held | None, before: Mapping[str, bytes | None]
    ) -> bool:
        match self._narrowing.only:
            case "failed":
                return held is not None and held.status is not None and held.status not in _ANSWERS
            case "new":
                return key not in before
            case "changed":
                return key in before and before[key] != fingerprint
            case None:
                return True
