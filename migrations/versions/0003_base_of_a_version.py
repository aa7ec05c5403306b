"""what a dataset version was made from

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # never `batch_alter_table` on a table that others refer to: on SQLite it drops the old table, and the rows of the others go with it
    op.add_column("dataset_versions", sa.Column("base_version_id", sa.String(length=36), nullable=True))


def downgrade() -> None:
    op.drop_column("dataset_versions", "base_version_id")
