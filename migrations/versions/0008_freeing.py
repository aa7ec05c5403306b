"""freeing: pictures that nobody uses any more, and their files

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "house_numbers",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_house_numbers")),
    )
    op.create_table(
        "freed_files",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("freed_at", sa.Float(), nullable=False),
        sa.Column("removing", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_freed_files")),
    )
    op.create_index(op.f("ix_freed_files_freed_at"), "freed_files", ["freed_at"])


def downgrade() -> None:
    op.drop_table("freed_files")
    op.drop_table("house_numbers")
