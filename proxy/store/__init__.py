"""The store: the one database of our own, its tables, its queries and how it is migrated."""

from sqlalchemy import Connection

from proxy.store.database import Store, StoreUnavailable
from proxy.store.sessions import NewSession, SessionRow

__all__ = ["Connection", "NewSession", "SessionRow", "Store", "StoreUnavailable"]
