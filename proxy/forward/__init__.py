"""The innermost application: carries a request to MLflow and the answer back, as streams."""

from proxy.forward.endings import ClientGone, CutShort, revoked
from proxy.forward.forwarder import Forwarder, Rules
from proxy.forward.spool import Spool
from proxy.forward.trip import Sent

__all__ = ["ClientGone", "CutShort", "Forwarder", "Rules", "Sent", "Spool", "revoked"]
