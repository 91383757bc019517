"""A shard on its way out: uploaded, created, and looked for where a reply did not come.

    act       an action of core.states -> what the ledger is asked first -> the intent -> the call
    replied   the call's reply -> core.states moves -> ledger.save -> a moment

The rules are the engine's: one thread, an intent durable before its call, a reply before the next step. This
ends when a shard's batch is known (`watching` goes on from there), or when nothing of it was bought.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.commands import calls
from runner.commands.cutting import TOO_LARGE, Cutter
from runner.commands.extras import Extras
from runner.commands.moments import BatchCreated, Trouble, Uploaded
from runner.commands.patience import Patience
from runner.commands.precautions import UNSEEN, Precautions
from runner.commands.tracks import Surroundings, Track
from runner.core import states
from runner.core.model import Accepted, Problem, ProblemKind, Refused, Unknown
from runner.core.states import Create, DrawFence, ScanForBatch, ShardState, Submission, Upload
from runner.core.wire import BatchObject
from runner.errors import StillRunningError
from runner.failpoints import failpoint
from runner.ledger import CREATE_INTENDED, WaitKind

MAX_UPLOADS_AT_ONCE = 4
MAX_UPLOAD_ATTEMPTS = 12
MAX_UNREACHED_ATTEMPTS = 5
"""So often a server is tried that never answered this run: a minute, then a wrong address is likelier."""
STOPPING = frozenset({ProblemKind.AUTHENTICATION, ProblemKind.PAYMENT, ProblemKind.VOLUME})
_NOT_WORKING = frozenset({ProblemKind.UNREACHABLE, ProblemKind.SERVER_TROUBLE})
MaySend = Callable[[Submission], bool]
Start = Callable[[Track, str, Callable[[], object]], None]
"""Runs a call of this name for a shard in a thread of its own; its result comes back with the name."""


@dataclass(slots=True)
class Reception:
    """How the server takes what this run sends, for all its shards.

    `pause_until_s`: until when (Unix seconds, by the steady clock) it wants nothing sent. `stopping`: the
    refusal that stops the run. `was_reached`: whether it ever replied; `was_answered`: whether it did what it
    was asked for, or said why not, in any call; `not_working`: why the last call failed that it did not.
    """

    pause_until_s: float = 0.0
    stopping: Problem | None = None
    was_reached: bool = False
    was_answered: bool = False
    not_working: Problem | None = None

    def pause(self, seconds: float | None, now_s: float) -> None:
        """The longest wait that it asked for counts, for every shard."""
        self.pause_until_s = max(self.pause_until_s, now_s + seconds if seconds else 0.0)

    def heard(self, result: object) -> None:
        """What a call says of the server itself. A look whose files could not be read is none that worked."""
        problem: Problem | None = getattr(result, "problem", None)
        self.was_reached |= problem is None or problem.kind is not ProblemKind.UNREACHABLE
        problems = [problem]
        if isinstance(result, calls.Fetched):
            problems = [error.problem for error in result.errors]
        found = [one for one in problems if one is not None and one.kind in _NOT_WORKING]
        self.was_answered |= not found
        self.not_working = found[-1] if found else self.not_working


class Sender:
    """Sends the shards of one engine, in that one's thread. `tracks`: those under way; smaller shards in the
    place of one that is too large are added to them."""

    def __init__(
        self,
        at: Surroundings,
        cutter: Cutter,
        reception: Reception,
        tracks: list[Track],
        *,
        patience: Patience,
        extras: Extras,
        precautions: Precautions,
        may_send: MaySend,
        start: Start,
    ) -> None:
        self._at = at
        self._cutter = cutter
        self._reception = reception
        self._tracks = tracks
        self._patience = patience
        self._extras = extras
        self._precautions = precautions
        self._may_send = may_send
        self._start = start

    def act(self, track: Track, action: Upload | Create | ScanForBatch | DrawFence, now: float) -> None:
        """Carry an action out, unless the server wants nothing sent yet."""
        match action:
            case Upload() | Create() if now < self._reception.pause_until_s:
                track.next_at_s = self._reception.pause_until_s
            case Upload():
                self._upload(track)
            case Create():
                self._create(track, now)
            case ScanForBatch():
                self._scan(track)
            case DrawFence():
                submission = track.submission
                self._start(track, "fence", lambda: calls.draw_fence(self._at.client, submission))

    def replied(self, track: Track, name: str, result: object) -> None:
        """Record what came of a call."""
        match name, result:
            case "upload", Accepted() | Refused() | Unknown():
                self._upload_landed(track, result)
            case "create", Accepted() | Refused() | Unknown():
                self._create_landed(track, result)
            case "scan", (tuple() as matches, bool() as is_complete):
                self._scan_landed(track, matches, is_complete)
            case "fence", str():
                self._fence_landed(track, result)
            case _:
                raise AssertionError(f"unexpected reply to {name}: {result!r}")

    def stop_if_unwished(self, track: Track) -> None:
        """Once a batch is known, and after each look at it: it goes on, though a person cancelled it while it
        was being made, or the server did not take that."""
        batch_id = track.submission.batch_id or ""
        if self._precautions.is_to_be_stopped(track):
            self._start(track, "stop", lambda: self._at.client.cancel_batch(batch_id))

    def tell_unknown(self, track: Track, why: str, now: float) -> None:
        """What happens where it is not known whether a create arrived."""
        settled_s = (track.submission.send_by_s or 0.0) + self._at.provider.settle_s
        what = f"{why}; waiting {max(settled_s - now, 0):.0f} s, then looking for the batch"
        self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))

    def open_beside(self, track: Track) -> int:
        """How many shards of ours, beside this one, take a place at the server."""
        return sum(
            not other.submission.state.is_final and other.submission.state is not ShardState.READY
            for other in self._tracks
            if other is not track and not other.is_left
        )

    # ------------------------------------------------------------ calls

    def _upload(self, track: Track) -> None:
        uploading = sum(other.is_busy and other.is_in(ShardState.UPLOADING) for other in self._tracks)
        if uploading >= MAX_UPLOADS_AT_ONCE or self.open_beside(track) >= self._at.provider.max_open_batches:
            return
        if track.uploads == MAX_UPLOAD_ATTEMPTS:  # by this run: what an earlier one met says nothing of today
            raise StillRunningError(
                f"the server did not take shard {track.submission.slot} in {MAX_UPLOAD_ATTEMPTS} attempts: "
                f"{track.submission.problem}",
                next_step="nothing is lost; run the same command again later",
            )
        if self._precautions.is_given_up(track) or self._leaves(track):
            return
        if self._cutter.is_too_large(track.submission):
            self._cut_up(track, states.discarded(track.submission), TOO_LARGE)
            return
        track.uploads += 1
        failpoint("upload.begins")
        self._at.save(track, states.upload_intended(track.submission), "upload intended")
        failpoint("upload.intended")
        submission = track.submission
        path = self._at.place.folder / submission.path

        def sent(sent_bytes: int) -> None:
            track.sent_bytes = sent_bytes

        self._start(
            track, "upload", lambda: calls.upload(self._at.client, path, submission, self._at.provider, sent)
        )

    def _create(self, track: Track, now: float) -> None:
        if self._precautions.is_given_up(track) or self._leaves(track):
            return
        window_s = states.send_window_s(self._at.provider)
        failpoint("create.begins")
        intended = states.create_intended(track.submission, now, window_s)
        self._at.save(track, intended, CREATE_INTENDED, self._at.key_digest(intended))
        failpoint("create.intended")
        submission = track.submission
        self._start(track, "create", lambda: self._create_in_time(submission))

    def _create_in_time(self, submission: Submission) -> Accepted | Refused | Unknown:
        """The last check: an intent that grew old (a sleep, a stopped process) is not sent any more."""
        if self._at.clock() >= (submission.send_by_s or 0.0):
            message = "not sent: too much time went by between the intent and the call"
            return Refused(problem=Problem(kind=ProblemKind.UNREACHABLE, message=message, retry_after_s=0.0))
        return calls.create(self._at.client, submission)

    def _scan(self, track: Track) -> None:
        client, provider, submission = self._at.client, self._at.provider, track.submission
        path, scratch = self._at.place.folder / submission.path, self._at.place.folder / "scratch"
        if submission.state is ShardState.FENCED:
            self._start(
                track, "scan", lambda: calls.scan_after_fence(client, submission, provider, path, scratch)
            )
        else:
            self._start(track, "scan", lambda: calls.scan(client, submission, provider))

    def _leaves(self, track: Track) -> bool:
        """Let go of a shard that this run must not send; whoever may, can take it."""
        track.is_left = not self._may_send(track.submission)
        if track.is_left:
            track.lock.close()
        return track.is_left

    def _cut_up(self, track: Track, given_up: Submission, problem: Problem) -> None:
        """Smaller shards take the place of this one, unless a person wants none."""
        if self._precautions.is_to_be_let_go(track):
            self._precautions.let_go(track, given_up)
            return
        new = self._cutter.cut(given_up, problem)
        track.submission = given_up
        self._tracks += [Track(submission=submission) for submission in new]

    # ------------------------------------------------------------ replies

    def _upload_landed(self, track: Track, result: Accepted | Refused | Unknown) -> None:
        failpoint("upload.landed")
        if isinstance(result, Accepted):
            self._precautions.refuse_reused_file(track, result.object_id)
            moved = states.upload_accepted(track.submission, result.object_id)
            self._at.save(track, moved, "uploaded")
            failpoint("upload.recorded")
            self._at.reporter.tell(
                Uploaded(
                    slot=moved.slot,
                    file_id=result.object_id,
                    size_bytes=moved.size_bytes,
                    requests=moved.requests,
                )
            )
            return
        self._refused(track, states.upload_failed(track.submission, result.problem, self._at.clock()), result)

    def _create_landed(self, track: Track, result: Accepted | Refused | Unknown) -> None:
        failpoint("create.landed")
        match result:
            case Accepted() if self._precautions.is_reused(track, result.object_id):
                self._precautions.hold_reused(track, result.object_id)
            case Accepted():
                moved = states.create_accepted(track.submission, result.object_id, self._at.clock())
                self._at.save(track, moved, "batch created", result.raw.decode("utf-8", "replace"))
                failpoint("create.recorded")
                self._tell_created(track, is_adopted=False)
                self.stop_if_unwished(track)
            case Refused():
                moved = states.create_refused(track.submission, result.problem, self._at.clock())
                self._refused(track, moved, result)
            case Unknown():
                now = self._at.clock()
                moved = states.create_unknown(track.submission, result.problem, ended_at_s=now)
                self._at.save(track, moved, "create unknown")
                failpoint("create.unknown_recorded")
                self.tell_unknown(
                    track, f"whether a batch was created is unknown ({result.problem.message})", now
                )

    def _refused(self, track: Track, moved: Submission, result: Refused | Unknown) -> None:
        problem = result.problem
        if moved.state is ShardState.DISCARDED:
            self._cut_up(track, moved, problem)
            return
        self._reception.pause(problem.retry_after_s, self._at.clock())
        if moved.state is ShardState.REFUSED:
            self._at.ledger.release(moved)
            track.submission = moved
        else:
            self._at.save(track, moved, "sent again later")
        if problem.kind in STOPPING:
            self._reception.stopping = problem
            return
        if moved.attempt > MAX_UNREACHED_ATTEMPTS and not self._reception.was_reached:
            raise StillRunningError(
                f"{self._at.provider.base_url} can't be reached: {problem.message}",
                next_step="check the network and `model.provider`; the same command goes on from here",
            )
        pause_s = max(moved.not_before_s - self._at.clock(), 0)
        then = "given up" if moved.state is ShardState.REFUSED else f"again in {pause_s:.0f} s"
        self._at.reporter.tell(Trouble(what=f"{problem.message}; {then}", slot=moved.slot))

    def _scan_landed(self, track: Track, matches: tuple[BatchObject, ...], is_complete: bool) -> None:
        failpoint("scan.landed")
        before = track.submission.state
        moved = states.scanned(
            track.submission,
            matches,
            is_complete=is_complete,
            provider=self._at.provider,
            now_s=self._at.clock(),
        )
        if moved.state is ShardState.READY and not self._precautions.is_of_our_account(track):
            moved = states.held(track.submission, UNSEEN)
        if moved.state is before:
            track.submission = moved
            return
        if moved.state is ShardState.SUBMITTED:
            if self._precautions.is_reused(track, moved.batch_id or ""):
                self._precautions.hold_reused(track, moved.batch_id or "")
                return
            self._extras.found(track, moved, matches)
        self._at.save(track, moved, f"scanned: {moved.state}")
        failpoint("scan.recorded")
        if moved.state is ShardState.SUBMITTED:
            failpoint("adopt.recorded")
            self._tell_created(track, is_adopted=True)
            self._extras.remember(track)
            self.stop_if_unwished(track)

    def _fence_landed(self, track: Track, reply: str) -> None:
        """The file was seen before the fence was tried, so where it stays missing a delete of ours reached
        the server and only its reply was lost."""
        failpoint("fence.landed")
        whole_s, file_id = self._at.patience_s, track.submission.input_file_id or ""
        is_lasting = reply != "deleted" and (
            self._patience.lasted_s(track, WaitKind.FENCE_OPEN, file_id, whole_s) > whole_s
        )
        track.has_deleted |= reply == "deleted"
        if reply == "missing" and is_lasting and not self._precautions.is_of_our_account(track):
            self._at.save(track, states.held(track.submission, UNSEEN), "held")
            return
        if reply == "deleted" or (reply == "missing" and is_lasting):
            self._at.save(track, states.fence_held(track.submission), "fence drawn")
            failpoint("fence.recorded")
            self._patience.end(track, WaitKind.FENCE_OPEN)
        elif is_lasting:
            self._at.save(track, states.held(track.submission, "the input file could not be deleted"), "held")
            self._patience.end(track, WaitKind.FENCE_OPEN)
        else:
            track.next_at_s = self._at.clock() + self._at.reread_pause_s

    def _tell_created(self, track: Track, *, is_adopted: bool) -> None:
        self._at.reporter.tell(
            BatchCreated(
                slot=track.submission.slot,
                batch_id=track.submission.batch_id or "",
                requests=track.submission.requests,
                is_adopted=is_adopted,
            )
        )
