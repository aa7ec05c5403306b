"""shares: files of an upload that another worker may check

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "upload_shares",
        sa.Column("owner_id", sa.String(length=36), nullable=False),
        sa.Column("upload_id", sa.String(length=36), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "waiting",
                "checking",
                "checked",
                "failed",
                "cancelled",
                name="sharestatus",
                native_enum=False,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=120), nullable=True),
        sa.Column("lease_expires_at", sa.Float(), nullable=True),
        sa.Column("cancel_requested_at", sa.Float(), nullable=True),
        sa.Column("rung_at", sa.Float(), nullable=True),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=op.f("fk_upload_shares_owner_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_upload_shares_upload_id_uploads"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_shares")),
    )
    op.create_index(op.f("ix_upload_shares_upload_id"), "upload_shares", ["upload_id"])
    op.create_index(op.f("ix_upload_shares_status_lease_expires_at"), "upload_shares", ["status", "lease_expires_at"])
    op.create_index(op.f("ix_upload_shares_owner_id_status_id"), "upload_shares", ["owner_id", "status", "id"])


def downgrade() -> None:
    op.drop_table("upload_shares")
