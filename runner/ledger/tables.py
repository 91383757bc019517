"""The tables of the ledger, in plain words, and the few codes that keep the big ones small.

One rule: what must never happen is a constraint here, not a check in code - a state that is no state, a
server id taken twice, one input file in two batches, two shards in one slot of a run. Small tables keep
UTC times as ISO text, big ones (`attempt`) as Unix seconds; every path is relative, to the project folder
(`manifest`) or to the `.runner` folder (all others). Nothing here knows SQLite but the option WITHOUT
ROWID; the engine recipe is in `engine`, and what changes between versions in `migrations`.

Layout. `request` is one row per fingerprint for good; it never grows by an answer: the pair `open_shard_id,
open_line` becomes the pair `answer_shard_id, answer_line`, so pages don't split. Of its `attempts` those that
are `excused` don't count for the retry policy: all up to an answer, and cancelled ones. `failed_shard_id,
failed_line` is a later attempt that failed while the answer stays. What is the same for nearly every row is
NULL, because a million rows must fit into 150 MB (a plainer layout was measured at 182): `row.key` where it
equals the request's name, `attempt.model` where it is the shard's, `attempt.finish_reason` where it is `stop`
(empty where the server said none). Causes stand in tables of their own; an attempt's cause counts while its
status is the attempt's (or, of an answer that was looked at again, the request's). The view `results` unpacks
it all.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

from runner.core.states import ShardState

RUN_STATES = ("running", "finished", "interrupted", "failed", "detached")
DUE_STATES = ("claimed", "started", "finished", "failed", "replaced", "skipped", "missed")
"""A due time: claimed by whoever saw it first, started as a run, and how that ended; or left, and why: the
run before it was still under way (skipped), nobody looked in time (missed)."""
FILE_KINDS = ("input", "output", "error")
FILE_STATES = ("intended", "uploaded", "deleted", "lost", "offered")
"""An input file: intended, uploaded, then deleted (the fence) or lost (its reply was lost, or the attempt
was given up). An output or error file: offered, since the server named it."""


def _one_of(column: str, words: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(str(word)) for word in words)})"


def _cause_columns() -> tuple[Column[str], ...]:
    return (
        Column("error_class", Text, nullable=False),
        Column("error_code", Text),
        Column("error_message", Text, nullable=False),
    )


metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_by_%(column_0_N_name)s",
        "uq": "%(table_name)s_one_%(column_0_N_name)s",
        "ck": "%(table_name)s_%(constraint_name)s",
        "fk": "%(table_name)s_%(column_0_N_name)s_exists",
        "pk": "%(table_name)s_key",
    }
)

status = Table(
    "status",
    metadata,
    Column("code", SmallInteger, primary_key=True, autoincrement=False),
    Column("word", Text, nullable=False, unique=True),
)

manifest = Table(
    "manifest",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("path", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("current_run_id", Integer),
)

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", Text, nullable=False, unique=True),
    Column("manifest_id", Integer, ForeignKey("manifest.id"), nullable=False, index=True),
    Column("started_at", Text, nullable=False),
    Column("finished_at", Text),
    Column("state", Text, nullable=False),
    Column("exit_code", Integer),
    Column("manifest_digest", Text, nullable=False),
    Column("template_digest", Text, nullable=False),
    Column("dataset_digest", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("git_commit", Text),
    Column("snapshot", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("requests_sent", Integer),
    Column("succeeded", Integer),
    Column("failed", Integer),
    Column("unsendable", Integer),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cost", Float),
    Column("paid_input_tokens", BigInteger),
    Column("paid_output_tokens", BigInteger),
    Column("paid_cost", Float),
    Column("document", Text),
    Column("inputs", Text),
    Column("published", Text),
    Column("history", Text),
    CheckConstraint(_one_of("state", RUN_STATES), name="state_is_known"),
    CheckConstraint("length(uid) = 32", name="uid_is_whole"),
)

template = Table(
    "template",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("texts", Text, nullable=False),
)

request = Table(
    "request",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", LargeBinary(16), nullable=False),
    Column("name", Text, nullable=False),
    Column("status", SmallInteger),
    Column("retryable", SmallInteger, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    Column("excused", SmallInteger, nullable=False),
    Column("answer_shard_id", Integer),
    Column("answer_line", Integer),
    Column("open_shard_id", Integer),
    Column("open_line", Integer),
    Column("failed_shard_id", Integer),
    Column("failed_line", Integer),
    CheckConstraint("length(fingerprint) = 16", name="fingerprint_is_whole"),
    CheckConstraint("length(name) <= 40", name="name_is_short"),
    CheckConstraint("attempts >= 0", name="attempts_count_up"),
    CheckConstraint("excused >= 0", name="excused_count_up"),
    CheckConstraint("(status IS NULL) = (answer_shard_id IS NULL)", name="status_has_an_attempt"),
    CheckConstraint("(answer_line IS NULL) = (answer_shard_id IS NULL)", name="answer_has_a_place"),
    CheckConstraint("(open_line IS NULL) = (open_shard_id IS NULL)", name="open_has_a_place"),
    CheckConstraint("(failed_line IS NULL) = (failed_shard_id IS NULL)", name="failure_has_a_place"),
)
ONE_FINGERPRINT = Index("request_one_fingerprint", request.c.fingerprint, unique=True)
"""An index of its own and no constraint of the table, so that it can be built anew (see `new_blocks`)."""

row = Table(
    "row",
    metadata,
    Column("manifest_id", Integer, ForeignKey("manifest.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("key", Text),
    Column("request_id", Integer, ForeignKey("request.id")),
    PrimaryKeyConstraint("manifest_id", "position"),
    CheckConstraint("key IS NOT NULL OR request_id IS NOT NULL", name="key_is_known"),
    sqlite_with_rowid=False,
)

row_cause = Table(
    "row_cause",
    metadata,
    Column("manifest_id", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    *_cause_columns(),
    PrimaryKeyConstraint("manifest_id", "position"),
    ForeignKeyConstraint(["manifest_id", "position"], ["row.manifest_id", "row.position"]),
)

shard = Table(
    "shard",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, ForeignKey("run.id"), nullable=False),
    Column("manifest_id", Integer, ForeignKey("manifest.id"), nullable=False, index=True),
    Column("slot", Integer, nullable=False),
    Column("sha", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("send_by_s", Float),
    Column("not_before_s", Float, nullable=False),
    Column("problem", Text),
    Column("is_fenced", SmallInteger, nullable=False),
    Column("cancel_requested", SmallInteger, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
    UniqueConstraint("run_id", "slot"),
    CheckConstraint(_one_of("state", ShardState), name="state_is_known"),
    CheckConstraint("length(sha) = 64", name="sha_is_whole"),
    CheckConstraint("attempt >= 1", name="attempts_count_from_1"),
)

batch = Table(
    "batch",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("shard_id", Integer, ForeignKey("shard.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("server", Text, nullable=False),
    Column("batch_id", Text, nullable=False),
    Column("input_file_id", Text),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("status", Text, nullable=False),
    Column("total", Integer),
    Column("completed", Integer),
    Column("failed", Integer),
    Column("created_at", Text),
    Column("expires_at", Text),
    Column("finished_at", Text),
    UniqueConstraint("server", "batch_id"),
    UniqueConstraint("server", "input_file_id"),
    UniqueConstraint("shard_id", "attempt"),
)

file = Table(
    "file",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("shard_id", Integer, ForeignKey("shard.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("file_id", Text),
    Column("filename", Text),
    Column("size_bytes", BigInteger),
    Column("state", Text, nullable=False),
    Column("raw_path", Text, unique=True),
    Column("lines", Integer),
    Column("duplicate_lines", Integer),
    Column("unknown_lines", Integer),
    Column("bad_lines", Integer),
    Column("created_at", Text, nullable=False),
    Column("uploaded_at", Text),
    UniqueConstraint("shard_id", "kind", "file_id"),
    CheckConstraint(_one_of("kind", FILE_KINDS), name="kind_is_known"),
    CheckConstraint(_one_of("state", FILE_STATES), name="state_is_known"),
    CheckConstraint("(kind = 'input') = (raw_path IS NULL)", name="results_are_kept"),
)
_IS_INPUT = file.c.kind == "input"
ONE_INPUT = Index(
    "file_one_input_for_an_attempt", file.c.shard_id, file.c.attempt, unique=True, sqlite_where=_IS_INPUT
)

attempt = Table(
    "attempt",
    metadata,
    Column("shard_id", Integer, ForeignKey("shard.id"), nullable=False),
    Column("line", Integer, nullable=False),
    Column("request_id", Integer, ForeignKey("request.id"), nullable=False),
    Column("number", SmallInteger, nullable=False),
    Column("status", SmallInteger),
    Column("finish_reason", Text),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("model", Text),
    Column("response_uuid", LargeBinary(16)),
    Column("response_id", Text),
    Column("file_id", Integer, ForeignKey("file.id")),
    Column("offset", BigInteger),
    Column("length", Integer),
    Column("answered_at", BigInteger),
    PrimaryKeyConstraint("shard_id", "line"),
    CheckConstraint("number >= 1", name="number_counts_from_1"),
    sqlite_with_rowid=False,
)

attempt_cause = Table(
    "attempt_cause",
    metadata,
    Column("shard_id", Integer, nullable=False),
    Column("line", Integer, nullable=False),
    Column("status", SmallInteger, nullable=False),
    *_cause_columns(),
    PrimaryKeyConstraint("shard_id", "line", "status"),
    ForeignKeyConstraint(["shard_id", "line"], ["attempt.shard_id", "attempt.line"]),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("file_id", Integer, ForeignKey("file.id"), nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("file_id", "offset"),
)

event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Text, nullable=False),
    Column("run_id", Integer, ForeignKey("run.id")),
    Column("shard_id", Integer, ForeignKey("shard.id")),
    Column("what", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

schedule = Table(
    "schedule",
    metadata,
    Column("manifest_id", Integer, ForeignKey("manifest.id"), primary_key=True, autoincrement=False),
    Column("rule", Text, nullable=False),
    Column("since", Text, nullable=False),
    Column("problem", Text, nullable=False),
)

due = Table(
    "due",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("manifest_id", Integer, ForeignKey("manifest.id"), nullable=False),
    Column("due_at", Text, nullable=False),
    Column("previous_at", Text),
    Column("state", Text, nullable=False),
    Column("claimed_at", Text, nullable=False),
    Column("claimed_by", Text, nullable=False),
    Column("begun_at", Text),
    Column("ended_at", Text),
    Column("run_id", Integer, ForeignKey("run.id")),
    Column("exit_code", Integer),
    Column("message", Text, nullable=False),
    UniqueConstraint("manifest_id", "due_at"),
    CheckConstraint(_one_of("state", DUE_STATES), name="state_is_known"),
    CheckConstraint("state NOT IN ('started', 'finished') OR run_id IS NOT NULL", name="start_is_a_run"),
    CheckConstraint("(ended_at IS NULL) = (state IN ('claimed', 'started'))", name="end_has_a_time"),
)
_IS_STARTED = due.c.state == "started"
ONE_STARTED = Index("due_one_started_at_a_time", due.c.manifest_id, unique=True, sqlite_where=_IS_STARTED)


def tell_of_postgresql() -> None:
    """Which rows the indexes hold in PostgreSQL: for those who compare or make tables there. To name it loads
    all that SQLAlchemy knows of it, a tenth of what a start with SQLite imports."""
    ONE_INPUT.dialect_kwargs["postgresql_where"] = _IS_INPUT
    ONE_STARTED.dialect_kwargs["postgresql_where"] = _IS_STARTED
