"""How long something has lasted, over the looks of several processes.

Theory. A batch that the server does not know, a delete that it does not confirm, an answer that is in no
file: one look proves nothing, that it stays so for a while does. One process measures that by its steady
clock. A process that looks and leaves (a step of a schedule, `--wait`) notes how much is behind it; the next
one goes on from there, unless a look in between showed otherwise.

Between two processes there is only the wall clock, and that may have been set, or be another machine's. So of
such a gap no more than a part of the whole counts, and nothing where it seems to run backwards; and what is
noted is that part less than what was measured. Whichever way the clock was set once, all together is then no
less than one process alone would wait. It also takes a series of looks: two are a part of the whole, however
far they are apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PARTS = 4
"""The gap between two processes is a quarter of the whole wait at most."""
WHOLE_READING = 2
"""What one full reading of a file counts; one whose end nobody can tell counts half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What an earlier process noted: so much (seconds, or readings) of it, about this id (`of`), at this
    moment by the wall clock (Unix seconds)."""

    amount: float
    of: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasting:
    """What lasts about an id (`of`), since a moment of the steady clock: what earlier processes waited lies
    before their time here. `withheld_s` of it is not noted, `noted_s` is."""

    of: str
    since_s: float
    withheld_s: float = 0.0
    noted_s: float = -math.inf


def lasting(of: str, noted: Noted | None, *, whole_s: float, now_s: float, wall_s: float) -> Lasting:
    """At this process's first look, after what an earlier one `noted`. `whole_s` is how long it is waited
    out; `now_s` and `wall_s` are what the two clocks show."""
    part_s = whole_s / PARTS
    if noted is None or noted.of != of:
        return Lasting(of=of, since_s=now_s, withheld_s=part_s)
    gap_s = wall_s - noted.at_s
    waited_s = noted.amount + min(max(gap_s, 0.0), part_s)
    # What was noted in the future is noted anew; else no gap counted before that moment has come. A clock
    # that is behind by less may be another machine's, and the next look by the first one's again.
    return Lasting(of=of, since_s=now_s - waited_s, noted_s=noted.amount if gap_s >= -part_s else -math.inf)


def to_note(known: Lasting, *, whole_s: float, now_s: float) -> float | None:
    """How much of it is to be noted now; None where the last note will do, or nothing more is waited for."""
    lasted_s = now_s - known.since_s
    amount_s = lasted_s - known.withheld_s
    is_news = amount_s - known.noted_s >= whole_s / PARTS / 2
    return amount_s if is_news and whole_s > 0 and lasted_s <= whole_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Full readings of what a batch (`of`) left behind: what they count, and how much of it is not noted."""

    of: str
    count: int
    withheld: int = 0


def first_reading(
    of: str, noted: Noted | None, *, weight: int, pause_s: float, wall_s: float
) -> tuple[Readings, bool]:
    """With this process's first reading, and whether that is to be noted. It counts nothing where it comes
    sooner after the last one of an earlier process than readings are apart (`pause_s`)."""
    if noted is None or noted.of != of:
        return Readings(of=of, count=weight, withheld=WHOLE_READING), True
    gap_s = wall_s - noted.at_s
    counts = weight if gap_s >= pause_s else 0
    return Readings(of=of, count=round(noted.amount) + counts), counts > 0 or gap_s < -pause_s
