"""The table: how many copies each protocol pays at most. `tests.model` has the theory.

A number above one is a counterexample that must exist; the search stops once it has found as many.
`settle` is in ticks. What lands late and shows late is seen after LATE_TICKS + LAG_TICKS = 4 of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.model import protocol
from tests.model.exploring import Explored, explore
from tests.model.protocol import Protocol
from tests.model.world import Dangers, make_provider

ALONE = Dangers()
PAUSED = Dangers(pause=True)
TAKEN_OVER = Dangers(takeover=True)
EVERYTHING = Dangers(takeover=True, pause=True)
CROWDED = Dangers(crowd=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One protocol on one server against one adversary."""

    name: str
    paid: int
    client: type[Protocol] = Protocol
    settle: int = 1
    dangers: Dangers = EVERYTHING
    has_fence: bool = True
    echoes: bool = True

    def explore(self) -> Explored:
        """Search it."""
        provider = make_provider(
            settle_ticks=self.settle, has_fence=self.has_fence, echoes_metadata=self.echoes
        )
        return explore(self.client(provider), self.dangers, enough=max(self.paid, 2))


AS_BUILT = (
    Case(name="fence, no settle time at all", settle=0, paid=1),
    Case(name="fence, settles too short", paid=1),
    Case(name="fence, settles long enough", settle=4, paid=1),
    Case(name="fence, metadata dropped", echoes=False, paid=1),
    Case(name="no fence", has_fence=False, paid=1),
    Case(name="no fence, settles long enough", has_fence=False, settle=4, paid=1),
)
"""The real core: one copy, whatever the settle time, against everything the adversary has."""

UNFENCED = (
    # Without a fence the settle time is all there is, and it holds as long as nobody stands still.
    Case(name="resends", client=protocol.ResendsUnfenced, settle=4, has_fence=False, dangers=ALONE, paid=1),
    Case(
        name="resends beside a sleeper",
        client=protocol.ResendsUnfenced,
        settle=4,
        has_fence=False,
        dangers=TAKEN_OVER,
        paid=1,
    ),
    Case(
        name="resends, three listings make up for two ticks",
        client=protocol.ResendsUnfenced,
        settle=2,
        has_fence=False,
        dangers=ALONE,
        paid=1,
    ),
    Case(
        name="resends, one listing, long settle",
        client=protocol.ResendsUnfencedListsOnce,
        settle=4,
        has_fence=False,
        dangers=ALONE,
        paid=1,
    ),
)
"""Sending again by a timer: the numbers that the settle time has to reach."""

WEAKENED = (
    Case(name="no-intent", client=protocol.NoIntent, dangers=ALONE, settle=4, paid=3),
    Case(
        name="sends-an-old-intent-again",
        client=protocol.SendsAnOldIntentAgain,
        dangers=ALONE,
        settle=4,
        paid=3,
    ),
    Case(name="unknown-is-refused", client=protocol.UnknownIsRefused, dangers=ALONE, settle=4, paid=3),
    Case(name="lists-once", client=protocol.ListsOnce, dangers=ALONE, paid=3),
    Case(
        name="believes-broken-listings",
        client=protocol.BelievesBrokenListings,
        dangers=ALONE,
        settle=4,
        paid=3,
    ),
    Case(name="no-look-behind-the-fence", client=protocol.NoLookBehindTheFence, dangers=ALONE, paid=3),
    Case(name="blind-behind-the-fence", client=protocol.BlindBehindTheFence, dangers=ALONE, paid=3),
    Case(name="fence-not-judged", client=protocol.FenceNotJudged, paid=2),
    Case(name="missing-is-fenced", client=protocol.MissingIsFenced, paid=2),
    Case(name="fences-without-echo", client=protocol.FencesWithoutEcho, echoes=False, dangers=ALONE, paid=3),
    Case(name="no-fence", client=protocol.NoFence, settle=4, dangers=PAUSED, paid=3),
    Case(name="same-file-again", client=protocol.ResendsTheSameFile, dangers=ALONE, paid=3),
    Case(
        name="no-settle",
        client=protocol.ResendsUnfenced,
        settle=0,
        has_fence=False,
        dangers=ALONE,
        paid=3,
    ),
    Case(
        name="settle-too-short",
        client=protocol.ResendsUnfenced,
        settle=1,
        has_fence=False,
        dangers=ALONE,
        paid=3,
    ),
    Case(
        name="settle-too-short-for-one-listing",
        client=protocol.ResendsUnfencedListsOnce,
        settle=3,
        has_fence=False,
        dangers=ALONE,
        paid=3,
    ),
    Case(
        name="no-settle-time-saves-a-sleeper",
        client=protocol.ResendsUnfenced,
        settle=4,
        has_fence=False,
        paid=2,
    ),
    Case(
        name="sends-however-old-the-intent",
        client=protocol.ResendsUnfencedHoweverOld,
        settle=4,
        has_fence=False,
        dangers=TAKEN_OVER,
        paid=2,
    ),
    Case(
        name="resends-on-broken-listings",
        client=protocol.ResendsUnfencedBelievesBrokenListings,
        settle=4,
        has_fence=False,
        dangers=ALONE,
        paid=3,
    ),
    Case(name="no-lock", client=protocol.WritesWithoutTheLock, settle=4, dangers=CROWDED, paid=2),
    Case(
        name="writes-after-the-lease",
        client=protocol.WritesWithoutTheLock,
        settle=4,
        dangers=TAKEN_OVER,
        paid=2,
    ),
)
"""One precaution less each: more than one copy is paid."""
