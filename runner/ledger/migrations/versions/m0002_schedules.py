"""Schedules: since when each one counts, and every due time that somebody claimed, started or left.

Frozen: a later change is a later migration.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedule",
        sa.Column("manifest_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("since", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifest.id"], name=op.f("schedule_manifest_id_exists")),
        sa.PrimaryKeyConstraint("manifest_id", name=op.f("schedule_key")),
    )
    op.create_table(
        "due",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Text(), nullable=False),
        sa.Column("previous_at", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("claimed_at", sa.Text(), nullable=False),
        sa.Column("claimed_by", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('claimed', 'started', 'finished', 'failed', 'replaced', 'skipped', 'missed')",
            name=op.f("due_state_is_known"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('started', 'finished') OR run_id IS NOT NULL", name=op.f("due_start_is_a_run")
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (state IN ('claimed', 'started'))", name=op.f("due_end_has_a_time")
        ),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifest.id"], name=op.f("due_manifest_id_exists")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("due_run_id_exists")),
        sa.PrimaryKeyConstraint("id", name=op.f("due_key")),
        sa.UniqueConstraint("manifest_id", "due_at", name=op.f("due_one_manifest_id_due_at")),
    )
    op.create_index(
        "due_one_started_at_a_time",
        "due",
        ["manifest_id"],
        unique=True,
        sqlite_where=sa.text("state = 'started'"),
        postgresql_where=sa.text("state = 'started'"),
    )
