"""People, service accounts, tokens, and the heads of the audit log's chains."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mlflow_proxy_people",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("user", sa.String(512), nullable=False),
        sa.Column("email", sa.String(320), nullable=True),
        sa.Column("email_verified", sa.Boolean, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("groups", sa.JSON, nullable=False),
        sa.Column("vouched", sa.Double, nullable=False),
        sa.Column("suspended", sa.Double, nullable=True),
        sa.Column("suspended_by", sa.String(600), nullable=True),
    )
    op.create_index("mlflow_proxy_people_user", "mlflow_proxy_people", ["user"])
    op.create_table(
        "mlflow_proxy_service_accounts",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("role", sa.Integer, nullable=False),
        sa.Column("description", sa.String(256), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("created_by", sa.String(512), nullable=False),
        sa.Column("removed", sa.Double, nullable=True),
        sa.Column("removed_by", sa.String(600), nullable=True),
    )
    op.create_table(
        "mlflow_proxy_tokens",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("user", sa.String(512), nullable=False),
        sa.Column("role", sa.Integer, nullable=False),
        sa.Column("read_only", sa.Boolean, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("created_by", sa.String(512), nullable=False),
        sa.Column("created_from", sa.String(64), nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("lifetime", sa.Double, nullable=False),
        sa.Column("renews", sa.String(16), nullable=True),
        sa.Column("renewed", sa.Double, nullable=True),
        sa.Column("last_used", sa.Double, nullable=True),
        sa.Column("last_used_from", sa.String(64), nullable=True),
        sa.Column("revoked", sa.Double, nullable=True),
        sa.Column("revoked_by", sa.String(600), nullable=True),
    )
    op.create_index("mlflow_proxy_tokens_owner", "mlflow_proxy_tokens", ["owner"])
    op.create_table(
        "mlflow_proxy_audit_heads",
        sa.Column("chain", sa.String(200), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
    )


def downgrade() -> None:
    for name in ("audit_heads", "tokens", "service_accounts", "people"):
        op.drop_table(f"mlflow_proxy_{name}")
