"""load(): gathers every source, says everything that is wrong at once, and hands the settings over frozen."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from proxy.errors import UserError
from proxy.settings import names
from proxy.settings.check import check_texts, check_values
from proxy.settings.database import absolute, driver_uri, names_database
from proxy.settings.fields import Settings
from proxy.settings.listening import listening_warnings
from proxy.settings.sign_in import sign_in_warnings
from proxy.settings.sources import FileRead, Problems, Read, Source, named_files, read_env_file, read_yaml
from proxy.settings.variables import FILE_NAMES, KNOWN, SETTINGS, nearest, nearest_of_the_user

# Further databases of MLflow's, which need their driver named as the main one does.
_OTHER_DATABASES = (
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI",
    "MLFLOW_WORKSPACE_STORE_URI",
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in force and where each part of it was set."""

    settings: Settings
    origin: dict[str, str]
    """Where each variable was set: ``command line``, ``environment``, ``file PATH (NAME_FILE)``, the name of
    mlflow.env or of the YAML file, or ``default``. Every variable of Settings is in it, and all of
    ``passthrough``."""
    passthrough: dict[str, str]
    """What MLflow gets besides: MLflow's, the storages' and the model providers' variables as they are in
    force, those of our own environment among them where they are MLFLOW_* or listed. It is stronger than our
    environment."""
    warnings: tuple[str, ...] = ()
    """What is no error and yet not likely meant, a line each; to be printed at start."""
    files: Mapping[str, FileRead] = field(default_factory=dict, repr=False)
    """The files that NAME_FILE named and that gave a variable its value, by variable."""


def load(
    options: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    *,
    may_be_absent: Collection[str] = (),
    without: Collection[str] = (),
) -> Loaded:
    """Reads the settings from all sources, strongest first: options, environment, files, mlflow.env, YAML,
    defaults.

    ``options`` are by variable (see ``options()``), ``environ`` is the process's environment unless given,
    and ``directory`` (the working directory unless given) is where mlflow.env, config/ and relative paths are
    looked up. ``may_be_absent`` names file settings whose file a command is about to make, ``without``
    variables that are left out wherever they stand.

    Raises UserError with a line for every problem: the setting, where it was set, what would be right.
    """
    environ = os.environ if environ is None else environ
    directory = (directory or Path.cwd()).absolute()
    problems = Problems()
    reads = _read_all(options or {}, environ, directory, problems)
    for read in reads:
        read.texts = {name: text for name, text in read.texts.items() if name not in without}
        _check_names(read, problems)
    given = {name for read in reads[:2] for name, text in read.texts.items() if text.strip()}
    files = named_files(reads, FILE_NAMES, given, directory, problems)
    sources: list[Source] = [Source(read.origin, _absolute(read.texts, directory)) for read in reads]
    sources.insert(2, files)
    files.texts = _absolute(files.texts, directory)
    texts = {name: text for source in reversed(sources) for name, text in source.texts.items()}
    origin = {name: source.origin_of(name) for source in reversed(sources) for name in source.texts}

    check_texts(texts, origin, may_be_absent, problems)
    settings = _settings(sources, directory, origin, problems)
    if settings is not None:
        check_values(settings, origin, problems)
    passthrough = _passthrough(texts, environ, origin, problems)
    if problems:
        raise UserError("\n".join(problems))
    assert settings is not None
    return Loaded(
        settings,
        {name: origin.get(name, "default") for name in (*SETTINGS, *passthrough)},
        passthrough,
        _warnings(reads, environ, settings, origin),
        files.files,
    )


def _read_all(
    options: Mapping[str, str], environ: Mapping[str, str], directory: Path, problems: Problems
) -> list[Read]:
    """The sources that are read as they are, strongest first; which files there are depends on the stronger
    ones.
    """
    links = names.service_links(environ)
    command_line = Read("command line", dict(options))
    environment = Read("environment", {name: text for name, text in environ.items() if name not in links})
    reads = [command_line, environment]

    named = _first("PROXY_ENV_FILE", reads)
    path = directory / (named or "mlflow.env")
    if named or path.exists():
        where = next((read.origin for read in reads if read.texts.get("PROXY_ENV_FILE", "").strip()), "")
        env_file = read_env_file(path, named or "mlflow.env", problems, named_in=where)
        if env_file.texts.pop("PROXY_ENV_FILE", ""):
            problems.add(
                "PROXY_ENV_FILE", env_file.origin, "names this file: set it in the environment instead"
            )
        reads.append(env_file)

    env = _first("PROXY_ENV", reads)
    yaml_names = ["config/settings.yaml"]
    if env and env.replace("-", "").replace("_", "").isalnum():
        yaml_names.insert(0, f"config/settings.{env}.yaml")
        if not (directory / yaml_names[0]).exists():
            where = next(read.origin for read in reads if read.texts.get("PROXY_ENV", "").strip())
            problems.add(
                "PROXY_ENV",
                where,
                f"there is no {yaml_names[0]} in {directory}: make it, or leave this empty",
            )
            yaml_names.pop(0)
    for name in yaml_names:
        if (directory / name).exists():
            read = read_yaml(directory / name, name, problems)
            for variable in ("PROXY_ENV", "PROXY_ENV_FILE"):
                if read.texts.pop(variable, ""):
                    problems.add(
                        variable, name, "says which files are read: set it in the environment instead"
                    )
            reads.append(read)
    return reads


def _first(name: str, reads: Sequence[Read]) -> str:
    return next((text for read in reads if (text := read.texts.get(name, "").strip())), "")


def _check_names(read: Read, problems: Problems) -> None:
    for name, text in read.texts.items():
        if reason := names.refused_variable(name, text):
            problems.add(name, read.origin, f"refused: {reason}")
        elif name in KNOWN or name in FILE_NAMES or name in names.REFUSED_VARIABLES:
            continue
        elif name.startswith(names.OUR_PREFIXES):
            problems.add(name, read.origin, f"there is no such setting{_suggestion(name)}")
        elif name.upper() in KNOWN and name.upper() != name:
            problems.add(name, read.origin, f"names are in capitals: write {name.upper()}")
        elif read.origin.startswith("config/") and not (
            (name.startswith(names.YAML_PREFIXES) and not _misspelt(name)) or name in names.FILE_PASSTHROUGH
        ):
            problems.add(
                name,
                read.origin,
                f"there is no such setting{_suggestion(name)}; other programs' belong in mlflow.env",
            )


def _suggestion(name: str) -> str:
    close = nearest(name)
    return f"; did you mean {close}?" if close else ": docs/settings.md lists those there are"


def _misspelt(name: str) -> str | None:
    """What an MLFLOW_* name that nothing of ours reads was probably meant to be."""
    if name.startswith("MLFLOW_TRACKING_"):
        return nearest_of_the_user(name)
    if (
        not name.startswith("MLFLOW_")
        or not names.may_reach_mlflow(name)
        or name in KNOWN
        or name in FILE_NAMES
    ):
        return None
    # Lower, and names of MLflow's own would be taken for misspelt ones; a test goes through them all.
    return nearest(name, cutoff=0.82)


def _absolute(texts: Mapping[str, str], directory: Path) -> dict[str, str]:
    def one(name: str, text: str) -> str:
        if name in SETTINGS and SETTINGS[name].is_path and text.strip() and "\0" not in text:
            try:
                return str(directory / Path(text.strip()).expanduser())
            except RuntimeError:  # a home directory that is not known
                return str(directory / text.strip())
        if (
            name
            in (
                "MLFLOW_BACKEND_STORE_URI",
                "MLFLOW_DEFAULT_ARTIFACT_ROOT",
                "PROXY_DATABASE_URL",
                "PROXY_BACKUP_DESTINATION",
                *_OTHER_DATABASES,
            )
            and text.strip()
        ):
            return absolute(name, text.strip(), directory)
        return text

    return {name: one(name, text) for name, text in texts.items()}


def _settings(
    sources: Sequence[Source], directory: Path, origin: Mapping[str, str], problems: Problems
) -> Settings | None:
    defaults = Source("default", {"PROXY_DATA_DIR": str(directory / "mlflow-data")})
    try:
        arguments: dict[str, Any] = {"_build_sources": ((*sources, defaults), {})}
        return Settings(**arguments)
    except ValidationError as error:
        order = list(SETTINGS)  # as in the docs
        found = {
            str(detail["loc"][0]) if detail["loc"] else "settings": detail
            for detail in error.errors(include_url=False, include_input=False)
        }
        for name, detail in sorted(
            found.items(), key=lambda one: order.index(one[0]) if one[0] in SETTINGS else -1
        ):
            reason = detail.get("ctx", {}).get("error", detail["msg"])
            problems.add(name, origin.get(name, "default"), str(reason))
        return None


def _passthrough(
    texts: Mapping[str, str], environ: Mapping[str, str], origin: dict[str, str], problems: Problems
) -> dict[str, str]:
    found = {}
    for name, text in texts.items():
        ours = name in KNOWN and KNOWN[name].attribute
        if ours or not names.may_reach_mlflow(name):
            continue
        # What MLflow would find in our environment anyway is left out, unless a person looks for it in the
        # table.
        if origin[name] == "environment" and not (name.startswith("MLFLOW_") or name in KNOWN):
            continue
        found[name] = text
        if name in _OTHER_DATABASES and names_database(text):
            try:
                found[name] = driver_uri(text)
            except ValueError as error:
                problems.add(name, origin[name], str(error))
    return found


def _warnings(
    reads: Sequence[Read], environ: Mapping[str, str], settings: Settings, origin: Mapping[str, str]
) -> tuple[str, ...]:
    warnings = Problems()
    for name, what in (*listening_warnings(settings), *sign_in_warnings(settings)):
        warnings.add(name, origin.get(name, "default"), what)
    for read in reads:
        for name in read.texts:
            if close := _misspelt(name):
                unread = "goes to MLflow unread" if names.may_reach_mlflow(name) else "is not read"
                warnings.add(name, read.origin, f"{unread}; did you mean {close}?")
        for file_name, name in FILE_NAMES.items():
            if read.texts.get(name, "").strip() and read.texts.get(file_name, "").strip():
                of_file = origin[name].endswith(f"({file_name})")
                used, unused = (file_name, name) if of_file else (name, file_name)
                if of_file or origin[name] == read.origin:
                    what = f"is not read, as {used} beside it is stronger: keep one"
                    warnings.add(unused, read.origin, what)
    for name in sorted(names.service_links(environ) & KNOWN.keys()):
        warnings.add(
            name,
            "environment",
            f"{environ[name]} was set by Kubernetes for a Service of that name and is not read; set {name} "
            "in the container's env, or enableServiceLinks: false in the pod's spec",
        )
    return tuple(warnings)
