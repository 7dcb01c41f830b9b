"""The audit log: who did what to what with which credential, in lines that can't be changed unnoticed."""

from proxy.audit.events import EVENTS, NO_AUDIT, OUTCOMES, Audit, Detail, Event, NoAudit, Outcome

__all__ = ["EVENTS", "NO_AUDIT", "OUTCOMES", "Audit", "Detail", "Event", "NoAudit", "Outcome"]
