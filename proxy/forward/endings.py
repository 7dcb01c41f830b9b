"""How an exchange ends that can't be answered any more."""

from __future__ import annotations


class ClientGone(Exception):
    """The client has left; nobody is there to be answered."""


class CutShort(Exception):
    """An answer that has begun can't be completed: the client must see that it is not whole."""
