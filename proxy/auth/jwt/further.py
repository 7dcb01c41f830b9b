"""A further issuer: where its keys come from, and what its tokens' bearers are called and may do."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.auth.jwt import reading
from proxy.auth.jwt.people import Bearer, NotAdmitted
from proxy.auth.oidc import claims as claims_of
from proxy.auth.oidc import discovery
from proxy.auth.oidc.failures import ProviderError, ProviderUnavailable, bad_answer
from proxy.auth.oidc.http import Http
from proxy.auth.oidc.keys import Keys
from proxy.identity import Role
from proxy.settings.jwt_issuers import JwtIssuer

log = logging.getLogger(__name__)

_SERVICE_ACCOUNT = "system:serviceaccount:"


class Further:
    """One entry of PROXY_JWT_ISSUERS_FILE at work. Who makes it closes it."""

    def __init__(self, issuer: JwtIssuer) -> None:
        self.issuer = issuer
        self.keys = Keys(self._fetch)
        self._http = Http("", None, ca=issuer.ca_file)
        self.problem: str | None = None
        """Why its keys could not be had the last time, or None."""

    async def aclose(self) -> None:
        await self._http.aclose()

    def bearer(self, raw: Mapping[str, Any]) -> Bearer:
        """Whose token it is, of verified claims. Raises NotAdmitted."""
        issuer, subject = self.issuer, claims_of.text(raw.get("sub"))
        if subject is None:
            raise NotAdmitted("The token has no subject (sub) that can be used.")
        name = reading.client_of(raw) or ""
        if issuer.namespaces is None:
            value = claims_of.at(raw, issuer.user_claim)
            number = isinstance(value, int) and not isinstance(value, bool)
            user = claims_of.text(str(value) if number else value)
            if user is None:
                raise NotAdmitted(f"The token does not say whose it is (claim {issuer.user_claim}).")
        else:
            user = self._service_account(raw, subject, issuer.namespaces)
            name = claims_of.text(claims_of.at(raw, "kubernetes.io.pod.name")) or ""
        role = issuer.role or self._role(raw)
        return Bearer(f"{issuer.name}:{user}", role, subject, name)

    def missing(self, raw: Mapping[str, Any]) -> str | None:
        """The first claim without which this entry's tokens don't count and that has no such value here."""
        for path, allowed in self.issuer.required_claims:
            if not reading.fits(claims_of.at(raw, path), allowed):
                return path
        return None

    def _service_account(self, raw: Mapping[str, Any], subject: str, namespaces: frozenset[str]) -> str:
        """NAMESPACE/NAME (Kubernetes, "Service account tokens": the subject and the private claims)."""
        namespace = claims_of.text(claims_of.at(raw, "kubernetes.io.namespace"))
        account = claims_of.text(claims_of.at(raw, "kubernetes.io.serviceaccount.name"))
        if namespace is None or account is None or subject != f"{_SERVICE_ACCOUNT}{namespace}:{account}":
            raise NotAdmitted("The token is not a Kubernetes service account's.")
        if namespace not in namespaces:
            raise NotAdmitted(f"Service accounts of the namespace {namespace} do not get in here.")
        return f"{namespace}/{account}"

    def _role(self, raw: Mapping[str, Any]) -> Role:
        issuer = self.issuer
        groups = claims_of.groups_of(claims_of.at(raw, issuer.groups_claim))
        for role, names in issuer.roles:
            if not names.isdisjoint(groups):
                return role
        raise NotAdmitted(f"No group of the token (claim {issuer.groups_claim}) gives it a role here.")

    async def _fetch(self) -> Any:
        """The key set. Raises ProviderUnavailable."""
        try:
            found = await self._fetched()
        except ProviderUnavailable as error:
            self.problem = f"the issuer {self.issuer.name} of PROXY_JWT_ISSUERS_FILE: {error}"
            log.warning("%s", self.problem)
            raise
        self.problem = None
        return found

    async def _fetched(self) -> Any:
        issuer = self.issuer
        if issuer.jwks_file is not None:
            try:
                return json.loads(_content(issuer.jwks_file))
            except (ValueError, RecursionError):
                raise bad_answer(f"{issuer.jwks_file} (jwks_file) is not JSON.") from None
        url = issuer.jwks_uri
        if url is None:
            document = await self._asked(discovery.address(issuer.issuer), "the discovery document")
            # Every character counts (OpenID Connect Discovery, 4.3).
            if not isinstance(document, dict) or document.get("issuer") != issuer.issuer:
                raise bad_answer(f"The discovery document there does not name the issuer {issuer.issuer!r}.")
            url = discovery.endpoint(document, "jwks_uri", discovery.is_loopback(issuer.issuer))
        return await self._asked(url, "the key set")

    async def _asked(self, url: str, what: str) -> Any:
        # Read each time: in a pod it is replaced every hour.
        path = self.issuer.token_file
        bearer = None if path is None else _content(path).decode("ascii", "replace").strip()
        try:
            return await self._http.json(url, what, bearer)
        except ProviderUnavailable:
            raise
        except ProviderError:
            raise bad_answer(f"It does not take the token in {path} (token_file).") from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise bad_answer(f"{path} can't be read: {error.strerror}.") from None
