"""What `mlflow-proxy check` looks at beyond the settings themselves: the files and the password they name."""

from __future__ import annotations

import logging
from collections.abc import Callable

from proxy import certificates, data_dir, first_start
from proxy.auth import users
from proxy.errors import UserError
from proxy.settings import Loaded, database_uri


def check(loaded: Loaded) -> None:
    """Raise UserError with a line for each thing that would stop the start; change nothing."""
    # What the start would log, such as an expired certificate; no log is set up here.
    logging.basicConfig(format="mlflow-proxy: warning: %(message)s")
    if problems := problems_of(loaded):
        raise UserError("\n".join(problems))


def problems_of(loaded: Loaded) -> list[str]:
    """A line for each of them."""
    settings = loaded.settings
    problems: list[str] = []
    looks: list[Callable[[], object]] = [lambda: database_uri(settings)]
    if settings.password is not None:
        looks.append(lambda: first_start.check_password(settings))
    if settings.users_file is not None:
        path = settings.users_file
        looks.append(lambda: users.read(path))
    if settings.tls and settings.tls_cert_file is not None:
        looks.append(lambda: certificates.prepare(settings))
    if settings.data_dir.exists():
        looks.append(lambda: data_dir.prepare(settings.data_dir))
    for look in looks:
        try:
            look()
        except UserError as error:
            problems.extend(str(error).splitlines())
    return problems
