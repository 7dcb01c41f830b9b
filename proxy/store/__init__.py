"""The store: the one database of our own, its tables, its queries and how it is migrated."""

from sqlalchemy import Connection

from proxy.store.database import Store, StoreUnavailable
from proxy.store.people import Person
from proxy.store.service_accounts import ServiceAccountRow
from proxy.store.sessions import NewSession, SessionRow
from proxy.store.tokens import NewToken, TokenRow

__all__ = [
    "Connection",
    "NewSession",
    "NewToken",
    "Person",
    "ServiceAccountRow",
    "SessionRow",
    "Store",
    "StoreUnavailable",
    "TokenRow",
]
