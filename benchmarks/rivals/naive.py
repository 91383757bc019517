"""The script that people write: json, `Template.render`, lists in memory, an ORM object a row, a dict join.

python -m benchmarks.rivals.naive plan TICKETS.csv FOLDER
python -m benchmarks.rivals.naive join TICKETS.csv FOLDER      reads FOLDER/output.jsonl and errors.jsonl
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from jinja2 import Template
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.measure import tell
from benchmarks.rows import SYSTEM

USER = (
    "{% if plan == 'pro' %}The customer pays for support.\n{% endif %}"
    "Subject: {{ subject | upper }}\n\n{{ body }}"
)


class Base(DeclarativeBase):
    """What the ORM asks for."""


class Request(Base):
    """One request, and later its answer."""

    __tablename__ = "requests"
    id: Mapped[int] = mapped_column(primary_key=True)
    custom_id: Mapped[str] = mapped_column(unique=True)
    ticket_id: Mapped[str]
    status: Mapped[str]
    answer: Mapped[str | None]
    tokens: Mapped[int | None]


def plan(dataset: Path, folder: Path) -> None:
    """Render every row, record what is new, write one file of requests."""
    tell("begun")
    rows = _rows(dataset)
    system, user = Template(SYSTEM), Template(USER)
    requests: list[dict[str, Any]] = []
    for row in rows:
        messages = [
            {"role": "system", "content": system.render(**row)},
            {"role": "user", "content": user.render(**row)},
        ]
        body = {"model": "benchmark-model", "messages": messages, "temperature": 0, "max_tokens": 60}
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        custom_id = f"{row['ticket_id']}-{digest[:16]}"
        requests.append(
            {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
        )
    with _session(folder) as session:
        known = {request.custom_id for request in session.scalars(select(Request))}
        for row, request in zip(rows, requests, strict=True):
            if request["custom_id"] not in known:
                session.add(
                    Request(custom_id=request["custom_id"], ticket_id=row["ticket_id"], status="pending")
                )
        session.commit()
    with (folder / "naive.jsonl").open("w") as file:
        for request in requests:
            if request["custom_id"] not in known:
                file.write(json.dumps(request) + "\n")
    tell("planned", rows=len(rows))


def join(dataset: Path, folder: Path) -> None:
    """Store every answer with its request, and write the table."""
    tell("begun")
    results: dict[str, dict[str, Any]] = {}
    for name in ("output.jsonl", "errors.jsonl"):
        with (folder / name).open() as file:
            for line in file:
                result = json.loads(line)
                results[result["custom_id"]] = result
    with _session(folder) as session:
        answered = session.scalars(select(Request)).all()
        for request in answered:
            result = results[request.custom_id]
            if result["response"] is None:
                request.status = "failed"
                continue
            body = result["response"]["body"]
            request.status = "succeeded"
            request.answer = body["choices"][0]["message"]["content"]
            request.tokens = body["usage"]["completion_tokens"]
        session.commit()
        by_ticket = {request.ticket_id: request for request in answered}
        rows = _rows(dataset)
        with (folder / "naive.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], "status", "answer", "tokens"])
            writer.writeheader()
            for row in rows:
                request = by_ticket[row["ticket_id"]]
                found = {"status": request.status, "answer": request.answer, "tokens": request.tokens}
                writer.writerow({**row, **found})
    tell("joined", rows=len(rows))


def _rows(dataset: Path) -> list[dict[str, str]]:
    with dataset.open(newline="") as file:
        return list(csv.DictReader(file))


def _session(folder: Path) -> Session:
    engine = create_engine(f"sqlite:///{folder / 'naive.db'}")
    Base.metadata.create_all(engine)
    return Session(engine)


if __name__ == "__main__":
    {"plan": plan, "join": join}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
