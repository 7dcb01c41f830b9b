"""The key that encrypts what MLflow's gateway keeps in the database: model providers' API keys."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping

from proxy import private_file
from proxy.data_dir import layout
from proxy.errors import UserError
from proxy.settings.fields import Settings

logger = logging.getLogger("proxy.mlflow_server")

VARIABLE = "MLFLOW_CRYPTO_KEK_PASSPHRASE"


def gateway_passphrase(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The variable to add to MLflow's environment, so that its gateway's secrets don't lie under a known key.

    MLflow's default passphrase is a constant in its source (mlflow/utils/crypto.py): it encrypts nothing from
    whoever has the database. So a new data directory with a new SQLite database in it gets a random one, kept
    beside the database (mode 0600) and used from then on. No other database gets one made: replicas that
    share it would each have their own, and one that exists may hold secrets under the default. One that a
    person sets always wins.

    Raises UserError where the kept one can't be read or written.
    """
    if environment.get(VARIABLE):
        return {}
    where = layout(settings.data_dir)
    try:
        if settings.backend_store_uri is None:
            if where.kek_file.exists():
                return {VARIABLE: where.kek_file.read_text().strip()}
            if not where.database.exists():
                passphrase = secrets.token_urlsafe(32)
                private_file.write(where.kek_file, passphrase.encode() + b"\n")
                return {VARIABLE: passphrase}
    except OSError as error:
        raise UserError(
            f"PROXY_DATA_DIR: {where.kek_file} can't be used ({error.strerror}), and without it the secrets "
            "of MLflow's gateway can't be read; make it readable for this user alone"
        ) from None
    logger.warning(
        "%s is not set: MLflow encrypts its gateway's secrets (model providers' keys) with a passphrase that "
        "is the same everywhere; set it to a random text of 32 characters or more before any is stored",
        VARIABLE,
    )
    return {}
