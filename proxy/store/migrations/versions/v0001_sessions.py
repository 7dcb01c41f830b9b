"""Sessions, and what may be used once."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mlflow_proxy_sessions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(512), nullable=False),
        sa.Column("email", sa.String(320), nullable=True),
        sa.Column("email_verified", sa.Boolean, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("provider_sid", sa.Text, nullable=True),
        sa.Column("groups", sa.JSON, nullable=False),
        sa.Column("role", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("last_seen", sa.Double, nullable=False),
        sa.Column("ends", sa.Double, nullable=False),
        sa.Column("refreshed", sa.Double, nullable=False),
        sa.Column("refreshing", sa.Double, nullable=False),
        sa.Column("retry", sa.Double, nullable=False),
        sa.Column("issued", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("generation_since", sa.Double, nullable=False),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("user_agent", sa.String(256), nullable=False),
        sa.Column("tokens", sa.LargeBinary, nullable=True),
        sa.Column("ended", sa.Double, nullable=True),
        sa.Column("ended_by", sa.String(600), nullable=True),
    )
    for column in ("user", "provider_sid", "ends"):
        op.create_index(f"mlflow_proxy_sessions_{column}", "mlflow_proxy_sessions", [column])
    op.create_table(
        "mlflow_proxy_once",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("until", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("mlflow_proxy_once")
    op.drop_table("mlflow_proxy_sessions")
