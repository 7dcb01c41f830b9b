"""Further issuers of JWTs (PROXY_JWT_ISSUERS_FILE): the file is read strictly, and says all that is wrong."""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from proxy.errors import UserError
from proxy.identity import Role
from proxy.settings import sign_in_values, yaml_text
from proxy.settings.sign_in import public_provider
from proxy.settings.sources import read_text
from proxy.settings.values import quoted

T = TypeVar("T")

_KEYS = frozenset(
    {
        "name", "issuer", "audience", "jwks_uri", "jwks_file", "ca_file", "token_file", "user_claim",
        "groups_claim", "role", "roles", "required_claims", "namespaces",
    }
)  # fmt: skip
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
# What users are called here whom no issuer names (identity.py).
_TAKEN = frozenset({"service", "client"})
# Of Kubernetes (RFC 1123), and longer than any.
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_CLAIM = re.compile(r"[\x21-\x7e]{1,200}")
# Each signs for whoever has an account there, and for any audience that is asked for.
_SHARED = frozenset(
    {
        "agent.buildkite.com",
        "app.terraform.io",
        "api.cloudsmith.io",
        "auth.pulumi.com",
        "oidc.vercel.com",
        "token.actions.githubusercontent.com",
    }
)


@dataclass(frozen=True, slots=True)
class JwtIssuer:
    """One entry: whose tokens are accepted, and what their bearers are called and may do here."""

    name: str
    """What its users' names begin with, before a colon."""
    issuer: str
    audience: tuple[str, ...]
    """One of them has to be among the token's."""
    jwks_uri: str | None = None
    jwks_file: Path | None = None
    """Where the keys are; the issuer's discovery document says it where neither is set."""
    ca_file: Path | None = None
    """Whose certificates the issuer has; the system's authorities where it is None."""
    token_file: Path | None = None
    """Holds the bearer token that the issuer wants to see before it shows its keys."""
    user_claim: str = "sub"
    groups_claim: str = "groups"
    role: Role | None = None
    """Everybody's; None where `roles` say it."""
    roles: tuple[tuple[Role, frozenset[str]], ...] = ()
    """The groups that give each role, the highest role first."""
    required_claims: tuple[tuple[str, frozenset[str]], ...] = ()
    """Paths of claims, each with the values of which it has to have one."""
    namespaces: frozenset[str] | None = None
    """Set for the service accounts of a Kubernetes cluster: those of these namespaces count."""


def read(path: Path, main_issuer: str | None) -> tuple[JwtIssuer, ...]:
    """The entries of the file. Raises UserError with a line for each mistake.

    ``main_issuer`` is the identity provider's, which has settings of its own.
    """
    try:
        document = yaml_text.document(read_text(path))
    except yaml_text.Malformed as error:
        raise UserError(f"{path}: {error.name} {error}" if error.name else f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    if not isinstance(document, list) or not document:
        raise UserError(f"{path}: is not a list: each issuer begins with `- name: …` (docs/jwt.md)")
    problems: list[str] = []
    found: list[JwtIssuer] = []
    for number, entry in enumerate(document, 1):
        reader = _Entry(entry, path, number, problems)
        issuer = reader.issuer(main_issuer)
        if issuer is not None:
            if any(issuer.name == other.name for other in found):
                reader.add("name", f"{issuer.name!r} is another entry's: each needs its own")
            found.append(issuer)
    if problems:
        raise UserError("\n".join(problems))
    return tuple(found)


class _Entry:
    """One entry of the list as it is read."""

    def __init__(self, entry: Any, path: Path, number: int, problems: list[str]) -> None:
        self._path = path
        self._problems = problems
        self._before = len(problems)
        name = entry.get("name") if isinstance(entry, dict) else None
        self._where = f"{path}, entry {number}" + (f" ({name})" if isinstance(name, str) else "")
        self._entry: dict[Any, Any] = {}
        if isinstance(entry, dict):
            self._entry = entry
        else:
            self.add("", "is not a mapping of name, issuer, audience and so on")

    def add(self, key: str, what: str) -> None:
        line = f"{self._where}: {key} {what}" if key else f"{self._where} {what}"
        self._problems.append("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))

    def issuer(self, main_issuer: str | None) -> JwtIssuer | None:
        if not self._entry and len(self._problems) > self._before:
            return None
        for key in self._entry:
            if key not in _KEYS:
                near = difflib.get_close_matches(str(key), _KEYS, 1)
                meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_KEYS))}"
                self.add(str(key)[:80], f"is not known: {meant}")
        url = self._one("issuer", sign_in_values.issuer_url, required=True)
        if url is not None and url == main_issuer:
            self.add(
                "issuer", "is MLFLOW_UI_OAUTH_ISSUER_URL, whose tokens PROXY_JWT_AUDIENCE lets in: remove one"
            )
        jwks_uri = self._one("jwks_uri", sign_in_values.provider_url)
        jwks_file, token_file = (self._one(key, self._file) for key in ("jwks_file", "token_file"))
        ca_file = self._one("ca_file", self._authorities)
        for other in ("jwks_uri", "ca_file", "token_file"):
            if jwks_file is not None and self._entry.get(other) is not None:
                self.add(other, "has no effect beside jwks_file, which nobody is asked for: remove one")
        namespaces = self._many("namespaces", _namespace)
        if namespaces is not None and self._entry.get("user_claim") is not None:
            self.add("user_claim", "is for others: with namespaces, a user is NAME:NAMESPACE/SERVICE-ACCOUNT")
        required = self._required_claims()
        if url is not None and _shared(url) and not required:
            self.add(
                "required_claims",
                "is missing, and anybody can get a token of that issuer for any audience: name the claim "
                "that tells yours, such as repository_owner_id or namespace_id",
            )
        role, roles = self._roles()
        found = JwtIssuer(
            name=self._one("name", _name, required=True) or "",
            issuer=url or "",
            audience=self._many("audience", _text, required=True) or (),
            jwks_uri=jwks_uri,
            jwks_file=jwks_file,
            ca_file=ca_file,
            token_file=token_file,
            user_claim=self._one("user_claim", _claim) or "sub",
            groups_claim=self._one("groups_claim", _claim) or "groups",
            role=role,
            roles=roles,
            required_claims=required,
            namespaces=None if namespaces is None else frozenset(namespaces),
        )
        return found if len(self._problems) == self._before else None

    def _one(self, key: str, reader: Callable[[str], T], *, required: bool = False) -> T | None:
        value = self._entry.get(key)
        if value is None:
            if required:
                self.add(key, "is missing")
            return None
        if not isinstance(value, str):
            self.add(key, "is not a single value")
            return None
        return self._read(key, reader, value)

    def _many(
        self, key: str, reader: Callable[[str], str], *, required: bool = False
    ) -> tuple[str, ...] | None:
        value = self._entry.get(key)
        if value is None and not required:
            return None
        texts = self._texts(key, value)
        read = [self._read(key, reader, text) for text in texts]
        return tuple(dict.fromkeys(text for text in read if text is not None))

    def _texts(self, key: str, value: Any) -> list[str]:
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(text, str) and text.strip() for text in listed):
            self.add(key, "is missing" if value is None else "is not a value or a list of values")
            return []
        return listed

    def _read(self, key: str, reader: Callable[[str], T], text: str) -> T | None:
        try:
            return reader(text.strip())
        except ValueError as error:
            self.add(key, str(error))
            return None

    def _file(self, text: str) -> Path:
        path = self._path.parent / Path(text).expanduser()
        read_text(path)
        return path

    def _authorities(self, text: str) -> Path:
        path = self._file(text)
        try:
            ssl.create_default_context(cafile=path)
        except OSError:
            raise ValueError(f"{path} holds no certificate (PEM)") from None
        return path

    def _roles(self) -> tuple[Role | None, tuple[tuple[Role, frozenset[str]], ...]]:
        one, several = self._entry.get("role"), self._entry.get("roles")
        if (one is None) == (several is None):
            self.add(
                "role",
                "is missing: viewer, editor or admin, or roles by groups"
                if one is None
                else "and roles are both set: remove one",
            )
        if several is None:
            if self._entry.get("groups_claim") is not None:
                self.add("groups_claim", "has no effect without roles")
            return self._one("role", _role), ()
        if not isinstance(several, dict) or not several:
            self.add("roles", "is not a mapping such as `editor: [ml-team]`")
            return None, ()
        found = []
        for name, groups in several.items():
            role = self._read("roles", _role, str(name))
            texts = self._texts(f"roles.{name}", groups)
            if role is not None:
                found.append((role, frozenset(texts)))
        return None, tuple(sorted(found, key=lambda pair: -pair[0]))

    def _required_claims(self) -> tuple[tuple[str, frozenset[str]], ...]:
        value = self._entry.get("required_claims")
        if value is None:
            return ()
        if not isinstance(value, dict) or not value:
            self.add("required_claims", "is not a mapping such as `repository: [team/training]`")
            return ()
        for claim in value:
            self._read("required_claims", _claim, str(claim))
        return tuple(
            (str(claim), frozenset(self._texts(f"required_claims.{claim}", values)))
            for claim, values in value.items()
        )


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not of small letters, digits and hyphens, at most 32")
    if text in _TAKEN:
        raise ValueError(f"{text!r} is taken: choose another")
    return text


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not a namespace; a * means nothing, name each")
    return text


def _text(text: str) -> str:
    if not text.isprintable() or len(text) > 256:
        raise ValueError(f"{quoted(text)} is longer than 256 characters, or can't be printed")
    return text


def _claim(text: str) -> str:
    if not _CLAIM.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not the name of a claim, such as sub or kubernetes.io.namespace")
    return text


def _role(text: str) -> Role:
    role = Role.parse(text)
    if not role:
        raise ValueError(f"{quoted(text)} is no role that can be given: viewer, editor or admin")
    return role


def _shared(issuer: str) -> bool:
    host = (urlsplit(issuer).hostname or "").lower().removesuffix(".")
    return host in _SHARED or public_provider(issuer)
