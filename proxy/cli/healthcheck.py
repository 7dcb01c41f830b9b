"""`mlflow-proxy healthcheck`: asks the service beside it how it is, for a container engine's health check."""

from __future__ import annotations

import http.client

import click

from proxy import local_service
from proxy.errors import UserError
from proxy.settings import Settings

_MOST_BYTES = 65536


def healthcheck(settings: Settings, *, ready: bool, seconds: float) -> None:
    """Ask /livez, or /readyz where `ready`, and print what it says.

    `seconds` is how long it waits for each step of the answer. Raises UserError where the answer is not 200,
    or there is none.
    """
    if settings.port == 0:
        raise UserError("MLFLOW_PORT is 0: which port the service took can't be known here; name one")
    connection = local_service.connection(settings, seconds)
    path = "/readyz" if ready else "/livez"
    where = f"{connection.host}, port {settings.port}: {path}"
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = " ".join(answer.read(_MOST_BYTES).decode("utf-8", "replace").split())
    except TimeoutError:
        raise UserError(f"{where} has not answered within {seconds:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{where} can't be asked: {why}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise UserError(f"{where} answers {answer.status}: {said}")
    click.echo(said)
