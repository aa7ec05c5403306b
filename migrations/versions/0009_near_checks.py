"""searches for near duplicates by stored features

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "near_checks",
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
                name="nearcheckstatus",
                native_enum=False,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("compared", sa.Integer(), nullable=False),
        sa.Column("pairs", sa.Integer(), nullable=False),
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
            ["owner_id"], ["users.id"], name=op.f("fk_near_checks_owner_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["dataset_versions.id"],
            name=op.f("fk_near_checks_version_id_dataset_versions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_near_checks")),
        sa.UniqueConstraint("version_id", name=op.f("uq_near_checks_version_id")),
    )
    op.create_index(op.f("ix_near_checks_status_lease_expires_at"), "near_checks", ["status", "lease_expires_at"])
    op.create_index(op.f("ix_near_checks_owner_id_status_id"), "near_checks", ["owner_id", "status", "id"])


def downgrade() -> None:
    _forget_found_later()
    op.drop_table("near_checks")


def _forget_found_later() -> None:
    """Code before this revision has no words for issues of this kind, and its page of issues would fail on them."""
    issues = sa.table("version_issues", sa.column("version_id", sa.String()), sa.column("kind", sa.String()))
    versions = sa.table("dataset_versions", sa.column("id", sa.String()), sa.column("issues", sa.JSON()))
    later = issues.c.kind == "found_later"
    connection = op.get_bind()
    told = sa.select(versions).where(versions.c.id.in_(sa.select(issues.c.version_id).where(later)))
    for version_id, counts in connection.execute(told).all():
        kept = {kind: count for kind, count in counts.items() if kind != "found_later"}
        connection.execute(sa.update(versions).where(versions.c.id == version_id).values(issues=kept))
    connection.execute(sa.delete(issues).where(later))
