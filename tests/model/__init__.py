"""The submission protocol's small model, checked in every state it can reach.

Theory
------
A proof by enumeration. The client is the real core (`runner.core.states`): its decisions and moves are
called as they are, never copied. Everything around it - server, network, clock, the other process, death
- is an adversary, and the search (`exploring`) follows every choice that adversary has, from every state
that is reachable. So "at most one paid batch" is not sampled: within the bounds there is no other run.

The adversary may (`world`):

- lose a create on the way, or its reply, or refuse it; commit it up to `LATE_TICKS` after it was sent;
- keep a committed batch out of any listing for up to `LAG_TICKS`; break off a listing, for once or for good;
- run a batch to its end at any moment after the commit, also before it is listed: from then on no fence
  undoes the bill;
- answer a delete of the input file with its effect and without the reply, with neither, or with a 404;
- kill the process between any two steps and let time pass between any two steps;
- with `Dangers.takeover`: freeze a process at any point (also between its last look at the clock and its
  call), let another take over, and wake the first one at any later moment; the network then carries its call;
- with `Dangers.crowd`: start a second process where the lock should have kept it out.

A tick is `SCAN_PAUSE_S`; shorter pauses count as one tick. Times are kept relative to a clock that stands
still: a tick moves every deadline one closer, and what is long past is forgotten. That makes the states
finite without a horizon, so the sleeper may sleep for any length of time.

Two rules are checked in every state. *Paid once*: batches that run or ran, of one slot, are at most one
(cancelled by the fence before it ran is not paid). *Progress*: an end (done, held for a person, refused, or
more attempts than the model follows) can still be reached.

What the check is worth is shown by `expectations.WEAKENED`: each entry takes one precaution away and must be
caught paying more than once. `python -m tests.model NAME` prints the run that pays most.

Left out: several slots (they share nothing but locks); the rows inside a batch, so also those in flight
when a fence cancels it (at most these are bought twice); expiry; a wall clock that is set; a delete that
overlaps with a create's commit (here each is one moment); false 404s on the fence that last longer than the
engine's patience; what a person does with a held shard, but for the variants that send again without a
fence. The engine around the core (which reply calls which move) is written here once more; that the real
engine does the same is the business of the suites that kill it.
"""
