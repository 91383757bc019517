"""What the ledger is asked before something is sent, and before a reply is recorded.

The rule: who moves a shard is not alone. A person may have cancelled it meanwhile, and a server may have lost
what it said before, so that an id of now is one of then.
"""

from __future__ import annotations

from dataclasses import replace

from runner.commands.tracks import Surroundings, Track
from runner.core import states
from runner.core.states import Submission
from runner.errors import ProviderRefusedError

UNSEEN = (
    "with which key its create was sent is not known since the ledger was rebuilt, and what this one does "
    "not see may exist all the same"
)


class Precautions:
    """Taken by the engine's own thread."""

    def __init__(self, at: Surroundings) -> None:
        self._at = at

    # ------------------------------------------------------------ cancelled

    def is_to_be_stopped(self, track: Track) -> bool:
        """Whether a batch goes on that a person wants stopped; as the ledger has it, because the wish is
        recorded beside whoever moves the shard."""
        has_wish = self._at.ledger.submission(track.submission.shard_id).cancel_requested
        track.submission = replace(track.submission, cancel_requested=has_wish)
        return states.is_to_be_stopped(track.submission)

    def is_to_be_let_go(self, track: Track) -> bool:
        """Whether a person wants nothing of a shard of which nothing was bought. It may be younger than the
        wish, which is then one that nothing more be sent."""
        return self._at.ledger.wishes().is_unwished(track.submission.shard_id)

    def is_given_up(self, track: Track) -> bool:
        """Whether that is so; it is discarded then."""
        if not self.is_to_be_let_go(track):
            return False
        self.let_go(track, states.discarded(track.submission))
        return True

    def let_go(self, track: Track, discarded: Submission) -> None:
        """Its requests are free: nothing was bought of them, and nothing of them is sent."""
        self._at.ledger.release(discarded, what="discarded", run_id=self._at.run_id)
        track.submission = discarded

    # ------------------------------------------------------------ another account

    def is_of_our_account(self, track: Track) -> bool:
        """Whether our key surely sees what the create made: the intent names it, or the server has deleted
        the input file for us. Only then does it prove anything that a file or a batch is not seen."""
        return track.has_deleted or self._at.is_of_this_key(track.submission)

    # ------------------------------------------------------------ ids that were given before

    def refuse_reused_file(self, track: Track, file_id: str) -> None:
        """Nothing is bought at a server that gives an id twice. Raises ProviderRefusedError."""
        if self._at.ledger.has_batch_of(track.submission.server, file_id):
            raise ProviderRefusedError(
                f"{self._at.provider.base_url} gave the id {file_id} to another file before: it has lost its "
                "state, and what it tells of batches can't be told from what it told then",
                next_step="nothing was bought; let the server keep its state, or give it another base_url",
            )

    def is_reused(self, track: Track, batch_id: str) -> bool:
        """Whether this id is that of another shard's batch."""
        owner = self._at.ledger.shard_of_batch(track.submission.server, batch_id)
        return owner not in (None, track.submission.shard_id)

    def hold_reused(self, track: Track, batch_id: str) -> None:
        """Bought, and under this id another shard has its answers: a person must decide."""
        why = f"the server gave the id {batch_id} to another batch before: it has lost its state"
        self._at.save(track, states.held(track.submission, why), "held")
