"""What is examined: the settings as the running service reads them, as far as they can be read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy import data_dir
from proxy.doctor.running import Running, name_of, running_on
from proxy.errors import UserError
from proxy.mlflow_server.output import masking, secrets_of
from proxy.settings import Loaded, Settings, load
from proxy.settings.variables import KNOWN, SETTINGS

# A line of settings.sources.Problems: the variable, and where it was set.
_PROBLEM = re.compile(r"([A-Z][A-Z0-9_]*) \((?:[^()]|\([^()]*\))*\): ")
_ROUNDS = 10
_LONG = 8
# Where the libraries that ask others look for authorities and for a proxy on the way out: as for the service.
_FOR_LIBRARIES = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator gave on the command line."""

    url: str | None = None
    """Another address than the settings' at which the service is looked at from outside."""
    authorities: Path | None = None
    """A file of authorities that its certificate may come from, beside the system's."""
    token: str | None = field(default=None, repr=False)
    """A token of the identity provider's, pasted."""
    quick: bool = False
    patience: float = 1.0
    """What every deadline is multiplied with."""


@dataclass(frozen=True)
class Case:
    """Settings, service, and what was asked for; the same for every check, and changed by none."""

    loaded: Loaded
    problems: tuple[str, ...]
    """What is wrong with the settings, a line each."""
    wrong: frozenset[str]
    """The variables that were left out for that: their defaults stand in `loaded`."""
    directory: Path
    """Where relative paths of the settings are looked up."""
    environ: Mapping[str, str] = field(repr=False)
    """The environment that the settings were read from."""
    service: Running | None
    """The service on the data directory."""
    as_service: bool
    """Whether the settings were read as the running service reads them."""
    asked: Asked

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    def is_wrong(self, variable: str) -> bool:
        return variable in self.wrong

    def within(self, seconds: float) -> float:
        """A deadline, with the operator's patience."""
        return seconds * self.asked.patience

    def masked(self) -> Callable[[str], str]:
        """Takes secrets out of a text; there should be none in it."""
        found = [self.asked.token or ""]
        for variable in SETTINGS.values():
            value = getattr(self.settings, variable.attribute)
            if variable.secret and value is not None:
                text = value.get_secret_value()
                found += [text, *secrets_of(text)] if "://" in text else [text, *text.split(",")]
        for name, text in self.loaded.passthrough.items():
            known = name in KNOWN and KNOWN[name].secret
            # What only looks like a secret by its name may be a word such as "true".
            if known or (len(text) >= _LONG and re.search("KEY|SECRET|TOKEN|PASS|CREDENTIAL", name)):
                found.append(text)
        return masking(found)


def open_case(options: Mapping[str, str], asked: Asked) -> Case:
    """Read the settings: as the service does that runs on the data directory, where one does and its process
    can be looked into, else from this shell. What can't be read is left out and told.

    Raises UserError where nothing can be read at all, and where root would have to believe another user.
    """
    environ: Mapping[str, str] = os.environ
    directory = Path.cwd()
    named = options.get("PROXY_DATA_DIR")
    if named is None:
        loaded, _, _ = _tolerant(options, environ, directory)
        data = loaded.settings.data_dir
    else:
        data = Path(named).absolute()
    service = running_on(data)
    user = None if service is None else service.user
    if user and os.geteuid() == 0:
        # That user says which process is asked, and what is in its environment: PYTHONPATH, say.
        name = name_of(user)
        raise UserError(
            f"the service on {data} runs as {name}, and root is not to run what {name}'s environment says: "
            f"sudo -u {name} mlflow-proxy doctor --data-dir {data}"
        )
    as_service = False
    if service is not None and service.environ is not None and service.directory is not None:
        environ, directory, as_service = service.environ, service.directory, True
        options = {**service.options, **options}
        os.environ.update({name: environ[name] for name in _FOR_LIBRARIES if name in environ})
    loaded, problems, wrong = _tolerant(options, environ, directory)
    if service is None:
        service = running_on(loaded.settings.data_dir)
    return Case(loaded, problems, wrong, directory, environ, service, as_service, asked)


def _tolerant(
    options: Mapping[str, str], environ: Mapping[str, str], directory: Path
) -> tuple[Loaded, tuple[str, ...], frozenset[str]]:
    """The settings without the variables that are wrong, what is wrong, and those variables."""
    problems: tuple[str, ...] = ()
    wrong: set[str] = set()
    for _ in range(_ROUNDS):
        try:
            return load(options, environ, directory, without=wrong), problems, frozenset(wrong)
        except UserError as error:
            lines = str(error).splitlines()
            # What is found only when others have been left out may be because of that.
            problems = problems or tuple(lines)
            named = {match[1] for line in lines if (match := _PROBLEM.match(line))}
            more = (named | {name.removesuffix("_FILE") for name in named}) - wrong
            if not more:
                raise
            wrong |= more
    raise UserError("\n".join(problems))


def data_directory(case: Case) -> data_dir.DataDir:
    return data_dir.layout(case.settings.data_dir)
