"""How our uploads and batches are known again on the server: by file name, metadata and input file.

Three independent ways, because any one may fail: some servers drop metadata, a fenced batch loses its
input file, search is by substring. A search hit is only a candidate; `Tags.match` decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runner.core.wire import BatchObject

PREFIX = "runner-"
"""How the name of every upload begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """What marks our uploads and batches on the server: lower-case hex, digits and `-` only.

    The server's search treats `_` and `%` as wildcards and ignores case, so the tags use neither.
    """

    run: str
    slot: int
    attempt: int
    sha: str
    requests: int

    @property
    def filename(self) -> str:
        """The name of the uploaded file, unique for every attempt."""
        return f"{PREFIX}{self.run}-s{self.slot:04d}-a{self.attempt}-{self.sha[:16]}.jsonl"

    @property
    def canary_filename(self) -> str:
        """The name of the file that shows how far the server's reads are."""
        return f"{PREFIX}{self.run}-s{self.slot:04d}-a{self.attempt}-canary.jsonl"

    def metadata(self) -> dict[str, str]:
        """The batch's metadata. Values are strings: the server refuses others."""
        return {
            "runner-run": self.run,
            "runner-slot": f"{self.slot:04d}",
            "runner-attempt": str(self.attempt),
            "runner-sha": self.sha[:16],
            "runner-rows": str(self.requests),
        }

    def match(self, batch: BatchObject, input_file_id: str | None) -> bool:
        """Whether a listed batch is this attempt: by our own metadata, else by the input file."""
        ours = self.metadata()
        if all(batch.metadata.get(key) == value for key, value in ours.items()):
            return True
        return input_file_id is not None and batch.input_file_id == input_file_id


def read_tags(metadata: Mapping[str, str]) -> Tags | None:
    """The tags of a batch of ours, whatever run it is of; `sha` is its first 16 digits. None: not ours."""
    run, sha = metadata.get("runner-run", ""), metadata.get("runner-sha", "")
    numbers = [metadata.get(f"runner-{name}", "") for name in ("slot", "attempt", "rows")]
    if not re.fullmatch("[0-9a-f]{32}", run) or not re.fullmatch("[0-9a-f]{16}", sha):
        return None
    if not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers):
        return None
    slot, attempt, requests = map(int, numbers)
    return Tags(run=run, slot=slot, attempt=attempt, sha=sha, requests=requests)
