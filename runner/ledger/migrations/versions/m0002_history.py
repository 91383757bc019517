"""What a run was asked with: its whole manifest, its template's texts, its inputs, its history file."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "template",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("texts", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("template_key")),
    )
    for name in ("document", "inputs", "published", "history"):
        op.add_column("run", sa.Column(name, sa.Text(), nullable=True))
