"""Tokens of ours: what programs send in place of a password, of people and of service accounts.

`Tokens` is in tokens.py and the commands in commands.py, to be imported from there: here is what costs
nothing to load.
"""

from proxy.auth.tokens.info import ServiceAccount, State, TokenInfo, may_manage

__all__ = ["ServiceAccount", "State", "TokenInfo", "may_manage"]
