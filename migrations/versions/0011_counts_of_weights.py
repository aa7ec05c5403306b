"""how many arrays of a file of weights have no place: of their names only the first are kept

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("weights", sa.Column("unexpected_count", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE weights SET unexpected_count = json_array_length(unexpected)")


def downgrade() -> None:
    op.drop_column("weights", "unexpected_count")
