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

people = sa.Table(
    f"{PREFIX}people",
    metadata,
    # SHA-256 of issuer and subject: both may be too long for a key.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("user", sa.String(512), nullable=False),
    sa.Column("email", sa.String(320), nullable=True),
    sa.Column("email_verified", sa.Boolean, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("groups", sa.JSON, nullable=False),
    # When the provider last vouched for this person, with the groups above.
    sa.Column("vouched", sa.Double, nullable=False),
    # When and why the person's tokens stopped counting until the next sign-in; NULL where they count.
    sa.Column("suspended", sa.Double, nullable=True),
    sa.Column("suspended_by", sa.String(600), nullable=True),
    sa.Index(f"{PREFIX}people_user", "user"),
)

service_accounts = sa.Table(
    f"{PREFIX}service_accounts",
    metadata,
    # Without the prefix that its user name has.
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.Integer, nullable=False),
    sa.Column("description", sa.String(256), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("created_by", sa.String(512), nullable=False),
    # Kept when it is removed, so that its name is never another's by mistake and its tokens say why.
    sa.Column("removed", sa.Double, nullable=True),
    sa.Column("removed_by", sa.String(600), nullable=True),
)

tokens = sa.Table(
    f"{PREFIX}tokens",
    metadata,
    # What lists and logs call it: 16 hexadecimal digits, made beside the secret.
    sa.Column("id", sa.String(16), primary_key=True),
    # SHA-256 of the secret, which has 178 random bits.
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.String(100), nullable=False),
    # Whose: a provider's person, a user with a password, a service account (identity.py).
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
    # The token that this one was made in place of.
    sa.Column("renews", sa.String(16), nullable=True),
    sa.Column("renewed", sa.Double, nullable=True),
    sa.Column("last_used", sa.Double, nullable=True),
    sa.Column("last_used_from", sa.String(64), nullable=True),
    sa.Column("revoked", sa.Double, nullable=True),
    sa.Column("revoked_by", sa.String(600), nullable=True),
    sa.Index(f"{PREFIX}tokens_owner", "owner"),
)

audit_heads = sa.Table(
    f"{PREFIX}audit_heads",
    metadata,
    # One chain a data directory; the commands have one of their own beside the service's.
    sa.Column("chain", sa.String(200), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
)
