"""The lane for plain requests: small ones of a caller who is remembered, while MLflow is up.

Such a request is sent to MLflow, and its answer to the client, in the very calls by which the event loop
says that they are there: without a task and without ASGI, at half the cost. What is decided is decided by
the same functions as ever (edge, gate, headers, verified names, places); here they are only called in turn.
Whatever is not plain goes the ordinary way: from its beginning, where nothing was done yet, or on from where
it is.
"""

from proxy.lane.crossing import Client, House
from proxy.lane.lane import Lane

__all__ = ["Client", "House", "Lane"]
