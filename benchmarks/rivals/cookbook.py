"""The script of the cookbooks: the SDK, whole files in memory, no database at all.

python -m benchmarks.rivals.cookbook submit TICKETS.csv FOLDER BASE_URL
python -m benchmarks.rivals.cookbook collect TICKETS.csv FOLDER BASE_URL
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

from benchmarks.measure import tell
from benchmarks.rows import SYSTEM


def submit(dataset: Path, folder: Path, client: OpenAI) -> None:
    """A list of tasks, one file, one upload, one batch."""
    tell("begun")
    with dataset.open(newline="") as file:
        rows = list(csv.DictReader(file))
    tasks = [
        {
            "custom_id": f"task-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "benchmark-model",
                "temperature": 0,
                "max_tokens": 60,
                "messages": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": _prompt(row)},
                ],
            },
        }
        for number, row in enumerate(rows)
    ]
    path = folder / "cookbook.jsonl"
    with path.open("w") as file:
        for task in tasks:
            file.write(json.dumps(task) + "\n")
    tell("planned", rows=len(rows))
    with path.open("rb") as content:
        uploaded = client.files.create(file=content, purpose="batch")
    batch = client.batches.create(
        input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    (folder / "batch_id").write_text(batch.id)
    tell("submitted")


def collect(dataset: Path, folder: Path, client: OpenAI) -> None:
    """The whole output in memory, joined by the number in the custom_id."""
    tell("begun")
    batch = client.batches.retrieve((folder / "batch_id").read_text())
    while batch.status != "completed":
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    results: list[dict[str, Any]] = []
    for file_id in (batch.output_file_id, batch.error_file_id):
        if file_id is not None:
            content = client.files.content(file_id).content
            (folder / "cookbook-results.jsonl").write_bytes(content)
            results += [json.loads(line) for line in content.decode().splitlines()]
    by_task = {result["custom_id"]: result for result in results}
    with dataset.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "cookbook.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "answer"])
        writer.writeheader()
        for number, row in enumerate(rows):
            response = by_task[f"task-{number}"]["response"]
            answer = response and response["body"]["choices"][0]["message"]["content"]
            writer.writerow({**row, "answer": answer})
    tell("joined", rows=len(rows))


def _prompt(row: dict[str, str]) -> str:
    paid = "The customer pays for support.\n" if row["plan"] == "pro" else ""
    return f"{paid}Subject: {row['subject'].upper()}\n\n{row['body']}"


if __name__ == "__main__":
    do = {"submit": submit, "collect": collect}[sys.argv[1]]
    do(Path(sys.argv[2]), Path(sys.argv[3]), OpenAI(base_url=sys.argv[4], api_key="none"))
