"""The TLS side of the listener: one context for its whole life, whose certificate can be exchanged."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from proxy.certificates.pair import Pair, read_pair
from proxy.errors import UserError

log = logging.getLogger(__name__)

POLL_INTERVAL = 5.0
RENEW_INTERVAL = 3600.0
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good

Signature = tuple[tuple[int, int, int, int], ...]


class TlsContext:
    """A server's ssl.SSLContext that takes up renewed files. Connections under way keep what they have.

    Every handshake is passed on to an inner context with the present certificate. Loading the new
    certificate into the context in use would not do: OpenSSL keeps one for each kind of key, so an RSA
    certificate would go on being served beside the ECDSA one that replaced it, and a pair that does not
    match would leave the context without its key.
    """

    def __init__(
        self,
        cert: Path,
        key: Path,
        *,
        renew: Callable[[], object] | None = None,
        interval: float = POLL_INTERVAL,
    ) -> None:
        """``renew`` is called in a thread each hour (certificates.own.ensure, for certificates of our own);
        ``interval`` is how many seconds lie between two looks at the files.

        Raises UserError where the files can't be used. An expired certificate is served, and said in the log
        as an error: who restarts at night is better off with a service whose clients complain, whose metric
        shows it and which takes the renewed file up by itself, than with none.
        """
        self._cert = cert
        self._key = key
        self._renew = renew
        self._interval = interval
        self._signature = self._look()
        self._pair, self._inner = self._load()
        if self._pair.expired:
            log.error("%s has expired; clients will refuse it. A renewed file is taken up by itself", cert)
        self.context = _new_context()
        """What the listener is given, for good."""
        _load_into(self.context, cert, key)
        self.context.sni_callback = self._hand_over

    @property
    def not_after(self) -> float:
        """When the certificate that is served ends, Unix time."""
        return self._pair.not_after

    @property
    def names(self) -> tuple[str, ...]:
        """Host names and addresses that the certificate is for; ``*.example.com`` may be among them."""
        return self._pair.names

    def reload(self) -> bool:
        """Take up the files as they are now; True where that changed the certificate. A pair that can't be
        used, or has expired while the present one has not, is said in the log and changes nothing."""
        self._signature = self._look()
        try:
            pair, inner = self._load()
        except UserError as error:
            log.error("The certificate in use is kept: %s", error)
            return False
        if pair.chain == self._pair.chain:
            return False
        if pair.expired and not self._pair.expired:
            log.error("The certificate in use is kept: the new one in %s has expired", self._cert)
            return False
        self._pair, self._inner = pair, inner
        log.info("A renewed certificate is served, good until %s", _day(pair.not_after))
        return True

    async def watch(self) -> None:
        """Look after the files until cancelled."""
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(self._interval)
            if self._renew is not None and time.monotonic() - renewed >= RENEW_INTERVAL:
                renewed = time.monotonic()
                try:
                    await asyncio.to_thread(self._renew)
                except UserError as error:
                    log.error("The certificate can't be renewed: %s", error)
            if self._look() != self._signature:
                await asyncio.to_thread(self.reload)

    def _look(self) -> Signature | None:
        try:
            # Of the files that links lead to: Kubernetes exchanges a mounted secret by moving a link.
            found = [os.stat(path) for path in (self._cert, self._key)]  # noqa: PTH116 - two of a kind
        except OSError:
            return None
        return tuple((one.st_dev, one.st_ino, one.st_mtime_ns, one.st_size) for one in found)

    def _load(self) -> tuple[Pair, ssl.SSLContext]:
        pair = read_pair(self._cert, self._key)
        context = _new_context()
        _load_into(context, self._cert, self._key)
        return pair, context

    def _hand_over(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        connection.context = self._inner


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _load_into(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    try:
        context.load_cert_chain(cert, key, password="")  # never ask on the terminal
    except (ssl.SSLError, OSError) as error:
        raise UserError(f"{cert} and {key} can't be used for TLS: {error.strerror or error}") from None


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
