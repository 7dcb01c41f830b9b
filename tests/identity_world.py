"""A service, or several replicas of it behind a balancer, with a real identity provider beside them."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
from balancer import balancing
from identity_provider import PASSWORD, OidcProvider, provider
from identity_provider import settings as provider_settings
from service import Service, free_port, start

# Seconds within which what the provider says of a person now holds here.
REFRESH = 3
COOKIE_SECRET = "of all replicas: 6f1f64f0c3c34b0f9a3c0a55"


@dataclass
class World:
    """`url` is what people use: the only service's, or the balancer's."""

    url: str
    replicas: list[Service]
    provider: OidcProvider

    @property
    def service(self) -> Service:
        return self.replicas[0]

    def person(self) -> requests.Session:
        """Somebody's HTTP client, who is not signed in: cookies, no password."""
        return self.service.anonymous()

    def sign_in(self, name: str, person: requests.Session | None = None) -> requests.Session:
        """As a browser does, but for what scripts do in it."""
        person = person or self.person()
        answer = person.get(f"{self.url}/oauth2/start", params={"rd": "/version"}, timeout=30)
        answer = fill_in(person, answer, name)
        assert answer.url == f"{self.url}/version", (answer.url, answer.text)
        assert answer.status_code == 200, answer.text
        return person

    def callback(self, person: requests.Session, name: str, replica: Service) -> str:
        """Sign in as far as the provider's answer; the address that it sends the browser to with that."""
        # By the public name, as it stands in front of the replica: the cookie is for it.
        headers = {"Host": self.url.removeprefix("https://")}
        start = f"{replica.local}/oauth2/start"
        answer = person.get(
            start, params={"rd": "/version"}, headers=headers, allow_redirects=False, timeout=30
        )
        while answer.status_code in (302, 303):
            where = urljoin(answer.url, answer.headers["location"])
            if where.startswith(f"{self.url}/oauth2/callback"):
                return where
            answer = person.get(where, allow_redirects=False, timeout=30)
            answer = fill_in(person, answer, name, follow=False)
        raise AssertionError(answer.text)

    def who(self, person: requests.Session, replica: Service | None = None) -> str | None:
        """The name that a client with these cookies has there; None where it is refused."""
        where = replica.local if replica else self.url
        answer = person.get(f"{where}/ajax-api/2.0/mlflow/users/current", timeout=30)
        if answer.status_code == 401:
            return None
        assert answer.status_code == 200, answer.text
        return str(answer.json()["user"]["username"])


def fill_in(
    person: requests.Session, answer: requests.Response, name: str, *, follow: bool = True
) -> requests.Response:
    """Fill in the provider's own form, where it asks; the answer after it."""
    found = re.search(r'action="([^"]+/interaction/[^"]+)"', answer.text)
    if found is None:
        return answer
    fields = {"prompt": "login", "login": name, "password": PASSWORD}
    return person.post(found[1], data=fields, allow_redirects=follow, timeout=30)


@contextlib.contextmanager
def world(
    folder: Path,
    *,
    replicas: int = 1,
    ttl: dict[str, int] | None = None,
    **settings: str,
) -> Iterator[World]:
    """Start it all; `settings` are the services', `ttl` the provider's (provider.mjs)."""
    ports = [free_port() for _ in range(replicas)]
    front = ports[0] if replicas == 1 else free_port()
    url = f"https://127.0.0.1:{front}"
    issuer_port = free_port()
    with contextlib.ExitStack() as stack:
        shared: dict[str, Any] = {
            "PROXY_PUBLIC_URL": url,
            "PROXY_SESSION_REFRESH": str(REFRESH),
            **provider_settings(issuer_port),
            **settings,
        }
        if replicas > 1:
            shared.setdefault("PROXY_COOKIE_SECRET", COOKIE_SECRET)
        services: list[Service] = []
        for number, port in enumerate(ports):
            place = folder / f"replica-{number}"
            if services:
                # One certificate for the one name they share.
                shutil.copytree(services[0].data / "tls", place / "mlflow-data" / "tls")
            service = start(place, MLFLOW_PORT=str(port), **shared)
            services.append(service)
            stack.callback(service.end)
        running = stack.enter_context(
            provider(folder / "provider", url, port=issuer_port, ca=services[0].ca, ttl=ttl or {})
        )
        if replicas > 1:
            stack.enter_context(balancing(front, ports))
        yield World(url, services, running)
