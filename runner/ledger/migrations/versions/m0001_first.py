"""The first shape of the ledger: sixteen tables, the words of `status`, the view `results`.

Frozen: a later change is a later migration. The expressions that no two databases spell alike come from
the engine recipe.
"""

import sqlalchemy as sa
from alembic import op

from runner.ledger.engine import mark, spelling

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_WORDS = (
    "failed",
    "succeeded",
    "truncated",
    "refused",
    "invalid",
    "expired",
    "cancelled",
    "unaccounted",
    "unsendable",
    "pending",
)

_VIEW = """
CREATE VIEW results AS
SELECT
    manifest.name AS manifest,
    "row".position AS position,
    coalesce("row".key, request.name) AS key,
    CASE
        WHEN "row".request_id IS NULL THEN 'unsendable'
        WHEN request.status IS NULL THEN 'pending'
        WHEN request.open_shard_id IS NOT NULL AND request.status NOT IN (1, 2, 3, 4) THEN 'pending'
        ELSE status.word
    END AS status,
    CASE WHEN attempt.status IS NOT NULL THEN nullif(coalesce(attempt.finish_reason, 'stop'), '') END
        AS finish_reason,
    coalesce(row_cause.error_class, attempt_cause.error_class) AS error_class,
    coalesce(row_cause.error_code, attempt_cause.error_code) AS error_code,
    coalesce(row_cause.error_message, attempt_cause.error_message) AS error_message,
    attempt.input_tokens AS input_tokens,
    attempt.output_tokens AS output_tokens,
    CASE WHEN attempt.status IS NOT NULL THEN nullif(coalesce(attempt.model, shard.model), '') END AS model,
    {custom_id} AS custom_id,
    batch.batch_id AS batch_id,
    CASE WHEN attempt.response_uuid IS NULL THEN attempt.response_id ELSE 'batch_req_' || {response_uuid} END
        AS response_id,
    request.attempts AS attempts,
    {answered_at} AS answered_at,
    batch.input_file_id AS input_file_id,
    file.raw_path AS raw_file,
    attempt."offset" AS "offset",
    attempt.length AS length
FROM "row"
JOIN manifest ON manifest.id = "row".manifest_id
LEFT JOIN request ON request.id = "row".request_id
LEFT JOIN status ON status.code = request.status
LEFT JOIN attempt ON attempt.shard_id = request.answer_shard_id AND attempt.line = request.answer_line
    AND (request.open_shard_id IS NULL OR request.status IN (1, 2, 3, 4))
LEFT JOIN row_cause ON row_cause.manifest_id = "row".manifest_id AND row_cause.position = "row".position
LEFT JOIN attempt_cause ON attempt_cause.shard_id = attempt.shard_id AND attempt_cause.line = attempt.line
    AND attempt_cause.status = request.status
LEFT JOIN shard ON shard.id = coalesce(attempt.shard_id, request.open_shard_id)
LEFT JOIN batch ON batch.shard_id = shard.id AND batch.attempt = shard.attempt
LEFT JOIN file ON file.id = attempt.file_id
"""


def upgrade() -> None:
    _create_status()
    _create_manifest()
    _create_template()
    _create_request()
    _create_row()
    _create_run()
    _create_row_cause()
    _create_shard()
    _create_batch()
    _create_event()
    _create_file()
    _create_attempt()
    _create_quarantine()
    _create_attempt_cause()
    _create_results()


def _create_results() -> None:
    bind = op.get_bind()
    op.bulk_insert(
        sa.table("status", sa.column("code", sa.SmallInteger), sa.column("word", sa.Text)),
        [{"code": code, "word": word} for code, word in enumerate(_WORDS)],
    )
    spelled = spelling(bind.dialect.name)
    bind.exec_driver_sql(
        _VIEW.format(
            custom_id=spelled.custom_id,
            response_uuid=spelled.response_uuid,
            answered_at=spelled.answered_at,
        )
    )
    for statement in spelled.append_only:
        bind.exec_driver_sql(statement)
    if bind.dialect.name == "sqlite":
        mark(bind)


def _create_status() -> None:
    op.create_table(
        "status",
        sa.Column("code", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("word", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f("status_key")),
        sa.UniqueConstraint("word", name=op.f("status_one_word")),
    )


def _create_manifest() -> None:
    op.create_table(
        "manifest",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("current_run_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("manifest_key")),
        sa.UniqueConstraint("path", name=op.f("manifest_one_path")),
    )


def _create_template() -> None:
    op.create_table(
        "template",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("texts", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("template_key")),
    )


def _create_request() -> None:
    op.create_table(
        "request",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("retryable", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("excused", sa.SmallInteger(), nullable=False),
        sa.Column("answer_shard_id", sa.Integer(), nullable=True),
        sa.Column("answer_line", sa.Integer(), nullable=True),
        sa.Column("open_shard_id", sa.Integer(), nullable=True),
        sa.Column("open_line", sa.Integer(), nullable=True),
        sa.Column("failed_shard_id", sa.Integer(), nullable=True),
        sa.Column("failed_line", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "(answer_line IS NULL) = (answer_shard_id IS NULL)", name=op.f("request_answer_has_a_place")
        ),
        sa.CheckConstraint(
            "(open_line IS NULL) = (open_shard_id IS NULL)", name=op.f("request_open_has_a_place")
        ),
        sa.CheckConstraint(
            "(failed_line IS NULL) = (failed_shard_id IS NULL)", name=op.f("request_failure_has_a_place")
        ),
        sa.CheckConstraint(
            "(status IS NULL) = (answer_shard_id IS NULL)", name=op.f("request_status_has_an_attempt")
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("request_attempts_count_up")),
        sa.CheckConstraint("excused >= 0", name=op.f("request_excused_count_up")),
        sa.CheckConstraint("length(fingerprint) = 16", name=op.f("request_fingerprint_is_whole")),
        sa.CheckConstraint("length(name) <= 40", name=op.f("request_name_is_short")),
        sa.PrimaryKeyConstraint("id", name=op.f("request_key")),
        sa.UniqueConstraint("fingerprint", name=op.f("request_one_fingerprint")),
    )


def _create_row() -> None:
    op.create_table(
        "row",
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Integer(), nullable=True),
        sa.CheckConstraint("key IS NOT NULL OR request_id IS NOT NULL", name=op.f("row_key_is_known")),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifest.id"], name=op.f("row_manifest_id_exists")),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("row_request_id_exists")),
        sa.PrimaryKeyConstraint("manifest_id", "position", name=op.f("row_key")),
        sqlite_with_rowid=False,
    )


def _create_run() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("manifest_digest", sa.Text(), nullable=False),
        sa.Column("template_digest", sa.Text(), nullable=False),
        sa.Column("dataset_digest", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("git_commit", sa.Text(), nullable=True),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("requests_sent", sa.Integer(), nullable=True),
        sa.Column("succeeded", sa.Integer(), nullable=True),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("unsendable", sa.Integer(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost", sa.Float(), nullable=True),
        sa.Column("paid_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("paid_output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("paid_cost", sa.Float(), nullable=True),
        sa.Column("document", sa.Text(), nullable=True),
        sa.Column("inputs", sa.Text(), nullable=True),
        sa.Column("published", sa.Text(), nullable=True),
        sa.Column("history", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'finished', 'interrupted', 'failed', 'detached')",
            name=op.f("run_state_is_known"),
        ),
        sa.CheckConstraint("length(uid) = 32", name=op.f("run_uid_is_whole")),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifest.id"], name=op.f("run_manifest_id_exists")),
        sa.PrimaryKeyConstraint("id", name=op.f("run_key")),
        sa.UniqueConstraint("uid", name=op.f("run_one_uid")),
    )
    op.create_index(op.f("run_by_manifest_id"), "run", ["manifest_id"], unique=False)


def _create_row_cause() -> None:
    op.create_table(
        "row_cause",
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_id", "position"],
            ["row.manifest_id", "row.position"],
            name=op.f("row_cause_manifest_id_position_exists"),
        ),
        sa.PrimaryKeyConstraint("manifest_id", "position", name=op.f("row_cause_key")),
    )


def _create_shard() -> None:
    op.create_table(
        "shard",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("sha", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("completion_window", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("send_by_s", sa.Float(), nullable=True),
        sa.Column("not_before_s", sa.Float(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("is_fenced", sa.SmallInteger(), nullable=False),
        sa.Column("cancel_requested", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('ready', 'uploading', 'uploaded', 'creating', 'unknown', 'fencing', 'fenced', "
            "'submitted', 'done', 'held', 'refused', 'discarded')",
            name=op.f("shard_state_is_known"),
        ),
        sa.CheckConstraint("attempt >= 1", name=op.f("shard_attempts_count_from_1")),
        sa.CheckConstraint("length(sha) = 64", name=op.f("shard_sha_is_whole")),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifest.id"], name=op.f("shard_manifest_id_exists")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("shard_run_id_exists")),
        sa.PrimaryKeyConstraint("id", name=op.f("shard_key")),
        sa.UniqueConstraint("run_id", "slot", name=op.f("shard_one_run_id_slot")),
    )
    op.create_index(op.f("shard_by_manifest_id"), "shard", ["manifest_id"], unique=False)


def _create_batch() -> None:
    op.create_table(
        "batch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("shard_id", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=True),
        sa.Column("output_file_id", sa.Text(), nullable=True),
        sa.Column("error_file_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("completed", sa.Integer(), nullable=True),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["shard_id"], ["shard.id"], name=op.f("batch_shard_id_exists")),
        sa.PrimaryKeyConstraint("id", name=op.f("batch_key")),
        sa.UniqueConstraint("server", "batch_id", name=op.f("batch_one_server_batch_id")),
        sa.UniqueConstraint("server", "input_file_id", name=op.f("batch_one_server_input_file_id")),
        sa.UniqueConstraint("shard_id", "attempt", name=op.f("batch_one_shard_id_attempt")),
    )


def _create_event() -> None:
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("shard_id", sa.Integer(), nullable=True),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("event_run_id_exists")),
        sa.ForeignKeyConstraint(["shard_id"], ["shard.id"], name=op.f("event_shard_id_exists")),
        sa.PrimaryKeyConstraint("id", name=op.f("event_key")),
    )


def _create_file() -> None:
    op.create_table(
        "file",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("shard_id", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=True),
        sa.Column("filename", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("raw_path", sa.Text(), nullable=True),
        sa.Column("lines", sa.Integer(), nullable=True),
        sa.Column("duplicate_lines", sa.Integer(), nullable=True),
        sa.Column("unknown_lines", sa.Integer(), nullable=True),
        sa.Column("bad_lines", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("uploaded_at", sa.Text(), nullable=True),
        sa.CheckConstraint("(kind = 'input') = (raw_path IS NULL)", name=op.f("file_results_are_kept")),
        sa.CheckConstraint("kind IN ('input', 'output', 'error')", name=op.f("file_kind_is_known")),
        sa.CheckConstraint(
            "state IN ('intended', 'uploaded', 'deleted', 'lost', 'offered')",
            name=op.f("file_state_is_known"),
        ),
        sa.ForeignKeyConstraint(["shard_id"], ["shard.id"], name=op.f("file_shard_id_exists")),
        sa.PrimaryKeyConstraint("id", name=op.f("file_key")),
        sa.UniqueConstraint("raw_path", name=op.f("file_one_raw_path")),
        sa.UniqueConstraint("shard_id", "kind", "file_id", name=op.f("file_one_shard_id_kind_file_id")),
    )
    op.create_index(
        "file_one_input_for_an_attempt",
        "file",
        ["shard_id", "attempt"],
        unique=True,
        sqlite_where=sa.text("kind = 'input'"),
        postgresql_where=sa.text("kind = 'input'"),
    )


def _create_attempt() -> None:
    op.create_table(
        "attempt",
        sa.Column("shard_id", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("response_uuid", sa.LargeBinary(length=16), nullable=True),
        sa.Column("response_id", sa.Text(), nullable=True),
        sa.Column("file_id", sa.Integer(), nullable=True),
        sa.Column("offset", sa.BigInteger(), nullable=True),
        sa.Column("length", sa.Integer(), nullable=True),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("number >= 1", name=op.f("attempt_number_counts_from_1")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("attempt_file_id_exists")),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("attempt_request_id_exists")),
        sa.ForeignKeyConstraint(["shard_id"], ["shard.id"], name=op.f("attempt_shard_id_exists")),
        sa.PrimaryKeyConstraint("shard_id", "line", name=op.f("attempt_key")),
        sqlite_with_rowid=False,
    )


def _create_quarantine() -> None:
    op.create_table(
        "quarantine",
        sa.Column("file_id", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("quarantine_file_id_exists")),
        sa.PrimaryKeyConstraint("file_id", "offset", name=op.f("quarantine_key")),
    )


def _create_attempt_cause() -> None:
    op.create_table(
        "attempt_cause",
        sa.Column("shard_id", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["shard_id", "line"],
            ["attempt.shard_id", "attempt.line"],
            name=op.f("attempt_cause_shard_id_line_exists"),
        ),
        sa.PrimaryKeyConstraint("shard_id", "line", "status", name=op.f("attempt_cause_key")),
    )
