"""label desk: checks, what they doubt, what people decide

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "label_checks",
        sa.Column("owner_id", sa.String(length=36), nullable=False),
        sa.Column("version_id", sa.String(length=36), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "checking",
                "ready",
                "failed",
                "cancelled",
                name="labelcheckstatus",
                native_enum=False,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=120), nullable=True),
        sa.Column("lease_expires_at", sa.Float(), nullable=True),
        sa.Column("cancel_requested_at", sa.Float(), nullable=True),
        sa.Column("rung_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=op.f("fk_label_checks_owner_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["dataset_versions.id"],
            name=op.f("fk_label_checks_version_id_dataset_versions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_checks")),
        sa.UniqueConstraint("version_id", name=op.f("uq_label_checks_version_id")),
    )
    op.create_index(op.f("ix_label_checks_status_lease_expires_at"), "label_checks", ["status", "lease_expires_at"])
    op.create_index(op.f("ix_label_checks_owner_id_status_id"), "label_checks", ["owner_id", "status", "id"])
    op.create_table(
        "label_suggestions",
        sa.Column("check_id", sa.String(length=36), nullable=False),
        sa.Column("rank", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("given_class", sa.String(length=255), nullable=False),
        sa.Column("suggested_class", sa.String(length=255), nullable=False),
        sa.Column("given_probability", sa.Double(), nullable=False),
        sa.Column("suggested_probability", sa.Double(), nullable=False),
        sa.Column("likely", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["check_id"],
            ["label_checks.id"],
            name=op.f("fk_label_suggestions_check_id_label_checks"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_label_suggestions_image_id_images"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("check_id", "rank", name=op.f("pk_label_suggestions")),
        sa.UniqueConstraint("check_id", "image_id", name=op.f("uq_label_suggestions_check_id_image_id")),
    )
    op.create_index(op.f("ix_label_suggestions_image_id"), "label_suggestions", ["image_id"])
    op.create_table(
        "label_decisions",
        sa.Column("dataset_id", sa.String(length=36), nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("owner_id", sa.String(length=36), nullable=False),
        sa.Column(
            "decision",
            sa.Enum("relabel", "dismiss", name="decision", native_enum=False, length=20),
            nullable=False,
        ),
        sa.Column("class_name", sa.String(length=255), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_label_decisions_dataset_id_datasets"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_label_decisions_image_id_images"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=op.f("fk_label_decisions_owner_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("dataset_id", "image_id", name=op.f("pk_label_decisions")),
    )
    op.create_index(op.f("ix_label_decisions_image_id"), "label_decisions", ["image_id"])
    op.create_index(op.f("ix_label_decisions_owner_id"), "label_decisions", ["owner_id"])


def downgrade() -> None:
    op.drop_table("label_decisions")
    op.drop_table("label_suggestions")
    op.drop_table("label_checks")
