"""One request for a fingerprint: an index of its own, where a constraint of the table was.

SQLite can't drop a constraint, so there the table is made anew; the view that reads it stands aside.

Frozen: a later change is a later migration.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NAME = "request_one_fingerprint"


def upgrade() -> None:
    bind = op.get_bind()
    if bind.dialect.name == "sqlite":
        view = bind.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'results'").scalar_one()
        bind.exec_driver_sql("DROP VIEW results")
        _make_anew()
        op.create_index(_NAME, "request", ["fingerprint"], unique=True)
        bind.exec_driver_sql(view)
    else:
        op.drop_constraint(_NAME, "request", type_="unique")
        op.create_index(_NAME, "request", ["fingerprint"], unique=True)


def _make_anew() -> None:
    op.create_table(
        "request_anew",
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
    )
    op.execute("INSERT INTO request_anew SELECT * FROM request ORDER BY id")
    op.drop_table("request")
    op.rename_table("request_anew", "request")
