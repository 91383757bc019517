"""The rows that everything here works on: the same in every run, about 300 bytes each, or 4 KB."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("ticket_id", "subject", "plan", "body")
PLANS = ("free", "pro", "team")
SHORT_BODY_BYTES, LONG_BODY_BYTES = 230, 3_950
SYSTEM = "You sort support tickets. Answer with one sentence that says what the customer wants."
TEMPLATE = (
    "{% block system %}" + SYSTEM + "{% endblock %}\n"
    "{% block user %}\n"
    "{% if plan == 'pro' %}The customer pays for support.\n{% endif %}"
    "Subject: {{ subject | upper }}\n\n{{ body }}\n"
    "{% endblock %}\n"
)
"""Two messages, three variables, a filter and an if."""
_SYLLABLES = ("ka", "lo", "min", "ter", "su", "ve", "ran", "di", "pel", "os", "qui", "en", "tar", "mo", "bi")
_POOL_BYTES = 1 << 20
_SEED = 20_240_229


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A CSV file. `changed` says how many rows have another body than in the unchanged file."""

    path: Path
    rows: int
    body_bytes: int = SHORT_BODY_BYTES
    changed: int = 0

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


def write_dataset(
    path: Path, rows: int, *, body_bytes: int = SHORT_BODY_BYTES, changed_every: int = 0
) -> Dataset:
    """Rows that are all different. With `changed_every` each so-manieth has another body."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(_rows(rows, body_bytes, changed_every))
    changed = -(-rows // changed_every) if changed_every else 0
    return Dataset(path=path, rows=rows, body_bytes=body_bytes, changed=changed)


def _rows(rows: int, body_bytes: int, changed_every: int) -> Iterator[tuple[str, ...]]:
    """Cut from one long text: making each row's words anew would take longer than what is measured."""
    draw = random.Random(_SEED)
    pool = _pool(draw)
    for number in range(rows):
        at = draw.randrange(len(pool) - body_bytes)
        if changed_every and number % changed_every == 0:
            at = at // 2 + 1
        yield (
            f"T-{number:07d}",
            f"{pool[at : at + 32].strip()} {number}",
            PLANS[number % len(PLANS)],
            pool[at : at + body_bytes].strip(),
        )


def _pool(draw: random.Random) -> str:
    words = ("".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) for _ in range(_POOL_BYTES // 6))
    return " ".join(words)


def write_project(
    folder: Path, dataset: Dataset, *, base_url: str, output: str, rows_of_files: int = 0
) -> Path:
    """A manifest with its template over a dataset, for the server at `base_url`; the manifest's path. Its
    request files are as large as those for `rows_of_files`, if that is more rows."""
    (folder / ".runner").mkdir(mode=0o700, exist_ok=True)
    (folder / "tickets.j2").write_text(TEMPLATE, encoding="utf-8")
    manifest = folder / "tickets.yaml"
    # The stand-in answers once all is sent, and 32 batches may be open: with more rows each is larger.
    most = max(dataset.rows, rows_of_files)
    server = f'base_url: "{base_url}", max_requests_per_file: {max(50_000, -(-most // 30))}'
    manifest.write_text(
        "version: 1\n"
        f"dataset: {{path: {dataset.path.name}, key: ticket_id}}\n"
        "prompt: {template: tickets.j2}\n"
        "model:\n"
        f"  provider: {{{server}, poll_interval_s: 0.2}}\n"
        "  name: benchmark-model\n"
        "  parameters: {temperature: 0, max_tokens: 60}\n"
        f"output: {{path: {output}}}\n"
        "allow_failures: 5%\n"
        "budget: {confirm_above: 1000000}\n",
        encoding="utf-8",
    )
    return manifest
