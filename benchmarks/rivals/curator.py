"""bespokelabs-curator writing its request files. Run by a Python that has it: it is nobody's dependency.

    PYTHON -m benchmarks.rivals.curator TICKETS.csv FOLDER ROWS

Only the writing is measured: what its own call does first, without a server and without its viewer.
"""

from __future__ import annotations

import csv
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.measure import tell
from benchmarks.rows import SYSTEM

os.environ |= {"TELEMETRY_ENABLED": "false", "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"}


def main(dataset: Path, folder: Path, most_rows: int) -> None:
    """Rows to its dataset, its dataset to its request files."""
    from bespokelabs import curator
    from datasets import Dataset

    class Tickets(curator.LLM):  # type: ignore[misc]
        """The prompt as its users write it."""

        def prompt(self, row: dict[str, Any]) -> list[dict[str, str]]:
            paid = "The customer pays for support.\n" if row["plan"] == "pro" else ""
            user = f"{paid}Subject: {row['subject'].upper()}\n\n{row['body']}"
            return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]

        def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
            return {**row, "answer": response}

    tell("begun")
    with dataset.open(newline="") as file:
        rows = list(islice(csv.DictReader(file), most_rows))
    tickets = Tickets(
        model_name="gpt-4o-mini", batch=True, backend="openai", backend_params={"batch_size": 50_000}
    )
    processor = tickets._request_processor
    processor.prompt_formatter = tickets.prompt_formatter
    processor.working_dir = str(folder / "curator")
    processor.total_requests = len(rows)
    files = processor.create_request_files(Dataset.from_list(rows))
    lines = sum(Path(path).read_bytes().count(b"\n") for path in files)
    tell("planned", rows=lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
