"""The tables as the code knows them; migrations/ makes them. Times are Unix seconds."""

from __future__ import annotations

import sqlalchemy as sa

# Beside MLflow's own tables there may be no name of theirs: both may be in one database.
PREFIX = "mlflow_proxy_"
VERSION_TABLE = f"{PREFIX}version"

metadata = sa.MetaData()

sessions = sa.Table(
    f"{PREFIX}sessions",
    metadata,
    # What the cookie holds is 256 random bits; here is its SHA-256, of which nothing can be made.
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
    # When the groups were last told by the provider.
    sa.Column("refreshed", sa.Double, nullable=False),
    # When a replica set out to ask again, 0 where none has; another takes over where that was long ago.
    sa.Column("refreshing", sa.Double, nullable=False),
    # Not asked before that, because the provider could not answer.
    sa.Column("retry", sa.Double, nullable=False),
    # The newest cookie that was made, the newest that was shown to us, and when that was first.
    sa.Column("issued", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("generation_since", sa.Double, nullable=False),
    sa.Column("client", sa.String(64), nullable=False),
    sa.Column("user_agent", sa.String(256), nullable=False),
    # The provider's tokens, encrypted; NULL where there are none or the session has ended.
    sa.Column("tokens", sa.LargeBinary, nullable=True),
    sa.Column("ended", sa.Double, nullable=True),
    sa.Column("ended_by", sa.String(600), nullable=True),
    sa.Index(f"{PREFIX}sessions_user", "user"),
    sa.Index(f"{PREFIX}sessions_provider_sid", "provider_sid"),
    sa.Index(f"{PREFIX}sessions_ends", "ends"),
)

once = sa.Table(
    f"{PREFIX}once",
    metadata,
    # SHA-256 of something that may be used one time.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("until", sa.Double, nullable=False),
)
