"""What an environment's own files say: settings that everybody may read, and secrets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from proxy.errors import UserError
from proxy.settings.names import FILE_PASSTHROUGH, looks_secret
from proxy.settings.sources import Problems, Read, read_env_file, read_yaml
from proxy.settings.variables import FILE_NAMES, KNOWN

OURS = frozenset({"MLFLOW_HOST", "MLFLOW_PORT", "PROXY_TLS", "PROXY_DATA_DIR", "PROXY_RUNTIME_DIR"})
"""What the manifests alone say, whatever mlflow.env has for another place."""
# Goes through a file where somebody wants that, and says nothing that must not be read.
_OPEN = frozenset({"MLFLOW_S3_ENDPOINT_URL"})


@dataclass
class Given:
    """By variable, each with the file that it comes from."""

    settings: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def is_secret(name: str) -> bool:
    """Whether the variable's value must not be read by everybody."""
    variable = KNOWN.get(name)
    return (variable is not None and variable.secret) or (name in FILE_PASSTHROUGH and name not in _OPEN)


def read_given(environment: str, settings: Path, env_file: Path) -> Given:
    """Both files; either may be missing. Raises UserError where both are."""
    problems = Problems()
    reads: list[Read] = []
    if settings.exists():
        reads.append(read_yaml(settings, settings.name, problems))
    if env_file.exists():
        reads.append(read_env_file(env_file, env_file.name, problems))
    if not reads:
        raise UserError(
            f"there is neither {settings} nor {env_file}: the first has what differs in {environment}, the "
            "second its secrets"
        )
    given = Given()
    for read in reads:  # the .env file is the stronger, as at a start
        for name, text in read.texts.items():
            if not text.strip() or name in OURS:
                continue
            if is_secret(name):
                if read.origin == settings.name:
                    problems.add(name, read.origin, f"is a secret: it belongs into {env_file.name}")
                given.secrets[name] = text
            elif name not in KNOWN and name not in FILE_NAMES and looks_secret(name):
                problems.add(
                    name,
                    read.origin,
                    "looks like a secret and can be no file: put it into a Secret of your own, and into the "
                    "pods by a patch",
                )
            else:
                given.settings[name] = text
            given.origin[name] = read.origin
    given.problems = list(problems)
    return given
