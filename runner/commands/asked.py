"""What an earlier run asked: its rows from the snapshot, its prompt from the texts that were kept.

The rule: nothing here reads the manifest's files as they are now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.commands.documents import params_of, repeats_of, source_from_json, times_of, was_isolated
from runner.core.model import Cause, Message
from runner.dataset import read_rows
from runner.errors import InputError
from runner.ledger import Ledger, LedgerPlace, RunRecord
from runner.prompt import Prompt, PromptSource

_MAX_PROMPT_BYTES = 64 << 20
"""Above any provider's limit for a body: what was sent once is rendered again."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A run whose rows and prompt are still there."""

    snapshot: Path
    prompt: Prompt
    repeats: int

    def row(self, position: int) -> dict[str, Any] | None:
        """The row of the dataset at a position of the ledger, which counts repeats."""
        return row_at(str(self.snapshot), position // self.repeats)

    def messages(self, row: Mapping[str, Any]) -> tuple[Message, ...] | Cause:
        """The prompt of a row, as it was asked."""
        return self.prompt.render(row)


def asked_by(run: RunRecord, *, ledger: Ledger, place: LedgerPlace, is_isolated: bool = False) -> Asked | str:
    """What is needed to render a run's prompts again, or in one line what is missing."""
    snapshot = place.folder / run.snapshot
    texts = ledger.template_texts(run.template_digest)
    if not snapshot.is_file():
        return "the rows of that run are no longer kept"
    if texts is None or run.document is None:
        return "the template of that run was not kept"
    source = PromptSource(
        template="",
        search_root=str(place.project),
        params={},
        max_output_bytes=_MAX_PROMPT_BYTES,
        is_isolated=is_isolated or was_isolated(run),  # a record is only as good as who wrote it
    )
    try:
        prompt = source_from_json(texts, source, params_of(run), times_of(run)).compile()
    except InputError as error:
        return f"the template of that run is no longer accepted: {error.mistakes[0]}"
    return Asked(snapshot=snapshot, prompt=prompt, repeats=repeats_of(run))


def row_at(snapshot: str, position: int) -> dict[str, Any] | None:
    """One row of a snapshot."""
    for batch in read_rows(snapshot, position, position + 1):
        for _, _, row in batch:
            return row
    return None
