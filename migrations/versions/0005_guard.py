"""looks of pictures, near duplicates, issues of versions

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    def image(name: str, *, key: bool) -> sa.Column[str]:
        return sa.Column(name, sa.String(length=36), nullable=not key)

    def to_images(table: str, column: str) -> sa.ForeignKeyConstraint:
        name = op.f(f"fk_{table}_{column}_images")
        return sa.ForeignKeyConstraint([column], ["images.id"], name=name, ondelete="CASCADE")

    op.create_table(
        "image_looks",
        image("image_id", key=True),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.Column("grey", sa.LargeBinary(), nullable=False),
        sa.Column("flags", sa.Integer(), nullable=False),
        sa.Column("camera", sa.String(length=120), nullable=True),
        sa.Column("taken_at", sa.Float(), nullable=True),
        to_images("image_looks", "image_id"),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_image_looks")),
    )
    op.create_table(
        "near_pairs",
        image("image_id", key=True),
        image("other_id", key=True),
        sa.Column("score", sa.Double(), nullable=False),
        to_images("near_pairs", "image_id"),
        to_images("near_pairs", "other_id"),
        sa.PrimaryKeyConstraint("image_id", "other_id", name=op.f("pk_near_pairs")),
    )
    op.create_index(op.f("ix_near_pairs_other_id"), "near_pairs", ["other_id"])
    op.create_table(
        "version_issues",
        sa.Column("version_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        image("image_id", key=False),
        image("other_id", key=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        to_images("version_issues", "image_id"),
        to_images("version_issues", "other_id"),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["dataset_versions.id"],
            name=op.f("fk_version_issues_version_id_dataset_versions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "kind", "number", name=op.f("pk_version_issues")),
    )
    op.create_index(op.f("ix_version_issues_image_id"), "version_issues", ["image_id"])
    op.create_index(op.f("ix_version_issues_other_id"), "version_issues", ["other_id"])


def downgrade() -> None:
    for table in ("version_issues", "near_pairs", "image_looks"):
        op.drop_table(table)
