"""Who is calling: a credential is verified once, at the cost of a hash, and then recalled for a while."""

from proxy.auth.authenticator import METHODS, RESULTS, Authenticator
from proxy.auth.refusals import Refusal
from proxy.auth.remembered import REMEMBERED

__all__ = ["METHODS", "REMEMBERED", "RESULTS", "Authenticator", "Refusal"]
