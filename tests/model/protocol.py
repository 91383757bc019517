"""The client of the model: the real core, and the same core with one precaution taken away."""

from __future__ import annotations

from dataclasses import replace

from runner.core import states
from runner.core.model import Problem, ProblemKind, Provider
from runner.core.states import Action, Create, ShardState, Submission
from runner.core.wire import BatchObject


class Protocol:
    """As built. Each method is one function of `runner.core.states`, or one line of the engine."""

    records_intent = True
    """The intent is in the ledger before the call."""
    late_writes = False
    """A process that was taken over still writes into the ledger."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def decide(self, submission: Submission, now_s: float) -> Action:
        return states.decide(submission, self.provider, now_s)

    def upload_intended(self, submission: Submission) -> Submission:
        return states.upload_intended(submission)

    def upload_accepted(self, submission: Submission, file_id: str) -> Submission:
        return states.upload_accepted(submission, file_id)

    def upload_failed(self, submission: Submission, problem: Problem, now_s: float) -> Submission:
        return states.upload_failed(submission, problem, now_s)

    def create_intended(self, submission: Submission, now_s: float) -> Submission:
        return states.create_intended(submission, now_s, states.send_window_s(self.provider))

    def may_send(self, submission: Submission, now_s: float) -> bool:
        return now_s < (submission.send_by_s or 0.0)

    def create_accepted(self, submission: Submission, batch_id: str, now_s: float) -> Submission:
        return states.create_accepted(submission, batch_id, now_s)

    def create_refused(self, submission: Submission, problem: Problem, now_s: float) -> Submission:
        return states.create_refused(submission, problem, now_s)

    def create_unknown(self, submission: Submission, problem: Problem, now_s: float) -> Submission:
        return states.create_unknown(submission, problem, ended_at_s=now_s)

    def scanned(
        self, submission: Submission, matches: tuple[BatchObject, ...], *, is_complete: bool, now_s: float
    ) -> Submission:
        return states.scanned(
            submission, matches, is_complete=is_complete, provider=self.provider, now_s=now_s
        )

    def fence_holds(self, reply: str, *, is_gone: bool) -> bool:
        return reply == "deleted" or (reply == "missing" and is_gone)

    def fence_held(self, submission: Submission) -> Submission:
        return states.fence_held(submission)

    def held(self, submission: Submission, why: str) -> Submission:
        return states.held(submission, why)

    def reconciled(self, submission: Submission) -> Submission:
        return states.reconciled(submission)


# ---------------------------------------------------------------- one precaution less


class NoIntent(Protocol):
    """Creates first and records afterwards."""

    records_intent = False


class SendsAnOldIntentAgain(Protocol):
    """Takes an intent that a crash left for one that was never sent."""

    def decide(self, submission: Submission, now_s: float) -> Action:
        if submission.state is ShardState.CREATING:
            return Create()
        return super().decide(submission, now_s)


class UnknownIsRefused(Protocol):
    """Takes a lost reply for a refusal."""

    def create_unknown(self, submission: Submission, problem: Problem, now_s: float) -> Submission:
        return states.create_refused(submission, problem, now_s)


class ListsOnce(Protocol):
    """Believes the first complete listing."""

    def scanned(
        self, submission: Submission, matches: tuple[BatchObject, ...], *, is_complete: bool, now_s: float
    ) -> Submission:
        moved = super().scanned(submission, matches, is_complete=is_complete, now_s=now_s)
        while moved.state is submission.state and moved.clean_scans > 0:
            moved = super().scanned(moved, (), is_complete=True, now_s=now_s)
        return moved


class BelievesBrokenListings(Protocol):
    """Takes a listing that broke off for a whole one."""

    def scanned(
        self, submission: Submission, matches: tuple[BatchObject, ...], *, is_complete: bool, now_s: float
    ) -> Submission:
        return super().scanned(submission, matches, is_complete=True, now_s=now_s)


class ResendsUnfenced(Protocol):
    """Sends again, with a new upload, what a person should decide; as a person may who is too sure."""

    def scanned(
        self, submission: Submission, matches: tuple[BatchObject, ...], *, is_complete: bool, now_s: float
    ) -> Submission:
        moved = super().scanned(submission, matches, is_complete=is_complete, now_s=now_s)
        if moved.state is ShardState.HELD and is_complete:
            return _started_over(moved, now_s)
        return moved


class ResendsUnfencedListsOnce(ResendsUnfenced, ListsOnce):
    """Both."""


class ResendsUnfencedBelievesBrokenListings(BelievesBrokenListings, ResendsUnfenced):
    """Both."""


class ResendsUnfencedHoweverOld(ResendsUnfenced):
    """And sends an intent however long ago it was recorded."""

    def may_send(self, submission: Submission, now_s: float) -> bool:
        return True


class ResendsTheSameFile(Protocol):
    """Creates again from the input file of the attempt that was not found; no fence can be drawn then."""

    def scanned(
        self, submission: Submission, matches: tuple[BatchObject, ...], *, is_complete: bool, now_s: float
    ) -> Submission:
        moved = super().scanned(submission, matches, is_complete=is_complete, now_s=now_s)
        if moved.state is ShardState.FENCING:
            return replace(moved, state=ShardState.UPLOADED, clean_scans=0)
        return moved


class NoFence(Protocol):
    """Starts over where it should have drawn the fence."""

    def scanned(
        self, submission: Submission, matches: tuple[BatchObject, ...], *, is_complete: bool, now_s: float
    ) -> Submission:
        moved = super().scanned(submission, matches, is_complete=is_complete, now_s=now_s)
        if moved.state is ShardState.FENCING:
            return _started_over(moved, now_s)
        return moved


class FenceNotJudged(Protocol):
    """Takes any reply to the delete for a fence that holds."""

    def fence_holds(self, reply: str, *, is_gone: bool) -> bool:
        return True


class MissingIsFenced(Protocol):
    """Believes a 404 on the delete at once."""

    def fence_holds(self, reply: str, *, is_gone: bool) -> bool:
        return reply in ("deleted", "missing")


class NoLookBehindTheFence(Protocol):
    """Starts over as soon as the fence is drawn."""

    def fence_held(self, submission: Submission) -> Submission:
        return _started_over(super().fence_held(submission), 0.0)


class BlindBehindTheFence(Protocol):
    """Does not adopt what it finds behind the fence."""

    def scanned(
        self, submission: Submission, matches: tuple[BatchObject, ...], *, is_complete: bool, now_s: float
    ) -> Submission:
        seen = () if submission.state is ShardState.FENCED else matches
        return super().scanned(submission, seen, is_complete=is_complete, now_s=now_s)


class FencesWithoutEcho(Protocol):
    """Draws the fence on a server that drops metadata, where nothing can be found behind it."""

    def scanned(
        self, submission: Submission, matches: tuple[BatchObject, ...], *, is_complete: bool, now_s: float
    ) -> Submission:
        provider = replace(self.provider, echoes_metadata=True)
        return states.scanned(submission, matches, is_complete=is_complete, provider=provider, now_s=now_s)


class WritesWithoutTheLock(Protocol):
    """A process that was taken over, or that should have been kept out, goes on as if it owned the shard."""

    late_writes = True


def _started_over(submission: Submission, now_s: float) -> Submission:
    """Back to the beginning with a new upload, as behind a fence: by itself the core never moves so."""
    as_if_fenced = replace(submission, state=ShardState.FENCED)
    nothing_found = Problem(kind=ProblemKind.SERVER_TROUBLE, message="not found", retry_after_s=0.0)
    return states.create_refused(as_if_fenced, nothing_found, now_s)
