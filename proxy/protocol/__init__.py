"""uvicorn's httptools protocol, with our refusals; plain requests go past ASGI from here."""

from proxy.protocol.protocol import ProxyProtocol

__all__ = ["ProxyProtocol"]
